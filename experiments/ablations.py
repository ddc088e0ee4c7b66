"""LM2 with one part taken away or changed, so that `parts` can ask what each part is worth.

The library knows nothing of this: composites call their parts through the module, so a variant is a few functions put
in the place of the library's while it trains and answers. A pair is replaced as a pair, its backward below it, and the
tests check the gradients of the whole story under every variant.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from tinylm2 import memory, model, ops
from tinylm2.backend import get_xp

_GATES = ("in", "forget")


@dataclass(frozen=True)
class Variant:
    """What stands where. `replacements(cfg)` -> ((module, name, function), ...); `start(params)` moves new parameters;
    `cfg` and `training` change Config's and Run's arguments; `idle` parameters then move nothing, or are held still."""

    replacements: Callable = lambda cfg: ()
    start: Callable = lambda params: None
    cfg: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    def config(self, cfg):
        """The variant's Config; the feed-forward's width makes up for parameters that came or went."""
        changed = replace(cfg, **self.cfg)
        with self.installed(changed):
            extra = _count(model.param_shapes(changed))
        return replace(changed, F=cfg.F - round((extra - _count(model.param_shapes(cfg))) / (3 * cfg.D * cfg.L)))

    @contextmanager
    def installed(self, cfg):
        """The replacements, for as long as the block runs."""
        places = [(module, name, getattr(module, name), function) for module, name, function in self.replacements(cfg)]
        for module, name, _, function in places:
            setattr(module, name, function)
        try:
            yield
        finally:
            for module, name, original, _ in reversed(places):
                setattr(module, name, original)


def _count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _blocks(params, name):
    return [W for key, W in params.items() if key.endswith(name)]


#  the bank's norm


def _bare_bank(cfg):
    """No rmsnorm on the bank: reading and gates see M itself. The bank's norm is told by its place in the block."""
    norm, norm_back, block = ops.rmsnorm_forward, ops.rmsnorm_backward, model.block_forward
    gains = []

    def block_forward(x, M, p, **constants):
        gains[:] = [p.get("mem.g")]
        return block(x, M, p, **constants)

    def rmsnorm_forward(x, g, **constants):
        return (x.copy(), g) if g is gains[0] else norm(x, g, **constants)

    def rmsnorm_backward(dy, cache):
        return norm_back(dy, cache) if isinstance(cache, tuple) else (dy.copy(), np.zeros_like(cache))

    return ((model, "block_forward", block_forward), (ops, "rmsnorm_forward", rmsnorm_forward),
            (ops, "rmsnorm_backward", rmsnorm_backward))


#  who a slot asks as


def _slot_without_rope(cfg):
    """A slot's query is not turned: it stands before the first token, wherever the segment ends."""
    rope = ops.rope_forward

    def rope_forward(x, *, start=0, step=1, **constants):
        return rope(x, start=start if step else 0, step=step, **constants)

    return ((ops, "rope_forward", rope_forward),)


def _write(ask, ask_back):
    """The slots' write with another way of asking: ask(n, k, v, M, p, ...) -> R, and its backward."""

    def slots_write_forward(n, Emem, k, v, M, p, *, heads, pad=None):
        R, cache = ask(n, k, v, M, p, heads=heads, pad=pad)
        M_next, gates = memory.memory_update_forward(R, M, p["mem.Win"], p["mem.bin"], p["mem.Wforget"], p["mem.bforget"])
        return M_next, (cache, gates)

    def slots_write_backward(dM_next, cache):
        asked, gates = cache
        dR, dM, dWin, dbin, dWforget, dbforget = memory.memory_update_backward(dM_next, gates)
        dn, dk, dv, dM_asked, dp = ask_back(dR, asked)
        dp |= {"mem.Win": dWin, "mem.bin": dbin, "mem.Wforget": dWforget, "mem.bforget": dbforget}
        return dn, None, dk, dv, dM if dM_asked is None else dM + dM_asked, dp

    return ((memory, "slots_write_forward", slots_write_forward),
            (memory, "slots_write_backward", slots_write_backward))


def _content_asks(cfg):
    """No fixed addresses: a slot asks with what it holds, R = attend(rope(rmsnorm(M) Wq), k, v) Wo."""

    def ask(n, k, v, M, p, *, heads, pad):
        Wqkv, (H, _), (B, N, _) = p["attn.Wqkv"], heads, M.shape
        HK = p["attn.Wo"].shape[0]
        Mn, c_norm = ops.rmsnorm_forward(M, p["mem.g"])
        q, c_q = ops.linear_forward(Mn, Wqkv[:, :HK])
        q, c_rope = ops.rope_forward(q.reshape(B, N, H, HK // H), start=k.shape[1], step=0)
        y, c_attend = ops.attend_forward(q, k, v, pad=pad)
        R, c_out = ops.linear_forward(y.reshape(B, N, HK), p["attn.Wo"])
        return R, (c_norm, c_q, c_rope, c_attend, c_out, y.shape, Wqkv.shape)

    def ask_back(dR, cache):
        c_norm, c_q, c_rope, c_attend, c_out, shape, wide = cache
        dy, dWo = ops.linear_backward(dR, c_out)
        dq, dk, dv = ops.attend_backward(dy.reshape(shape), c_attend)
        (dq,) = ops.rope_backward(dq, c_rope)
        dMn, dWq = ops.linear_backward(dq.reshape(*shape[:2], -1), c_q)
        dWqkv = np.zeros(wide, dR.dtype)
        dWqkv[:, :dWq.shape[1]] = dWq
        dM, dg = ops.rmsnorm_backward(dMn, c_norm)
        return None, dk, dv, dM, {"attn.Wqkv": dWqkv, "attn.Wo": dWo, "mem.g": dg}

    return _write(ask, ask_back)


def _own_matrices(cfg):
    """The write's attention has matrices of its own, own.Wqkv and own.Wo, instead of the block's."""
    shapes = model.param_shapes

    def param_shapes(cfg):
        D, HK, wide = cfg.D, cfg.H * cfg.K, (cfg.H + 2 * cfg.G) * cfg.K
        return shapes(cfg) | {f"blocks.{i}.own.{name}": shape for i in range(cfg.L)
                              for name, shape in (("Wqkv", (D, wide)), ("Wo", (HK, D)))}

    def ask(n, k, v, M, p, *, heads, pad):
        (H, G), (B, T, _), N = heads, n.shape, M.shape[1]
        K = p["own.Wo"].shape[0] // H
        qkv, c_qkv = ops.linear_forward(n, p["own.Wqkv"])
        qkv = qkv.reshape(B, T, H + 2 * G, K)
        own_k, c_rope = ops.rope_forward(qkv[:, :, H:H + G])
        R, c_gather = memory.write_attention_forward(own_k, qkv[:, :, H + G:], p["own.Wqkv"], p["own.Wo"], heads=heads, slots=N,
                                            pad=pad)
        return R, (c_qkv, c_rope, c_gather, qkv.shape, H, G)

    def ask_back(dR, cache):
        c_qkv, c_rope, c_gather, shape, H, G = cache
        dk, dv, dWqkv, dWo = memory.write_attention_backward(dR, c_gather)
        dqkv = np.zeros(shape, dR.dtype)
        (dqkv[:, :, H:H + G],) = ops.rope_backward(dk, c_rope)
        dqkv[:, :, H + G:] = dv
        dn, dWqkv_tokens = ops.linear_backward(dqkv.reshape(*shape[:2], -1), c_qkv)
        return dn, None, None, None, {"own.Wqkv": dWqkv + dWqkv_tokens, "own.Wo": dWo}

    return ((model, "param_shapes", param_shapes), *_write(ask, ask_back))


#  gates


def _no_output_gate(cfg):
    """All that was read enters the residual stream: y = x + a + Emem."""

    def output_gate_forward(x, a, Emem, Wout, bout):
        return x + a + Emem, (Wout, bout)

    def output_gate_backward(dy, cache):
        Wout, bout = cache
        return dy, dy, dy.copy(), np.zeros_like(Wout), np.zeros_like(bout)

    return ((memory, "output_gate_forward", output_gate_forward), (memory, "output_gate_backward", output_gate_backward))


def _open_gate(which):
    """One gate of the write held at 1, whatever its input says."""
    i = _GATES.index(which)

    def replacements(cfg):
        update = memory.gated_sum_forward

        def gated_sum_forward(zin, zforget, R, M):
            z = [zin, zforget]
            z[i] = np.full_like(z[i], 100.0)             # sigmoid(100) is 1, and its slope 0
            return update(*z, R, M)

        return ((memory, "gated_sum_forward", gated_sum_forward),)

    return replacements


def _seeing_gates(cfg):
    """Gates that see what they would overwrite, too, as an LSTM's do: z = R W + rmsnorm(M) U + b."""
    shapes = model.param_shapes

    def param_shapes(cfg):
        return shapes(cfg) | {f"blocks.{i}.see.U{gate}": (cfg.D, cfg.D) for i in range(cfg.L) for gate in _GATES}

    def slots_write_forward(n, Emem, k, v, M, p, *, heads, pad=None):
        R, c_gather = memory.write_attention_forward(k, v, p["attn.Wqkv"], p["attn.Wo"], heads=heads, slots=M.shape[1], pad=pad)
        Mn, c_norm = ops.rmsnorm_forward(M, p["mem.g"])
        z, arrived, seen = {}, {}, {}
        for gate in _GATES:
            z[gate], arrived[gate] = ops.linear_forward(R, p[f"mem.W{gate}"])
            z_seen, seen[gate] = ops.linear_forward(Mn, p[f"see.U{gate}"])
            z[gate] += z_seen + p[f"mem.b{gate}"]
        M_next, c_update = memory.gated_sum_forward(z["in"], z["forget"], R, M)
        return M_next, (c_gather, c_norm, arrived, seen, c_update)

    def slots_write_backward(dM_next, cache):
        c_gather, c_norm, arrived, seen, c_update = cache
        *dz, dR, dM = memory.gated_sum_backward(dM_next, c_update)
        dp, dMn = {}, 0
        for gate, dz_gate in zip(_GATES, dz, strict=True):
            dR_gate, dp[f"mem.W{gate}"] = ops.linear_backward(dz_gate, arrived[gate])
            dMn_gate, dp[f"see.U{gate}"] = ops.linear_backward(dz_gate, seen[gate])
            dp[f"mem.b{gate}"] = dz_gate.sum((0, 1))
            dR, dMn = dR + dR_gate, dMn + dMn_gate
        dM_seen, dp["mem.g"] = ops.rmsnorm_backward(dMn, c_norm)
        dk, dv, dp["attn.Wqkv"], dp["attn.Wo"] = memory.write_attention_backward(dR, c_gather)
        return None, None, dk, dv, dM + dM_seen, dp

    return ((model, "param_shapes", param_shapes), (memory, "slots_write_forward", slots_write_forward),
            (memory, "slots_write_backward", slots_write_backward))


def _bias(name, value):
    def start(params):
        for b in _blocks(params, name):
            b[...] = value
    return start


#  the first bank


def _first_banks(make):
    return lambda cfg: ((model, "first_banks", make),)


def _zero_bank(params, cfg, B):
    W = params["embed.W"]
    return tuple(get_xp(W).zeros((B, cfg.N, cfg.D), W.dtype) for _ in range(cfg.L))


def _learned_start(cfg):
    """The first bank is a parameter, start.i (N, D), one a block, that begins as the identity does."""
    shapes, init, segment_back, story_back = (model.param_shapes, model.init_params, model.segment_backward,
                                              model.story_backward)
    entering = []

    def param_shapes(cfg):
        return shapes(cfg) | {f"start.{i}": (cfg.N, cfg.D) for i in range(cfg.L)}

    def init_params(cfg, seed, **where):
        params = init(cfg, seed, **where)
        for i in range(cfg.L):
            params[f"start.{i}"][...] = np.eye(cfg.N, cfg.D)
        return params

    def first_banks(params, cfg, B):
        return tuple(np.broadcast_to(params[f"start.{i}"], (B, cfg.N, cfg.D)) for i in range(cfg.L))

    def segment_backward(dlogits, dbanks, cache):
        shares, dbanks = segment_back(dlogits, dbanks, cache)
        entering[:] = dbanks                             # the first segment comes last
        return shares, dbanks

    def story_backward(dlogits, cache):
        grads = story_back(dlogits, cache)
        for i, dM in enumerate(entering):
            grads[f"start.{i}"] += dM.sum(0)
        return grads

    return ((model, "param_shapes", param_shapes), (model, "init_params", init_params),
            (model, "segment_backward", segment_backward), (model, "story_backward", story_backward),
            *_first_banks(first_banks)(cfg))


VARIANTS = {
    "all parts": Variant(),
    "no norm on the bank": Variant(_bare_bank, idle=("mem.g",)),
    "slots ask with what they hold": Variant(_content_asks),
    "a slot's query is not turned": Variant(_slot_without_rope),
    "no output gate": Variant(_no_output_gate, idle=("mem.Wout", "mem.bout")),
    "no input gate": Variant(_open_gate("in"), idle=("mem.Win", "mem.bin")),
    "no forget gate": Variant(_open_gate("forget"), idle=("mem.Wforget", "mem.bforget")),
    "gates see the bank, too": Variant(_seeing_gates),
    "write matrices of its own": Variant(_own_matrices),
    "start: learned": Variant(_learned_start),
    "start: zero": Variant(_first_banks(_zero_bank)),
    "bout 0": Variant(start=_bias("mem.bout", 0.0)),
    "bforget 1": Variant(start=_bias("mem.bforget", 1.0)),
    "bforget 5": Variant(start=_bias("mem.bforget", 5.0)),
    "4 slots": Variant(cfg={"N": 4}),
    "8 slots": Variant(cfg={"N": 8}),
    "32 slots": Variant(cfg={"N": 32}),
    "a language model's loss beside, .1": Variant(training={"lm": 0.1}),
}

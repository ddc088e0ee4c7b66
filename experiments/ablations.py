"""LM2's memory with one part removed or changed: each ablation is a memory module of its own.

It is `tinylm2.memories.lm2` with some of its functions replaced (`memories.variant`), so it has the same interface, and
model, trainer and evaluation treat it like any other memory. `registered()` gives each its name in MEMORIES for the
time of a `with` block. Pairs are replaced as pairs, and the tests check every gradient of every ablation.
"""

from contextlib import contextmanager
from functools import partial

from tinylm2 import layers, ops
from tinylm2.backend import check_shapes, get_xp
from tinylm2.memories import MEMORIES, lm2, variant

OPEN = 100.0                                             # a bias: sigmoid(100) is 1 in float32, and its slope 0


@contextmanager
def registered():
    """In this context, every ablation is in MEMORIES by its name: `Config(memory="no output gate")` finds it."""
    MEMORIES.update(ABLATIONS)
    try:
        yield
    finally:
        for name in ABLATIONS:
            del MEMORIES[name]


def _from(**biases):
    """LM2 whose biases start from other numbers: bout, bin, bforget."""
    return variant(lm2, VECTORS=lm2.VECTORS | {f"mem.{name}": value for name, value in biases.items()})


# ----------------------------------------------------------------------------------------------------------------- read


def read_bare_forward(n, state, p, *, cfg):
    """Tokens read the bank as it is, without rmsnorm.   n (B, T, D), M (B, N, D) -> Emem (B, T, D)"""
    (M,) = state
    Emem, cache = lm2.cross_attention_forward(n, M, p["mem.Wq"], p["mem.Wk"], p["mem.Wv"], heads=cfg.H)
    return Emem, {"attention": cache}


def read_bare_backward(dEmem, cache):
    """Gradients at n, the state and p; the norm's gain mem.g has none."""
    dp = {}
    dn, dM, dp["mem.Wq"], dp["mem.Wk"], dp["mem.Wv"] = lm2.cross_attention_backward(dEmem, cache["attention"])
    return dn, (dM,), dp


# ---------------------------------------------------------------------------------------------------------------- write


def write_by_content_forward(seg, state, p, *, cfg, pad=None):
    """No fixed addresses: the query of a slot is made from what the slot holds.

    R = attend(rope(rmsnorm(M) Wq at position T), k, v) Wo, then LM2's gates        seg and state as in `lm2`
    """
    (_, _, k, v), (M,), Wo = seg, state, p["attn.Wo"]
    B, N, _ = M.shape
    HK = Wo.shape[0]
    attention = {"heads": cfg.H, "Wqkv": p["attn.Wqkv"]}
    Mn, attention["norm"] = ops.rmsnorm_forward(M, p["mem.g"])
    q, attention["q"] = ops.linear_forward(Mn, p["attn.Wqkv"][:, :HK])
    q, attention["rope"] = ops.rope_forward(q.reshape(B, N, cfg.H, cfg.K), start=k.shape[1], step=0)
    y, attention["attend"] = ops.attend_forward(q, k, v, pad=pad)
    R, attention["out"] = ops.linear_forward(y.reshape(B, N, HK), Wo)
    M_next, update = lm2.memory_update_forward(R, M, p["mem.Win"], p["mem.bin"], p["mem.Wforget"], p["mem.bforget"])
    return (M_next,), {"attention": attention, "update": update}


def write_by_content_backward(dstate, cache):
    """Gradients at the segment (k and v only), the state and p: the bank gives the queries and is kept by the gates, so
    dM has two shares."""
    (dM_next,), dp, attention = dstate, {}, cache["attention"]
    dR, dM, dp["mem.Win"], dp["mem.bin"], dp["mem.Wforget"], dp["mem.bforget"] = lm2.memory_update_backward(
        dM_next, cache["update"])
    B, N, _ = dR.shape
    dy, dp["attn.Wo"] = ops.linear_backward(dR, attention["out"])
    dq, dk, dv = ops.attend_backward(dy.reshape(B, N, attention["heads"], -1), attention["attend"])
    (dq,) = ops.rope_backward(dq, attention["rope"])
    dMn, dWq = ops.linear_backward(dq.reshape(B, N, -1), attention["q"])
    dp["attn.Wqkv"] = get_xp(dR).zeros(attention["Wqkv"].shape, dR.dtype)
    dp["attn.Wqkv"][:, :dWq.shape[1]] = dWq
    dM_asked, dp["mem.g"] = ops.rmsnorm_backward(dMn, attention["norm"])
    return (None, None, dk, dv), (dM + dM_asked,), dp


def own_matrices_shapes(cfg):
    """LM2's parameters, and the write's own attention matrices."""
    HK = cfg.H * cfg.K
    return lm2.param_shapes(cfg) | {"own.Wqkv": (cfg.D, HK + 2 * cfg.G * cfg.K), "own.Wo": (HK, cfg.D)}


def write_own_forward(seg, state, p, *, cfg, pad=None):
    """The write computes keys and values with matrices of its own instead of the block's: [k, v] = n own.Wqkv."""
    (n, _, _, _), (M,), cache = seg, state, {}
    B, T, _ = n.shape
    kv, cache["kv"] = ops.linear_forward(n, p["own.Wqkv"][:, cfg.H * cfg.K:])
    kv = kv.reshape(B, T, 2 * cfg.G, cfg.K)
    k, cache["rope"] = ops.rope_forward(kv[:, :, :cfg.G])
    R, cache["attention"] = lm2.write_attention_forward(k, kv[:, :, cfg.G:], p["own.Wqkv"], p["own.Wo"],
                                                        heads=(cfg.H, cfg.G), slots=M.shape[1], pad=pad)
    M_next, cache["update"] = lm2.memory_update_forward(R, M, p["mem.Win"], p["mem.bin"], p["mem.Wforget"],
                                                        p["mem.bforget"])
    return (M_next,), cache


def write_own_backward(dstate, cache):
    """Gradients at the segment (n only), the state and p: own.Wqkv has the share of the slots' queries and that of the
    keys and values."""
    (dM_next,), dp = dstate, {}
    dR, dM, dp["mem.Win"], dp["mem.bin"], dp["mem.Wforget"], dp["mem.bforget"] = lm2.memory_update_backward(
        dM_next, cache["update"])
    dk, dv, dp["own.Wqkv"], dp["own.Wo"] = lm2.write_attention_backward(dR, cache["attention"])
    (dk,) = ops.rope_backward(dk, cache["rope"])
    B, T = dk.shape[:2]
    dn, dWkv = ops.linear_backward(get_xp(dR).concatenate((dk, dv), 2).reshape(B, T, -1), cache["kv"])
    dp["own.Wqkv"][:, -dWkv.shape[1]:] += dWkv
    return (dn, None, None, None), (dM,), dp


# ---------------------------------------------------------------------------------------------------------------- gates


def seeing_shapes(cfg):
    """LM2's parameters, and the matrices with which the gates see the bank."""
    return lm2.param_shapes(cfg) | {"see.Uin": (cfg.D, cfg.D), "see.Uforget": (cfg.D, cfg.D)}


def write_seeing_forward(seg, state, p, *, cfg, pad=None):
    """Gates that also see the bank, as in an LSTM: z = R W + rmsnorm(M) U + b."""
    (_, _, k, v), (M,), cache, z = seg, state, {}, {}
    R, cache["attention"] = lm2.write_attention_forward(k, v, p["attn.Wqkv"], p["attn.Wo"], heads=(cfg.H, cfg.G),
                                                        slots=M.shape[1], pad=pad)
    Mn, cache["norm"] = ops.rmsnorm_forward(M, p["mem.g"])
    for gate in ("in", "forget"):
        z[gate], cache[f"W{gate}"] = ops.linear_forward(R, p[f"mem.W{gate}"])
        seen, cache[f"U{gate}"] = ops.linear_forward(Mn, p[f"see.U{gate}"])
        z[gate] += seen + p[f"mem.b{gate}"]
    M_next, gates = lm2.gated_sum_forward(z["in"], z["forget"], R, M)
    return (M_next,), cache | {"update": {"gates": gates}}


def write_seeing_backward(dstate, cache):
    """Gradients at the segment (k and v only), the state and p: each gate gives a share to R and one to the bank."""
    (dM_next,), dp, dMn = dstate, {}, 0
    *dz, dR, dM = lm2.gated_sum_backward(dM_next, cache["update"]["gates"])
    for gate, dz_gate in zip(("in", "forget"), dz, strict=True):
        dR_gate, dp[f"mem.W{gate}"] = ops.linear_backward(dz_gate, cache[f"W{gate}"])
        dMn_gate, dp[f"see.U{gate}"] = ops.linear_backward(dz_gate, cache[f"U{gate}"])
        dp[f"mem.b{gate}"] = layers.over_rows(dz_gate)
        dR, dMn = dR + dR_gate, dMn + dMn_gate
    dM_seen, dp["mem.g"] = ops.rmsnorm_backward(dMn, cache["norm"])
    dk, dv, dp["attn.Wqkv"], dp["attn.Wo"] = lm2.write_attention_backward(dR, cache["attention"])
    return (None, None, dk, dv), (dM + dM_seen,), dp


def stretched_gate_forward(z):
    """A sigmoid stretched beyond 0 and 1 and clipped: g = clip(1.2 sigmoid(z) - .1, 0, 1), shut below z = -2.4."""
    s, _ = ops.sigmoid_forward(z)
    stretched = 1.2 * s - 0.1
    return stretched.clip(0, 1), (s, (stretched > 0) & (stretched < 1))


def stretched_gate_backward(dg, cache):
    """The sigmoid's gradient, times 1.2; zero where the gate is clipped."""
    s, moves = cache
    (dz,) = ops.sigmoid_backward(1.2 * dg * moves, s)
    return (dz,)


def linear_gate_forward(z):
    """A straight line clipped at 0 and 1: g = clip(z / 6 + .5, 0, 1), shut below z = -3."""
    line = z / 6 + 0.5
    return line.clip(0, 1), (line > 0) & (line < 1)


def linear_gate_backward(dg, moves):
    """The slope of the line, 1/6; zero where the gate is clipped."""
    return (dg * moves / 6,)


def _update_with(gate_forward, gate_backward):
    """LM2's `gated_sum` with another function for both gates: M' = gate(zin) * tanh(R) + gate(zforget) * M."""

    def gated_sum_forward(zin, zforget, R, M):
        check_shapes("gated_sum", zin=(zin, "B N D"), zforget=(zforget, "B N D"), R=(R, "B N D"), M=(M, "B N D"))
        gin, c_in = gate_forward(zin)
        gforget, c_forget = gate_forward(zforget)
        content, _ = ops.tanh_forward(R)
        return gin * content + gforget * M, {"gin": gin, "gforget": gforget, "content": content, "M": M, "in": c_in,
                                             "forget": c_forget}

    def gated_sum_backward(dM_next, cache):
        (dzin,) = gate_backward(dM_next * cache["content"], cache["in"])
        (dzforget,) = gate_backward(dM_next * cache["M"], cache["forget"])
        (dR,) = ops.tanh_backward(dM_next * cache["gin"], cache["content"])
        return dzin, dzforget, dR, dM_next * cache["gforget"]

    return {"gated_sum_forward": gated_sum_forward, "gated_sum_backward": gated_sum_backward}


# ------------------------------------------------------------------------------------------------------- the first bank


def first_zero_forward(p, *, cfg, B):
    """The bank before the first segment is zero: every slot is empty."""
    g = p["mem.g"]
    return (get_xp(g).zeros((B, cfg.N, cfg.D), g.dtype),), None


def learned_shapes(cfg):
    """LM2's parameters, and the learned part of the first bank."""
    return lm2.param_shapes(cfg) | {"mem.bfirst": (cfg.N * cfg.D,)}


def first_learned_forward(p, *, cfg, B):
    """The bank before the first segment is learned: the identity's first N rows plus mem.bfirst, which starts at 0."""
    b = p["mem.bfirst"]
    xp = get_xp(b)
    M = xp.eye(cfg.N, cfg.D, dtype=b.dtype) + b.reshape(cfg.N, cfg.D)
    return (xp.broadcast_to(M, (B, cfg.N, cfg.D)),), None


def first_learned_backward(dstate, cache):
    """Every story began with the same bank, so its gradient is the sum over the stories."""
    (dM,) = dstate
    return {"mem.bfirst": dM.sum(0).reshape(-1)}


ABLATIONS = {
    "no norm on the bank": variant(lm2, read_forward=read_bare_forward, read_backward=read_bare_backward),
    "queries from the slots' content": variant(lm2, write_forward=write_by_content_forward,
                                             write_backward=write_by_content_backward),
    "slot queries not rotated": variant(
        lm2, write_attention_forward=partial(lm2.write_attention_forward, start=0)),
    "no output gate": _from(bout=OPEN),
    "no input gate": _from(bin=OPEN),
    "no forget gate": _from(bforget=OPEN),
    "gates see the bank, too": variant(lm2, param_shapes=seeing_shapes, write_forward=write_seeing_forward,
                                       write_backward=write_seeing_backward),
    "gates that can shut": variant(lm2, **_update_with(stretched_gate_forward, stretched_gate_backward)),
    "piecewise-linear gates": variant(lm2, **_update_with(linear_gate_forward, linear_gate_backward),
                                       VECTORS=lm2.VECTORS | {"mem.bforget": 2.0}),
    "write matrices of its own": variant(lm2, param_shapes=own_matrices_shapes, write_forward=write_own_forward,
                                         write_backward=write_own_backward),
    "start: learned": variant(lm2, param_shapes=learned_shapes, first_forward=first_learned_forward,
                              first_backward=first_learned_backward,
                              VECTORS=lm2.VECTORS | {"mem.bfirst": 0.0}),
    "start: zero": variant(lm2, first_forward=first_zero_forward),
    "bout 0": _from(bout=0.0),
    "bforget 1": _from(bforget=1.0),
    "bforget 5": _from(bforget=5.0),
    "bforget 6": _from(bforget=6.0),
}
# Parameters that an ablation keeps and never trains: their gradient is zero.
IDLE = {"no norm on the bank": ("mem.g",), "no output gate": ("mem.Wout", "mem.bout"),
        "no input gate": ("mem.Win", "mem.bin"), "no forget gate": ("mem.Wforget", "mem.bforget")}

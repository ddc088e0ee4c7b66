"""LM2 from tokens to logits: the configuration, its parameters, and two pairs: a block and a segment.

A story is cut into S segments of T tokens. Self-attention stays inside a segment. The memories' states are the only
path from one segment to the next, so causality between segments holds by construction.
"""

import zlib
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from tinylm2 import layers, ops
from tinylm2.backend import Array, get_xp, to_device
from tinylm2.flat import Flat
from tinylm2.memories import MEMORIES

_INIT = 0                                                # random stream of parameters; data/rng.py has the others


@dataclass(frozen=True)
class Config:
    """The sizes and choices of a model, in the letters of `tinylm2/__init__.py`. ValueError names what does not fit.

    memory: a name of `memories.MEMORIES`. memory_blocks: which blocks have one; None means all. tied: the head is the
    embedding, transposed. base, scaling: see `ops.rope_forward`. eps: of the norms. head_dim: K, where it is not D / H.
    """

    V: int
    D: int = 32
    L: int = 2
    H: int = 2
    G: int = 2
    F: int = 78
    N: int = 16
    T: int = 32
    memory: str = "lm2"
    memory_blocks: tuple[int, ...] | None = None
    tied: bool = False
    base: float = 10000.0
    scaling: tuple[float, ...] | None = None
    eps: float = 1e-5
    head_dim: int | None = None

    def __post_init__(self):
        for name in ("memory_blocks", "scaling"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        for name in "VDLHGFNT":
            if getattr(self, name) < 1:
                raise ValueError(f"config: {name} is {getattr(self, name)}, expected at least 1")
        blocks, (factor, low, high, length) = self.memory_blocks or (), self.scaling or (1, 0, 1, 1)
        for fits, text in (
                (self.D % self.H == 0, f"D={self.D} is not divisible by H={self.H} heads"),
                (self.K % 2 == 0 < self.K, f"head size {self.K} (D={self.D}, H={self.H}), expected an even number"),
                (self.H % self.G == 0, f"G={self.G} key/value heads do not divide H={self.H} heads"),
                (0 < self.base < 1e99 and 0 < self.eps < 1, f"base {self.base} and eps {self.eps}, expected above 0"),
                (factor >= 1 <= length and low < high, f"scaling {self.scaling}, expected factor, low < high, length"),
                (self.memory in MEMORIES, f"memory {self.memory!r}, expected one of {', '.join(MEMORIES)}"),
                (all(0 <= i < self.L for i in blocks), f"memory_blocks {blocks}, expected numbers in 0..{self.L - 1}")):
            if not fits:
                raise ValueError(f"config: {text}")
        memory = MEMORIES[self.memory]
        if self.memory_blocks is not None and hasattr(memory, "enter_forward"):
            raise ValueError(f"config: memory_blocks {self.memory_blocks}, expected none with memory {self.memory}")
        if hasattr(memory, "check"):
            memory.check(self)

    @property
    def K(self) -> int:
        return self.D // self.H if self.head_dim is None else self.head_dim

    @property
    def memories(self) -> tuple:
        """The memory of each place, None where there is none: one place per block, and the last one for the segment."""
        memory = MEMORIES[self.memory]
        if hasattr(memory, "enter_forward"):
            return (None,) * self.L + (memory,)
        chosen = range(self.L) if self.memory_blocks is None else self.memory_blocks
        return (*(memory if i in chosen else None for i in range(self.L)), None)


def param_shapes(cfg: Config) -> dict:
    """Name -> shape of every parameter of this model."""
    D, F, K = cfg.D, cfg.F, cfg.K
    shapes: dict[str, tuple] = {"embed.W": (cfg.V, D)}
    *of_blocks, of_segment = [{} if memory is None else memory.param_shapes(cfg) for memory in cfg.memories]
    for i, memory in enumerate(of_blocks):
        block = {"attn.g": (D,), "attn.Wqkv": (D, (cfg.H + 2 * cfg.G) * K), "attn.Wo": (cfg.H * K, D), **memory,
                 "ff.g": (D,), "ff.Wgu": (D, 2 * F), "ff.Wdown": (F, D)}
        shapes |= {_prefix(cfg, i) + name: shape for name, shape in block.items()}
    shapes["norm.g"] = (D,)
    if not cfg.tied:
        shapes["head.W"] = (D, cfg.V)
    return shapes | {_prefix(cfg, cfg.L) + name: shape for name, shape in of_segment.items()}


def count_params(cfg: Config) -> int:
    """The number of parameters."""
    return sum(prod(shape) for shape in param_shapes(cfg).values())


def with_params_of(like: Config, cfg: Config) -> Config:
    """`cfg` with the F that brings its number of parameters closest to that of `like`."""
    return replace(cfg, F=cfg.F + round((count_params(like) - count_params(cfg)) / (3 * cfg.D * cfg.L)))


def _prefix(cfg, place):
    return f"blocks.{place}." if place < cfg.L else "memory."


def params_of(params: dict, cfg: Config, place: int) -> dict:
    """The parameters of a place by their short names: a block's, or those of the segment's memory (place L)."""
    prefix = _prefix(cfg, place)
    return {name[len(prefix):]: W for name, W in params.items() if name.startswith(prefix)}


def init_params(cfg: Config, seed: int, *, xp: Any = np, dtype: str = "float32") -> Flat:
    """Fresh parameters, a `Flat` dict.

    Matrices are normal with std 1/sqrt(rows), attn.Wo and ff.Wdown further divided by sqrt(2 L), embedding and head
    1/sqrt(D); gains are 1, and a memory's vectors start from its VECTORS. Every tensor has its own random stream, keyed
    by the tensor's name, so two models start with equal values in the tensors that they share.
    """
    params = Flat(param_shapes(cfg), xp, dtype)
    starts = {_prefix(cfg, i) + name: start for i, memory in enumerate(cfg.memories) if memory is not None
              for name, start in memory.VECTORS.items()}
    for name, shape in params.shapes.items():
        part = name.rpartition(".")[2]
        if len(shape) == 1:
            params[name][...] = starts.get(name, 1.0)
            continue
        rows = cfg.D if part == "W" else shape[0]
        std = rows**-0.5 / ((2 * cfg.L) ** 0.5 if part in ("Wo", "Wdown") else 1)
        normal = np.random.default_rng([seed, _INIT, zlib.crc32(name.encode())]).standard_normal(shape)
        params[name][...] = to_device((normal * std).astype(dtype), xp)
    return params


def block_forward(x: Array, state: tuple, p: dict, *, cfg: Config, memory: Any = None, pad: Array | None = None,
                  last: int | None = None, write: bool = True, past: Any = None) -> tuple[Array, Any, Any]:
    """One block: attend, read the memory, write it, feed forward.

    n = rmsnorm(x),   a = self-attention(n),   x1 = x + a + gout * read(n, state),   y = x1 + ff(rmsnorm(x1))
    state' = write(n, what was read, keys and values, state)

    x (B, T, D), state: what `memory` keeps, None without one; p: the block's parameters under their short names
    -> y (B, last, D) and state', the old one without `write`. last: how many of the last rows to compute. past: the
    keys and values of this segment's tokens before x, constants.
    """
    T: int = x.shape[1]
    last = T if last is None else last
    cache, before, masked = {"memory": memory}, past, pad
    n, cache["norm"] = ops.rmsnorm_forward(x, p["attn.g"], eps=cfg.eps)
    if hasattr(memory, "keys_forward"):
        before, masked, cache["keys"] = _keys_before(memory, past, state, p, cfg, pad)
    a, k, v, cache["attention"] = layers.self_attention_forward(
        n, before, p["attn.Wqkv"], p["attn.Wo"], heads=(cfg.H, cfg.G), start=0 if past is None else past[0].shape[1],
        last=last, pad=masked, base=cfg.base, scaling=cfg.scaling)
    cache["kv"] = (k, v) if past is None else _joined(past, (k, v))
    x, Emem = x[:, T - last:], None
    if hasattr(memory, "read_forward"):
        readers: int = T if write and memory.WRITE_USES_READ else last   # how many of the last rows read
        Emem, cache["read"] = memory.read_forward(n[:, T - readers:], state, p, cfg=cfg)
        x, cache["gate"] = layers.output_gate_forward(x, a, Emem[:, readers - last:], p["mem.Wout"], p["mem.bout"])
        cache["readers"] = readers
    else:
        x = x + a
    if write and memory is not None:
        state, cache["write"] = memory.write_forward((n, Emem, k, v), state, p, cfg=cfg, pad=pad)
    h, cache["ff.norm"] = ops.rmsnorm_forward(x, p["ff.g"], eps=cfg.eps)
    y, cache["ff"] = layers.feed_forward_forward(h, p["ff.Wgu"], p["ff.Wdown"])
    y += x
    return y, state, cache


def block_backward(dy: Array, dstate_next: Any, cache: Any) -> tuple[Array, Any, dict[str, Array]]:
    """Gradients at x, the state and p.  dstate_next None: nobody reads the new state, so its gradient is zero.

    Goes through the forward from its end. n feeds attention, the read and perhaps the write; k and v feed attention and
    the write; the state feeds the read and the write. The gradient of each is the sum of these shares.
    """
    memory, dp, dstate = cache["memory"], {}, dstate_next
    dn_write = dE_write = dk = dv = dn_read = None
    dh, dp["ff.Wgu"], dp["ff.Wdown"] = layers.feed_forward_backward(dy, cache["ff"])
    dx, dp["ff.g"] = ops.rmsnorm_backward(dh, cache["ff.norm"])
    dx += dy
    da = dx
    if dstate_next is not None and "write" in cache:
        (dn_write, dE_write, dk, dv), dstate, share = memory.write_backward(dstate_next, cache["write"])
        dp |= share
    if "read" in cache:
        dx, da, dEmem, dp["mem.Wout"], dp["mem.bout"] = layers.output_gate_backward(dx, cache["gate"])
        dEmem = _sum(_zeros_before(dEmem, cache["readers"]), dE_write)
        dn_read, dstate_read, share = memory.read_backward(dEmem, cache["read"])
        dstate = sum_states(dstate_read, dstate)
        dp = sum_dicts(dp, share)
    dn, dbefore, dWqkv, dWo = layers.self_attention_backward(da, dk, dv, cache["attention"])
    dp = sum_dicts(dp, {"attn.Wqkv": dWqkv, "attn.Wo": dWo})
    if "keys" in cache and dbefore is not None:
        inner, U = cache["keys"]
        dstate_keys, share = memory.keys_backward(*(d[:, :U] for d in dbefore), inner)
        dstate = sum_states(dstate_keys, dstate)
        dp = sum_dicts(dp, share)
    dx_norm, dp["attn.g"] = ops.rmsnorm_backward(_sum(dn, dn_read, dn_write), cache["norm"])
    return _sum(dx_norm, dx), dstate, dp


def _keys_before(memory, past, state, p, cfg, pad):
    """Keys and values before x: the memory's, then the segment's own past; and how many of the first to mask."""
    k, v, cache = memory.keys_forward(state, p, cfg=cfg)
    masked = memory.hidden(state)
    keys = (k, v) if past is None else _joined((k, v), past)
    return (keys if keys[0].shape[1] else None), pad if masked is None else masked, (cache, k.shape[1])


def _joined(ones, others):
    """Keys and values of two runs of positions, concatenated."""
    return tuple(get_xp(a, b).concatenate((a, b), 1) for a, b in zip(ones, others, strict=True))


def _sum(total, *shares):
    """Shares of one gradient, added into the first. None is zero; a share with fewer rows belongs to the last rows."""
    for share in shares:
        if share is None:
            continue
        if share.shape == total.shape:
            total += share
        else:
            total[:, total.shape[1] - share.shape[1]:] += share
    return total


def sum_states(ones: Any, others: Any) -> tuple | None:
    """Two gradients at one state, added array by array. None is zero."""
    if ones is None or others is None:
        return others if ones is None else ones
    return tuple(b if a is None else _sum(a, b) for a, b in zip(ones, others, strict=True))


def sum_dicts(total: dict, share: dict) -> dict[str, Array]:
    """Two dicts of gradients added into the first, name by name."""
    for name, g in share.items():
        total[name] = _sum(g, total.get(name))
    return total


def _zeros_before(dx, T):
    """The gradient of T rows of which only the last were used: zeros, then dx."""
    return dx if dx.shape[1] == T else _sum(get_xp(dx).zeros((len(dx), T, dx.shape[2]), dx.dtype), dx)


def first_states(params: dict, cfg: Config, B: int) -> tuple:
    """The memories' states before the first segment: (states, caches), one per place, None where there is none."""
    found = [(None, None) if memory is None else memory.first_forward(params_of(params, cfg, i), cfg=cfg, B=B)
             for i, memory in enumerate(cfg.memories)]
    return tuple(state for state, _ in found), [cache for _, cache in found]


def first_states_back(dstates: tuple, caches: list, cfg: Config) -> dict:
    """Backward of `first_states`: gradients of the parameters that it used."""
    grads = {}
    for i, (memory, dstate, cache) in enumerate(zip(cfg.memories, dstates, caches, strict=True)):
        if memory is not None and dstate is not None:
            grads |= {_prefix(cfg, i) + name: g for name, g in memory.first_backward(dstate, cache).items()}
    return grads


def segment_forward(params: dict, states: tuple, *, ids: Array, cfg: Config, pad: Any = None, last: int | None = None,
                    write: bool = True, past: Any = None) -> tuple[Array, Any, Any]:
    """One segment: tokens to logits, states to states.

    x = embed.W[ids] sqrt(D), the blocks in turn, logits = rmsnorm(x) head.W            (embed.W' when tied)

    ids (B, T) with any T >= 1, states as `first_states` gives them, pad (B,) padding positions on the left -> logits
    (B, last, V) of the last `last` positions (None: all), and the states that the next segment reads (the same ones
    without `write`). past: one (k, v) per block, of tokens of this segment that were computed before.
    """
    T: int = ids.shape[1]
    last = T if last is None else last
    if not 0 <= last <= T:
        raise ValueError(f"segment_forward: last is {last}, expected 0 to {T}, the tokens of the segment")
    *of_blocks, of_segment = cfg.memories
    cache, extra, next_states = {"cfg": cfg, "blocks": []}, 0, list(states)
    x, cache["embed"] = ops.embedding_forward(params["embed.W"], ids=ids)
    x = x * cfg.D**0.5
    if of_segment is not None and past is None:
        x, cache["enter"] = of_segment.enter_forward(x, states[-1], cfg=cfg, pad=pad, write=write)
        extra = x.shape[1] - T - cfg.N                   # the memory's rows after the tokens; N stand before them
    for i, memory in enumerate(of_blocks):
        wanted = last + extra if i == cfg.L - 1 else None                # the last block: only the rows that are used
        x, next_states[i], block_cache = block_forward(
            x, states[i], params_of(params, cfg, i), cfg=cfg, memory=memory, pad=pad, last=wanted, write=write,
            past=None if past is None else past[i])
        cache["blocks"].append(block_cache)
    x, cache["norm"] = ops.rmsnorm_forward(x, params["norm.g"], eps=cfg.eps)
    if of_segment is not None and "enter" in cache:
        x, state, cache["leave"] = of_segment.leave_forward(x, last=last)
        next_states[-1] = state if write else states[-1]
    logits, cache["head"] = ops.linear_forward(x, params["embed.W"].T if cfg.tied else params["head.W"])
    return logits, tuple(next_states), cache


def segment_backward(dlogits: Array, dstates: Any, cache: Any) -> tuple[dict[str, Array], Any]:
    """Gradients of all parameters (a dict) and of the states that came in (a tuple).

    dstates: the gradients at the states that went out, None for zero. A tied embedding is used twice, at the input
    and at the output, so its gradient is a sum.
    """
    cfg, grads = cache["cfg"], {}
    dstates = (None,) * (cfg.L + 1) if dstates is None else dstates
    dstates_in = [None] * (cfg.L + 1)
    of_segment = cfg.memories[-1]
    dx, dhead = ops.linear_backward(dlogits, cache["head"])
    if "leave" in cache:
        (dx,) = of_segment.leave_backward(dx, dstates[-1], cache["leave"])
    dx, grads["norm.g"] = ops.rmsnorm_backward(dx, cache["norm"])
    for i in reversed(range(cfg.L)):
        dx, dstates_in[i], dp = block_backward(dx, dstates[i], cache["blocks"][i])
        grads |= {_prefix(cfg, i) + name: g for name, g in dp.items()}
    if "enter" in cache:
        dx, dstates_in[-1] = of_segment.enter_backward(dx, cache["enter"])
    dx = dx * cfg.D**0.5
    (grads["embed.W"],) = ops.embedding_backward(dx, cache["embed"])
    if cfg.tied:
        grads["embed.W"] += dhead.T
    else:
        grads["head.W"] = dhead
    return grads, tuple(dstates_in)

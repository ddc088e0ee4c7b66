"""LM2 from tokens to logits: the configuration, its parameters, and three pairs: a block, a segment, a story.

A story is cut into S segments of T tokens. Self-attention stays inside a segment; the banks, one a block, are the only
path from one segment to the next, so causality between segments holds by construction.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from tinylm2 import layers, memory, ops
from tinylm2.backend import get_xp, to_device
from tinylm2.flat import Flat, join

_INIT = 0                                                # the stream of random numbers; the data's are in data/dice.py
MEMORIES = ("slots", "printed", "none")


@dataclass(frozen=True)
class Config:
    """What a model is made of, in the letters of `tinylm2/__init__.py`. ValueError names what does not fit.

    memory_blocks: which blocks carry a bank; None means all. tied: the head is the embedding, transposed.
    """

    V: int
    D: int = 32
    L: int = 2
    H: int = 2
    G: int = 2
    F: int = 78
    N: int = 16
    T: int = 32
    memory: str = "slots"
    memory_blocks: tuple[int, ...] | None = None
    tied: bool = False

    def __post_init__(self):
        if self.memory_blocks is not None:
            object.__setattr__(self, "memory_blocks", tuple(self.memory_blocks))
        for name in "VDLHGFNT":
            if getattr(self, name) < 1:
                raise ValueError(f"config: {name} is {getattr(self, name)}, expected at least 1")
        if self.D % self.H:
            raise ValueError(f"config: D={self.D} is not divisible by H={self.H} heads")
        if self.K % 2:
            raise ValueError(f"config: heads are {self.K} wide (D={self.D}, H={self.H}), expected an even width")
        if self.H % self.G:
            raise ValueError(f"config: G={self.G} key/value heads do not divide H={self.H} heads")
        if self.N > self.D:
            raise ValueError(f"config: N={self.N} slots, expected at most D={self.D}")
        if self.memory not in MEMORIES:
            raise ValueError(f"config: memory {self.memory!r}, expected one of {', '.join(MEMORIES)}")
        if any(not 0 <= i < self.L for i in self.memory_blocks or ()):
            raise ValueError(f"config: memory_blocks {self.memory_blocks}, expected numbers in 0..{self.L - 1}")

    @property
    def K(self):
        return self.D // self.H

    def memory_of(self, i):
        """The memory that block i carries: "slots", "printed" or "none"."""
        return self.memory if self.memory_blocks is None or i in self.memory_blocks else "none"


def param_shapes(cfg):
    """Name -> shape of every parameter that this variant uses, and of no other."""
    D, F, K = cfg.D, cfg.F, cfg.K
    shapes = {"embed.W": (cfg.V, D)}
    for i in range(cfg.L):
        b = f"blocks.{i}."
        shapes |= {b + "attn.g": (D,), b + "attn.Wqkv": (D, (cfg.H + 2 * cfg.G) * K), b + "attn.Wo": (cfg.H * K, D)}
        if cfg.memory_of(i) != "none":
            shapes |= {b + "mem.g": (D,), b + "mem.Wq": (D, D), b + "mem.Wk": (D, D), b + "mem.Wv": (D, D),
                       b + "mem.Wout": (D, D), b + "mem.bout": (D,), b + "mem.Win": (D, D), b + "mem.Wforget": (D, D)}
        if cfg.memory_of(i) == "slots":
            shapes |= {b + "mem.bin": (D,), b + "mem.bforget": (D,)}
        shapes |= {b + "ff.g": (D,), b + "ff.Wgu": (D, 2 * F), b + "ff.Wdown": (F, D)}
    shapes["norm.g"] = (D,)
    if not cfg.tied:
        shapes["head.W"] = (D, cfg.V)
    return shapes


def init_params(cfg, seed, *, xp=np, dtype="float32"):
    """Fresh parameters, a `Flat` dict.

    Matrices are normal with std 1/sqrt(rows), attn.Wo and ff.Wdown further divided by sqrt(2 L), embedding and head
    1/sqrt(D); gains 1, bin 0, bout -1, bforget +3: a new bank is read cautiously and forgets slowly. Every tensor has
    random numbers of its own, named by its name, so variants start equal in what they share.
    """
    params = Flat(param_shapes(cfg), xp, dtype)
    for name, shape in params.shapes.items():
        part = name.rpartition(".")[2]
        if len(shape) == 1:
            params[name][...] = {"g": 1.0, "bin": 0.0, "bout": -1.0, "bforget": 3.0}[part]
            continue
        rows = cfg.D if part == "W" else shape[0]
        std = rows**-0.5 / ((2 * cfg.L) ** 0.5 if part in ("Wo", "Wdown") else 1)
        normal = np.random.default_rng([seed, _INIT, zlib.crc32(name.encode())]).standard_normal(shape)
        params[name][...] = to_device((normal * std).astype(dtype), xp)
    return params


def first_banks(params, cfg, B):
    """The banks before the first segment: the first N rows of the identity, a constant; None where there is none."""
    W = params["embed.W"]
    xp = get_xp(W)
    M = xp.broadcast_to(xp.eye(cfg.N, cfg.D, dtype=W.dtype), (B, cfg.N, cfg.D))
    return tuple(M if cfg.memory_of(i) != "none" else None for i in range(cfg.L))


# ---------------------------------------------------------------------------------------------------------------- block


def block_forward(x, M, p, *, cfg, pad=None, rows=None, write=True, past=None):
    """One decoder block: self-attention beside a read of the bank, then the feed-forward; the write makes a new bank.

    n = rmsnorm(x),   x' = x + attention(n) + gout * read(n, rmsnorm(M)),   y = x' + feed_forward(rmsnorm(x'))

    x (B, T, D), M (B, N, D) or None, p this block's parameters by their short names ("attn.g") -> y (B, rows, D) for
    the last `rows` tokens (None: all), M' (B, N, D): M itself where there is no write. The gradient of p is a dict too.
    """
    T = x.shape[1]
    rows = T if rows is None else rows
    cache = {"rows": rows}
    n, cache["norm"] = ops.rmsnorm_forward(x, p["attn.g"])
    a, k, v, cache["attention"] = layers.self_attention_forward(
        n, p["attn.Wqkv"], p["attn.Wo"], heads=(cfg.H, cfg.G), pad=pad, rows=rows, past=past)
    cache["kv"] = k, v
    x = x[:, T - rows:]
    if M is None:
        x, M_next = x + a, None
    else:
        Mn, cache["mem.norm"] = ops.rmsnorm_forward(M, p["mem.g"])
        asking = T if write and cfg.memory == "printed" else rows        # the printed write pools what all tokens read
        Emem, cache["read"] = memory.read_forward(
            n[:, T - asking:], Mn, p["mem.Wq"], p["mem.Wk"], p["mem.Wv"], heads=cfg.H)
        x, cache["merge"] = memory.merge_forward(x, a, Emem[:, asking - rows:], p["mem.Wout"], p["mem.bout"])
        M_next, cache["asking"] = M, asking
        if write:
            forward = memory.slots_write_forward if cfg.memory == "slots" else memory.printed_write_forward
            M_next, cache["write"] = forward(n, Emem, k, v, M, p, heads=(cfg.H, cfg.G), pad=pad)
            cache["memory"] = cfg.memory
    h, cache["ff.norm"] = ops.rmsnorm_forward(x, p["ff.g"])
    y, cache["ff"] = layers.feed_forward_forward(h, p["ff.Wgu"], p["ff.Wdown"])
    y += x
    return y, M_next, cache


def block_backward(dy, dM_next, cache):
    """Gradients at x, M and p.  dM_next None: nobody reads the new bank, so its gradient is zero.

    Walks the forward from its end. n feeds attention, the read and the printed write; k, v, Wqkv and Wo serve tokens
    and slots; M is reached through what was read of it and through what the forget gate kept. Each is the sum of its
    shares.
    """
    dp, dn_write, dE_write, dk, dv, dM, dp_write = {}, None, None, None, None, dM_next, {}
    dh, dp["ff.Wgu"], dp["ff.Wdown"] = layers.feed_forward_backward(dy, cache["ff"])
    dx, dp["ff.g"] = ops.rmsnorm_backward(dh, cache["ff.norm"])
    dx += dy
    da, dn_read = dx, None
    if "read" in cache:
        if dM_next is not None and "write" in cache:
            backward = memory.slots_write_backward if cache["memory"] == "slots" else memory.printed_write_backward
            dn_write, dE_write, dk, dv, dM, dp_write = backward(dM_next, cache["write"])
        dx, da, dEmem, dp["mem.Wout"], dp["mem.bout"] = memory.merge_backward(dx, cache["merge"])
        dEmem = _sum(_at_end(dEmem, cache["asking"]), dE_write)
        dn_read, dMn, dp["mem.Wq"], dp["mem.Wk"], dp["mem.Wv"] = memory.read_backward(dEmem, cache["read"])
        dM_norm, dp["mem.g"] = ops.rmsnorm_backward(dMn, cache["mem.norm"])
        dM = _sum(dM_norm, dM)
    dn, dp["attn.Wqkv"], dp["attn.Wo"] = layers.self_attention_backward(da, dk, dv, cache["attention"])
    for name, share in dp_write.items():
        dp[name] = _sum(share, dp.get(name))
    dx_norm, dp["attn.g"] = ops.rmsnorm_backward(_sum(dn, dn_read, dn_write), cache["norm"])
    return _sum(dx_norm, dx), dM, dp


def _sum(total, *shares):
    """Shares of one gradient added into the first, a fresh one. None is zero; fewer rows are the last ones."""
    for share in shares:
        if share is None:
            continue
        if share.shape == total.shape:
            total += share
        else:
            total[:, total.shape[1] - share.shape[1]:] += share
    return total


def _at_end(dx, T):
    """The gradient of T rows when only the last of them were used."""
    B, rows, D = dx.shape
    return dx if rows == T else _sum(get_xp(dx).zeros((B, T, D), dx.dtype), dx)


# -------------------------------------------------------------------------------------------------------------- segment


def segment_forward(params, banks, *, ids, cfg, pad=None, tail=None, write=True, past=None):
    """One segment: tokens to logits, banks to banks.

    x = embed.W[ids] sqrt(D), the blocks in turn, logits = rmsnorm(x) head.W            (embed.W' when tied)

    ids (B, T) with any T >= 1, banks a tuple with (B, N, D) or None a block, pad (B,) padding places on the left ->
    logits (B, tail, V) of the last `tail` positions (None: all), and the banks that the next segment reads (the same
    ones when write is False). past: one (k, v) a block, of tokens of this segment that were computed before.
    """
    T = ids.shape[1]
    tail = T if tail is None else tail
    if not 0 <= tail <= T:
        raise ValueError(f"segment_forward: tail is {tail}, expected 0 to {T}, the tokens of the segment")
    x, embed_cache = ops.embedding_forward(params["embed.W"], ids=ids)
    x = x * cfg.D**0.5
    cache = {"cfg": cfg, "embed": embed_cache, "blocks": []}
    next_banks = []
    for i, M in enumerate(banks):
        rows = tail if i == cfg.L - 1 else T             # the last block computes only the rows that are asked for
        x, M, block_cache = block_forward(x, M, block_params(params, i), cfg=cfg, pad=pad, rows=rows, write=write,
                                          past=None if past is None else past[i])
        next_banks.append(M)
        cache["blocks"].append(block_cache)
    x, cache["norm"] = ops.rmsnorm_forward(x, params["norm.g"])
    logits, cache["head"] = ops.linear_forward(x, params["embed.W"].T if cfg.tied else params["head.W"])
    return logits, tuple(next_banks), cache


def segment_backward(dlogits, dbanks, cache):
    """Gradients of all parameters (a dict) and of the banks that came in (a tuple).

    dbanks: the gradients at the banks that went out, None for zero. A tied embedding is asked twice, at the bottom and
    at the top, and its gradient is the sum.
    """
    cfg, grads = cache["cfg"], {}
    dx, dhead = ops.linear_backward(dlogits, cache["head"])
    dx, grads["norm.g"] = ops.rmsnorm_backward(dx, cache["norm"])
    dbanks_in = [None] * cfg.L
    for i in reversed(range(cfg.L)):
        dM_next = None if dbanks is None else dbanks[i]
        dx, dbanks_in[i], dp = block_backward(dx, dM_next, cache["blocks"][i])
        grads |= {f"blocks.{i}.{name}": g for name, g in dp.items()}
    dx *= cfg.D**0.5
    (grads["embed.W"],) = ops.embedding_backward(dx, cache["embed"])
    if cfg.tied:
        grads["embed.W"] += dhead.T
    else:
        grads["head.W"] = dhead
    return grads, tuple(dbanks_in)


def block_params(params, i):
    """Block i's parameters by their short names."""
    prefix = f"blocks.{i}."
    return {name[len(prefix):]: W for name, W in params.items() if name.startswith(prefix)}


# ---------------------------------------------------------------------------------------------------------------- story


def story_forward(params, *, ids, cfg, pad=None, tail=None, truncate=None, replay=False):
    """A whole story, segment after segment of cfg.T tokens; the last one may be shorter.

    ids (B, any), pad (B,) on the host with 0 <= pad < the first segment's length -> logits (B, ids, V), or (B, tail, V)
    of the last `tail` positions, which must lie in the last segment. truncate=k: the bank that enters segment s is a
    constant when s is a multiple of k. replay: keep only the banks and compute each segment again in backward, bit for
    bit the same gradients for the memory of one segment.
    """
    B, length = ids.shape
    starts = range(0, length, cfg.T)
    if length < 1:
        raise ValueError("story_forward: ids has no tokens, expected at least one")
    if tail is not None and not 0 <= tail <= length - starts[-1]:
        raise ValueError(f"story_forward: tail is {tail}, expected 0 to {length - starts[-1]}, the last segment")
    pad = _checked_pad(pad, B, min(cfg.T, length), get_xp(ids))
    banks = first_banks(params, cfg, B)
    cache = {"params": params, "cfg": cfg, "truncate": truncate, "banks": [], "calls": [], "segments": []}
    logits = []
    for start in starts:
        last = start == starts[-1]
        call = {"ids": ids[:, start:start + cfg.T], "pad": pad if start == 0 else None,
                "tail": tail if last or tail is None else 0, "write": not last}
        cache["banks"].append(banks)
        cache["calls"].append(call)
        part, banks, segment_cache = segment_forward(params, banks, cfg=cfg, **call)
        logits.append(part)
        cache["segments"].append(None if replay else segment_cache)
    xp = get_xp(ids)
    return logits[-1] if tail is not None or len(logits) == 1 else xp.concatenate(logits, 1), cache


def story_backward(dlogits, cache):
    """Gradients of all parameters, a `Flat` dict: back through the segments, from bank to bank.

    The one place that adds: every segment's shares are laid into one buffer, and so they are summed at once.
    """
    params, cfg = cache["params"], cache["cfg"]
    buffer, shapes, xp = None, param_shapes(cfg), get_xp(dlogits)
    dbanks, end = None, dlogits.shape[1]
    for s in reversed(range(len(cache["calls"]))):
        call, segment_cache = cache["calls"][s], cache["segments"][s]
        if segment_cache is None:
            _, _, segment_cache = segment_forward(params, cache["banks"][s], cfg=cfg, **call)
        rows = call["ids"].shape[1] if call["tail"] is None else call["tail"]
        shares, dbanks = segment_backward(dlogits[:, end - rows:end], dbanks, segment_cache)
        end -= rows
        buffer = _sum(join(shapes, shares, xp, dlogits.dtype), buffer)
        if cache["truncate"] and s % cache["truncate"] == 0:
            dbanks = None
    return Flat(shapes, xp, dlogits.dtype, buffer)


def _checked_pad(pad, B, T, xp):
    """pad on the device, None where nothing is padded.  ValueError outside 0 <= pad < T."""
    if pad is None:
        return None
    pad = np.asarray(pad)
    if pad.shape != (B,) or pad.min() < 0 or pad.max() >= T:
        raise ValueError(f"story_forward: pad has shape {pad.shape} and values {pad.min()}..{pad.max()}, "
                         f"expected ({B},) and 0..{T - 1}, less than the first segment")
    return to_device(pad, xp) if pad.any() else None

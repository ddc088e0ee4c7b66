"""Infini-attention's memory: every key and value that passed, added into one matrix (Munkhdalai et al. 2024).

    read     y = f(q) A / (f(q) z + eps)                                                arXiv 2404.07143, equation 3
    write    old = f(k) A / (f(k) z + eps),   A' = A + f(k)' (v - old),   z' = z + sum f(k)            equations 4 and 5

f = elu + 1. A maps keys to values, z counts the keys. The delta rule stores only what the memory does not say already.
But z counts a key every time, so a difference is averaged like a value: what is found runs after half of the newest
one (lesson 20; experiments.gallery has equation 4 without it). q, k and v are the block's own, before RoPE: the
memory has no parameters. What it reads passes LM2's output gate, in the paper one number per head (equation 6).
"""

from typing import Any

from tinylm2 import layers, ops
from tinylm2.backend import Array, check_shapes, get_xp
from tinylm2.memories import primitives

VECTORS = {"mem.bout": -1.0}                             # read with caution
WRITE_USES_READ = False
POSITIVE = ("z",)
PAIRS = {"store": (("B T G K", "B T G K", "B G K K", "B G K"), lambda cfg: {})}
EPS = 1e-2                                               # a segment adds at least T e^-4 or so to a product f z
check = primitives.check_heads


def param_shapes(cfg: Any) -> dict:
    """The output gate; the memory itself has none."""
    return layers.output_gate_shapes(cfg)


def state_shapes(cfg: Any) -> dict:
    """The sum of key' value per key head, and the sum of keys."""
    return {"A": (cfg.G, cfg.K, cfg.K), "z": (cfg.G, cfg.K)}


def cost(cfg: Any) -> tuple:
    """(multiply-adds, attention weights) of a segment: unrotated queries, a read by queries, one by keys, a sum."""
    queries, keys = cfg.H * cfg.K, cfg.G * cfg.K
    return cfg.T * (cfg.D * queries + (queries + 2 * keys) * cfg.K + queries + keys), 0


first_forward, first_backward = primitives.starts_empty(state_shapes)


def looks(read: Any, write: Any) -> dict:
    """A sum of keys and values has no attention weights and no gates of its own."""
    return {}


def read_forward(n: Array, state: tuple, p: dict, *, cfg: Any) -> tuple[Array, Any]:
    """Tokens read what their unrotated queries resemble: a position in another segment would mean nothing.

    n (B, T, D), state (A, z) with A (B, G, K, K), z (B, G, K), p with attn.Wqkv -> y (B, T, D). Query head h reads the
    memory of key head h // (H/G).
    """
    (A, z), heads = state, (cfg.G, cfg.H // cfg.G, cfg.K)
    check_shapes("infini read", n=(n, "B T D"), A=(A, "B G K K"), z=(z, "B G K"))
    cache = {"heads": heads, "columns": p["attn.Wqkv"].shape}
    q, cache["q"] = ops.linear_forward(n, p["attn.Wqkv"][:, :cfg.H * cfg.K])
    f, cache["elu1"] = primitives.elu1_forward(_by_group(q, heads))
    y, _, cache["recall"] = primitives.recall_forward(f, A, z, eps=EPS)
    return _by_token(y, heads), cache


def read_backward(dy: Array, cache: Any) -> tuple[Array, tuple[Array, Array], dict[str, Array]]:
    """Gradients at n, the state and p: back through the average, the feature map and the product with the queries'
    columns of Wqkv; its other columns met nothing here."""
    df, dA, dz = primitives.recall_backward(_by_group(dy, cache["heads"]), None, cache["recall"])
    (dq,) = primitives.elu1_backward(df, cache["elu1"])
    dn, dWq = ops.linear_backward(_by_token(dq, cache["heads"]), cache["q"])
    dWqkv = get_xp(dWq).zeros(cache["columns"], dWq.dtype)
    dWqkv[:, :dWq.shape[1]] = dWq
    return dn, (dA, dz), {"attn.Wqkv": dWqkv}


def write_forward(seg: Any, state: tuple, p: dict, *, cfg: Any, pad: Any = None) -> tuple[tuple[Array, Array], Any]:
    """The write: seg (n, y, k, v) of which k and v are used, state (A, z), pad (B,) -> (A', z')."""
    (_, _, k, v), (A, z) = seg, state
    A, z, cache = store_forward(k, v, A, z, pad=pad, base=cfg.base, scaling=cfg.scaling)
    return (A, z), cache


def write_backward(dstate: tuple, cache: Any) -> tuple[tuple[Any, Any, Array, Array], tuple[Array, Array], dict]:
    """Gradients at the segment (k and v only), the state and p, which has none."""
    dA_next, dz_next = dstate
    dk, dv, dA, dz = store_backward(dA_next, dz_next, cache)
    return (None, None, dk, dv), (dA, dz), {}


def store_forward(k: Array, v: Array, A: Array, z: Array, *, pad: Any = None, **rope: Any) -> tuple[Array, Array, Any]:
    """Add what the memory does not know of the segment's keys and values (the delta rule).                   equation 5

    f = elu1(k turned back),   old = f A / (f z + eps),   A' = A + f' (v - old),   z' = z + sum f

    k rotated keys and v values (B, T, G, K), A (B, G, K, K), z (B, G, K). Padding has features of zero.
    All keys see the old A, so two equal keys of one segment add twice what one would; z grows with them.
    """
    check_shapes("store", k=(k, "B T G K"), v=(v, "B T G K"), A=(A, "B G K K"), z=(z, "B G K"), pad=(pad, "B"))
    xp, cache = get_xp(k, A), {}
    k, cache["rope"] = ops.rope_forward(k, step=-1, **rope)   # the angles of positions 0, -1, -2, ...: rope undone
    f, cache["elu1"] = primitives.elu1_forward(k.swapaxes(1, 2))                # (B, G, T, K)
    real = None if pad is None else (xp.arange(k.shape[1]) >= pad[:, None])[:, None, :, None]
    if real is not None:
        f = f * real
    old, _, cache["recall"] = primitives.recall_forward(f, A, z, eps=EPS)
    new = v.swapaxes(1, 2) - old
    cache["stored"] = f, new, real
    return A + f.swapaxes(2, 3) @ new, z + xp.einsum("bgtk->bgk", f), cache


def store_backward(dA_next: Array, dz_next: Array, cache: Any) -> tuple[Array, Array, Array, Array]:
    """Gradients at k, v, A and z.

    A' = A + f' new hands dA' on to A, to `new` through f, and to f through `new`. new = v - old: old is a read of the
    old memory, with three shares of its own. z' = z + sum f gives each key the same dz'. Padding has none.
    """
    f, new, real = cache["stored"]
    dnew = f @ dA_next                                                   # (B, G, T, K)
    df, dA, dz = primitives.recall_backward(-dnew, None, cache["recall"])
    df += new @ dA_next.swapaxes(2, 3)
    df += dz_next[:, :, None]
    dA += dA_next
    dz += dz_next
    if real is not None:
        df *= real
    (dk,) = primitives.elu1_backward(df, cache["elu1"])
    (dk,) = ops.rope_backward(dk.swapaxes(1, 2), cache["rope"])
    return dk, dnew.swapaxes(1, 2), dA, dz


def _by_group(x, heads):
    """(B, T, H K) -> (B, G, R T, K), R = H/G: the query heads of a group under each other."""
    B, T, width = x.shape
    G, R, K = heads
    return x.reshape(B, T, G, R, K).transpose(0, 2, 3, 1, 4).reshape(B, G, R * T, K)


def _by_token(x, heads):
    """(B, G, R T, K) -> (B, T, H K)."""
    G, R, K = heads
    B, T = x.shape[0], x.shape[2] // R
    return x.reshape(B, G, R, T, K).transpose(0, 3, 1, 2, 4).reshape(B, T, G * R * K)

"""Memformer's memory: a slot keeps what it holds in competition with the tokens (Wu et al. 2020, arXiv 2010.06891).

    read     tokens look into the bank M by cross-attention                                        section 3.3, eq. 4-6
    write    every slot attends to itself and to the segment's tokens, in one softmax             section 3.4, eq. 7-11
    forget   a fixed bias is added and the length of the slot set back, so old content shrinks   section 3.5, eq. 12-14

The one softmax over [slot; tokens] is written as a gate: s is the weight that the slot gets, 1 - s what the tokens get
together, and among them they share it as in attention without the slot. Keys and values of the tokens are those of the
block's own attention, as for LM2's slots; with matrices of its own the write learned half as fast. The paper has no
`bown`, without which a new slot keeps one share among T + 1; its temperature is a factor of Wslot here.
"""

from typing import Any

from tinylm2 import layers, ops
from tinylm2.backend import Array, check_shapes, get_xp
from tinylm2.memories import lm2, primitives

VECTORS = {"mem.bout": -1.0, "mem.bown": 3.0}            # read with caution; e^3 = 20 beside 32 tokens: 6 learns late
SHORT = 0.2                                              # of the bias: at full length half a slot is gone in 3 segments
WRITE_USES_READ = False
PAIRS = {"compete": (("B N D", "B T G K", "B T G K", "N D", "D D", "D D", "H"), lambda cfg: {})}
check = primitives.check_heads


def param_shapes(cfg: Any) -> dict:
    """The read, the output gate, and the write: a slot's query, its own key, its own bias."""
    W = (cfg.D, cfg.D)
    return {"mem.Wq": W, "mem.Wk": W, "mem.Wv": W, **layers.output_gate_shapes(cfg), "mem.Wslot": W, "mem.Wkey": W,
            "mem.bias": (cfg.N, cfg.D), "mem.bown": (cfg.H,)}


def state_shapes(cfg: Any) -> dict:
    """The bank."""
    return {"M": (cfg.N, cfg.D)}


def cost(cfg: Any) -> tuple:
    """(multiply-adds, attention weights) of a segment: the read and the write."""
    D, N, T = cfg.D, cfg.N, cfg.T
    read = T * D * D + 2 * N * D * D + 2 * T * N * D
    return read + 2 * N * D * D + 2 * T * N * D, 2 * cfg.H * T * N


def first_forward(p: dict, *, cfg: Any, B: int) -> tuple[tuple[Array], Any]:
    """The biases alone, at a row's usual length, the same for every story.   M_0 = set_rms(bias)        equation 14"""
    M, cache = primitives.set_rms_forward(p["mem.bias"])
    return (get_xp(M).broadcast_to(M, (B, *M.shape)),), cache


def first_backward(dstate: tuple, cache: Any) -> dict[str, Array]:
    """Every story began with the same rows, so their gradient is the sum over the stories."""
    (dbias,) = primitives.set_rms_backward(dstate[0].sum(0), cache)
    return {"mem.bias": dbias}


def looks(read: Any, write: Any) -> dict:
    """Attention weights (B, H, ., .) of read and write; the slot's own share as its forget gate, the rest as input."""
    found = {"read": ops.attention_weights(read["attend"])}
    if write is not None:
        own = write["own"]                                               # (B, N, H, 1)
        forget = get_xp(own).broadcast_to(own, write["y"].shape).reshape(*own.shape[:2], -1)
        found |= {"write": ops.attention_weights(write["attend"]), "input": 1 - forget, "forget": forget}
    return found


def read_forward(n: Array, state: tuple, p: dict, *, cfg: Any) -> tuple[Array, Any]:
    """Tokens read the bank by cross-attention; its rows need no norm, the write left them at one length.

    n (B, T, D), state (M,) with M (B, N, D), p with mem.Wq, mem.Wk, mem.Wv (D, D) -> y (B, T, D)
    """
    return lm2.cross_attention_forward(n, state[0], p["mem.Wq"], p["mem.Wk"], p["mem.Wv"], heads=cfg.H)


def read_backward(dy: Array, cache: Any) -> tuple[Array, tuple[Array], dict[str, Array]]:
    """Gradients at n, the state and p: the cross-attention backwards."""
    dn, dM, *dW = lm2.cross_attention_backward(dy, cache)
    return dn, (dM,), dict(zip(("mem.Wq", "mem.Wk", "mem.Wv"), dW, strict=True))


def write_forward(seg: Any, state: tuple, p: dict, *, cfg: Any, pad: Array | None = None) -> tuple[tuple[Array], Any]:
    """The write: seg (n, y, k, v) of which k and v are used, state (M,), p, pad (B,) -> (M',), each bank (B, N, D)."""
    (_, _, k, v), (M,) = seg, state
    M_next, cache = compete_forward(M, k, v, p["mem.bias"], p["mem.Wslot"], p["mem.Wkey"], p["mem.bown"], pad=pad,
                                    base=cfg.base, scaling=cfg.scaling)
    return (M_next,), cache


def write_backward(dstate: tuple, cache: Any) -> tuple[tuple[Any, Any, Array, Array], tuple[Array], dict[str, Array]]:
    """Gradients at the segment (k and v only), the state and p."""
    dM, dk, dv, *dp = compete_backward(dstate[0], cache)
    names = "mem.bias", "mem.Wslot", "mem.Wkey", "mem.bown"
    return (None, None, dk, dv), (dM,), dict(zip(names, dp, strict=True))


def compete_forward(M: Array, k: Array, v: Array, bias: Array, Wslot: Array, Wkey: Array, bown: Array, *,
                    pad: Any = None, **rope: Any) -> tuple[Array, Any]:
    """Slots and tokens compete for the slot's next content.                                            equations 7-13

    q = M Wslot,   y, lse = attend(rope(q), k, v),   own = q.(M Wkey) / sqrt(K) + bown,   s = sigmoid(own - lse)
    M' = set_rms(s M + (1 - s) y + SHORT bias)                                   head by head, s one number per head

    M (B, N, D), k rotated keys and v values (B, T, G, K), bias (N, D), W (D, D), bown (H,) -> M' (B, N, D). A slot
    stands right after the last token, query and key, so between the two no turn is left. Padding is masked in attend.
    """
    H, K = bown.size, k.shape[-1]
    check_shapes("compete", M=(M, f"B N {H * K}"), k=(k, "B T G K"), v=(v, "B T G K"), bias=(bias, f"N {H * K}"),
                 Wslot=(Wslot, "D D"), Wkey=(Wkey, "D D"), bown=(bown, "H"))
    cache, by_head = {}, (*M.shape[:2], H, K)
    q, cache["q"] = ops.linear_forward(M, Wslot)
    old, cache["old"] = ops.linear_forward(M, Wkey)
    q, old, content = q.reshape(by_head), old.reshape(by_head), M.reshape(by_head)
    turned, cache["rope"] = ops.rope_forward(q, start=k.shape[1], step=0, **rope)
    y, lse, cache["attend"] = primitives.attend_lse_forward(turned, k, v, pad=pad)
    own = get_xp(q).einsum("bnhk,bnhk->bnh", q, old) / K**0.5
    own += bown
    own -= lse
    s, _ = ops.sigmoid_forward(own[..., None])                           # (B, N, H, 1)
    mixed = y + s * (content - y)
    M_next, cache["norm"] = primitives.set_rms_forward(mixed.reshape(M.shape) + SHORT * bias)
    return M_next, cache | {"own": s, "y": y, "content": content, "queries": q, "old keys": old}


def compete_backward(dM_next: Array, cache: Any) -> tuple[Array, ...]:
    """Gradients at M, k, v, bias, Wslot, Wkey and bown.

    The bias was added to every story. The mixture hands s of its gradient to the slot and 1 - s to the tokens, and s
    itself gets what both differ in. s falls with lse, so lse gets the opposite of own. A slot is query, key and
    content: three shares; its query met the tokens and itself: two.
    """
    s, y, content, q, old = (cache[name] for name in ("own", "y", "content", "queries", "old keys"))
    flat, xp, scale = dM_next.shape, get_xp(dM_next), q.shape[-1] ** -0.5
    (dmixed,) = primitives.set_rms_backward(dM_next, cache["norm"])             # (B, N, D)
    dbias, dmixed = SHORT * dmixed.sum(0), dmixed.reshape(y.shape)
    (down,) = ops.sigmoid_backward(xp.einsum("bnhk,bnhk->bnh", dmixed, content - y)[..., None], s)
    dturned, dk, dv = primitives.attend_lse_backward(dmixed * (1 - s), -down[..., 0], cache["attend"])
    (dq,) = ops.rope_backward(dturned, cache["rope"])
    dq += down * old * scale
    dM, dWslot = ops.linear_backward(dq.reshape(flat), cache["q"])
    dM_old, dWkey = ops.linear_backward((down * q * scale).reshape(flat), cache["old"])
    dM += dM_old
    dM += (dmixed * s).reshape(flat)
    return dM, dk, dv, dbias, dWslot, dWkey, down.sum((0, 1))[..., 0]

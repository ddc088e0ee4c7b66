"""The two layers of a Llama block: causal self-attention over one segment, and the gated feed-forward."""

from tinylm2 import ops
from tinylm2.backend import expect, get_xp


def self_attention_forward(n, Wqkv, Wo, *, heads, pad=None, rows=None, past=None):
    """Causal self-attention inside one segment (Vaswani et al. 2017; rotary positions: Su et al. 2021).

    q, k, v = n Wq, n Wk, n Wv in heads of width K,   a = attend(rope(q), rope(k), v, causal) Wo

    n (B, T, D), Wqkv (D, (H+2G)K) with the columns of Wq, Wk, Wv side by side, Wo (HK, D) -> a (B, rows, D), and the
    rotated k (B, T, G, K) and v (B, T, G, K), which the memory's slots ask too. `heads` is (H, G).
    rows: only the last so many tokens ask (all of them when None, none when 0); every token is there to be asked.
    past: the (k, v) of places that stand before n, constants: a key/value cache. k and v then come back with them.
    """
    H, G = heads
    K = Wo.shape[0] // H
    expect("self_attention", n=(n, "B T D"), Wqkv=(Wqkv, f"D {(H + 2 * G) * K}"), Wo=(Wo, f"{H * K} D"))
    B, T, _ = n.shape
    rows = T if rows is None else rows
    start = 0 if past is None else past[0].shape[1]
    cache = {"shape": (B, T, rows, H, G, K)}
    qkv, cache["qkv"] = ops.linear_forward(n, Wqkv)
    qkv = qkv.reshape(B, T, H + 2 * G, K)
    qk, cache["rope"] = ops.rope_forward(qkv[:, :, :H + G], start=start)
    q, k, v = qk[:, T - rows:, :H], qk[:, :, H:], qkv[:, :, H + G:]
    if past is not None:
        expect("self_attention", k=(k, "B T G K"), past=(past[0], "B U G K"))
        xp = get_xp(n)
        k, v = xp.concatenate((past[0], k), 1), xp.concatenate((past[1], v), 1)
    y, cache["attend"] = ops.attend_forward(q, k, v, causal=True, pad=pad)
    a, cache["out"] = ops.linear_forward(y.reshape(B, rows, H * K), Wo)
    return a, k, v, cache


def self_attention_backward(da, dk, dv, cache):
    """Gradients at n, Wqkv and Wo.

    k and v serve twice: the tokens of this segment ask them, and so may the slots, whose share arrives as dk and dv
    (None when no slot asked). Both shares add up before they turn back through rope and the one product.
    """
    B, T, rows, H, G, K = cache["shape"]
    xp = get_xp(da)
    dy, dWo = ops.linear_backward(da, cache["out"])
    dq, dk_tokens, dv_tokens = ops.attend_backward(dy.reshape(B, rows, H, K), cache["attend"])
    dqk = xp.zeros((B, T, H + G, K), da.dtype)
    dqk[:, T - rows:, :H] = dq                           # tokens that did not ask leave zeros
    dqk[:, :, H:] = dk_tokens[:, -T:]                    # places before n, if any, are constants
    dqkv = xp.empty((B, T, H + 2 * G, K), da.dtype)
    dqkv[:, :, H + G:] = dv_tokens[:, -T:]
    if dk is not None:
        dqk[:, :, H:] += dk[:, -T:]
        dqkv[:, :, H + G:] += dv[:, -T:]
    (dqkv[:, :, :H + G],) = ops.rope_backward(dqk, cache["rope"])
    dn, dWqkv = ops.linear_backward(dqkv.reshape(B, T, -1), cache["qkv"])
    return dn, dWqkv, dWo


def feed_forward_forward(h, Wgu, Wdown):
    """The gated feed-forward of Llama (SwiGLU, Shazeer 2020, eq. 6).

    y = (silu(h Wgate) * (h Wup)) Wdown

    h (..., D), Wgu (D, 2F) with the columns of Wgate and Wup side by side, Wdown (F, D) -> y (..., D)
    """
    F = Wdown.shape[0]
    expect("feed_forward", h=(h, "... D"), Wgu=(Wgu, f"D {2 * F}"), Wdown=(Wdown, "F D"))
    cache = {}
    gu, cache["gu"] = ops.linear_forward(h, Wgu)
    gate, up = gu[..., :F], gu[..., F:]
    act, cache["silu"] = ops.silu_forward(gate)
    y, cache["down"] = ops.linear_forward(act * up, Wdown)
    cache["act"], cache["up"] = act, up
    return y, cache


def feed_forward_backward(dy, cache):
    """Gradients at h, Wgu and Wdown: in the product act * up each factor scales the other's gradient."""
    act, up = cache["act"], cache["up"]
    dhidden, dWdown = ops.linear_backward(dy, cache["down"])
    F = up.shape[-1]
    dgu = get_xp(dy).empty((*up.shape[:-1], 2 * F), dy.dtype)
    (dgu[..., :F],) = ops.silu_backward(dhidden * up, cache["silu"])
    dgu[..., F:] = dhidden * act
    dh, dWgu = ops.linear_backward(dgu, cache["gu"])
    return dh, dWgu, dWdown

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
    q, cache["q"] = ops.linear_forward(n[:, T - rows:], Wqkv[:, :H * K])
    k, cache["k"] = ops.linear_forward(n, Wqkv[:, H * K:(H + G) * K])
    v, cache["v"] = ops.linear_forward(n, Wqkv[:, (H + G) * K:])
    q, cache["turn q"] = ops.rope_forward(q.reshape(B, rows, H, K), start=start + T - rows)
    k, cache["turn k"] = ops.rope_forward(k.reshape(B, T, G, K), start=start)
    v = v.reshape(B, T, G, K)
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
    (None when no slot asked). Both shares add up before they turn back through rope and the product.
    """
    B, T, rows, H, G, K = cache["shape"]
    dy, dWo = ops.linear_backward(da, cache["out"])
    dq, dk_tokens, dv_tokens = ops.attend_backward(dy.reshape(B, rows, H, K), cache["attend"])
    dk_tokens, dv_tokens = dk_tokens[:, -T:], dv_tokens[:, -T:]          # places before n, if any, are constants
    if dk is not None:
        dk_tokens += dk[:, -T:]
        dv_tokens += dv[:, -T:]
    (dq,) = ops.rope_backward(dq, cache["turn q"])
    (dk,) = ops.rope_backward(dk_tokens, cache["turn k"])
    dn, dWk = ops.linear_backward(dk.reshape(B, T, G * K), cache["k"])
    dn_v, dWv = ops.linear_backward(dv_tokens.reshape(B, T, G * K), cache["v"])
    dn_q, dWq = ops.linear_backward(dq.reshape(B, rows, H * K), cache["q"])
    dn += dn_v
    dn[:, T - rows:] += dn_q
    return dn, get_xp(da).concatenate((dWq, dWk, dWv), 1), dWo


def feed_forward_forward(h, Wgu, Wdown):
    """The gated feed-forward of Llama (SwiGLU, Shazeer 2020, eq. 6).

    y = (silu(h Wgate) * (h Wup)) Wdown

    h (..., D), Wgu (D, 2F) with the columns of Wgate and Wup side by side, Wdown (F, D) -> y (..., D)
    """
    F = Wdown.shape[0]
    expect("feed_forward", h=(h, "... D"), Wgu=(Wgu, f"D {2 * F}"), Wdown=(Wdown, "F D"))
    cache = {}
    gate, cache["gate"] = ops.linear_forward(h, Wgu[:, :F])
    up, cache["up"] = ops.linear_forward(h, Wgu[:, F:])
    act, cache["silu"] = ops.silu_forward(gate)
    y, cache["down"] = ops.linear_forward(act * up, Wdown)
    cache["factors"] = act, up
    return y, cache


def feed_forward_backward(dy, cache):
    """Gradients at h, Wgu and Wdown: in the product act * up each factor scales the other's gradient."""
    act, up = cache["factors"]
    dhidden, dWdown = ops.linear_backward(dy, cache["down"])
    (dgate,) = ops.silu_backward(dhidden * up, cache["silu"])
    dh, dWgate = ops.linear_backward(dgate, cache["gate"])
    dh_up, dWup = ops.linear_backward(dhidden * act, cache["up"])
    dh += dh_up
    return dh, get_xp(dy).concatenate((dWgate, dWup), 1), dWdown

"""The layers of a block: causal self-attention over one segment, the gated feed-forward, the memory's output gate."""

from typing import Any

from tinylm2 import ops
from tinylm2.backend import Array, check_shapes, einsum, get_xp


def self_attention_forward(n: Array, past: Any, Wqkv: Array, Wo: Array, *, heads: Any, start: int = 0,
                           last: int | None = None, pad: Any = None, **rope: Any) -> tuple[Array, Array, Array, Any]:
    """Causal self-attention (Vaswani et al. 2017; rotary positions: Su et al. 2021).

    q, k, v = n Wq, n Wk, n Wv in heads of size K,   a = attend(rope(q), rope([past k, k]), [past v, v], causal) Wo

    n (B, T, D), past (k, v) (B, U, G, K) each or None, Wqkv (D, (H+2G)K) with the columns of Wq, Wk, Wv side by side,
    Wo (HK, D) -> a (B, last, D), and the segment's own rotated keys and values (B, T, G, K). `heads` is (H, G).
    past: rotated keys and values of the positions before n; the first row of n stands at position `start`.
    last: how many of the last rows are queries (None: all; 0: none); every row is a key. rope: base and scaling.
    """
    H, G = heads
    K = Wo.shape[0] // H
    check_shapes("self_attention", n=(n, "B T D"), Wqkv=(Wqkv, f"D {(H + 2 * G) * K}"), Wo=(Wo, f"{H * K} D"))
    B, T, _ = n.shape
    last = T if last is None else last
    cache = {"shape": (B, T, last, H, G, K)}
    q, cache["q"] = ops.linear_forward(n[:, T - last:], Wqkv[:, :H * K])
    k, cache["k"] = ops.linear_forward(n, Wqkv[:, H * K:(H + G) * K])
    v, cache["v"] = ops.linear_forward(n, Wqkv[:, (H + G) * K:])
    q, cache["rope q"] = ops.rope_forward(q.reshape(B, last, H, K), start=start + T - last, **rope)
    k, cache["rope k"] = ops.rope_forward(k.reshape(B, T, G, K), start=start, **rope)
    v = v.reshape(B, T, G, K)
    keys, values = k, v
    if past is not None:
        check_shapes("self_attention", k=(k, "B T G K"), past=(past[0], "B U G K"), past_v=(past[1], "B U G K"))
        keys, values = get_xp(n).concatenate((past[0], k), 1), get_xp(n).concatenate((past[1], v), 1)
    y, cache["attend"] = ops.attend_forward(q, keys, values, causal=True, pad=pad)
    a, cache["out"] = ops.linear_forward(y.reshape(B, last, H * K), Wo)
    return a, k, v, cache


def self_attention_backward(da: Array, dk: Array, dv: Array, cache: Any) -> tuple[Array, Any, Array, Array]:
    """Gradients at n, the past keys and values, Wqkv and Wo.

    Keys and values are used twice: the tokens of this segment attend to them, and so may a memory's write. Its share
    arrives as dk and dv, for the segment's own rows (None when there is no write). Both shares are added, then go back
    through rope and the product. The rest is the gradient at the past.
    """
    B, T, last, H, G, K = cache["shape"]
    dy, dWo = ops.linear_backward(da, cache["out"])
    dq, dk_all, dv_all = ops.attend_backward(dy.reshape(B, last, H, K), cache["attend"])
    U = dk_all.shape[1] - T
    dpast = (dk_all[:, :U], dv_all[:, :U]) if U else None
    dk_own, dv_own = dk_all[:, U:], dv_all[:, U:]
    if dk is not None:
        dk_own += dk
        dv_own += dv
    (dq,) = ops.rope_backward(dq, cache["rope q"])
    (dk,) = ops.rope_backward(dk_own, cache["rope k"])
    dn, dWk = ops.linear_backward(dk.reshape(B, T, G * K), cache["k"])
    dn_v, dWv = ops.linear_backward(dv_own.reshape(B, T, G * K), cache["v"])
    dn_q, dWq = ops.linear_backward(dq.reshape(B, last, H * K), cache["q"])
    dn += dn_v
    dn[:, T - last:] += dn_q
    return dn, dpast, get_xp(da).concatenate((dWq, dWk, dWv), 1), dWo


def feed_forward_forward(h: Array, Wgu: Array, Wdown: Array) -> tuple[Array, Any]:
    """The gated feed-forward of Llama (SwiGLU, Shazeer 2020, eq. 6).

    y = (silu(h Wgate) * (h Wup)) Wdown

    h (..., D), Wgu (D, 2F) with the columns of Wgate and Wup side by side, Wdown (F, D) -> y (..., D)
    """
    F = Wdown.shape[0]
    check_shapes("feed_forward", h=(h, "... D"), Wgu=(Wgu, f"D {2 * F}"), Wdown=(Wdown, "F D"))
    cache = {}
    gate, cache["gate"] = ops.linear_forward(h, Wgu[:, :F])
    up, cache["up"] = ops.linear_forward(h, Wgu[:, F:])
    act, cache["silu"] = ops.silu_forward(gate)
    y, cache["down"] = ops.linear_forward(act * up, Wdown)
    cache["factors"] = act, up
    return y, cache


def feed_forward_backward(dy: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Gradients at h, Wgu and Wdown: in the product act * up each factor scales the gradient of the other."""
    act, up = cache["factors"]
    dhidden, dWdown = ops.linear_backward(dy, cache["down"])
    (dgate,) = ops.silu_backward(dhidden * up, cache["silu"])
    dh, dWgate = ops.linear_backward(dgate, cache["gate"])
    dh_up, dWup = ops.linear_backward(dhidden * act, cache["up"])
    dh += dh_up
    return dh, get_xp(dy).concatenate((dWgate, dWup), 1), dWdown


def output_gate_shapes(cfg: Any) -> dict:
    """The gate's parameters, by a block's short names."""
    return {"mem.Wout": (cfg.D, cfg.D), "mem.bout": (cfg.D,)}


def output_gate_forward(x: Array, a: Array, Emem: Array, Wout: Array, bout: Array) -> tuple[Array, Any]:
    """The output gate adds what was read to the residual stream.                                 LM2, equations 2 and 3

    gout = sigmoid(Emem Wout + bout),   y = x + a + gout * Emem

    x, a, Emem (B, T, D), Wout (D, D), bout (D,) -> y (B, T, D). Equation 3 is printed with the bank where Emem must
    stand. The gate sees what was read, not the token that reads.
    """
    check_shapes("output_gate", x=(x, "B T D"), a=(a, "B T D"), Emem=(Emem, "B T D"), Wout=(Wout, "D D"),
                 bout=(bout, "D"))
    cache = {"Emem": Emem}
    z, cache["Wout"] = ops.linear_forward(Emem, Wout)
    z += bout
    gout, cache["gout"] = ops.sigmoid_forward(z)
    y = gout * Emem
    y += x
    y += a
    return y, cache


def output_gate_backward(dy: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients at x, a, Emem, Wout and bout.

    The sum passes dy to x and to a unchanged. Emem has two shares: through the product (dy * gout), and through the
    gate, which depends on Emem, too.
    """
    gout = cache["gout"]
    (dz,) = ops.sigmoid_backward(dy * cache["Emem"], gout)
    dEmem, dWout = ops.linear_backward(dz, cache["Wout"])
    dEmem += dy * gout
    return dy, dy, dEmem, dWout, over_rows(dz)


def over_rows(dz: Array) -> Array:
    """Gradient of a bias that was added to every row: the sum over the rows.   dz (B, T, D) -> (D,)"""
    return einsum("btd->d", dz)

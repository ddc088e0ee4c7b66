"""Primitives that only memories use, each a pair as in ops: feature maps, linear attention, a scan, lengths of rows."""

from typing import Any

from tinylm2 import ops
from tinylm2.backend import Array, check_shapes, fused, get_xp


def starts_empty(state_shapes: Any) -> tuple:
    """(first_forward, first_backward) of a memory that has stored nothing before the first segment."""
    def first_forward(p, *, cfg, B):
        """A state of zeros: state_shapes(cfg), with the axis B."""
        W = next(iter(p.values()))
        return tuple(get_xp(W).zeros((B, *shape), W.dtype) for shape in state_shapes(cfg).values()), None

    def first_backward(dstate, cache):
        """A constant start has no gradient."""
        return {}

    return first_forward, first_backward


def check_heads(cfg: Any) -> None:
    """ValueError where the head size is not D / H, for memories whose heads share the hidden size."""
    if cfg.H * cfg.K != cfg.D:
        raise ValueError(f"config: head size {cfg.K}, expected D / H = {cfg.D // cfg.H} with memory {cfg.memory}")


def set_rms_forward(x: Array, *, rms: float = 1.0) -> tuple:
    """Scale each row of x to one root mean square: with rms = 1/sqrt(D) rows have length one.

    y = x * rms / sqrt(mean(x^2) + eps): `rmsnorm` with the same gain everywhere.                     x (..., D) -> y
    """
    return ops.rmsnorm_forward(x, get_xp(x).full(x.shape[-1], rms, x.dtype))


def set_rms_backward(dy: Array, cache: Any) -> tuple[Array]:
    """Gradient at x; the gain is a constant."""
    return ops.rmsnorm_backward(dy, cache)[:1]


def attend_lse_forward(q: Array, k: Array, v: Array, *, pad: Array | None = None) -> tuple[Array, Array, Any]:
    """`attend` that also returns how large a query's scores are together: the log of the softmax's denominator.

    y = P v,   lse = log sum_u exp(S_u),   P = exp(S - lse),   S = q k' / sqrt(K)

    q (B, T, H, K), k and v (B, U, G, K), pad (B,) -> y (B, T, H, K), lse (B, T, H). One more key with the score s would
    get the weight sigmoid(s - lse), and all others together the rest. lse = S - log P at any key; the largest P of a
    query is at least 1/U, so its logarithm is safe, and padding is never the largest.
    """
    y, cache = ops.attend_forward(q, k, v, pad=pad)
    xp, (B, T, H, _) = get_xp(q, k), y.shape
    best = cache.P.argmax(-2)[..., None]                                 # (B, G, RT, 1)
    score = xp.einsum("bgtk,bgtk->bgt", cache.q, xp.take_along_axis(cache.k, best, 2))
    lse = score - xp.log(cache.P.max(-2))                                # (B, G, RT)
    return y, lse.reshape(B, H, T).swapaxes(1, 2), cache


def attend_lse_backward(dy: Array, dlse: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Gradients at q, k and v: those of `attend`, and one more share of q and k.

    lse = log sum exp(S) rises with each score by its weight: dS = P dlse, and S = q k' / sqrt(K).
    """
    dq, dk, dv = ops.attend_backward(dy, cache)
    B, T, H, K = dy.shape
    dS = cache.P * dlse.swapaxes(1, 2).reshape(B, cache.k.shape[1], 1, -1)           # (B, G, U, RT)
    dq += (dS.swapaxes(2, 3) @ cache.k).reshape(B, H, T, K).swapaxes(1, 2) / K**0.5
    dk += (dS @ cache.q).swapaxes(1, 2)                                  # q carries the 1/sqrt(K)
    return dq, dk, dv


def elu1_forward(x: Array) -> tuple[Array, Any]:
    """y = elu(x) + 1: 1 + x above zero, e^x below, so always positive (Katharopoulos et al. 2020, eq. 7).

    x (...) -> y (...)
    """
    y = _elu1(x)
    return y, y


def elu1_backward(dy: Array, cache: Array) -> tuple[Array]:
    """Above zero the slope is 1, below it is e^x, which is y itself: both are the smaller of y and 1."""
    y = cache
    return (dy * get_xp(y).minimum(y, 1),)


@fused
def _elu1(xp, x):
    y = xp.minimum(x, 0)                                 # no exponential of what is large
    xp.exp(y, out=y)
    y += xp.maximum(x, 0)
    return y


def dpfp_forward(x: Array, *, nu: int = 1) -> tuple[Array, Any]:
    """Make long sparse features out of short rows: products of rectified entries (DPFP, Schlag et al. 2021, eq. 37).

    r = max([x, -x], 0),   y = [r * roll(r, 1), ..., r * roll(r, nu)]            roll(r, j)_i = r_(i-j), in a circle

    x (..., K) -> y (..., 2 K nu), nowhere negative.
    """
    xp = get_xp(x)
    r = xp.maximum(xp.concatenate((x, -x), -1), 0)                       # (..., 2K)
    return xp.concatenate([r * _roll(r, j) for j in range(1, nu + 1)], -1), (r, nu)


def dpfp_backward(dy: Array, cache: Any) -> tuple[Array]:
    """Gradient at x: each entry of r is a factor of two products per j, its own and the one j places on; x has the
    entries of r that are above zero, with their signs."""
    r, nu = cache
    xp, width = get_xp(dy, r), r.shape[-1]
    dr = xp.zeros_like(r)
    for j in range(1, nu + 1):
        dy_j = dy[..., (j - 1) * width:j * width]
        dr += dy_j * _roll(r, j)
        dr += _roll(dy_j * r, -j)
    dr *= r > 0
    return (dr[..., :width // 2] - dr[..., width // 2:],)


def _roll(x, j):
    """The last axis turned in a circle by j places."""
    return get_xp(x).concatenate((x[..., -j:], x[..., :-j]), -1)


def recall_forward(f: Array, A: Array, z: Array, *, eps: float) -> tuple[Array, Array, Any]:
    """Read an associative memory: an average of what was stored, weighted by f's products with the stored keys.

    y = f A / den,   den = f z + eps                        (linear attention, Katharopoulos et al. 2020, eq. 5)

    f (B, G, U, C) or (B, U, C) features of queries or keys, nowhere negative, A (..., C, E) the sum of key' value,
    z (..., C) the sum of keys -> y (..., U, E) and den (..., U, 1). An empty memory gives zero: its denominator is eps.
    """
    lead = "B G" if f.ndim == 4 else "B"
    check_shapes("recall", f=(f, f"{lead} U C"), A=(A, f"{lead} C E"), z=(z, f"{lead} C"))
    get_xp(f, A, z)
    den = f @ z[..., None]                                               # (..., U, 1)
    den += eps
    y = f @ A
    y /= den
    return y, den, (f, A, z, y, den)


def recall_backward(dy: Array, dden: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Gradients at f, A and z.  dden None: nobody but y used the denominator.

    y = num / den: dnum = dy / den, and den lowers every entry of its row by y / den. num = f A and den = f z are two
    products with f, so df has two shares.
    """
    f, A, z, y, den = cache
    dnum = dy / den                                                      # (..., U, E)
    lowered = -get_xp(dy, y).einsum("...e,...e->...", dnum, y)[..., None]            # (..., U, 1)
    if dden is not None:
        lowered += dden
    df = dnum @ A.swapaxes(-1, -2)
    df += lowered * z[..., None, :]
    keys = f.swapaxes(-1, -2)                                            # (..., C, U)
    return df, keys @ dnum, (keys @ lowered)[..., 0]


def scan_forward(g: Array, x: Array) -> tuple[Array, Any]:
    """A sum that is carried from the last place to the first, and shrinks or grows by a factor at each step.

    y_T = x_T,   y_t = x_t + g_t y_(t+1)                                              for t = T-1 .. 0

    g (B, T, C), x (B, T+1, C) -> y (B, T+1, C). Runs of 2, 4, 8, ... places are joined in turn, so it takes log2(T)
    rounds instead of T steps (Hillis & Steele 1986).
    """
    check_shapes("scan", g=(g, "B T C"), x=(x, f"B {g.shape[1] + 1} C"))
    y = _carry(g[:, ::-1], x[:, ::-1])[:, ::-1]
    return y, (g, y)


def scan_backward(dy: Array, cache: Any) -> tuple[Array, Array]:
    """Gradients at g and x.

    y_(t+1) is used once more, in y_t, so its gradient is d_(t+1) = dy_(t+1) + g_t d_t: the same carry, from the first
    place to the last. x enters y unchanged: dx = d. g_t scaled y_(t+1) on its way into y_t: dg_t = d_t y_(t+1).
    """
    g, y = cache
    d = _carry(g, dy)
    return d[:, :-1] * y[:, 1:], d


def _carry(g, x):
    """y_0 = x_0, y_t = x_t + g_(t-1) y_(t-1). After the round of `step`, y_t holds what 2 step places gave it, and g
    the product of as many factors."""
    y, g, step = x.copy(), g.copy(), 1
    while step < y.shape[1]:
        y[:, step:] += g[:, step - 1:] * y[:, :-step]
        longer = g[:, step:] * g[:, :-step]              # an array of its own: a GPU may read behind what it writes
        g[:, step:] = longer
        step *= 2
    return y


def split_heads(x: Array, heads: int) -> Array:
    """(B, T, H K) -> (B, H, T, K), a view: matrices per head, to multiply side by side."""
    B, T, width = x.shape
    return x.reshape(B, T, heads, width // heads).swapaxes(1, 2)


def join_heads(x: Array) -> Array:
    """(B, H, T, K) -> (B, T, H K)."""
    B, H, T, K = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * K)


def unit_rows_forward(n: Array, W: Array, *, heads: int) -> tuple[Array, Any]:
    """Queries or keys of length one, in heads.   y = n W / |n W|   n (B, T, D), W (D, H K) -> y (B, H, T, K)"""
    check_shapes("unit_rows", n=(n, "B T D"), W=(W, "D E"))
    if W.shape[1] % heads:
        raise ValueError(f"unit_rows: W has {W.shape[1]} columns, expected a multiple of the {heads} heads")
    x, linear = ops.linear_forward(n, W)
    K = W.shape[1] // heads
    y, norm = set_rms_forward(split_heads(x, heads), rms=K**-0.5)
    return y, (norm, linear)


def unit_rows_backward(dy: Array, cache: Any) -> tuple[Array, Array]:
    """Gradients at n and W: back through the length, then through the product."""
    norm, linear = cache
    (dx,) = set_rms_backward(dy, norm)
    return ops.linear_backward(join_heads(dx), linear)

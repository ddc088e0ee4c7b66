"""The primitives, each a pair: `y, cache = name_forward(*differentiable, *, constants)` and, below it, its backward.

Backward takes the gradient at y and the cache. It returns one gradient per positional argument, in order. `out=`
writes only into an array that the same function made.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from tinylm2.backend import Array, check_shapes, einsum, fused, get_xp, segment_sum


def linear_forward(x: Array, W: Array) -> tuple[Array, Any]:
    """Multiply every row by a matrix.

    y = x W

    x (..., D), W (D, E) -> y (..., E).  Raises ValueError when W has not as many rows as x has columns.
    """
    check_shapes("linear", x=(x, "... D"), W=(W, "D E"))
    y = x.reshape(_rows(x), W.shape[0]) @ W              # one product over all rows, not one per story
    return y.reshape(*x.shape[:-1], W.shape[1]), (x, W)


def linear_backward(dy: Array, cache: Any) -> tuple[Array, Array]:
    """Gradients at x and at W.

    y_re = sum_d x_rd W_de: x_rd reaches row r of y through row d of W, so dx = dy W'. W_de met every row of x, so dW
    sums x_rd dy_re over the rows: dW = x' dy.
    """
    x, W = cache
    rows = dy.reshape(_rows(dy), W.shape[1])                             # (R, E)
    dx = (rows @ W.T).reshape(x.shape)                                   # (..., D)
    dW = x.reshape(_rows(x), W.shape[0]).T @ rows                        # (D, E)
    return dx, dW


def _rows(x):
    return x.size // x.shape[-1]                         # reshape's -1 would fail where x has no rows


def embedding_forward(W: Array, *, ids: Array) -> tuple[Array, Any]:
    """Look up one row per token.

    y = W[ids]

    W (V, D), ids (...) whole numbers in 0..V-1 -> y (..., D). The caller checks the range: a GPU would silently wrap
    an index outside it.
    """
    check_shapes("embedding", W=(W, "V D"))
    get_xp(W, ids)
    return W[ids], (W, ids)


def embedding_backward(dy: Array, cache: Any) -> tuple[Array]:
    """Gradient at W: row v of it sums dy over the positions of token v.

    Sorted by token, these positions lie side by side, and each run of them is summed in order. There are no atomics,
    so the same step gives the same bits on every run.
    """
    W, ids = cache
    xp = get_xp(W, ids)
    order = xp.argsort(ids.reshape(-1), kind="stable")                   # (R,)
    starts = xp.searchsorted(ids.reshape(-1)[order], xp.arange(W.shape[0] + 1))   # (V+1,)
    dW = segment_sum(dy.reshape(ids.size, W.shape[1])[order], starts)       # (V, D)
    return (dW,)


def rmsnorm_forward(x: Array, g: Array, *, eps: float = 1e-5) -> tuple[Array, Any]:
    """Scale each row of x to root mean square one, then by the learned gain g (Zhang & Sennrich 2019, eq. 4).

    y = g * n,   n = x * r,   r = 1 / sqrt(mean(x^2) + eps)          means run over the last axis, D

    x (..., D), g (D,) -> y (..., D).  Raises ValueError when g and the rows of x have different lengths.
    """
    check_shapes("rmsnorm", x=(x, "... D"), g=(g, "D"))
    get_xp(x, g)
    r = _inverse_rms(einsum("...d,...d->...", x, x)[..., None], g.size, eps)         # (..., 1)
    n, y = _scale(x, r, g)                                               # (..., D)
    return y, (n, r, g)


def rmsnorm_backward(dy: Array, cache: Any) -> tuple[Array, Array]:
    """Gradients at x and at g.

    Through g:  dn = g * dy.   Through n:  x_j moves n_j by r, and every n_i of its row by -r n_i n_j / D, so
    dx = r * (dn - n * mean(dn * n)).   g met every row, so dg sums dy * n over the rows.
    """
    n, r, g = cache
    dg = einsum("rd,rd->d", dy.reshape(_rows(n), g.size), n.reshape(_rows(n), g.size))
    dn = dy * g                                                          # (..., D)
    dx = _scale_back(dn, n, r, einsum("...d,...d->...", dn, n)[..., None], g.size)   # (..., D)
    return dx, dg


@fused
def _inverse_rms(xp, total, D, eps):
    mean = total / D
    mean += eps
    return 1 / xp.sqrt(mean, out=mean)


@fused
def _scale(xp, x, r, g):
    n = x * r
    return n, n * g


@fused
def _scale_back(xp, dn, n, r, total, D):
    mean = total / D
    dx = n * mean
    dx = dn - dx
    dx *= r
    return dx


def rope_forward(x: Array, *, start: int = 0, step: int = 1, base: float = 10000.0, scaling: Any = None) -> tuple:
    """Rotate the pairs (2i, 2i+1) of each head by an angle that grows with the position (Su et al. 2021, eq. 34).

    y_2i + j y_2i+1 = (x_2i + j x_2i+1) e^(j p w_i),   w_i = base^(-2i/K),   p = start + step * t for row t

    x (B, T, H, K), K even -> y (B, T, H, K). With step=0 every row stands at `start`, as the memory's slots do.
    A pair is one complex number, and a rotation is one complex product. scaling (factor, low, high, length), Llama 3's:
    a pair that turns fewer than `low` times in `length` positions turns slower by `factor`; above `high`, w is kept.
    """
    check_shapes("rope", x=(x, "B T H K"))
    if x.shape[-1] % 2:
        raise ValueError(f"rope: x has heads of size {x.shape[-1]}, expected an even size")
    turn, back = _rope_table(get_xp(x), getattr(x.device, "id", 0), x.shape[1:], start, step, base, scaling, x.dtype)
    return (_pairs(x) * turn).view(x.dtype), back


def rope_backward(dy: Array, cache: Array) -> tuple[Array]:
    """Gradient at x: a rotation is orthogonal, so its transpose rotates back by the same angle (the conjugate)."""
    back = cache
    return ((_pairs(dy) * back).view(dy.dtype),)


def _pairs(x):
    """x (..., K) seen as K/2 complex numbers: float32 as complex64, float64 as complex128."""
    xp = get_xp(x)
    if x.strides[-1] != x.itemsize:
        x = xp.ascontiguousarray(x)
    return x.view(xp.result_type(x.dtype, xp.complex64))


@lru_cache(maxsize=256)
def _rope_table(xp, device, shape, start, step, base, scaling, dtype):
    """e^(j p w_i) and its conjugate, (T, H, K/2), one table per device. Computed in double precision, then cast, or
    float64 would spread from here. Every head has the same, repeated here: one long row is rotated faster than H."""
    T, H, K = shape
    positions = start + step * xp.arange(T)
    w = base ** (-2.0 * xp.arange(K // 2) / K)
    if scaling is not None:
        factor, low, high, length = scaling
        kept = xp.clip((length * w / (2 * xp.pi) - low) / (high - low), 0, 1)    # linear between the two
        w = w * (kept + (1 - kept) / factor)
    turn = xp.exp(1j * positions[:, None, None] * w).astype(xp.result_type(dtype, xp.complex64))
    turn = xp.ascontiguousarray(xp.broadcast_to(turn, (T, H, K // 2)))
    return turn, turn.conj()


class Attended(NamedTuple):
    """The cache of `attend_forward`: heads stacked by group, and the softmax weights, one column per query."""

    q: Array                                             # (B, G, RT, K), divided by sqrt(K); R = H / G
    k: Array                                             # (B, G, U, K)
    v: Array                                             # (B, G, U, K)
    P: Array                                             # (B, G, U, RT)
    y: Array                                             # (B, T, H, K)


def attend_forward(q: Array, k: Array, v: Array, *, causal: bool = False, pad: Any = None) -> tuple[Array, Any]:
    """Every query gathers the values of the keys it resembles (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023).

    y = P v,   P = softmax(q k' / sqrt(K))                              query head h uses key head h // (H/G)

    q (B, T, H, K), k and v (B, U, G, K), G divides H -> y (B, T, H, K). causal: the queries stand at the last T of the
    U keys, and see none after their own. pad (B,): story b's first pad[b] keys are padding, which is masked; a padded
    query (causal only) attends only to itself.
    """
    check_shapes("attend", q=(q, "B T H K"), k=(k, "B U G K"), v=(v, "B U G K"), pad=(pad, "B"))
    xp = get_xp(q, k, v)
    B, T, H, K = q.shape
    U, G = k.shape[1:3]
    if H % G:
        raise ValueError(f"attend: {G} key heads do not divide {H} query heads")
    if causal and T > U:
        raise ValueError(f"attend: {T} causal queries, expected at most {U}, the positions of k")
    qs, ks, vs = _stack(q / K**0.5, G), _stack(k, G), _stack(v, G)       # (B, G, RT or U, K), R = H/G
    P = ks @ qs.swapaxes(2, 3)                           # the scores so far, (B, G, U, RT): one column per query
    by_head = P.reshape(B, G, U, H // G, T)
    if pad is not None:
        by_head += _padding_mask(xp, T, U, causal, pad, P.dtype)
    elif causal:
        by_head[:, :, U - T:] += _causal_mask(xp, getattr(P.device, "id", 0), T, P.dtype)    # all see the keys before
    _exp_below(P, P.max(-2, keepdims=True))              # down the columns: along short rows this takes twice as long
    P /= einsum("...ut->...t", P)[..., None, :]
    y = _unstack(P.swapaxes(2, 3) @ vs, H)                               # (B, T, H, K)
    return y, Attended(qs, ks, vs, P, y)


def attend_backward(dy: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Gradients at q, k and v.

    y = P v: dv = P' dy and dP = dy v'. Softmax: every entry of a row pushes all others down in proportion, so
    dS = P * (dP - sum(dP * P)). That sum equals sum(dy * y), which has fewer terms. S = q k' / sqrt(K), so
    dq = dS k / sqrt(K) and dk = dS' q / sqrt(K). Query heads that share a key head are stacked, so the products that
    give dk and dv also sum over these heads.
    """
    qs, ks, vs, P, y = cache                                             # P is stored transposed, and so is dS
    B, T, H, K = y.shape
    G = ks.shape[1]
    dys = _stack(dy, G)                                                  # (B, G, RT, K)
    dv = _unstack(P @ dys, G)                                            # (B, U, G, K)
    dS = vs @ dys.swapaxes(2, 3)                                         # dP, (B, G, U, RT)
    mean = einsum("bthk,bthk->bht", dy, y)                               # sum(dP * P)
    _softmax_back(dS, P, mean.reshape(B, G, 1, H // G * T))
    dq = _unstack(dS.swapaxes(2, 3) @ ks, H)                             # (B, T, H, K)
    dq /= K**0.5
    dk = _unstack(dS @ qs, G)                                            # (B, U, G, K): qs carries the 1/sqrt(K)
    return dq, dk, dv


def attention_weights(attended: Any) -> Any:
    """The softmax weights in a cache of `attend_forward`: (B, H, T, U), how much query t takes of key u."""
    B, T, H, _ = attended.y.shape
    return attended.P.swapaxes(2, 3).reshape(B, H, T, -1)


@fused
def _exp_below(xp, scores, top):
    """exp(scores - top), in place. top is the largest of its column, so no exponential overflows."""
    scores -= top
    xp.exp(scores, out=scores)


@fused
def _softmax_back(xp, dP, P, mean):
    """dS = P * (dP - mean) in place."""
    dP -= mean
    dP *= P


def _stack(x, G):
    """(B, T, H, K) -> (B, G, RT, K): the R = H/G heads of a group stacked."""
    B, T, H, K = x.shape
    return x.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4).reshape(B, G, H // G * T, K)


def _unstack(x, H):
    """(B, G, RT, K) -> (B, T, H, K): the inverse of `_stack`, a copy."""
    B, G, RT, K = x.shape
    R = H // G
    return x.reshape(B, G, R, RT // R, K).transpose(0, 3, 1, 2, 4).reshape(B, RT // R, H, K)


def _padding_mask(xp, T, U, causal, pad, dtype):
    """0 where query t may attend to key u, -inf where not; broadcasts over (B, G, U, R, T)."""
    u, t = xp.arange(U)[:, None], xp.arange(U - T, U)    # t: the queries' own positions
    hidden = u < pad[:, None, None]                                      # (B, U, 1)
    if causal:
        hidden = (hidden & (u != t)) | (u > t)                           # (B, U, T)
    return xp.where(hidden, -xp.inf, 0.0).astype(dtype)[:, None, :, None]


@lru_cache(maxsize=64)
def _causal_mask(xp, device, T, dtype):
    """The same for T queries and their own T positions, without padding."""
    return xp.where(xp.arange(T)[:, None] > xp.arange(T), -xp.inf, 0.0).astype(dtype)[:, None]


def sigmoid_forward(x: Array) -> tuple[Array, Any]:
    """y = 1 / (1 + e^-x), computed as (1 + tanh(x / 2)) / 2, which never overflows.   x (...) -> y (...)"""
    y = _sigmoid(x)
    return y, y


def sigmoid_backward(dy: Array, cache: Array) -> tuple[Array]:
    """dx = dy * y (1 - y): largest at y = 1/2, zero where the gate is fully open or shut."""
    y = cache
    return (_sigmoid_back(dy, y),)


@fused
def _sigmoid(xp, x):
    y = x * 0.5
    xp.tanh(y, out=y)
    y *= 0.5
    y += 0.5
    return y


@fused
def _sigmoid_back(xp, dy, y):
    dx = 1 - y
    dx *= y
    dx *= dy
    return dx


def tanh_forward(x: Array) -> tuple[Array, Any]:
    """y = tanh(x).   x (...) -> y (...)"""
    y = get_xp(x).tanh(x)
    return y, y


def tanh_backward(dy: Array, cache: Array) -> tuple[Array]:
    """dx = dy * (1 - y^2)."""
    y = cache
    return (_tanh_back(dy, y),)


@fused
def _tanh_back(xp, dy, y):
    dx = y * -y
    dx += 1
    dx *= dy
    return dx


def silu_forward(x: Array) -> tuple[Array, Any]:
    """y = x * s,   s = sigmoid(x)                                 (Elfwing et al. 2017, eq. 3)   x (...) -> y (...)"""
    s = _sigmoid(x)
    y = x * s
    return y, (s, y)


def silu_backward(dy: Array, cache: Any) -> tuple[Array]:
    """Product rule, with s' = s (1 - s) and y = x s: dx = dy * (s + x s (1 - s)) = dy * (s + y (1 - s))."""
    s, y = cache
    return (_silu_back(dy, s, y),)


@fused
def _silu_back(xp, dy, s, y):
    dx = 1 - s
    dx *= y
    dx += s
    dx *= dy
    return dx


def cross_entropy_forward(logits: Array, *, targets: Array, weights: Array, total: Array = None) -> tuple:
    """Weighted mean of -log p at the targets.

    loss = -sum_r w_r log p_r[target_r] / total,   p = softmax(logits) over the last axis, V

    logits (..., V), targets (...) whole numbers in 0..V-1, weights (...) >= 0 -> loss (), left on the device: the
    caller decides when to wait for it. total: the sum of the weights; for a part of a batch, of the whole batch's.
    """
    check_shapes("cross_entropy", logits=(logits, "... V"))
    if not logits.shape[:-1] == targets.shape == weights.shape:
        raise ValueError(f"cross_entropy: targets {targets.shape} and weights {weights.shape}, "
                         f"expected {logits.shape[:-1]} from logits")
    xp = get_xp(logits, targets, weights)
    V = logits.shape[-1]
    w = (weights / (weights.sum() if total is None else total)).astype(logits.dtype, copy=False).reshape(-1)     # (R,)
    z = logits.reshape(_rows(logits), V)
    p = z - z.max(-1, keepdims=True)                                     # (R, V), at most 0: exp cannot overflow
    at = (xp.arange(w.size), targets.reshape(-1))
    at_target = p[at]
    xp.exp(p, out=p)
    sums = einsum("rv->r", p)                                            # (R,)
    p /= sums[:, None]
    loss = _weighted_nll(w, sums, at_target).sum()
    return loss, (p, w, at, logits.shape)


def cross_entropy_backward(dloss: Array, cache: Any) -> tuple[Array]:
    """Gradient at the logits: predicted minus observed, dlogits_r = dloss * w_r (p_r - onehot(target_r))."""
    p, w, at, shape = cache
    w = dloss * w
    dlogits = p * w[:, None]
    dlogits[at] -= w                                                     # one entry per row, so none is hit twice
    return (dlogits.reshape(shape),)


@fused
def _weighted_nll(xp, w, sums, at_target):
    nll = xp.log(sums)
    nll -= at_target
    nll *= w
    return nll

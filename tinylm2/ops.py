"""The primitives, each a pair: `y, cache = name_forward(*differentiable, *, constants)` and, below it, its backward.

Backward takes the gradient at y and the cache and returns one gradient a positional argument, in order. `out=` writes
only into an array that the same function made.
"""

from functools import lru_cache
from typing import NamedTuple

from tinylm2.backend import check_shapes, fused, get_xp, segment_sum

# --------------------------------------------------------------------------------------------------------------- linear


def linear_forward(x, W):
    """Multiply every row by a matrix.

    y = x W

    x (..., D), W (D, E) -> y (..., E).  Raises ValueError when W has not as many rows as x has columns.
    """
    check_shapes("linear", x=(x, "... D"), W=(W, "D E"))
    y = x.reshape(_rows(x), W.shape[0]) @ W              # one product over all rows, not one a story
    return y.reshape(*x.shape[:-1], W.shape[1]), (x, W)


def linear_backward(dy, cache):
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
    return x.size // x.shape[-1]                         # -1 in reshape would not do: a part may have zero rows


# ------------------------------------------------------------------------------------------------------------ embedding


def embedding_forward(W, *, ids):
    """Look up one row a token.

    y = W[ids]

    W (V, D), ids (...) whole numbers in 0..V-1 -> y (..., D). The range is the caller's to keep: a GPU would wrap an
    index outside it without a word.
    """
    check_shapes("embedding", W=(W, "V D"))
    get_xp(W, ids)
    return W[ids], (W, ids)


def embedding_backward(dy, cache):
    """Gradient at W: row v of it sums dy over the places where token v stood.

    Sorted by token, those places lie side by side, and each run of them is added in order: no atomics, so the same
    step gives the same bits on every run.
    """
    W, ids = cache
    xp = get_xp(W, ids)
    order = xp.argsort(ids.reshape(-1), kind="stable")                   # (R,)
    starts = xp.searchsorted(ids.reshape(-1)[order], xp.arange(W.shape[0] + 1))   # (V+1,)
    dW = segment_sum(dy.reshape(ids.size, W.shape[1])[order], starts)       # (V, D)
    return (dW,)


# -------------------------------------------------------------------------------------------------------------- rmsnorm


def rmsnorm_forward(x, g, *, eps=1e-5):
    """Scale each row of x to root mean square one, then by the learned gain g (Zhang & Sennrich 2019, eq. 4).

    y = g * n,   n = x * r,   r = 1 / sqrt(mean(x^2) + eps)          means run over the last axis, D

    x (..., D), g (D,) -> y (..., D).  Raises ValueError when g is not as wide as x.
    """
    check_shapes("rmsnorm", x=(x, "... D"), g=(g, "D"))
    get_xp(x, g)
    r = _inverse_rms(_rowdot(x, x), g.size, eps)                         # (..., 1)
    n, y = _scale(x, r, g)                                               # (..., D)
    return y, (n, r, g)


def rmsnorm_backward(dy, cache):
    """Gradients at x and at g.

    Through g:  dn = g * dy.   Through n:  x_j moves n_j by r, and every n_i of its row by -r n_i n_j / D, so
    dx = r * (dn - n * mean(dn * n)).   g met every row, so dg sums dy * n over the rows.
    """
    n, r, g = cache
    dg = get_xp(dy, n).einsum("rd,rd->d", dy.reshape(_rows(n), g.size), n.reshape(_rows(n), g.size))
    dn = dy * g                                                          # (..., D)
    dx = _scale_back(dn, n, r, _rowdot(dn, n), g.size)                   # (..., D)
    return dx, dg


def set_rms_forward(x, *, rms=1.0, eps=1e-5):
    """Scale each row of x to one root mean square: `rmsnorm` without a gain; with rms = 1/sqrt(D) rows have length one.

    y = x * r,   r = rms / sqrt(mean(x^2) + eps)                     means run over the last axis, D;   x (..., D) -> y
    """
    r = _inverse_rms(_rowdot(x, x), x.shape[-1], eps)
    r *= rms
    y = x * r
    return y, (y, r, rms)


def set_rms_backward(dy, cache):
    """Gradient at x, as in `rmsnorm`: dx = r * (dy - y * mean(dy * y) / rms^2)."""
    y, r, rms = cache
    return (_scale_back(dy, y, r, _rowdot(dy, y), y.shape[-1] * rms**2),)


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


def _rowdot(a, b):
    """sum(a * b) over the last axis, kept as an axis of one: einsum needs neither the product nor a slow short sum."""
    return get_xp(a, b).einsum("...d,...d->...", a, b)[..., None]


# ----------------------------------------------------------------------------------------------------------------- rope


def rope_forward(x, *, start=0, step=1, base=10_000.0):
    """Turn the pairs (2i, 2i+1) of each head by an angle that grows with the position (Su et al. 2021, eq. 34).

    y_2i + j y_2i+1 = (x_2i + j x_2i+1) e^(j p w_i),   w_i = base^(-2i/K),   p = start + step * t for row t

    x (B, T, H, K), K even -> y (B, T, H, K). With step=0 every row stands at `start`: so do the memory's slots.
    A pair is one complex number, and a turn is one complex product.
    """
    check_shapes("rope", x=(x, "B T H K"))
    if x.shape[-1] % 2:
        raise ValueError(f"rope: x has heads {x.shape[-1]} wide, expected an even width")
    turn, back = _rope_table(get_xp(x), x.shape[1:], start, step, base, x.dtype)
    return (_pairs(x) * turn).view(x.dtype), back


def rope_backward(dy, cache):
    """Gradient at x: a turn is orthogonal, so its transpose turns back by the same angle (the conjugate)."""
    back = cache
    return ((_pairs(dy) * back).view(dy.dtype),)


def _pairs(x):
    """x (..., K) seen as K/2 complex numbers."""
    xp = get_xp(x)
    if x.strides[-1] != x.itemsize:
        x = xp.ascontiguousarray(x)
    return x.view(_complex(xp, x.dtype))


def _complex(xp, dtype):
    return xp.result_type(dtype, xp.complex64)           # float32 -> complex64, float64 -> complex128


@lru_cache(maxsize=256)
def _rope_table(xp, shape, start, step, base, dtype):
    """e^(j p w_i) and its conjugate, (T, H, K/2): worked out in double precision, then cast, or float64 would spread
    from here. The same for every head, but written out: one long row is turned faster than H short ones."""
    T, H, K = shape
    positions = start + step * xp.arange(T)
    w = base ** (-2.0 * xp.arange(K // 2) / K)
    turn = xp.exp(1j * positions[:, None, None] * w).astype(_complex(xp, dtype))
    turn = xp.ascontiguousarray(xp.broadcast_to(turn, (T, H, K // 2)))
    return turn, turn.conj()


# --------------------------------------------------------------------------------------------------------------- attend


class Attended(NamedTuple):
    """What `attend_forward` leaves for its backward: heads stacked by group, softmax weights a column per query."""

    q: object                                            # (B, G, RT, K), divided by sqrt(K); R = H / G
    k: object                                            # (B, G, U, K)
    v: object                                            # (B, G, U, K)
    P: object                                            # (B, G, U, RT)
    y: object                                            # (B, T, H, K)


def attend_forward(q, k, v, *, causal=False, pad=None):
    """Every query gathers the values of the keys it resembles (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023).

    y = P v,   P = softmax(q k' / sqrt(K))                              query head h uses key head h // (H/G)

    q (B, T, H, K), k and v (B, U, G, K), G divides H -> y (B, T, H, K). causal: the queries stand at the last T of the
    U keys, and see none after their own. pad (B,): story b's first pad[b] keys are padding, which is masked; a padded
    query (causal only) attends only to itself.
    """
    y, cache, _, _ = _attend(q, k, v, causal, pad)
    return y, cache


def attend_backward(dy, cache):
    """Gradients at q, k and v.

    y = P v: dv = P' dy and dP = dy v'. Softmax: every entry of a row pushes all others down in proportion, so
    dS = P * (dP - sum(dP * P)), and that sum is sum(dy * y), which is shorter. S = q k' / sqrt(K): dq = dS k / sqrt(K),
    dk = dS' q / sqrt(K). Query heads that share a key head stand side by side, so the products that give dk and dv sum
    over them by themselves.
    """
    mean = get_xp(dy, cache.y).einsum("bthk,bthk->bht", dy, cache.y)     # sum(dP * P)
    return _attend_back(dy, mean, cache)


def attend_lse_forward(q, k, v, *, pad=None):
    """`attend` that also returns how large a query's scores are together: the log of the softmax's denominator.

    y = P v,   lse = log sum_u exp(S_u),   P = exp(S - lse),   S = q k' / sqrt(K)

    q (B, T, H, K), k and v (B, U, G, K), pad (B,) -> y (B, T, H, K), lse (B, T, H). One more key with the score s would
    get the weight sigmoid(s - lse), and all others together the rest.
    """
    y, cache, top, total = _attend(q, k, v, False, pad)
    B, T, H, _ = y.shape
    lse = top + get_xp(total).log(total)                                 # (B, G, 1, RT)
    return y, lse.reshape(B, H, T).swapaxes(1, 2), cache


def attend_lse_backward(dy, dlse, cache):
    """Gradients at q, k and v.

    As in `attend`, and lse = log sum exp(S) rises with each score by its weight, so the scores have one more share:
    dS = P * (dP - sum(dP * P) + dlse).
    """
    mean = get_xp(dy, cache.y).einsum("bthk,bthk->bht", dy, cache.y)
    return _attend_back(dy, mean - dlse.swapaxes(1, 2), cache)


def _attend(q, k, v, causal, pad):
    """y and the cache of `attend`; the largest score of a query and the sum of exp(score - largest), (B, G, 1, RT)."""
    check_shapes("attend", q=(q, "B T H K"), k=(k, "B U G K"), v=(v, "B U G K"), pad=(pad, "B"))
    xp = get_xp(q, k, v)
    B, T, H, K = q.shape
    U, G = k.shape[1:3]
    if H % G:
        raise ValueError(f"attend: {G} key heads do not divide {H} query heads")
    if causal and T > U:
        raise ValueError(f"attend: {T} causal queries, expected at most {U}, the places of k")
    qs, ks, vs = _stack(q / K**0.5, G), _stack(k, G), _stack(v, G)       # (B, G, RT or U, K), R = H/G
    P = ks @ qs.swapaxes(2, 3)                           # as yet the scores, (B, G, U, RT): one column per query
    by_head = P.reshape(B, G, U, H // G, T)
    if pad is not None:
        by_head += _hidden(xp, T, U, causal, pad, P.dtype)
    elif causal:
        by_head[:, :, U - T:] += _future(xp, T, P.dtype)                 # what stands before the queries is all seen
    top = P.max(-2, keepdims=True)                       # down the columns: along short rows it takes twice as long
    _exp_below(P, top)
    total = xp.einsum("...ut->...t", P)[..., None, :]
    P /= total
    y = _unstack(P.swapaxes(2, 3) @ vs, H)                               # (B, T, H, K)
    return y, Attended(qs, ks, vs, P, y), top, total


def _attend_back(dy, mean, cache):
    """dq, dk, dv, where `mean` (B, H, T) is what all of a query's dP are lowered by."""
    qs, ks, vs, P, y = cache                                             # P is kept as its transpose, and so is dS
    B, T, H, K = y.shape
    G = ks.shape[1]
    dys = _stack(dy, G)                                                  # (B, G, RT, K)
    dv = _unstack(P @ dys, G)                                            # (B, U, G, K)
    dS = vs @ dys.swapaxes(2, 3)                                         # dP, (B, G, U, RT)
    _softmax_back(dS, P, mean.reshape(B, G, 1, H // G * T))
    dq = _unstack(dS.swapaxes(2, 3) @ ks, H)                             # (B, T, H, K)
    dq /= K**0.5
    dk = _unstack(dS @ qs, G)                                            # (B, U, G, K): qs carries the 1/sqrt(K)
    return dq, dk, dv


def attention_weights(attended):
    """The softmax weights in a cache of `attend_forward`: (B, H, T, U), how much each query takes of each key."""
    B, T, H, _ = attended.y.shape
    return attended.P.swapaxes(2, 3).reshape(B, H, T, -1)


@fused
def _exp_below(xp, scores, top):
    """exp(scores - top), in place: below the largest of its column no exponential overflows."""
    scores -= top
    xp.exp(scores, out=scores)


@fused
def _softmax_back(xp, dP, P, mean):
    """dS = P * (dP - mean) in place."""
    dP -= mean
    dP *= P


def _stack(x, G):
    """(B, T, H, K) -> (B, G, RT, K): the R = H/G heads of a group under each other."""
    B, T, H, K = x.shape
    return x.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4).reshape(B, G, H // G * T, K)


def _unstack(x, H):
    """(B, G, RT, K) -> (B, T, H, K): back from `_stack`, a copy of its own."""
    B, G, RT, K = x.shape
    R = H // G
    return x.reshape(B, G, R, RT // R, K).transpose(0, 3, 1, 2, 4).reshape(B, RT // R, H, K)


def _hidden(xp, T, U, causal, pad, dtype):
    """0 where key u is seen by query t, -inf where not; broadcasts over (B, G, U, R, T)."""
    u, t = xp.arange(U)[:, None], xp.arange(U - T, U)    # the queries' own places
    hidden = u < pad[:, None, None]                                      # (B, U, 1)
    if causal:
        hidden = (hidden & (u != t)) | (u > t)                           # (B, U, T)
    return xp.where(hidden, -xp.inf, 0.0).astype(dtype)[:, None, :, None]


@lru_cache(maxsize=64)
def _future(xp, T, dtype):
    """The same for T queries and their own T places, without padding."""
    return xp.where(xp.arange(T)[:, None] > xp.arange(T), -xp.inf, 0.0).astype(dtype)[:, None]


# ------------------------------------------------------------------------------------------------- one number at a time


def sigmoid_forward(x):
    """y = 1 / (1 + e^-x), written as (1 + tanh(x / 2)) / 2, which no x overflows.   x (...) -> y (...)"""
    y = _sigmoid(x)
    return y, y


def sigmoid_backward(dy, cache):
    """dx = dy * y (1 - y): steepest at y = 1/2, dead where the gate is wide open or shut."""
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


def tanh_forward(x):
    """y = tanh(x).   x (...) -> y (...)"""
    y = get_xp(x).tanh(x)
    return y, y


def tanh_backward(dy, cache):
    """dx = dy * (1 - y^2)."""
    y = cache
    return (_tanh_back(dy, y),)


@fused
def _tanh_back(xp, dy, y):
    dx = y * -y
    dx += 1
    dx *= dy
    return dx


def silu_forward(x):
    """y = x * s,   s = sigmoid(x)                                 (Elfwing et al. 2017, eq. 3)   x (...) -> y (...)"""
    s = _sigmoid(x)
    y = x * s
    return y, (s, y)


def silu_backward(dy, cache):
    """Both factors move: x by s, s by s (1 - s), so dx = dy * (s + x s (1 - s)) = dy * (s + y (1 - s))."""
    s, y = cache
    return (_silu_back(dy, s, y),)


@fused
def _silu_back(xp, dy, s, y):
    dx = 1 - s
    dx *= y
    dx += s
    dx *= dy
    return dx


def elu1_forward(x):
    """y = elu(x) + 1: 1 + x above zero, e^x below, so always positive (Katharopoulos et al. 2020, eq. 7).

    x (...) -> y (...)
    """
    y = _elu1(x)
    return y, y


def elu1_backward(dy, cache):
    """Above zero the slope is 1, below it is e^x, which is y itself: both are the smaller of y and 1."""
    y = cache
    return (dy * get_xp(y).minimum(y, 1),)


@fused
def _elu1(xp, x):
    y = xp.minimum(x, 0)                                 # no exponential of what is large
    xp.exp(y, out=y)
    y += xp.maximum(x, 0)
    return y


def dpfp_forward(x, *, nu=1):
    """Make long sparse features out of short rows: products of rectified entries (DPFP, Schlag et al. 2021, eq. 37).

    r = max([x, -x], 0),   y = [r * roll(r, 1), ..., r * roll(r, nu)]            roll(r, j)_i = r_(i-j), in a circle

    x (..., K) -> y (..., 2 K nu), nowhere negative.
    """
    xp = get_xp(x)
    r = xp.maximum(xp.concatenate((x, -x), -1), 0)                       # (..., 2K)
    return xp.concatenate([r * _roll(r, j) for j in range(1, nu + 1)], -1), (r, nu)


def dpfp_backward(dy, cache):
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


# --------------------------------------------------------------------------------------------------------------- recall


def recall_forward(f, A, z, *, eps):
    """Read an associative memory: an average of what was stored, weighted by f's products with the stored keys.

    y = f A / den,   den = f z + eps                        (linear attention, Katharopoulos et al. 2020, eq. 5)

    f (..., U, C) features of queries or keys, nowhere negative, A (..., C, E) the sum of key' value, z (..., C) the sum
    of keys -> y (..., U, E) and den (..., U, 1). An empty memory gives zero: eps is what its denominator is.
    """
    check_shapes("recall", f=(f, "... U C"), A=(A, "... C E"), z=(z, "... C"))
    get_xp(f, A, z)
    den = f @ z[..., None]                                               # (..., U, 1)
    den += eps
    y = f @ A
    y /= den
    return y, den, (f, A, z, y, den)


def recall_backward(dy, dden, cache):
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


# ----------------------------------------------------------------------------------------------------------------- scan


def scan_forward(g, x):
    """A sum that is carried from the last place to the first, and shrinks or grows by a factor at each step.

    y_T = x_T,   y_t = x_t + g_t y_(t+1)                                              for t = T-1 .. 0

    g (B, T, C), x (B, T+1, C) -> y (B, T+1, C). Runs of 2, 4, 8, ... places are joined in turn, so it takes log2(T)
    rounds instead of T steps (Hillis & Steele 1986).
    """
    check_shapes("scan", g=(g, "B T C"), x=(x, f"B {g.shape[1] + 1} C"))
    y = _carry(g[:, ::-1], x[:, ::-1])[:, ::-1]
    return y, (g, y)


def scan_backward(dy, cache):
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


# -------------------------------------------------------------------------------------------------------- cross-entropy


def cross_entropy_forward(logits, *, targets, weights):
    """Weighted mean surprise at the targets.

    loss = -sum_r w_r log p_r[target_r] / sum_r w_r,   p = softmax(logits) over the last axis, V

    logits (..., V), targets (...) whole numbers in 0..V-1, weights (...) >= 0, not all zero -> loss (), left on the
    device: reading it waits for the device, and that is for the caller to decide.
    """
    check_shapes("cross_entropy", logits=(logits, "... V"))
    if not logits.shape[:-1] == targets.shape == weights.shape:
        raise ValueError(f"cross_entropy: targets {targets.shape} and weights {weights.shape}, "
                         f"expected {logits.shape[:-1]} from logits")
    xp = get_xp(logits, targets, weights)
    V = logits.shape[-1]
    w = (weights / weights.sum()).astype(logits.dtype).reshape(-1)       # (R,)
    z = logits.reshape(_rows(logits), V)
    top = z.max(-1, keepdims=True)
    p = z - top                                          # below the largest, no exponential overflows; (R, V)
    place = (xp.arange(w.size), targets.reshape(-1))
    at_target = p[place]
    xp.exp(p, out=p)
    total = xp.einsum("rv->r", p)                                        # (R,)
    p /= total[:, None]
    loss = _surprise(w, total, at_target).sum()
    return loss, (p, w, place, logits.shape)


def cross_entropy_backward(dloss, cache):
    """Gradient at the logits: what was predicted minus what came, dlogits_r = dloss * w_r (p_r - onehot_r)."""
    p, w, place, shape = cache
    w = dloss * w
    dlogits = p * w[:, None]
    dlogits[place] -= w                                  # one place a row: nothing is hit twice
    return (dlogits.reshape(shape),)


@fused
def _surprise(xp, w, total, at_target):
    surprise = xp.log(total)
    surprise -= at_target
    surprise *= w
    return surprise

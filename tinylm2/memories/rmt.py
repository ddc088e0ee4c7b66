"""The recurrent memory transformer (Bulatov, Kuratov & Burtsev 2022, arXiv 2207.06881, section 3), causal.

A memory is N vectors, as wide as a token. The blocks of a plain Llama read each segment as

    [memory] token 1 ... token T [memory]

Every token may attend to the front copy. The back copy stands behind the last token and sees the whole segment; what
the model makes of it is the memory of the next segment. The first memory is learned. So the memory passes through the
whole stack once per segment, and gradients pass the same way back.
"""

from typing import Any

from tinylm2.backend import Array, check_shapes, get_xp

VECTORS = {}
PAIRS = {}


def param_shapes(cfg: Any) -> dict:
    """The first memory."""
    return {"W": (cfg.N, cfg.D)}


def state_shapes(cfg: Any) -> dict:
    """The memory vectors."""
    return {"M": (cfg.N, cfg.D)}


def cost(cfg: Any) -> tuple:
    """(multiply-adds, attention weights) of a segment: all blocks see 2 N rows more than T.

    In the last block the front copy is keys and values only, for nothing uses its rows.
    """
    N, rows, HK = cfg.N, cfg.T + 2 * cfg.N, cfg.H * cfg.K
    as_query, as_key = cfg.D * (2 * HK + 3 * cfg.F), cfg.D * 2 * cfg.G * cfg.K
    pairs = cfg.L * (rows**2 - cfg.T**2) - N * rows
    return (2 * cfg.L - 1) * N * as_query + 2 * cfg.L * N * as_key + 2 * pairs * HK, cfg.H * pairs


def first_forward(p: dict, *, cfg: Any, B: int) -> tuple[tuple[Array], Any]:
    """The learned rows at a token's scale, W sqrt(D), the same for every story."""
    W = p["W"]
    return (get_xp(W).broadcast_to(W * cfg.D**0.5, (B, *W.shape)),), cfg.D


def first_backward(dstate: Any, cache: int) -> dict[str, Array]:
    """Every story began with W, so its gradient is the sum over the stories."""
    (dM,), D = dstate, cache
    return {"W": dM.sum(0) * D**0.5}


def enter_forward(x: Array, state: tuple, *, cfg: Any, pad: Any = None, write: bool = True) -> tuple[Array, Any]:
    """Lay the memory around the tokens: [memory, x, memory], the back copy only where the segment writes.

    x (B, T, D), state (M,) with M (B, N, D), pad (B,) -> (B, N + T + N, D). Padding is moved before the memory, for
    attention hides leading positions only; the distances between memory and tokens stay those without padding.
    """
    (M,) = state
    check_shapes("rmt enter", x=(x, "B T D"), M=(M, "B N D"), pad=(pad, "B"))
    xp, N = get_xp(x, M), M.shape[1]
    y = xp.concatenate((M, x, M) if write else (M, x), 1)
    order = None if pad is None else _padding_first(xp, pad, N, y.shape[1])
    if order is not None:
        y = xp.take_along_axis(y, order[..., None], 1)
    return y, (order, N, x.shape[1])


def enter_backward(dy: Array, cache: Any) -> tuple[Array, tuple[Array]]:
    """Gradients at x and the state: both copies of the memory are one array, so their gradients add up."""
    order, N, T = cache
    if order is not None:
        dy = get_xp(dy).take_along_axis(dy, order.argsort(1)[..., None], 1)
    dM = dy[:, :N].copy()
    if dy.shape[1] > N + T:
        dM += dy[:, N + T:]
    return dy[:, N:N + T], (dM,)


def leave_forward(h: Array, *, last: int | None) -> tuple[Array, Any, Any]:
    """Part the rows that the last block left: those of the last tokens, and the back copy, the next memory.

    h (B, last + N, D) -> (B, last, D), (M',); without a write there are no rows behind the tokens, and M' is None.
    """
    return h[:, :last], (h[:, last:],) if h.shape[1] > last else None, (h.shape, last)


def leave_backward(dtokens: Array, dstate: tuple, cache: Any) -> tuple[Array]:
    """The gradient at all rows; dstate None: nobody reads the next memory, so its gradient is zero."""
    shape, last = cache
    dh = get_xp(dtokens).zeros(shape, dtokens.dtype)
    dh[:, :last] = dtokens
    if dstate is not None and shape[1] > last:
        dh[:, last:] = dstate[0]
    return (dh,)


def _padding_first(xp, pad, N, length):
    """(B, length): which place of [memory, padding, tokens, ...] comes where, so that padding leads."""
    place, pad = xp.arange(length), pad[:, None]
    return xp.where(place < pad, place + N, xp.where(place < pad + N, place - pad, place))

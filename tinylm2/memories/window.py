"""A window: the keys and values of the last N positions stay, with their gradients (Dai et al. 2019's cache, kept).

Transformer-XL keeps the same cache but stops its gradient at the segment's border; here it goes through. With no limit
on N (`full` in the table) this is attention over the whole story: nothing has to be remembered, and time and state grow
with the story. What a memory is worth shows beside a window of as many numbers.
"""

from typing import Any

from tinylm2 import ops
from tinylm2.backend import Array, check_shapes, get_xp

VECTORS = {}
WRITE_USES_READ = False
PAIRS = {}
ENDLESS = 1 << 40                                        # positions: more than any story has


def size(cfg: Any) -> int:
    """How many positions are kept."""
    return cfg.N


def unlimited(cfg: Any) -> int:
    """For `full`, in the place of `size`: every position of any story."""
    return ENDLESS


def param_shapes(cfg: Any) -> dict:
    """The block's own keys and values are all that is kept."""
    return {}


def state_shapes(cfg: Any) -> dict:
    """Keys and values of the kept positions; how many of the first ones are padding, to be hidden.

    Without a limit the state grows with the story; what stands here then is that of one segment.
    """
    kept = min(size(cfg), cfg.T) if size(cfg) == ENDLESS else size(cfg)
    return {"k": (kept, cfg.G, cfg.K), "v": (kept, cfg.G, cfg.K), "hidden": ()}


def cost(cfg: Any) -> tuple:
    """(multiply-adds, attention weights) of a segment behind a full window: scores, and sums of values."""
    kept = state_shapes(cfg)["k"][0]
    return 2 * cfg.T * kept * cfg.H * cfg.K, cfg.H * cfg.T * kept


def first_forward(p: dict, *, cfg: Any, B: int) -> tuple[tuple[Array, Array, Any], Any]:
    """No position is kept before the first segment, and nothing is hidden."""
    W = p["attn.Wqkv"]
    empty = get_xp(W).zeros((B, 0, cfg.G, cfg.K), W.dtype)
    return (empty, empty, None), None


def first_backward(dstate: Any, cache: Any) -> dict:
    """An empty start has no gradient."""
    return {}


def hidden(state: tuple) -> Array:
    """(B,) how many of the first keys are padding, or None."""
    return state[2]


def looks(read: Any, write: Any) -> dict:
    """The window has no weights of its own: tokens read it by the block's self-attention."""
    return {}


def keys_forward(state: tuple, p: dict, *, cfg: Any) -> tuple[Array, Array, Any]:
    """The kept keys and values, which stand right before the segment: (B, U, G, K) each."""
    k, v, _ = state
    return k, v, None


def keys_backward(dk: Array, dv: Array, cache: Any) -> tuple[tuple[Array, Array, Any], dict]:
    """Gradients at the state and p: the state is handed out as it is. A count has no gradient."""
    return (dk, dv, None), {}


def write_forward(seg: Any, state: tuple, p: dict, *, cfg: Any, pad: Array | None = None) -> tuple:
    """Append the segment's keys and values, drop all but the last N, and move the rest T positions into the past.

    k' = rope(last N of [k; segment's k], by -T),   v' = last N of [v; segment's v]

    seg (n, y, k, v) of which k and v (B, T, G, K) are used, state (k, v, hidden), pad (B,) -> state'. The next segment
    starts again at position 0, so what is kept turns back by T: attention sees differences of positions only.
    """
    (_, _, k, v), (old_k, old_v, old_hidden) = seg, state
    check_shapes("window write", k=(k, "B T G K"), v=(v, "B T G K"), old_k=(old_k, "B U G K"), old_v=(old_v, "B U G K"),
                 hidden=(old_hidden, "B"), pad=(pad, "B"))
    xp, T = get_xp(k, old_k), k.shape[1]
    U = old_k.shape[1]
    drop = max(0, U + T - size(cfg))
    kept, rope = ops.rope_forward(xp.concatenate((old_k, k), 1)[:, drop:], start=-T, step=0, base=cfg.base,
                                  scaling=cfg.scaling)
    covered = pad if old_hidden is None else old_hidden
    if covered is not None:
        covered = xp.maximum(xp.ceil(covered) - drop, 0).astype(k.dtype)            # a count: its slope is zero
    return (kept, xp.concatenate((old_v, v), 1)[:, drop:], covered), (rope, U, T, drop)


def write_backward(dstate: tuple, cache: Any) -> tuple[tuple[Any, Any, Array, Array], tuple[Array, Array, Any], dict]:
    """Gradients at the segment (k and v only), the state and p: what was kept hands its gradient back to its place."""
    (dkept, dv_kept, _), (rope, U, T, drop) = dstate, cache
    (dk_kept,) = ops.rope_backward(dkept, rope)
    xp = get_xp(dk_kept)
    both = []
    for d in (dk_kept, dv_kept):
        whole = xp.zeros((d.shape[0], U + T, *d.shape[2:]), d.dtype)
        whole[:, drop:] = d
        both.append(whole)
    dk, dv = both
    return (None, None, dk[:, U:], dv[:, U:]), (dk[:, :U], dv[:, :U], None), {}

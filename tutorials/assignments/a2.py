"""Assignment 2: cross-entropy and RMSNorm."""

import numpy as np

from tutorials.assignments import feedback
from tutorials.assignments.checks import Assignment, Pair, Unit, call, first_output


def _places(*letters, std=2.0):
    def draw(d):
        *places, V = d.lengths((*letters, "V"))
        weights = 0.73 * d.rng.integers(0, 3, places).astype(d.dtype)    # their sum is no length
        weights.flat[:2] = 0, 0.73                       # some place does not count, and some does
        d.letters["the sum of the weights"] = float(weights.sum())
        return call(d(*places, V, std=std), targets=d.ids(V, *places), weights=weights)
    return draw


def _many_places(d):
    return call(d(4, 128, 1024), targets=d.ids(1024, 4, 128), weights=np.ones((4, 128), d.dtype))


def _loss(ctx, pair, logits, constants):
    loss = ctx.student("forward", **pair.call((logits,), constants))["outputs"][0]
    return float(loss) if np.shape(loss) == () and not isinstance(loss, feedback.Unsupported) else np.nan


def _weighs_relatively(ctx, pair, inputs, constants):
    """All weights doubled change nothing."""
    twice = {**constants, "weights": 2 * constants["weights"]}
    once, twice = (_loss(ctx, pair, *inputs, c) for c in (constants, twice))
    if not np.isclose(once, twice, equal_nan=True):
        yield (f"doubling every weight turns loss {once:.6g} into {twice:.6g}, and it must stay: by what is the sum "
               "divided?")


def _ignores_a_shift(ctx, pair, inputs, constants):
    """A constant added to a row of logits changes no probability."""
    (logits,) = inputs
    shift = np.arange(logits.shape[0], dtype=float).reshape(-1, *[1] * (logits.ndim - 1))
    here, there = (_loss(ctx, pair, logits + s, constants) for s in (0, shift))
    if not np.isclose(here, there, equal_nan=True):
        yield (f"adding a constant to every logit of a place turns loss {here:.6g} into {there:.6g}, and it must stay: "
               "does the softmax run over the last axis?")


def _rows_add_up_to_zero(ctx, pair, inputs, constants, upstreams, gradients):
    """What one token's probability gains, the others lose; and a place without weight has no say."""
    (dlogits,) = gradients if isinstance(gradients, tuple) else (gradients,)
    if getattr(dlogits, "shape", None) != inputs[0].shape:
        return
    off = dlogits.sum(-1)
    several = list(_takes_off_the_target(inputs, constants, upstreams, dlogits))
    if not np.allclose(off, 0) and not several:
        yield ("dlogits must add up to zero over V at every place, for probabilities add up to one; here they add up "
               f"to {off.flat[abs(off).argmax()]:.4g}: is the target's one taken off?")
    elif dlogits[constants["weights"] == 0].any():
        yield "dlogits at a place of weight zero must be zero, and is not: where do the weights come in?"
    yield from several


def _takes_off_the_target(inputs, constants, upstreams, dlogits):
    """What stands below dloss w p at a place is the one that is taken off: it must be the target's."""
    z = inputs[0] - inputs[0].max(-1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    scale = float(upstreams[0]) * constants["weights"] / constants["weights"].sum()
    ones = p - dlogits / np.where(scale == 0, 1, scale)[..., None]
    if not np.isin(np.round(ones[scale != 0], 6), (0, 1)).all():
        return
    for place in zip(*np.nonzero((np.round(ones).sum(-1) > 1) & (scale != 0)), strict=True):
        tokens = ", ".join(map(str, np.nonzero(np.round(ones[place]))[0][:4]))
        yield (f"dlogits at place {[int(i) for i in place]}: a one is taken off at the tokens {tokens}, and the only "
               f"target there is token {constants['targets'][place]}; each place has its own target")
        return
    if (np.round(ones[scale != 0]).sum(-1) != 1).any():
        return
    for place in zip(*np.nonzero((ones.argmax(-1) != constants["targets"]) & (scale != 0)), strict=True):
        yield (f"dlogits at place {[int(i) for i in place]}: the one is taken off at token {ones[place].argmax()}, and "
               f"the target there is token {constants['targets'][place]}")
        return


CROSS_ENTROPY = Pair(
    "ops", "cross_entropy", ("loss",),
    draws={"plain": _places("B", "T"), "one axis of places": _places("R"),
           "large logits": _places("B", "T", std=2000), "large": _many_places},
    looks={"plain": (_weighs_relatively, _ignores_a_shift)}, looks_back=(_rows_add_up_to_zero,))


def _rows(*letters, std=1.0):
    def draw(d):
        *lead, D = d.lengths((*letters, "D"))
        return call(d(*lead, D, std=std), d.g(D))
    return draw


def _moves_with_a_shift(ctx, pair, inputs, constants):
    """A constant that is added to a row must change y: RMSNorm takes no mean off."""
    x, g = inputs
    y, right = first_output(ctx, pair, inputs, constants)
    there, _ = first_output(ctx, pair, (x + 1, g), constants)
    if y is not None and there is not None and np.allclose(y, there) and not np.allclose(y, right):
        yield ("y stays the same when a constant is added to a row of x, and must change: a mean is taken off, as "
               "LayerNorm does and RMSNorm does not")


def _is_orthogonal(ctx, pair, inputs, constants, upstreams, gradients):
    """A longer row gives the same y, so dx must be orthogonal to x (as far as eps allows)."""
    x, right = inputs[0], ctx.truth("pair", **pair.call(inputs, constants, upstreams=upstreams))["gradients"][0]
    dx = gradients[0] if isinstance(gradients, tuple) and gradients else None
    if getattr(dx, "shape", None) != x.shape or np.allclose(dx, right):
        return
    found, must = (dx * x).sum(-1), (right * x).sum(-1)
    away = abs(found - must) > 1e-3 * abs(dx * x).sum(-1)         # eps alone makes some of it
    if away.any():
        place = tuple(int(i) for i in np.argwhere(away)[0])
        yield (f"dx must be orthogonal to x in every row, for a longer row gives the same y; in row {list(place)} the "
               f"product is {found[place]:.4g}, expected {must[place]:.1g}")


def _has_size_one(ctx, pair, inputs, constants):
    """With gains of one, a row's root mean square is one; and eps matters for tiny rows only."""
    x, g = inputs
    sizes = 1e4 * (1 + np.arange(x.shape[-2]))[:, None]  # rows of different sizes: eps is small beside all of them
    large = sizes * x / np.sqrt((x * x).mean(-1, keepdims=True))
    y, right = first_output(ctx, pair, (large, np.ones_like(g)), constants)
    if y is None:
        return
    size = np.sqrt((y * y).mean(-1))
    if not np.allclose(size, 1, atol=1e-3):
        yield ("with g = 1 the root mean square of every row of y must be 1, and in the first row it is "
               f"{size.flat[0]:.4g}")
    elif np.allclose(y, right, rtol=1e-8):
        yield "y is right for large rows and wrong for small ones: where does eps stand under the root?"


RMSNORM = Pair(
    "ops", "rmsnorm", ("y",),
    draws={"plain": _rows("B", "T"), "more axes": _rows("B", "T", "H"), "tiny rows": _rows("B", "T", std=3e-3),
           "large": lambda d: call(d(4, 128, 1024), d.g(1024))},
    looks=dict.fromkeys(("plain", "tiny rows"), (_moves_with_a_shift, _has_size_one)), looks_back=(_is_orthogonal,))

ASSIGNMENT = Assignment("a2", "cross-entropy and RMSNorm", (
    Unit(CROSS_ENTROPY.functions, (
        CROSS_ENTROPY.right("plain", 12), CROSS_ENTROPY.right("large logits", 5), CROSS_ENTROPY.keeps_contract(5),
        CROSS_ENTROPY.right_back("plain", 16), CROSS_ENTROPY.right_back("one axis of places", 4),
        CROSS_ENTROPY.keeps_contract_back(6))),
    Unit(RMSNORM.functions, (
        RMSNORM.right("plain", 10), RMSNORM.right("tiny rows", 4), RMSNORM.keeps_contract(4),
        RMSNORM.right_back("plain", 24), RMSNORM.right_back("more axes", 4), RMSNORM.keeps_contract_back(6))),
), needs=("gradcheck.check_grads",))

"""The gradient checker: is a hand-written backward the derivative of its forward?

    check = check_grads(ops.rmsnorm_forward, ops.rmsnorm_backward, x, g)             print(check), or ask check.passed

Weigh the outputs with random upstream gradients dy, f(x) = sum(dy * forward(x)). Then backward(dy) must be the slope of
f at every entry of every argument, and (f(x + eps) - f(x - eps)) / (2 eps) measures that slope without any calculus.
The error is the largest difference, relative to the largest slope of the tensor.

A check can lie by passing. Ones for dy are blind: the sum of a softmax never moves. So is an axis of length one: a
softmax over one place is constant, a sum over it is no sum. So is an argument that moves nothing. Such a check is
refused, unless `Checker` is told to expect it. float32 is refused too: the subtraction leaves it two or three digits.
"""

import inspect
import math
import time
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tinylm2.backend import get_xp, to_device, to_host


class Refused(ValueError):
    """This check could not tell right from wrong; the message says why."""


@dataclass(frozen=True)
class Argument:
    """What was found for one argument, or for one array of it where it is a dict or a tuple."""

    name: str
    passed: bool
    error: float = math.inf                              # worst difference / largest slope of this tensor
    index: tuple[int, ...] | None = None                 # where it is worst; None where nothing could be compared
    analytic: float = math.nan                           # what backward says there
    numeric: float = math.nan                            # what the central difference says there
    cause: str = ""                                      # a guess, or what made comparing impossible

    def __str__(self):
        if self.passed:
            return f"d{self.name} passed, error {self.error:.1e}"
        where = self.index is not None and (
            f"worst at {list(self.index)}, where backward says {self.analytic:.9g} and the central difference "
            f"{self.numeric:.9g} (error {self.error:.1e})")
        return "; ".join(filter(None, (f"d{self.name} is wrong", where, self.cause)))


@dataclass(frozen=True)
class GradCheck:
    """The verdict on one pair: a finding for each argument."""

    op: str
    arguments: tuple[Argument, ...]

    @property
    def passed(self):
        return all(a.passed for a in self.arguments)

    @property
    def error(self):
        """The worst relative error of all arguments."""
        return max((a.error for a in self.arguments), key=lambda error: math.inf if math.isnan(error) else error)

    @property
    def failures(self):
        return tuple(a for a in self.arguments if not a.passed)

    def __str__(self):
        if self.passed:
            return f"{self.op}: passed, worst relative error {self.error:.1e}"
        return "\n".join(f"{self.op}: {a}" for a in self.failures)


def check_grads(forward, backward, /, *inputs, **constants):
    """Compare `backward` with central differences of `forward` at every entry of every positional argument.

    forward(*inputs, **constants) -> (outputs..., cache),   backward(*upstreams, cache) -> one gradient an input

    Inputs are float64 arrays, or dicts or tuples of them; None stands for an absent one. A gradient that is None, or
    missing from a dict of gradients, says zero. -> GradCheck. Raises Refused (a ValueError) where the check is blind.
    """
    return Checker().check(forward, backward, *inputs, **constants)


@dataclass(frozen=True)
class Checker:
    """How to check, and what to expect.

    directions: None compares every entry; a number compares the slopes along so many random directions a tensor.
    zero: names of arguments whose gradient is truly zero (and is then checked to be).
    single: names of arguments that cannot but have an axis of length one.
    op: what to call it; the forward's own name when empty.
    """

    eps: float = 1e-5
    tolerance: float = 1e-6
    directions: int | None = None
    seed: int = 0
    zero: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    op: str = ""

    def check(self, forward, backward, /, *inputs, **constants):
        """As `check_grads`."""
        op = self.op or forward.__name__.removesuffix("_forward")
        names = _argument_names(forward, len(inputs))
        leaves = list(_leaves(dict(zip(names, inputs, strict=True))))
        self._refuse_blind(op, leaves)
        xp = get_xp(*(x for _, x in leaves))
        point = [np.array(to_host(x)) for _, x in leaves]                # moved in place: the caller's stay as they are

        def run():
            here = [to_device(x, xp) for x in point]
            results = forward(*_rebuild(inputs, iter(here)), **constants)
            if not isinstance(results, tuple) or len(results) < 2:
                raise Refused(f"{op}: forward returned a {type(results).__name__}, expected (outputs..., cache)")
            return here, results[:-1], results[-1]

        rng = np.random.default_rng(self.seed)
        here, outputs, cache = run()
        ys = _on_host(outputs)
        if any(y.dtype != np.float64 for y in ys):
            raise Refused(f"{op}: forward made {', '.join(str(y.dtype) for y in ys)} out of float64")
        dys = [rng.standard_normal(y.shape) for y in ys]
        upstreams = [to_device(dy.copy(), xp) for dy in dys]
        try:
            _same("forward", leaves, here)
            gradients = backward(*_rebuild(outputs, iter(upstreams)), cache)
            _same("backward", leaves, here)
            _same("backward", [(f"upstream {i}", dy) for i, dy in enumerate(dys)], upstreams)
            gradients = _matched(names, inputs, gradients)
        except _Misfit as misfit:
            return GradCheck(op, (Argument(misfit.name, False, cause=misfit.cause),))

        # what rounding makes of a slope that is zero: some units in the last place of every output, over eps
        noise = 10 * 2.0**-52 / self.eps * sum(float(abs(dy * y).sum()) for dy, y in zip(dys, ys, strict=True))
        measured = []
        for (name, _), x, gradient in zip(leaves, point, gradients, strict=True):
            moves = None if self.directions is None else _unit_vectors(self.directions, x.shape, rng)
            slopes = self._slopes(lambda: _on_host(run()[1]), x, moves, dys)
            measured.append((name, x.shape, gradient, slopes, moves))
        lengths = {n for x in point + ys for n in (*x.shape, x.size // max(x.shape[-1:], default=1)) if n > 1}
        others = {name: slopes for name, _, _, slopes, _ in measured}
        return GradCheck(op, tuple(self._judge(op, *m, noise, lengths, others) for m in measured))

    def _refuse_blind(self, op, leaves):
        for name, x in leaves:
            if x.dtype != np.float64:
                raise Refused(f"{op}: {name} is {x.dtype}, expected float64: the difference of two nearly equal "
                              "numbers keeps only their last digits")
            if min(x.shape, default=2) < 2 and name not in self.single:
                raise Refused(f"{op}: {name} has shape {x.shape}, expected every axis 2 or longer: a softmax or a sum "
                              "over one place hides errors")
        if not leaves:
            raise Refused(f"{op}: there is no argument to differentiate")

    def _slopes(self, outputs, x, moves, dys):
        """Central differences of sum(dy * outputs) along each move of x, or at each entry of x (moves None)."""
        here = x.copy()
        slopes = []
        for move in _one_by_one(x.shape) if moves is None else moves:
            x[...] = here + self.eps * move
            above = outputs()
            x[...] = here - self.eps * move
            below = outputs()
            rise = sum((dy * (a - b)).sum() for dy, a, b in zip(dys, above, below, strict=True))
            slopes.append(rise / (2 * self.eps))
        x[...] = here
        return np.array(slopes).reshape(here.shape if moves is None else -1)

    def _judge(self, op, name, shape, gradient, slopes, moves, noise, lengths, others):
        biggest = abs(slopes).max()
        if biggest <= noise and name not in self.zero:
            raise Refused(f"{op}: {name} moves no output, every slope is zero within rounding: nothing can be compared "
                          "(where that is right, declare it: Checker(zero=...))")
        if biggest > noise and name in self.zero:
            return Argument(name, False, cause=f"declared zero, but it moves the outputs: slopes up to {biggest:.3g}")
        given = np.zeros(shape) if gradient is None else to_host(gradient)
        if given.shape != shape:
            return Argument(name, False, cause=f"has shape {given.shape}, expected {shape}"
                            + (_guess_shape(given, slopes, self.tolerance) if moves is None else ""))
        if given.dtype != np.float64:
            return Argument(name, False, cause=f"is {given.dtype}, expected float64")
        analytic = given if moves is None else np.array([(given * move).sum() for move in moves])
        distance = abs(analytic - slopes)
        index = tuple(int(i) for i in np.unravel_index(distance.argmax(), distance.shape))
        error = float(distance.max() / max(biggest, noise))
        passed = bool(distance.max() <= (noise if name in self.zero else self.tolerance * biggest))    # False for NaN
        if name in self.zero and passed:
            error = 0.0
        cause = "" if passed else (
            "it is None or left out, which says zero" if gradient is None else
            _guess(analytic, slopes, self.tolerance, lengths, {n: s for n, s in others.items() if n != name}))
        return Argument(name, passed, error, index, float(analytic[index]), float(slopes[index]), cause)


# ------------------------------------------------------------------------------------ arguments, and arrays inside them


class _Misfit(Exception):
    """What came back cannot be compared at all."""

    def __init__(self, name, cause):
        super().__init__(name, cause)
        self.name, self.cause = name, cause


def _argument_names(forward, n):
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(forward).parameters.values() if p.kind in kinds][:n]
    return names + [f"argument {i}" for i in range(len(names), n)]       # of *args


def _leaves(tree, name=""):
    """(name, array) for every array in nested dicts and tuples; None holds none."""
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from _leaves(part, f"{name}.{key}" if name else key)
    elif isinstance(tree, (tuple, list)):
        for i, part in enumerate(tree):
            yield from _leaves(part, f"{name}.{i}")
    elif tree is not None:
        yield name, tree


def _rebuild(tree, arrays):
    """The same dicts and tuples around the next arrays."""
    if isinstance(tree, dict):
        return {key: _rebuild(part, arrays) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(_rebuild(part, arrays) for part in tree)
    return None if tree is None else next(arrays)


def _on_host(tree):
    """Copies, for an output may be an input itself. NumPy hands out scalars where an array () is meant."""
    return [np.array(x if isinstance(x, np.generic) else to_host(x)) for _, x in _leaves(tree)]


def _same(who, leaves, arrays):
    """Raise _Misfit when the arrays are no longer what the leaves are."""
    for (name, x), array in zip(leaves, arrays, strict=True):
        if not np.array_equal(to_host(x), to_host(array), equal_nan=True):
            raise _Misfit(name, f"{who} changed its argument {name} in place; it must write into arrays of its own")


def _matched(names, inputs, gradients):
    """The gradient of every leaf of the inputs, None where it is left out.  _Misfit when their structures differ."""
    if len(inputs) == 1 and not isinstance(gradients, tuple):
        gradients = (gradients,)                         # a lone gradient needs no tuple around it
    expected = f"expected {len(inputs)}, at {', '.join(names)}"
    if not isinstance(gradients, tuple):
        raise _Misfit("inputs", f"backward returned a {type(gradients).__name__}, {expected}")
    if len(gradients) != len(inputs):
        raise _Misfit("inputs", f"backward returned {len(gradients)} gradients, {expected}")

    def match(name, tree, gradient):
        if isinstance(tree, dict):
            unknown = set(gradient or ()) - set(tree)
            if unknown:
                raise _Misfit(name, f"holds gradients of {', '.join(sorted(unknown))}, which are no inputs")
            for key, part in tree.items():
                yield from match(f"{name}.{key}", part, gradient and gradient.get(key))
        elif isinstance(tree, (tuple, list)):
            if gradient is not None and len(gradient) != len(tree):
                raise _Misfit(name, f"holds {len(gradient)} gradients, expected {len(tree)}")
            for i, part in enumerate(tree):
                yield from match(f"{name}.{i}", part, gradient and gradient[i])
        elif tree is not None:
            yield gradient
        elif gradient is not None:
            raise _Misfit(name, f"is given, but {name} is None")

    return [g for each in zip(names, inputs, gradients, strict=True) for g in match(*each)]


def _one_by_one(shape):
    """Moves of one entry each, in order."""
    for index in np.ndindex(shape):
        move = np.zeros(shape)
        move[index] = 1.0
        yield move


def _unit_vectors(n, shape, rng):
    """n random moves of length one, every entry by the same amount up or down: none can hide behind a small weight."""
    signs = rng.integers(0, 2, (n, *shape)) * 2.0 - 1
    return signs / math.prod(shape) ** 0.5


# ------------------------------------------------------------------------------------------- what may have gone wrong


def _guess_shape(given, slopes, tolerance):
    """What would make a gradient of the wrong shape right, if it is one of the usual slips."""
    def right(x):
        return x.shape == slopes.shape and abs(x - slopes).max() <= tolerance * abs(slopes).max()

    if given.ndim == 2 and right(given.T):
        return ": it is transposed"
    for axes in combinations(range(given.ndim), max(given.ndim - slopes.ndim, 0)):
        if axes and right(given.sum(axes)):
            return f": a sum over axis {', '.join(map(str, axes))} is missing"
        if axes and right(given.mean(axes)):
            return f": a mean over axis {', '.join(map(str, axes))} is missing"
    return ""


def _guess(a, n, tolerance, lengths, others):
    """A common slip that would turn the right values n into a, in words; "" when none fits."""
    size = abs(n).max()

    def equal(x, y):
        return bool(abs(x - y).max() <= tolerance * size)

    if not np.isfinite(a).all():
        return f"{np.count_nonzero(~np.isfinite(a))} of {a.size} entries are not finite"
    if not a.any():
        return "it is zero everywhere: was it computed, and added?"
    factor = float((a * n).sum() / (n * n).sum())
    if equal(a, factor * n):
        return "the sign is flipped" if abs(factor + 1) <= tolerance else (
            f"every entry is {factor:.7g} times what it should be{_guess_factor(factor, lengths)}")
    for i, j in combinations(range(n.ndim), 2):
        if n.shape[i] == n.shape[j] and equal(a, n.swapaxes(i, j)):
            return f"it is transposed (axes {i} and {j} are swapped)"
    for name, other in others.items():
        if other.shape == a.shape and equal(a, other):
            return f"it is the gradient of {name}: were two results swapped?"
    for axis in range(n.ndim):
        if equal(a, a.mean(axis, keepdims=True)):
            return f"it does not change along axis {axis}, and it should: was it summed or averaged over that axis?"
    wrong = abs(a - n) > tolerance * size
    if 2 * np.count_nonzero(wrong) <= wrong.size or not np.where(wrong, a, 0).any():
        where = [f"axis {axis} at {', '.join(map(str, hit))}" for axis in range(n.ndim)
                 for hit in [np.flatnonzero(wrong.any(tuple(i for i in range(n.ndim) if i != axis)))]
                 if len(hit) < n.shape[axis]]
        zero = ", where backward says zero" if not np.where(wrong, a, 0).any() else ""
        return (f"only {np.count_nonzero(wrong)} of {wrong.size} entries are wrong{zero}"
                + (f": {'; '.join(where)}" if where else ""))
    cosine = float((a * n).sum() / np.sqrt((a * a).sum() * (n * n).sum()))
    if cosine > 0.3:
        return f"the direction is nearly right (cosine {cosine:.2f}): is a term dropped, or one too many?"
    return "it bears no simple relation to what it should be: is a factor transposed, or an index off?"


def _guess_factor(factor, lengths):
    """Where a constant factor may come from, given the lengths of the axes (and numbers of rows) at hand."""
    def near(x):
        return abs(factor - x) <= 1e-5 * abs(x)

    for n in sorted(lengths):
        if near(1 / n):
            return f" (1/{n}): is it a mean where a sum belongs?"
        if near(n):
            return f": is it a sum over {n} where a mean belongs, or counted {n} times?"
        if near(n**0.5) or near(n**-0.5):
            return f" ({'' if factor > 1 else '1/'}sqrt({n})): is a scale missing, or applied twice?"
    return ""


# --------------------------------------------------------------------------------------------------------------- report


def report(cases, *, directions=None):
    """Check every case, print a line each and what is wrong below it; 0 when all passed, 1 when one did not.

    A case has `part` and `name` to be called by, and `check(directions)` -> GradCheck. What a case raises is a failure.
    """
    cases = list(cases)
    width = max(len(case.name) for case in cases)
    print(f"{'part':<8}{'case':<{width}}  {'arrays':>6}  {'worst error':>11}  {'seconds':>7}")
    failed, worst, start = 0, 0.0, time.perf_counter()
    for case in cases:
        began = time.perf_counter()
        try:
            check = case.check(directions=directions)
        except Exception as error:                       # a broken pair must not hide the others' verdicts
            print(f"{case.part:<8}{case.name:<{width}}  FAIL  {type(error).__name__}: {error}", flush=True)
            failed += 1
            continue
        seconds = time.perf_counter() - began
        print(f"{case.part:<8}{case.name:<{width}}  {len(check.arguments):>6}  {check.error:>11.1e}  {seconds:>7.2f}  "
              f"{'pass' if check.passed else 'FAIL'}", flush=True)
        if not check.passed:
            print(check, flush=True)
            failed += 1
        worst = max(worst, check.error)
    print(f"{len(cases) - failed} of {len(cases)} passed, worst relative error {worst:.1e}, "
          f"{time.perf_counter() - start:.0f} s")
    return 1 if failed else 0

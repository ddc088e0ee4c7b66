"""The gradient checker: is a hand-written backward the derivative of its forward?

    check = check_grads(ops.rmsnorm_forward, ops.rmsnorm_backward, x, g)             print(check), or use check.passed

The outputs are weighted with random upstream gradients dy: f(x) = sum(dy * forward(x)). Then backward(dy) must be the
slope of f at every entry of every argument, and (f(x + eps) - f(x - eps)) / (2 eps) measures this slope without any
calculus. The error is the largest difference, relative to the largest slope of the tensor.

A check may pass although the gradient is wrong. With dy = 1 the sum of a softmax is constant. With an axis of length
one, a softmax over it is constant, too, and a missing sum has no effect. An argument may change no output at all. Such
checks are refused, unless `Checker` is told to expect them. float32 is refused, too: the subtraction leaves two or
three digits.
"""

import inspect
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from tinylm2.backend import Array, get_xp, to_device, to_host

# The checker's own random numbers. Where the caller drew x from default_rng(0), dy must not be the same numbers again:
# x' dy would be symmetric, and a transposed gradient would pass.
_STREAM = 1970


class Refused(ValueError):
    """This check would pass with a wrong gradient, too; the message says why."""


@dataclass(frozen=True)
class Finding:
    """The result for one argument, or for one array of it if it is a dict or a tuple."""

    name: str
    passed: bool
    error: float = math.inf                              # worst difference / largest slope of this tensor
    index: tuple[int, ...] | None = None                 # of the worst entry; None if nothing was compared
    analytic: float = math.nan                           # backward's value there
    numeric: float = math.nan                            # the central difference there
    cause: str = ""                                      # a guess, or why no comparison was possible

    def __str__(self):
        if self.passed:
            return f"d{self.name} passed, error {self.error:.1e}"
        where = "" if self.index is None else (
            f"worst at {list(self.index)}, where backward says {self.analytic:.9g} and the central difference "
            f"{self.numeric:.9g} (error {self.error:.1e})")
        return "; ".join(filter(None, (f"d{self.name} is wrong", where, self.cause)))


@dataclass(frozen=True)
class GradCheck:
    """The result for one pair: a Finding per argument."""

    op: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return all(f.passed for f in self.findings)

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if not f.passed)

    @property
    def error(self) -> float:
        """The worst relative error of all arguments."""
        return max(f.error for f in self.findings)

    def __str__(self):
        if self.passed:
            return f"{self.op}: passed, worst relative error {self.error:.1e}"
        return "\n".join(f"{self.op}: {f}" for f in self.failures)


def check_grads(forward: Any, backward: Any, /, *inputs: Any, **constants: Any) -> GradCheck:
    """Compare `backward` with central differences of `forward` at every entry of every positional argument.

    forward(*inputs, **constants) -> (outputs..., cache),   backward(*upstreams, cache) -> one gradient per input

    Inputs are float64 arrays, or dicts or tuples of them; None stands for an absent one. A gradient that is None, or
    missing from a dict of gradients, means zero. -> GradCheck. Raises Refused (a ValueError) where the check is blind.
    """
    return Checker().check(forward, backward, *inputs, **constants)


@dataclass(frozen=True)
class Checker:
    """How to check, and what to expect.

    directions: None compares every entry; a number compares slopes along this many random directions per tensor, and
                single entries only of a tensor that fails.
    zero:       names of arguments whose gradient is truly zero (and is then checked to be).
    single:     names of arguments that may have an axis of length one.
    op:         what to call the pair; the forward's own name when empty.
    """

    eps: float = 1e-5
    tolerance: float = 1e-6
    directions: int | None = None
    seed: int = 0
    zero: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    op: str = ""

    def check(self, forward: Any, backward: Any, /, *inputs: Any, **constants: Any) -> GradCheck:
        """As `check_grads`."""
        point = _Point(self.op or forward.__name__.removesuffix("_forward"), forward, inputs, constants)
        self._refuse_blind(point)
        rng = np.random.default_rng([self.seed, _STREAM])
        dys, others = point.upstreams(rng), point.upstreams(rng)
        try:
            point.ask(backward, others)                  # finds a backward that keeps state
            gradients = point.by_name(point.ask(backward, dys))
        except Misfit as misfit:
            return GradCheck(point.op, (Finding(misfit.name, False, cause=misfit.cause),))

        findings = {}
        if self.directions is not None:
            findings = {name: self._look_along(point, name, a, dys, rng) for name, a in gradients.items()}
        doubtful = [name for name in gradients if name not in findings or not findings[name].passed]
        slopes = {name: self._slopes(point, name, _entries(point.arrays[name].shape), dys) for name in doubtful}
        for name in doubtful:
            findings[name] = self._look_at_entries(point, name, gradients[name], slopes, dys)
        return GradCheck(point.op, tuple(findings[name] for name in gradients))

    def _refuse_blind(self, point):
        for name in (*self.zero, *self.single):
            if name not in point.arrays:
                raise Refused(f"{point.op}: {name} is declared, but the arguments are {', '.join(point.arrays)}")
        for name, x in point.arrays.items():
            if x.dtype != np.float64:
                raise Refused(f"{point.op}: {name} is {x.dtype}, expected float64: the difference of two nearly equal "
                              "numbers keeps only their last digits")
            if min(x.shape, default=2) < 2 and name not in self.single:
                raise Refused(f"{point.op}: {name} has shape {x.shape}, expected every axis 2 or longer: a softmax or "
                              "a sum over a single place hides errors")

    def _look_along(self, point, name, a, dys, rng):
        """The quick check: slopes along random moves, each of which changes all entries."""
        x = point.arrays[name]
        if cause := _misshapen(a, x):
            return Finding(name, False, cause=cause)
        moves = _directions(self.directions, x.shape, rng)
        return self._compare(point, name, np.array([(a * u).sum() for u in moves]),
                             self._slopes(point, name, moves, dys), dys)

    def _look_at_entries(self, point, name, a, slopes, dys):
        """The check of every entry, with a guess at what is wrong. slopes: those of every argument that is in doubt."""
        n = slopes[name].reshape(point.arrays[name].shape)
        if cause := _misshapen(a, n):
            return Finding(name, False, cause=cause + guess_shape(a, n, self.tolerance))
        finding = self._compare(point, name, a, n, dys)
        if finding.passed or finding.cause:
            return finding
        others = {other: m.reshape(n.shape) for other, m in slopes.items() if other != name
                  and point.arrays[other].shape == n.shape}
        return replace(finding, cause=guess(a, n, self.tolerance, point.lengths(), others))

    def _slopes(self, point, name, moves, dys):
        """Central differences of sum(dy * outputs) along each move of one array."""
        return central_differences(lambda: point.weighed(dys), point.arrays[name], moves, eps=self.eps)

    def _compare(self, point, name, analytic, slopes, dys):
        """A Finding without a guess.  Refused where all slopes are within rounding and were not declared zero."""
        # the rounding error of a slope: some units in the last place of every output, divided by eps
        noise = 10 * 2.0**-52 / self.eps * sum(float(abs(dy * y).sum()) for dy, y in zip(dys, point.ys, strict=True))
        scale, cause = abs(slopes).max(), ""
        if name in self.zero:
            if scale > noise:
                return Finding(name, False, cause=f"it was declared zero, but {name} moves the outputs")
            scale = noise / self.tolerance or 1.0        # a zero passes if it is as small as the rounding error
            cause = f"it must be zero, for {name} moves no output"
        elif scale <= noise:
            raise Refused(f"{point.op}: {name} moves no output, its slopes are zero within rounding, and there is "
                          "nothing to compare (where that is right, declare it: Checker(zero=...))")
        error, index = worst_entry(analytic, slopes, scale)
        passed = error <= self.tolerance
        return Finding(name, passed, error, index, float(analytic[index]), float(slopes[index]),
                       "" if passed else cause)


def central_differences(f: Any, x: Array, moves: Any, *, eps: float = 1e-5) -> Array:
    """The slope of the sum of f() along each move of x.  -> one slope per move

    slope = sum(f at x + eps move  -  f at x - eps move) / (2 eps)

    f has no arguments and reads x, which is changed in place and restored. Entries are subtracted before the sum:
    the difference of two nearly equal sums would lose more digits.
    """
    here, slopes = x.copy(), []
    for move in moves:
        x[...] = here + eps * move
        above = f()
        x[...] = here - eps * move
        below = f()
        slopes.append((above - below).sum() / (2 * eps))
    x[...] = here
    return np.array(slopes)


def worst_entry(analytic: Array, slopes: Array, scale: float | None = None) -> tuple[float, Any]:
    """The largest difference, relative to a scale, and its index.  -> error, index

    error = max |analytic - slopes| / scale             scale: the largest |slope|, unless another one is given

    A NaN anywhere makes the error infinite: compared with a tolerance, it would be neither above nor below.
    """
    distance = abs(analytic - slopes)
    index = np.unravel_index(distance.argmax(), distance.shape)          # of a NaN, if there is one
    error = float(distance[index] / (abs(slopes).max() if scale is None else scale))
    return math.inf if math.isnan(error) else error, tuple(int(i) for i in index)


def _entries(shape):
    """Moves of one entry each, in order."""
    for index in np.ndindex(shape):
        move = np.zeros(shape)
        move[index] = 1.0
        yield move


def _directions(n, shape, rng):
    """n random moves of length one. Every entry changes by the same amount, up or down."""
    return (rng.integers(0, 2, (n, *shape)) * 2.0 - 1) / math.prod(shape) ** 0.5


# -------------------------------------------------------------------------------- arguments, and the arrays inside them


class Misfit(Exception):
    """The gradients cannot be compared at all."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(name, cause)
        self.name, self.cause = name, cause


class _Point:
    """A forward and its arguments. `arrays`: copies of them on the host by name, changed in place by the check."""

    def __init__(self, op, forward, inputs, constants):
        self.op, self.forward, self.inputs, self.constants = op, forward, inputs, constants
        self.names = _argument_names(forward, len(inputs))
        self.given = dict(leaves(dict(zip(self.names, inputs, strict=True))))
        if not self.given:
            raise Refused(f"{op}: there is no argument to differentiate")
        self.xp = get_xp(*self.given.values())
        self.arrays = {name: np.array(to_host(x)) for name, x in self.given.items()}

    @cached_property
    def ys(self):
        """The outputs for the unchanged arguments."""
        return self.outputs()

    def upstreams(self, rng):
        return [rng.standard_normal(y.shape) for y in self.ys]

    def lengths(self):
        """The lengths of all axes, and the numbers of rows: a constant factor may be one of them."""
        return {n for x in (*self.arrays.values(), *self.ys) if x.ndim for n in (*x.shape, x[..., 0].size) if n > 1}

    def run(self):
        """(the input arrays, the outputs of the forward, the cache)."""
        here = {name: to_device(x, self.xp) for name, x in self.arrays.items()}
        results = self.forward(*_rebuild(self.inputs, iter(here.values())), **self.constants)
        if not isinstance(results, tuple) or len(results) < 2:
            raise Refused(f"{self.op}: forward returned a {type(results).__name__}, expected (outputs..., cache)")
        return here, results[:-1], results[-1]

    def outputs(self):
        """Copies on the host: an output may be an input itself."""
        ys = [np.array(_host(y)) for _, y in leaves(self.run()[1])]
        if any(y.dtype != np.float64 for y in ys):
            raise Refused(f"{self.op}: forward made {', '.join(str(y.dtype) for y in ys)} out of float64")
        if not all(np.isfinite(y).all() for y in ys):
            raise Refused(f"{self.op}: forward made numbers that are not finite")
        return ys

    def weighed(self, dys):
        """All entries of the outputs, times dys, in one vector."""
        return np.concatenate([(dy * y).reshape(-1) for dy, y in zip(dys, self.outputs(), strict=True)])

    def ask(self, backward, dys):
        """The gradients for these upstreams.  Misfit where forward or backward changed an argument."""
        here, outputs, cache = self.run()
        _unchanged("forward", self.given, here)
        upstreams = {f"dy{i}": to_device(dy.copy(), self.xp) for i, dy in enumerate(dys)}
        gradients = backward(*_rebuild(outputs, iter(upstreams.values())), cache)
        _unchanged("backward", self.given, here)
        _unchanged("backward", dict(zip(upstreams, dys, strict=True)), upstreams)
        return gradients

    def by_name(self, gradients):
        """Name -> gradient on the host, zeros if it is missing.  Misfit where they do not match the arguments."""
        if len(self.inputs) == 1 and not isinstance(gradients, tuple):
            gradients = (gradients,)                     # a single gradient needs no tuple
        if not isinstance(gradients, tuple) or len(gradients) != len(self.inputs):
            found = f"{len(gradients)} gradients" if isinstance(gradients, tuple) else f"a {type(gradients).__name__}"
            raise Misfit(", d".join(self.names), f"backward returned {found}, expected a tuple of {len(self.inputs)}")
        in_order = [g for each in zip(self.names, self.inputs, gradients, strict=True) for g in matched(*each)]
        by_name = {}
        for (name, x), g in zip(self.arrays.items(), in_order, strict=True):
            try:
                by_name[name] = np.zeros(x.shape) if g is None else _host(g)
            except TypeError as error:
                raise Misfit(name, str(error)) from None
        return by_name


def _argument_names(forward, n):
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(forward).parameters.values() if p.kind in kinds][:n]
    return names + [f"argument {i}" for i in range(len(names), n)]       # where it takes *args


def leaves(tree: Any, name: str = "") -> Iterator:
    """(name, array) for every array in nested dicts and tuples; None holds none."""
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from leaves(part, f"{name}.{key}" if name else key)
    elif isinstance(tree, (tuple, list)):
        for i, part in enumerate(tree):
            yield from leaves(part, f"{name}.{i}")
    elif tree is not None:
        yield name, tree


def _rebuild(tree, arrays) -> Any:
    """The same dicts and tuples around the next arrays."""
    if isinstance(tree, dict):
        return {key: _rebuild(part, arrays) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(_rebuild(part, arrays) for part in tree)
    return None if tree is None else next(arrays)


def matched(name: str, tree: Any, gradient: Any) -> Iterator:
    """The gradient of each array of the tree in order, None where it is left out."""
    if isinstance(tree, dict):
        given = {} if gradient is None else gradient
        if not isinstance(given, dict):
            raise Misfit(name, f"it is a {type(given).__name__}, expected a dict with the keys of {name}")
        if unknown := set(given) - set(tree):
            raise Misfit(name, f"it names {', '.join(sorted(unknown))}, which {name} does not")
        for key, part in tree.items():
            yield from matched(f"{name}.{key}", part, given.get(key))
    elif isinstance(tree, (tuple, list)):
        given = (None,) * len(tree) if gradient is None else gradient
        if not isinstance(given, (tuple, list)):
            raise Misfit(name, f"it is a {type(given).__name__}, expected a tuple of {len(tree)} gradients")
        if len(given) != len(tree):
            raise Misfit(name, f"it holds {len(given)} gradients, expected {len(tree)}")
        for i, part in enumerate(tree):
            yield from matched(f"{name}.{i}", part, given[i])
    elif tree is not None:
        yield gradient
    elif gradient is not None:
        raise Misfit(name, f"it is given, but {name} is None")


def _host(x):
    """An array on the host. A NumPy scalar becomes an array of shape ()."""
    return np.asarray(x) if isinstance(x, np.generic) else to_host(x)


def _unchanged(who, before, after):
    for name, x in before.items():
        if not np.array_equal(to_host(x), to_host(after[name]), equal_nan=True):
            raise Misfit(name, f"{who} changed {name} in place, where it must write into arrays of its own")


def _misshapen(gradient, x):
    """Why this cannot be a gradient of x, as text, or ""."""
    if gradient.shape != x.shape:
        return f"its shape is {gradient.shape}, expected {x.shape}"
    return "" if gradient.dtype == x.dtype else f"it is {gradient.dtype}, expected {x.dtype}"


# --------------------------------------------------------------------------------------------- what may have gone wrong


def guess_shape(a: Array, n: Array, tolerance: float) -> str:
    """A common mistake that explains a gradient of another shape, or "".

    With more than six axes nothing is tried: there would be too many choices of axes to sum over.
    """
    if a.ndim > max(n.ndim, 6):
        return ""

    def right(x):
        return x.shape == n.shape and abs(x - n).max() <= tolerance * abs(n).max()

    if right(a.T):
        return ": it is transposed" if a.ndim > 1 else ""
    if a.size == n.size and right(a.reshape(n.shape)):
        return ": the values are right, only the shape is not"
    for axes in combinations(range(a.ndim), max(a.ndim - n.ndim, 0)):
        for how in (np.sum, np.mean):
            if axes and right(how(a, axes)):
                return f": a {how.__name__} over axis {' and '.join(map(str, axes))} is missing"
    return ""


def guess(a: Array, n: Array, tolerance: float, lengths: Any, others: Any) -> str:
    """A guess at what is wrong with the gradient a, given the slopes n: a common mistake, or a symptom, as text.

    lengths: of the axes. others: name -> slopes of other arguments with n's shape.
    """
    size = abs(n).max()

    def equal(x, y):
        return bool(abs(x - y).max() <= tolerance * size)

    if not np.isfinite(a).all():
        return f"{np.count_nonzero(~np.isfinite(a))} of {a.size} entries are not finite"
    if not a.any():
        return "it is zero everywhere, or left out: was it computed, and added?"
    factor = float((a * n).sum() / (n * n).sum())
    if equal(a, factor * n):
        return _guess_factor(factor, lengths, tolerance)
    for i, j in combinations(range(n.ndim), 2):
        if n.shape[i] == n.shape[j] and equal(a, n.swapaxes(i, j)):
            return f"it is transposed: axes {i} and {j} are swapped"
    for name, other in others.items():
        if equal(a, other):
            return f"it is the gradient of {name}: were two results swapped?"
    for axis in range(n.ndim):
        if equal(a, a.mean(axis, keepdims=True)):
            return f"it does not change along axis {axis}, and it should: was it summed or averaged over that axis?"
    wrong = abs(a - n) > tolerance * size
    absent = not a[wrong].any()
    if absent or 2 * wrong.sum() <= wrong.size:
        return (f"{wrong.sum()} of {wrong.size} entries are wrong{_slice_of(wrong)}"
                + (", and zero there: is a term dropped?" if absent else ", the others are right"))
    cosine = float((a * n).sum() / ((a * a).sum() * (n * n).sum()) ** 0.5)
    if cosine > 0.3:
        return f"it points roughly the right way (cosine {cosine:.2f}): is a term dropped, or one too many?"
    return f"it points another way (cosine {cosine:.2f}): is a factor transposed, a sign flipped, an index off?"


def _guess_factor(factor, lengths, tolerance):
    """In words, where a constant factor may come from, given the lengths of axes and the numbers of rows at hand."""
    def near(x):
        return abs(factor - x) <= 10 * tolerance * abs(x)

    if near(-1):
        return "the sign is flipped"
    text = f"every entry is {factor:.7g} times what it should be"
    for n in sorted(lengths):
        if near(1 / n):
            return f"{text} (1/{n}): is it a mean where a sum belongs, or a share dropped?"
        if near(n):
            return f"{text}: is it a sum where a mean belongs, or added {n} times?"
        if near(n**0.5) or near(n**-0.5):
            return f"{text} ({'' if factor > 1 else '1/'}sqrt({n})): is a scale missing, or applied twice?"
    return text


def _slice_of(wrong):
    """Where along which axes the wrong entries lie, unless they lie everywhere."""
    places = []
    for axis, length in enumerate(wrong.shape):
        hit = np.flatnonzero(wrong.any(tuple(i for i in range(wrong.ndim) if i != axis)))
        if len(hit) < length:
            places.append(f"{_runs(hit)} of axis {axis}")
    return f", all at {' and '.join(places)}" if places else ""


def _runs(numbers):
    """Whole numbers in words, three and more in a row as "2 to 5"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


# --------------------------------------------------------------------------------------------------------------- report


def report(cases: Any, *, directions: Any = None, seed: int = 0) -> int:
    """Check every case, print a line each and what is wrong below it. -> 0 when all passed, else 1: the exit status.

    A case has a `part` and a `name`, and `check(directions, seed)` -> GradCheck; what it raises is a failure.
    """
    cases, start = list(cases), time.perf_counter()
    width = max(len(case.name) for case in cases)
    print(f"{'part':<7} {'case':<{width}} {'arrays':>6} {'worst error':>12}")
    failed, worst = 0, 0.0
    for case in cases:
        print(f"{case.part:<7} {case.name:<{width}} ", end="", flush=True)
        try:
            check = case.check(directions, seed)
            arrays, error, passed, why = len(check.findings), check.error, check.passed, check
        except Exception as raised:                      # a broken pair must not hide the others' verdicts
            arrays, error, passed, why = "", math.inf, False, f"{case.name}: {type(raised).__name__}: {raised}"
        print(f"{arrays:>6} {error:>12.1e}  {'pass' if passed else 'FAIL'}", flush=True)
        if not passed:
            print(why)
        failed += not passed
        worst = max(worst, error)
    print(f"{len(cases) - failed} of {len(cases)} pass, worst relative error {worst:.1e}, "
          f"{time.perf_counter() - start:.0f} s")
    return 1 if failed else 0

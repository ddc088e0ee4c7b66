"""Compare what a solution returned with what is right, and say in words what is wrong with it.

The work done here is bounded by the size of what is right, not by the size of what came back.
"""

from functools import cache

import numpy as np

from tinylm2 import gradcheck
from tutorials.assignments import handout
from tutorials.assignments.protocol import Unsupported

TOLERANCE = {"float64": 1e-10, "float32": 5e-4}           # of the largest entry; a dtype of neither kind must be equal
QUOTED = 200                                             # characters of a student's own text that a report may show


def array(what, a, n, *, letters=None, questions=None, others=None):
    """What is wrong with the array `a`, which should be `n`, in one line; "" when nothing is.

    what: how it is called, "dk".  letters: the lengths by their letters, to name a constant factor by.  questions:
    what to ask where a factor was found, by its name ("sqrt(K)").  others: right results that it may be mistaken for.
    """
    a, letters = np.asarray(a) if isinstance(a, int | float | np.generic) else a, letters or {}
    if not isinstance(a, np.ndarray):
        return f"{what} is {kind(a)}, expected an array {n.shape}"
    if a.shape != n.shape:
        return f"{what} has shape {a.shape}, expected {n.shape}{_named(n.shape, letters)}{_guess_shape(a, n)}"
    if a.dtype != n.dtype:
        return f"{what} is {a.dtype}, expected {n.dtype}, the dtype that came in"
    if same(a, n):
        return ""
    size = max(abs(n).max(), np.finfo(float).tiny)
    away = np.where(np.isfinite(a), abs(a - n), np.inf)
    worst = tuple(int(i) for i in np.unravel_index(away.argmax(), away.shape))
    where = f"; at {list(worst)} it says {a[worst]:.6g}, expected {n[worst]:.6g}" if n.ndim else \
        f"; it says {float(a):.6g}, expected {float(n):.6g}"
    if not n.any():
        return f"{what} is wrong: it must be zero everywhere{where}"
    return f"{what} is wrong{_cause(a, n, size, letters, questions or {}, others or {})}{where}"


def _guess_shape(a, n):
    """The usual mistake that would make an array of another shape right, or ""; in time that does not grow with what
    came."""
    if not a.size or not n.size or a.size > 1000 * n.size or a.dtype.kind not in "fiu":
        return ""
    return gradcheck.guess_shape(a, n, TOLERANCE["float64"])


def same(a, n):
    """Equal as far as rounding allows; NaN is equal to nothing."""
    tolerance = TOLERANCE.get(n.dtype.name, 0)
    return a.shape == n.shape and (not n.size or bool(np.isfinite(a).all() and abs(a - n).max() <= tolerance * max(
        abs(n).max(), np.finfo(float).tiny)))


def _cause(a, n, size, letters, questions, others):
    """What stands between a and n: a constant factor by its name, or what the checker would guess."""
    if not n.ndim and np.isfinite(a) and abs(a + n) > 1e-6 * size:
        return ""                                        # between two numbers there is always a factor
    if np.isfinite(a).all() and a.any():
        factor = float((a * n).sum() / (n * n).sum())
        name = name_of(factor, letters) if abs(a - factor * n).max() <= 1e-6 * size else ""
        if name:
            ask = questions.get(name) or _question(name)
            return f" by the factor {factor:.4g} in every entry, which is {name}: {ask}"
    lengths = {length for x in (n, *others.values()) if x.ndim for length in (*x.shape, x[..., 0].size) if length > 1}
    fitting = {name: x for name, x in others.items() if x.shape == n.shape}
    return ": " + gradcheck.guess(a, n, 1e-6, lengths, fitting)


def name_of(factor, letters):
    """A factor in letters: "sqrt(K)", "1/B", or ""."""
    forms = {"{}": lambda n: n, "1/{}": lambda n: 1 / n, "sqrt({})": lambda n: n**0.5, "1/sqrt({})": lambda n: n**-0.5}
    for form, value in forms.items():
        for letter, n in letters.items():
            if n > 1 and abs(factor - value(n)) <= 1e-6 * value(n):
                return form.format(letter)
    return ""


def _question(name):
    if "sqrt" in name:
        return "is a scale missing, or applied twice?"
    if name.startswith("1/"):
        return f"is it a mean over {name[2:]} where a sum belongs, or the share of one of {name[2:]}?"
    return f"was it added {name} times, or is it a sum where a mean belongs?"


def _named(shape, letters):
    """The letters of a shape where each length has just one: " (B, T, D)"."""
    by_length = {}
    for letter, n in letters.items():
        by_length.setdefault(n, []).append(letter)
    names = [by_length.get(n, []) for n in shape]
    return f" ({', '.join(name[0] for name in names)})" if names and all(len(name) == 1 for name in names) else ""


def kind(a):
    return a.kind if isinstance(a, Unsupported) else "None" if a is None else f"a {type(a).__name__}"


# ----------------------------------------------------------------------------------------------- results by their names


def outputs(names, found, expected, **how):
    """What is wrong with a forward's outputs, a line each."""
    for name, a, n in zip(names, found, expected, strict=False):
        leaves_n = dict(gradcheck.leaves(n, name))
        try:
            leaves_a = dict(gradcheck.leaves(a, name))
        except AttributeError:
            leaves_a = {}
        for leaf, right in leaves_n.items():
            if text := array(leaf, leaves_a.get(leaf), right, **how):
                yield text
    if len(found) != len(expected):
        yield f"it returned {len(found)} outputs before the cache, expected {len(expected)}: {', '.join(names)}"


def gradients(names, inputs, found, expected, **how):
    """What is wrong with a backward's gradients, a line each. None, or a name left out of a dict, says zero."""
    if len(inputs) == 1:                                 # a lone gradient needs no tuple around it
        found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    listed = ", ".join(f"d{name}" for name in names)
    if not isinstance(found, tuple) or len(found) != len(inputs):
        count = f"a tuple of {len(found)}" if isinstance(found, tuple) else kind(found)
        yield f"it returned {count}, expected a tuple of {len(inputs)}: {listed}"
        return
    truth = dict(named(names, inputs, expected))
    for name, tree, gradient in zip(names, inputs, found, strict=True):
        try:
            mine = dict(named([name], [tree], [gradient]))
        except (gradcheck.Misfit, AttributeError, TypeError) as error:
            yield f"d{name} has not the structure of {name}: {getattr(error, 'cause', '') or kind(gradient)}"
            continue
        for leaf, a in mine.items():
            n = truth[leaf]
            if n is None:                                # nothing reaches this argument
                if a is not None and np.any(a):
                    yield f"d{leaf} is not zero, but {leaf} moves nothing here"
                continue
            others = {f"d{other}": x for other, x in truth.items() if other != leaf and x is not None}
            a = np.zeros_like(n) if a is None else a
            if text := array(f"d{leaf}", a, n, others=others, **how):
                yield text


def named(names, inputs, values):
    """(name, gradient or None) for every array of the inputs."""
    for name, tree, value in zip(names, inputs, values, strict=True):
        leaves = [leaf for leaf, _ in gradcheck.leaves(tree, name)]
        yield from zip(leaves, gradcheck.matched(name, tree, value), strict=True)


def left_alone(names, before, after):
    """Arguments that are no longer what they were, by name."""
    for name, x, y in zip(names, before, after, strict=True):
        then, now = dict(gradcheck.leaves(x, name)), dict(gradcheck.leaves(y, name))
        yield from (leaf for leaf, array in then.items() if isinstance(array, np.ndarray)
                    and not np.array_equal(array, now[leaf], equal_nan=True))


# ----------------------------------------------------------------------------------------------- a student's own words


def printable(text, length):
    """One line of at most so many printable characters."""
    text = "".join(c if c.isprintable() else "?" for c in text[:length + 1])
    return text if len(text) <= length else f"{text[:length - 3]}..."


def quoted(text):
    """What a student's code said, as it may stand in a report: a line of 200 printable characters between quotation
    marks. A text that holds a line of the library is left out."""
    squeezed = "".join(text.split())
    if any(line in squeezed for line in _lines_of_the_library()):
        return "(a text that holds a line of the library)"
    return '"' + printable(text, QUOTED).replace('"', "'") + '"'


@cache
def _lines_of_the_library():
    """Every longer line of its code, without spaces and comments."""
    lines = ("".join(line.partition("#")[0].split()) for path in handout.LIBRARY.rglob("*.py")
             for line in path.read_text(encoding="utf-8").splitlines())
    return frozenset(line for line in lines if len(line) > 15)

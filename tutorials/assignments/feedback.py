"""Compare what a solution returned with what is right, and say in words what is wrong with it.

The work done here is bounded by the size of what is right, not by the size of what came back.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations

import numpy as np

from tinylm2 import gradcheck
from tutorials.assignments import handout
from tutorials.assignments.protocol import Unsupported

TOLERANCE = {"float64": 1e-10, "float32": 5e-4}           # of the largest entry; a dtype of neither kind must be equal
GUESS = re.compile(r": (is a term dropped|was it summed or averaged over that axis|was it computed, and added"
                   r"|were two results swapped)\?")
QUOTED = 200                                             # characters of a student's own text that a report may show


@dataclass(frozen=True)
class How:
    """What helps to say what is wrong.

    letters: the lengths by their letters, and other numbers by their names, to name a constant factor by.  questions:
    what to ask where a factor was found, by its name ("sqrt(K)").  again: {name: (array, what it should be)} of a
    second draw, and `letters_again` its letters: a factor has a name where both draws say so.
    """

    letters: dict = field(default_factory=dict)
    questions: dict = field(default_factory=dict)
    again: dict = field(default_factory=dict)
    letters_again: dict = field(default_factory=dict)


def array(what, a, n, how=None, *, others=None):
    """What is wrong with the array `a`, which should be `n`, in one line; "" when nothing is.

    what: how it is called, "dk".  others: right results that it may be mistaken for.
    """
    how = how or How()
    a = np.asarray(a) if isinstance(a, int | float | np.generic) else a
    if not isinstance(a, np.ndarray):
        return f"{what} is {kind(a)}, expected an array {n.shape}"
    if a.shape != n.shape:
        return f"{what} has shape {a.shape}, expected {n.shape}{_named(n.shape, how.letters)}{_guess_shape(a, n)}"
    if a.dtype != n.dtype:
        return f"{what} is {a.dtype}, expected {n.dtype}, the dtype that came in"
    if same(a, n):
        return ""
    size = max(abs(n).max(), np.finfo(float).tiny)
    away = np.where(np.isfinite(a), abs(a - n), np.inf)
    worst = tuple(int(i) for i in np.unravel_index(away.argmax(), away.shape))
    axes = _named(n.shape, how.letters).replace(" (", " of (")
    where = f"; at {list(worst)}{axes} it says {a[worst]:.6g}, expected {n[worst]:.6g}" if n.ndim else \
        f"; it says {float(a):.6g}, expected {float(n):.6g}"
    if not n.any():
        return f"{what} is wrong: it must be zero everywhere{where}"
    return f"{what} is wrong{_cause(what, a, n, size, how, others or {})}{where}"


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


def _cause(what, a, n, size, how, others):
    """What stands between a and n: a constant factor by its name, a usual mistake, or how much of it is wrong."""
    factor = factor_of(a, n)
    if factor is not None:
        names = names_of(factor, how.letters)
        if what in how.again:
            second = factor_of(*how.again[what])
            names = [name for name in names if second is not None and name in names_of(second, how.letters_again)]
        elif not n.ndim:
            names = []
        if names:
            ask = how.questions.get(names[0]) or _question(names[0])
            return f" by the factor {factor:.4g} in every entry, which is {names[0]}{ask and ': '}{ask}"
    if not n.ndim and np.isfinite(a) and abs(a + n) > 1e-6 * size:
        return ""                                        # between two numbers there is always a factor
    fitting = {name: x for name, x in others.items() if x.shape == n.shape}
    text = gradcheck.guess(a, n, 1e-6, (), fitting)
    if "cosine" in text:                                 # says nothing: whatever is half right points the right way
        wrong = np.count_nonzero(abs(a - n) > 1e-6 * size)
        return f" in {f'all {n.size}' if wrong == n.size else f'{wrong} of its {n.size}'} entries"
    return f": {GUESS.sub('', text)}"                     # what is seen stands before it


def factor_of(a, n):
    """The number that a is n times, or None."""
    if getattr(a, "shape", None) != n.shape or not np.isfinite(a).all() or not a.any() or not n.any():
        return None
    factor = float((a * n).sum() / (n * n).sum())
    return factor if abs(a - factor * n).max() <= 1e-6 * abs(n).max() * max(1.0, abs(factor)) else None


def names_of(factor, letters):
    """A factor in letters, the shortest name first: "sqrt(K)", "1/B", "1/(B T)"."""
    products = {name: float(np.prod([letters[one] for one in some])) for n in (1, 2, 3)
                for some in combinations(letters, n) for name in [" ".join(some)]}
    products |= {"ln(2)": float(np.log(2))}
    found: list[str] = []
    for name, n in products.items():
        one = name if re.fullmatch(r"\w+|ln\(2\)", name) else f"({name})"
        forms = {name: n, f"1/{one}": 1 / n, f"{one}^2": n * n, f"1/{one}^2": 1 / (n * n), f"sqrt({name})": n**0.5,
                 f"1/sqrt({name})": n**-0.5} if n > 0 else {}
        found += [form for form, value in forms.items() if n != 1 and abs(factor - value) <= 1e-6 * value]
    return sorted(found, key=lambda form: ("sqrt" in form) + ("^" in form))


def name_of(factor, letters):
    """The shortest of these names, or ""."""
    return next(iter(names_of(factor, letters)), "")


def _question(name):
    if "sqrt" in name:
        return "is a scale missing, or applied twice?"
    if not re.fullmatch(r"(1/)?\(?[A-Z]( [A-Z])*\)?", name):
        return ""                                        # no length
    if name.startswith("1/"):
        return f"is it a mean over {name[2:]} where a sum belongs, or the share of one of {name[2:]}?"
    return f"was it added {name} times, or is it a sum where a mean belongs?"


def _named(shape, letters):
    """The letters of a shape where each length has just one: " (B, T, D)"."""
    by_length = {}
    for letter, n in letters.items():
        if len(letter) > 1:
            continue
        by_length.setdefault(n, []).append(letter)
    names = [by_length.get(n, []) for n in shape]
    return f" ({', '.join(name[0] for name in names)})" if names and all(len(name) == 1 for name in names) else ""


def kind(a):
    return a.kind if isinstance(a, Unsupported) else "None" if a is None else f"a {type(a).__name__}"


# ----------------------------------------------------------------------------------------------- results by their names


def outputs(names, found, expected, how=None):
    """What is wrong with a forward's outputs, a line each."""
    for name, a, n in zip(names, found, expected, strict=False):
        leaves_n = dict(gradcheck.leaves(n, name))
        try:
            leaves_a = dict(gradcheck.leaves(a, name))
        except AttributeError:
            leaves_a = {}
        for leaf, right in leaves_n.items():
            if text := array(leaf, leaves_a.get(leaf), right, how):
                yield text
    if len(found) != len(expected):
        yield f"it returned {len(found)} outputs before the cache, expected {len(expected)}: {', '.join(names)}"


def gradients(names, inputs, found, expected, how=None):
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
                    yield f"{called(leaf)} is not zero, but {leaf} moves nothing here"
                continue
            others = {called(other): x for other, x in truth.items() if other != leaf and x is not None}
            a = np.zeros_like(n) if a is None else a
            if text := array(called(leaf), a, n, how, others=others):
                yield text


def called(leaf):
    """What the gradient of an argument, or of an array in it, is called: dW, dstates.0.0, grads["embed.W"]."""
    return f'grads["{leaf.removeprefix("params.")}"]' if leaf.startswith("params.") else f"d{leaf}"


def by_name(names, inputs, found, right, strict=True):
    """({gradient: array} of what came back, and of what is right), or None where they cannot be compared.

    strict: all of them, with their shapes and dtypes.
    """
    if len(inputs) == 1:
        found, right = (x if isinstance(x, tuple) else (x,) for x in (found, right))
    try:
        trees = dict(named(names, inputs, found)), dict(named(names, inputs, right))
    except (gradcheck.Misfit, AttributeError, TypeError, ValueError):
        return None
    mine, truth = ({called(leaf): x for leaf, x in tree.items()} for tree in trees)
    truth = {name: x for name, x in truth.items() if x is not None}
    mine = {name: np.zeros_like(x) if mine[name] is None else mine[name] for name, x in truth.items()}
    fit = all(isinstance(mine[name], np.ndarray) and mine[name].shape == x.shape and mine[name].dtype == x.dtype
              for name, x in truth.items())
    return (mine, truth) if fit or not strict else None


def explanations(texts):
    """A line for each mistake that `trying.explain` found."""
    for text in dict.fromkeys(texts.values()):
        names = [name for name, other in texts.items() if other == text]
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"{listed} {'is' if len(names) == 1 else 'are'} what comes out where {text}"


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

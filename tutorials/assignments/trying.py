"""Find the one mistake that would have led to what a student returned, by making it.

`plain.py` solves every assignment in single steps. Here each step is changed in one place: a name stands for another,
a term, a factor or a step is left out, a sign is flipped, a sum runs over another axis, a comparison is off by one.
A change whose result is what the student returned, to the last digits and for random arguments, explains it: what is
then said is what was computed, and no guess. It says nothing about how the student's lines look.
"""

import ast
import copy
import re
import time
from functools import cache, partial

import numpy as np

from tutorials.assignments import changes, handout, plain

SECONDS = 3.0                                            # of processor time that one search may take
CLOSE = 1e-9                                             # relative to the largest entry
TREE = 8                                                 # arrays: where more are returned, a change must give them all
ENOUGH = 6                                               # changes that give all of it: others are not looked for
SOURCE = ast.parse((handout.HERE / "plain.py").read_text(encoding="utf-8"))
# Names of plain.py for what a sheet or a lesson calls otherwise, by the beginning of the function's name.
CALLED = {
    "rope": {"c": "cos", "s": "sin", "even": "x_2i", "odd": "x_2i+1"},
    "attend": {"kk": "k", "vv": "v", "dkk": "dk", "dvv": "dv", "total": "sum(dP P)", "e": "exp(S)",
               "own": "the query's own place", "hidden": "the mask", "padded": "the padding", "place": "the places"},
    "self": {"dkeys": "dk", "dvalues": "dv"},
    "cross_entropy": {"e": "exp(z)", "total": "sum(exp(z))", "picked": "log p of the targets", "dz": "p - onehot"},
    "write": {"asked": "address Wq", "dasked": "the gradient at address Wq", "turned": "rope's cache"},
    "segment": {"before": "dstates", "dembed": "dE", "dhead": "the head's gradient"},
    "story": {"inner": "the segment's cache"},
    "central": {"above": "f above", "below": "f below"},
    "AdamW": {"m_hat": "the corrected m", "v_hat": "the corrected v"},
}


@cache
def definition(name):
    """The ast of a function of plain.py, or of a method's class."""
    return next(node for node in SOURCE.body if getattr(node, "name", "") == name.partition(".")[0])


def compiled(node, name, names=None):
    """The function, or method, that an ast of plain.py stands for.  names: more that its lines may use."""
    return _from(compile(ast.fix_missing_locations(ast.Module([node], [])), "plain.py", "exec"), name, names)


def _from(lines, name, names):
    space = {**vars(plain), **(names or {})}
    exec(lines, space)                                   # our own lines: nothing of a student's runs here
    first, _, method = name.partition(".")
    return getattr(space[first], method) if method else space[first]


@cache
def with_names(name):
    """A function of plain.py that also returns what its names stand for: f(...) -> result, names."""
    node = copy.deepcopy(definition(name))
    last = node.body[-1]
    names = ast.Call(ast.Name("dict", ast.Load()), [ast.Call(ast.Name("locals", ast.Load()), [], [])], [])
    last.value = ast.Tuple([last.value, names], ast.Load())
    return compiled(node, name)


@cache
def edits(name, extra=()):
    """A function's ast and every edit of it, the likeliest first (see changes.py)."""
    top = copy.deepcopy(definition(name))
    method = name.partition(".")[2]
    node = next(part for part in top.body if getattr(part, "name", "") == method) if method else top
    return top, changes.of(node, extra)


def changed(name, sorts=None, names=None):
    """(text, function) for every change of a function.

    sorts: what each name stands for, "number" or the axes of an array: only names of one sort are exchanged.  names:
    values that the function does not have and a student's may, by name.
    """
    extra = tuple(sorted(names or ()))
    for number, (_, _, text, _, both) in enumerate(edits(name, extra)[1]):
        if both is None or sorts is None or sorts.get(both[0]) == sorts.get(both[1], both[1]):
            yield plainly(name, text), partial(_call, name, extra, number, names)


def _call(name, extra, number, names, *args, **kwargs):
    """Call a function with one of its changes: compiled when it is first asked for."""
    return _from(code(name, extra, number), name, names)(*args, **kwargs)


@cache
def code(name, extra, number):
    """The compiled lines of a function with one of its changes.  Raises SyntaxError, ValueError or TypeError where that
    is no Python."""
    top, found = edits(name, extra)
    put, back, *_ = found[number]
    put()
    try:
        return compile(ast.fix_missing_locations(ast.Module([top], [])), "plain.py", "exec")
    finally:
        back()


def of_forward(name, inputs, constants, outputs):
    """The runs that may explain a forward's outputs, for `explain`.  outputs(results) -> {output: array}"""
    _, names = with_names(name)(*inputs, **constants)
    for text, function in changed(name, sorts_of(names)):
        yield text, lambda function=function: outputs(function(*inputs, **constants)[:-1])


def of_backward(name, forward, inputs, constants, upstreams, gradients, right):
    """The runs that may explain a backward's gradients: changes of it, and of what its forward puts into the cache.

    forward: the forward's name, or a cache that is given.  gradients(results) -> {argument: array}.  right: the right
    outputs, which a change of the cache leaves alone.
    """
    names, cache = {}, forward
    if isinstance(forward, str):
        (*_, cache), names = with_names(forward)(*inputs, **constants)
    locked((inputs, upstreams, cache))
    _, own = with_names(name)(*upstreams, cache)
    more = {key: x for key, x in names.items() if key not in own and isinstance(x, np.ndarray) and x.ndim}
    for text, function in changed(name, sorts_of({**more, **own}), more):
        yield text, lambda function=function: gradients(function(*upstreams, cache))
    for text, function in changed(forward, sorts_of(names)) if isinstance(forward, str) else ():
        yield f"in the forward's cache {text}", lambda function=function: gradients(
            getattr(plain, name)(*upstreams, _cache_of(function(*inputs, **constants), right)))


def behind(forward, backward, inputs, constants, upstreams, outputs):
    """What the right backward makes of the cache of each changed forward that gives these outputs."""
    _, names = with_names(forward)(*inputs, **constants)
    end = time.thread_time() + SECONDS
    for _, function in changed(forward, sorts_of(names)):
        if time.thread_time() > end:
            return
        try:
            with np.errstate(all="ignore"):
                yield getattr(plain, backward)(*upstreams, _cache_of(function(*inputs, **constants), outputs))
        except Exception:
            continue


def _cache_of(results, right):
    """The cache, where the outputs are right."""
    if len(results) != len(right) + 1 or not all(close(np.asarray(y), np.asarray(n)) for y, n in zip(
            results, right, strict=False)):
        raise ValueError("the outputs change, too")
    return results[-1]


def locked(tree):
    """Make all arrays of a tree read-only: a change must not write into what the next one starts from."""
    if isinstance(tree, np.ndarray):
        tree.flags.writeable = False
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ():
        locked(part)


def sorts_of(names):
    """What each name stands for, as `changed` asks for it."""
    return {name: f"{np.ndim(x)} axes" if isinstance(x, np.ndarray) and x.ndim else
            "number" if isinstance(x, int | float | np.generic | np.ndarray) else type(x).__name__
            for name, x in names.items()}


def plainly(name, text):
    """A text about a function with its names replaced by those of the sheets."""
    words = next((words for start, words in CALLED.items() if name.startswith(start)), {})
    return re.sub(r"(?<![\w.\[\"'])[A-Za-z_]\w*(?![\w(\"'])", lambda word: words.get(word[0], word[0]), text)


def close(a, n):
    """Equal but for rounding."""
    a = np.asarray(a) if isinstance(a, int | float | np.generic) else a
    if not isinstance(a, np.ndarray) or not isinstance(n, np.ndarray | np.generic) or a.shape != np.shape(n):
        return False
    if not (np.isfinite(a).all() and np.isfinite(n).all()):
        return bool(np.array_equal(np.isfinite(a), np.isfinite(n)) and a.size and np.isfinite(a).any()
                    and close(np.where(np.isfinite(a), a, 0), np.where(np.isfinite(n), n, 0)))
    return bool(abs(a - n).max(initial=0) <= CLOSE * max(abs(n).max(initial=0), np.finfo(float).tiny))


def candidates(runs, found, right, only=None):
    """{output: [text]} of the changes that give what a student returned; those that give all of it come first.

    runs: (text, thunk) for each change, where thunk() -> {output: array}.  found, right: what the student returned and
    what is right, by the same names.  only: the texts to try.
    """
    end = time.thread_time() + SECONDS
    wrong = {key for key, a in found.items() if not close(a, right[key])}
    whole, parts = {key: [] for key in wrong}, {key: [] for key in wrong}
    for text, run in runs:
        if time.thread_time() > end or any(len(texts) >= ENOUGH for texts in whole.values()):
            break
        if only is not None and text not in only:
            continue
        try:
            with np.errstate(all="ignore"):
                made = run()
        except Exception:                                # most changes do not even run: shapes do not fit
            continue
        hit = {key for key in wrong if key in made and close(found[key], made[key])}
        if any(not close(made[key], right[key]) for key in made if key in right and key not in wrong):
            continue                                     # it would spoil what the student has right
        everything = hit and all(key in made and close(a, made[key]) for key, a in found.items())
        for key in hit:
            (whole if everything else parts)[key].append(text)
    if len(found) > TREE:                                # of a tree's arrays some are easily the same by chance
        parts = {}
    return {key: whole[key] + parts.get(key, []) for key in wrong}


def explain(*draws):
    """{output: text} for what a change explains on every one of some draws, each (runs, found, right).

    One draw alone could lie: where an axis has two entries, the last one is the second.
    """
    told, only = {}, None
    for runs, found, right in draws:
        texts = candidates(runs, found, right, only)
        told = texts if only is None else {key: [text for text in told[key] if text in texts.get(key, told[key])]
                                           for key in told}
        only = {text for some in told.values() for text in some}
        if not only:
            return {}
    return {key: texts[0] for key, texts in told.items() if texts}

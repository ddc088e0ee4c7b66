"""Numbers gone wrong: which operation was the first whose result is not finite.

A training step asks for two numbers only. When one of them is no number, the same step is done once more with every
pair of the library watched, through the modules' names, as a student's own function would be put in its place.
"""

import inspect
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinylm2 import layers, model, ops, recurrence
from tinylm2.backend import to_host
from tinylm2.memories import MEMORIES, primitives

WATCHED = (ops, layers, primitives, *filter(None, MEMORIES.values()), model, recurrence)
COUNTED = ("segment", "block")


class _Found(Exception):
    """Ends the watched pass at once: what follows is only the echo."""


def first_not_finite(step: Callable, params: dict) -> str:
    """Do `step()` again and name what went wrong first; "" where all that it computed is finite.

    "blocks.1.ff.Wdown, a parameter", or the way to an operation: "story > segment 3 > block 2 > attend, forward".
    Backward walks from the end, and so it counts.
    """
    for name, W in params.items():
        if not finite(W):
            return f"{name}, a parameter"
    try:
        with _watching():
            step()
    except _Found as found:
        return str(found)
    return ""


@contextmanager
def _watching():
    """Every pair of the library raises _Found when it is the innermost whose result is not finite."""
    way, before = [_Call("")], []
    for module in WATCHED:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.endswith(("_forward", "_backward")):
                before.append((module, name, function))
                setattr(module, name, _watched(function, name, way))
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


class _Call:
    """A call on the way down: its name, and how often it called each pair so far."""

    def __init__(self, name):
        self.name, self.calls = name, {}


def _watched(function, name, way):
    pair, _, direction = name.rpartition("_")

    def call(*args, **keywords):
        count = way[-1].calls[pair] = way[-1].calls.get(pair, 0) + 1
        way.append(_Call(f"{pair} {count}" if pair in COUNTED else pair))
        result = function(*args, **keywords)
        outputs = result[:-1] if direction == "forward" else result          # a cache may hold -inf: what nobody sees
        if not finite(outputs):
            raise _Found(" > ".join(step.name for step in way[1:]) + f", {direction}")
        way.pop()
        return result

    return call


def finite(tree: Any) -> Any:
    """Is every number of an array, or of a tuple or dict of them, finite?"""
    if isinstance(tree, dict):
        return finite(tuple(tree.values()))
    if isinstance(tree, list | tuple):
        return all(map(finite, tree))
    if tree is None:
        return True
    return bool(np.isfinite(tree if isinstance(tree, np.generic) else to_host(tree)).all())      # NumPy's 0-d: scalars

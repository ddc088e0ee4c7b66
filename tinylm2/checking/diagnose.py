"""Find the first operation whose result is not finite.

A training step looks only at the loss and the gradient norm. If one of them is not finite, the step is repeated with
every pair of the library wrapped, by replacing the functions in their modules.
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
    """Ends the wrapped step: all later results only follow from this one."""


def first_not_finite(step: Callable, params: dict) -> str:
    """Repeat `step()` and name the first result that is not finite; "" where all are.

    "blocks.1.ff.Wdown, a parameter", or the path to an operation: "story > segment 3 > block 2 > attend, forward".
    In backward, segments and blocks are counted from the end.
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
    """In this context, the innermost pair with a result that is not finite raises _Found."""
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
    """A call in progress: its name, and how often it has called each pair so far."""

    def __init__(self, name):
        self.name, self.calls = name, {}


def _watched(function, name, way):
    pair, _, direction = name.rpartition("_")

    def call(*args, **keywords):
        count = way[-1].calls[pair] = way[-1].calls.get(pair, 0) + 1
        way.append(_Call(f"{pair} {count}" if pair in COUNTED else pair))
        result = function(*args, **keywords)
        outputs = result[:-1] if direction == "forward" else result          # a cache may hold -inf, of masked scores
        if not finite(outputs):
            raise _Found(" > ".join(step.name for step in way[1:]) + f", {direction}")
        way.pop()
        return result

    return call


def finite(tree: Any) -> Any:
    """Whether every number of an array, or of a tuple or dict of arrays, is finite."""
    if isinstance(tree, dict):
        return finite(tuple(tree.values()))
    if isinstance(tree, list | tuple):
        return all(map(finite, tree))
    if tree is None:
        return True
    return bool(np.isfinite(tree if isinstance(tree, np.generic | float) else to_host(tree)).all())      # 0-d: scalars

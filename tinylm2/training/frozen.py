"""Training a memory inside a model that stays as it is: gradients, clipping and AdamW for the memory alone.

Backward passes through the blocks from the top down to the lowest memory, for a gradient reaches a lower memory through
what stands above it. What is saved: every block below, the gradient of each frozen matrix (the other half of a
product's backward), and the optimizer's passes over numbers that do not move.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinylm2 import model, ops, recurrence
from tinylm2.backend import get_xp
from tinylm2.errors import BadInput
from tinylm2.flat import Flat
from tinylm2.optim import AdamW
from tinylm2.training import step as training_step


def memory_names(params: Flat) -> list:
    """The parameters of the memories.  BadInput where there are none."""
    names = [name for name in params if ".mem." in name or name.startswith("memory.")]
    if not names:
        raise BadInput("--freeze base: found a model without a memory's parameters, expected one with a memory")
    return names


class FrozenBase(AdamW):
    """AdamW on the memories' parameters, which are copied together, moved, and copied back: nothing else is touched."""

    def __init__(self, params: Flat, **settings: Any) -> None:
        self.part = _part(params)
        super().__init__(self.part, **settings)

    def step(self, params: Flat, grads: Flat, lr: float) -> None:
        """Move the memories. grads: those of the memories alone, as `only_memories` gives them."""
        for name, W in self.part.items():
            W[...] = params[name]
        super().step(self.part, grads, lr)
        for name, W in self.part.items():
            params[name][...] = W

    def moments_like(self, params: Flat) -> dict:
        """The moments as a checkpoint keeps them, as large as the model: zero for what is frozen."""
        found = {}
        for kind, mine in (("m", self.m), ("v", self.v)):
            whole = params.like(get_xp(params.buffer).zeros_like(params.buffer))
            for name, part in self.part.like(mine).items():
                whole[name][...] = part
            found[kind] = whole.buffer
        return found

    def restore(self, params: Flat, moments: Any) -> None:
        """Take the memories' part of a checkpoint's moments."""
        for kind, mine in (("m", self.m), ("v", self.v)):
            whole = params.like(moments[kind])
            for name, part in self.part.like(mine).items():
                part[...] = whole[name]


def _part(params):
    """Zeros in the shapes of the memories' parameters, a Flat dict."""
    return Flat({name: params.shapes[name] for name in memory_names(params)}, get_xp(params.buffer),
                params.buffer.dtype)


@contextmanager
def only_memories(params: Flat) -> Iterator:
    """Inside, `story_backward` gives the memories' gradients alone, and computes little else.

    Operations are called through their modules everywhere, so one exchange reaches every product and every block.
    """
    part, state = _part(params), {"left": 0}
    spans = sorted((_address(params[name]), params[name].nbytes) for name in part)
    starts = [start for start, _ in spans]
    lowest = min((int(name.split(".")[1]) if name.startswith("blocks.") else 0) for name in part)
    linear, segment, block = ops.linear_backward, model.segment_backward, model.block_backward

    def trained(W):
        i = bisect_right(starts, _address(W)) - 1
        return i >= 0 and _address(W) < sum(spans[i])

    def linear_backward(dy, cache):
        x, W = cache
        if trained(W):
            return linear(dy, cache)
        rows = dy.reshape(dy.size // W.shape[1], W.shape[1])
        return (rows @ W.T).reshape(x.shape), get_xp(W).zeros(W.shape, W.dtype)

    def segment_backward(dlogits, dstates, cache):
        state["left"] = cache["cfg"].L - lowest          # blocks that a gradient must pass through
        return segment(dlogits, dstates, cache)

    def block_backward(dy, dstate, cache):
        state["left"] -= 1
        return block(dy, dstate, cache) if state["left"] >= 0 else (dy, None, {})

    before = []
    for module, name, function in (
            (ops, "linear_backward", linear_backward), (ops, "embedding_backward", lambda dy, cache: (0.0,)),
            (model, "segment_backward", segment_backward), (model, "block_backward", block_backward),
            (recurrence, "param_shapes", lambda cfg: part.shapes),
            (training_step, "_empty", lambda params: empty(part))):
        before.append((module, name, getattr(module, name)))
        setattr(module, name, function)
    empty = before[-1][2]
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def _address(x):
    """Where an array's first number stands in memory."""
    return x.data.ptr if hasattr(x.data, "ptr") else x.__array_interface__["data"][0]

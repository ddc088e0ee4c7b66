"""Training only the memories of a model: gradients, clipping and AdamW for their parameters alone.

Backward still goes through every block, because a gradient reaches a memory through the blocks above it. What is saved
is half of each product's backward: the gradient of the frozen matrix.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager

from tinylm2 import ops, recurrence
from tinylm2.backend import get_xp
from tinylm2.errors import BadInput
from tinylm2.flat import Flat
from tinylm2.optim import AdamW


def memory_names(params: Flat) -> list:
    """The names of the memories' parameters.  BadInput where there are none."""
    names = [name for name in params if ".mem." in name or name.startswith("memory.")]
    if not names:
        raise BadInput("--freeze base: found a model without a memory's parameters, expected one with a memory")
    return names


class FrozenBase(AdamW):
    """AdamW for the memories' parameters only. Its moments have the size of the model; those of the rest are zero."""

    def step(self, params: Flat, grads: Flat, lr: float) -> None:
        """A step of AdamW, then restore all frozen parameters: weight decay moves them even without a gradient."""
        before = params.like(params.buffer.copy())
        super().step(params, grads, lr)
        for name in params.keys() - set(memory_names(params)):
            params[name][...] = before[name]


@contextmanager
def only_memories(params: Flat) -> Iterator:
    """In this context, backward computes no gradient of a frozen matrix; gradients of frozen parameters are zero.

    `ops` is called through its module everywhere, so replacing two functions is enough.
    """
    spans = sorted((_address(params[name]), params[name].nbytes) for name in memory_names(params))
    starts = [start for start, _ in spans]
    linear, embedding, story = ops.linear_backward, ops.embedding_backward, recurrence.story_backward

    def trained(W):
        i = bisect_right(starts, _address(W)) - 1
        return i >= 0 and _address(W) < sum(spans[i])

    def linear_backward(dy, cache):
        x, W = cache
        if trained(W):
            return linear(dy, cache)
        rows = dy.reshape(dy.size // W.shape[1], W.shape[1])
        return (rows @ W.T).reshape(x.shape), get_xp(W).zeros(W.shape, W.dtype)

    def embedding_backward(dy, cache):
        return (get_xp(cache[0]).zeros(cache[0].shape, dy.dtype),)

    def story_backward(dlogits, cache):
        grads = story(dlogits, cache)
        for name in grads.keys() - names:
            grads[name][...] = 0                         # gains have one; it must not count in the norm
        return grads

    names = set(memory_names(params))
    ops.linear_backward, ops.embedding_backward = linear_backward, embedding_backward
    recurrence.story_backward = story_backward
    try:
        yield
    finally:
        ops.linear_backward, ops.embedding_backward, recurrence.story_backward = linear, embedding, story


def _address(x):
    """The address of an array's first number."""
    return x.data.ptr if hasattr(x.data, "ptr") else x.__array_interface__["data"][0]

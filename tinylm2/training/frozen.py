"""Training a memory inside a model that stays as it is: gradients, clipping and AdamW for the memory alone.

Backward must still pass through every block, for a gradient reaches a lower memory through what stands above it. What
is saved is the other half of a product's backward: the gradient of each frozen matrix.
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
    """The parameters of the memories.  BadInput where there are none."""
    names = [name for name in params if ".mem." in name or name.startswith("memory.")]
    if not names:
        raise BadInput("--freeze base: found a model without a memory's parameters, expected one with a memory")
    return names


class FrozenBase(AdamW):
    """AdamW that moves the memories' parameters only. Its moments are as large as the model, zero for the rest."""

    def step(self, params: Flat, grads: Flat, lr: float) -> None:
        """A step of AdamW, and then everything frozen as it was: weight decay moves without a gradient."""
        before = params.like(params.buffer.copy())
        super().step(params, grads, lr)
        for name in params.keys() - set(memory_names(params)):
            params[name][...] = before[name]


@contextmanager
def only_memories(params: Flat) -> Iterator:
    """Inside, backward computes no gradient of a frozen matrix, and gives zeros for every frozen parameter.

    `ops` is called through its module everywhere, so one exchange reaches every product.
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
            grads[name][...] = 0                         # the gains', which are cheap; the norm must not count them
        return grads

    names = set(memory_names(params))
    ops.linear_backward, ops.embedding_backward = linear_backward, embedding_backward
    recurrence.story_backward = story_backward
    try:
        yield
    finally:
        ops.linear_backward, ops.embedding_backward, recurrence.story_backward = linear, embedding, story


def _address(x):
    """Where an array's first number stands in memory."""
    return x.data.ptr if hasattr(x.data, "ptr") else x.__array_interface__["data"][0]

"""A model small enough to look at every number: its configs, its parameters, its stories, its memories' states.

Every memory of the table is a variant by construction, so a new one is tested without an edit here.
"""

from dataclasses import replace

import numpy as np

from tinylm2.backend import to_device
from tinylm2.data import GrammarFiller
from tinylm2.flat import Flat
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, init_params

CFG = Config(V=11, D=8, L=2, H=4, G=2, F=12, N=4, T=6)   # B is 3 in `ids`
CHANGES = {"": {}, "T < N": {"T": 3, "N": 7}, "N = 1": {"N": 1}, "T = 1": {"T": 1},
           "block 1 only": {"memory_blocks": (1,)}}


def _fits(memory, change):
    """Does this change of the Config mean anything to this memory?"""
    if "memory_blocks" in change:
        return memory is not None and not hasattr(memory, "enter_forward")
    if change.keys() == {"N"}:
        return memory is not None and memory.state_shapes(CFG) != memory.state_shapes(replace(CFG, **change))
    return memory is not None or "N" not in change


VARIANTS = {
    **{", ".join(filter(None, (name, how))): replace(CFG, memory=name, **change)
       for name, memory in MEMORIES.items() for how, change in CHANGES.items() if _fits(memory, change)},
    "a key head for every head": replace(CFG, G=4),
    "tied": replace(CFG, tied=True),
    "other positions, norms and heads": replace(CFG, base=50.0, scaling=(8.0, 0.5, 1.5, 16), eps=1e-2, head_dim=6),
}
REMEMBERING = [name for name, cfg in VARIANTS.items() if any(cfg.memories)]


def params(cfg, dtype="float64", seed=0):
    """Fresh parameters moved off their start, where gains and biases are all equal and gates nearly shut."""
    flat = init_params(cfg, seed, dtype=dtype)
    flat.buffer += np.random.default_rng(seed).normal(0, 0.3, flat.buffer.shape).astype(dtype)
    return flat


def on_device(params, xp):
    """A copy of host parameters on a device, host included."""
    there = Flat(params.shapes, xp, params.buffer.dtype)
    there.buffer[...] = to_device(params.buffer, xp)
    return there


def ids(cfg, length, seed=0):
    """Three stories of so many random tokens."""
    return np.random.default_rng(seed).integers(0, cfg.V, (3, length))


def other(cfg, ids):
    """Every token replaced by another one."""
    return (ids + 1) % cfg.V


# --------------------------------------------------------------------------------------------------------------- states


def states(cfg, dtype="float64", seed=0):
    """A random state of three stories per place: the declared shapes, nothing hidden; None without memory."""
    rng = np.random.default_rng(seed)
    return tuple(None if memory is None else _state(memory, cfg, rng, dtype) for memory in cfg.memories)


def _state(memory, cfg, rng, dtype):
    state = tuple(rng.standard_normal((3, *shape)).astype(dtype) for shape in memory.state_shapes(cfg).values())
    count = memory.hidden(state) if hasattr(memory, "hidden") else None
    return tuple(np.zeros_like(x) if x is count else x for x in state)


def visible(cfg, states, stories=slice(None)):
    """The arrays of the states, place by place; zeros at the keys that a memory hides, which nothing may read."""
    found = []
    for memory, state in zip(cfg.memories, states, strict=True):
        state = () if state is None else tuple(x if x is None else x[stories] for x in state)
        hidden = memory.hidden(state) if state and hasattr(memory, "hidden") else None
        if hidden is not None:
            state = tuple(_without_first(x, hidden) for x in state)
        found.append(state)
    return found


def _without_first(x, counts):
    """x with zeros in the first counts[b] rows of story b; a number per story as it is."""
    if x.ndim < 2:
        return x
    rows = np.arange(x.shape[1]) < counts[:, None]
    return np.where(rows.reshape(*rows.shape, *[1] * (x.ndim - 2)), 0, x)


def same_states(cfg, ones, others, stories=slice(None)):
    """Are two tuples of states equal bit for bit, wherever anything may read them?"""
    pairs = zip(visible(cfg, ones, stories), visible(cfg, others, stories), strict=True)
    return all(len(one) == len(other) and all(x is y is None or np.array_equal(x, y)
                                              for x, y in zip(one, other, strict=True)) for one, other in pairs)


def earliest(cfg, t):
    """The first position whose token reaches position t, block by block from the last one down.

    A block sees its segment from the start. A memory that declares a `size` adds so many positions before the segment;
    every other memory carries the whole story.
    """
    *blocks, whole = cfg.memories
    if whole is not None:
        return 0
    for memory in reversed(blocks):
        start = t // cfg.T * cfg.T
        reach = 0 if memory is None else memory.size(cfg) if hasattr(memory, "size") else start
        t = max(0, start - reach)
    return t


class FewSentences:
    """Enough filler: encoding all of the grammar's takes longer than a small run does."""

    sentences = GrammarFiller().sentences[::100]

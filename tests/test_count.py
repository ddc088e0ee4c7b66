"""`count`: what it says of a model without making one is what the made one has and does."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from tests.support import fake_cupy, small
from tinylm2 import __main__, ops
from tinylm2.backend import to_device
from tinylm2.cli import count as counting
from tinylm2.memories import MEMORIES
from tinylm2.model import count_params, segment_forward, with_params_of
from tinylm2.recurrence import story_forward


def test_the_parts_add_up_to_all_parameters(cfg):
    assert sum(counting.parameters(cfg).values()) == small.params(cfg).buffer.size


def a_full_segment(cfg):
    """What happened on the device in a segment of T tokens behind states of the declared shapes, and its cache."""
    there = small.on_device(small.params(cfg), fake_cupy.xp)
    states = tuple(None if state is None else tuple(to_device(x, fake_cupy.xp) for x in state)
                   for state in small.states(cfg))
    ids = to_device(small.ids(cfg, cfg.T), fake_cupy.xp)
    with fake_cupy.watch() as seen:
        _, _, cache = segment_forward(there, states, ids=ids, cfg=cfg)
    return seen, cache


def test_multiply_adds_are_those_of_a_forward_pass(cfg):
    """Every matrix product on the device counts; the batch has three stories."""
    seen, _ = a_full_segment(cfg)
    assert 3 * sum(counting.multiply_adds(cfg).values()) == seen.multiply_adds


def test_the_stored_attention_weights_are_those_that_a_segment_leaves(cfg):
    def weights(tree):
        if isinstance(tree, ops.Attended):
            return tree.P.size
        parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
        return sum(map(weights, parts))

    _, cache = a_full_segment(cfg)
    stored = counting.stored(cfg)["attention weights of a segment, kept for backward"]
    assert 3 * stored == 4 * weights(cache)


def test_training_stores_four_numbers_per_parameter(cfg):
    stored = counting.stored(cfg)
    assert stored["parameters, gradients and two moments"] == 16 * small.params(cfg).buffer.size
    assert stored["parameters"] == 4 * small.params(cfg).buffer.size


def test_the_state_is_that_which_a_segment_leaves(cfg):
    """Eight segments fill a window; a memory without a limit is counted behind one segment."""
    params = small.params(cfg)
    limits = [memory.size(cfg) for memory in cfg.memories if hasattr(memory, "size")]
    segments = 2 if any(limit > 8 * cfg.T for limit in limits) else 9
    pad = np.minimum([0, 1, 0], cfg.T - 1)
    _, cache = story_forward(params, ids=small.ids(cfg, segments * cfg.T), cfg=cfg, pad=pad)
    declared = 0
    for memory, state in zip(cfg.memories, cache["states"][-1], strict=True):
        if memory is not None:
            shapes = memory.state_shapes(cfg)
            for x, shape in zip(state, shapes.values(), strict=True):
                assert x is None or x.shape == (3, *shape)               # None: nothing is hidden, say
            declared += sum(map(prod, shapes.values()))
    assert counting.stored(cfg)["state of the memory of a story"] == 4 * declared


@pytest.mark.parametrize("preset", counting.PRESETS)
@pytest.mark.parametrize("memory", [None, *MEMORIES])
def test_the_command_prints_the_whole_and_its_parts(preset, memory, capsys):
    """With another memory the feed-forward changes, so that the number of parameters stays about the same."""
    cfg = counting.PRESETS[preset]
    if memory:
        cfg = with_params_of(cfg, replace(cfg, memory=memory))
        assert count_params(cfg) == pytest.approx(count_params(counting.PRESETS[preset]), rel=5e-3)
    assert __main__.main(["count", "--preset", preset, *(["--memory", memory] if memory else [])]) == 0
    said = capsys.readouterr().out
    assert f"{count_params(cfg):,}" in said
    assert all(part in said for part in counting.PARTS)
    assert "multiply-adds forward" in said


@pytest.mark.parametrize(("n", "said"), [(4_590_000_000_000, "4.59 T"), (999, "999"), (1_000, "1.00 k")])
def test_amounts_have_three_figures(n, said):
    assert counting.amount(n) == said

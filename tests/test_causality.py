"""No look ahead, no look aside: what a position must not see changes not one bit of its logits."""

import numpy as np
import pytest

from tests.support import small
from tinylm2.model import first_states, segment_forward
from tinylm2.recurrence import story_forward

pytestmark = pytest.mark.core

POSITIONAL = {"pooled"}                                  # memories that place a token by its column, padding counted


def run(cfg, ids, **options):
    """The logits, and the states that entered each segment."""
    logits, cache = story_forward(small.params(cfg), ids=ids, cfg=cfg, **options)
    return logits, cache["states"]


def all_same(cfg, ones, others, stories=slice(None)):
    """Are the states that entered each segment the same?"""
    return all(small.same_states(cfg, one, other, stories) for one, other in zip(ones, others, strict=True))


def test_tokens_after_t_change_no_logit_up_to_t_and_no_earlier_state(cfg):
    ids = small.ids(cfg, 3 * cfg.T)
    logits, states = run(cfg, ids)
    for t in range(ids.shape[1] - 1):
        changed = ids.copy()
        changed[:, t + 1:] = small.other(cfg, ids)[:, t + 1:]
        found, found_states = run(cfg, changed)
        assert np.array_equal(found[:, :t + 1], logits[:, :t + 1])
        assert not np.array_equal(found[:, t + 1], logits[:, t + 1])
        for s in range((t + 1) // cfg.T + 1):            # of the segments that begin at t + 1 or before
            assert small.same_states(cfg, found_states[s], states[s])


def test_a_token_reaches_every_position_that_sees_or_remembers_it_and_no_other(cfg):
    """`small.earliest` says from where on a position is reached: a window forgets, another memory carries all."""
    ids = small.ids(cfg, 4 * cfg.T)
    logits, _ = run(cfg, ids)
    for t in range(ids.shape[1]):
        changed = ids.copy()
        changed[:, t] = small.other(cfg, ids)[:, t]
        found, _ = run(cfg, changed)
        moved = [not np.array_equal(found[:, later], logits[:, later]) for later in range(ids.shape[1])]
        assert moved == [small.earliest(cfg, later) <= t <= later for later in range(ids.shape[1])], t


def test_the_state_carries_what_was_read(remembering):
    cfg = remembering
    ids = small.ids(cfg, 3 * cfg.T)
    for s in (1, 2):
        changed, t = ids.copy(), small.earliest(cfg, s * cfg.T)
        assert t < s * cfg.T
        changed[:, t] = small.other(cfg, ids)[:, t]
        (logits, states), (found, found_states) = run(cfg, ids), run(cfg, changed)
        assert not small.same_states(cfg, found_states[s], states[s])
        assert not np.array_equal(found[:, s * cfg.T], logits[:, s * cfg.T])


def test_a_story_is_untouched_by_the_others_of_its_batch(cfg):
    ids = small.ids(cfg, 3 * cfg.T)
    changed = ids.copy()
    changed[1] = small.other(cfg, ids)[1]
    (logits, states), (found, found_states) = run(cfg, ids), run(cfg, changed)
    assert np.array_equal(found[[0, 2]], logits[[0, 2]])
    assert not np.array_equal(found[1], logits[1])
    assert all_same(cfg, states, found_states, [0, 2])


def test_a_story_has_the_same_logits_alone_as_in_a_batch(cfg):
    ids = small.ids(cfg, 3 * cfg.T)
    logits, _ = run(cfg, ids)
    alone, _ = run(cfg, ids[1:2])
    np.testing.assert_allclose(alone, logits[1:2], rtol=1e-11, atol=1e-12)


# -------------------------------------------------------------------------------------------------------------- padding


def padded(cfg):
    """A story with all lengths of padding that differ, and where its padding stands."""
    pad = np.array([0, cfg.T - 1, cfg.T // 2])
    ids = small.ids(cfg, 3 * cfg.T)
    return ids, pad, np.arange(ids.shape[1]) < pad[:, None]


def test_tokens_in_the_padding_change_no_real_logit_and_no_state(cfg):
    ids, pad, is_pad = padded(cfg)
    (logits, states) = run(cfg, ids, pad=pad)
    found, found_states = run(cfg, np.where(is_pad, small.other(cfg, ids), ids), pad=pad)
    assert np.array_equal(found[~is_pad], logits[~is_pad])
    assert all_same(cfg, states, found_states)
    if is_pad.any() and cfg.memories[-1] is None:        # a segment's memory moves the rows: there they mean nothing
        assert not np.array_equal(found[is_pad], logits[is_pad])


def test_the_same_tokens_without_padding_change_the_logits(cfg):
    """The witness of the test above: it is the padding that hides them."""
    ids, _, is_pad = padded(cfg)
    if is_pad.any():
        (logits, _), (found, _) = run(cfg, ids), run(cfg, np.where(is_pad, small.other(cfg, ids), ids))
        assert not np.array_equal(found[~is_pad], logits[~is_pad])


def test_a_padded_position_sees_no_real_token(cfg):
    ids, pad, is_pad = padded(cfg)
    logits, _ = run(cfg, ids, pad=pad)
    found, _ = run(cfg, np.where(is_pad, ids, small.other(cfg, ids)), pad=pad)
    assert np.array_equal(found[is_pad], logits[is_pad])


def test_a_padded_position_sees_only_itself(cfg):
    if cfg.memories[-1] is not None:
        pytest.skip("a segment's memory moves the rows of the padding")
    ids, pad, is_pad = padded(cfg)
    logits, _ = run(cfg, ids, pad=pad)
    for t in range(cfg.T):
        found, _ = run(cfg, np.where(np.arange(ids.shape[1]) == t, ids, small.other(cfg, ids)), pad=pad)
        assert np.array_equal(found[is_pad[:, t], t], logits[is_pad[:, t], t])


def test_padding_leaves_a_story_what_it_was_without(cfg):
    """The angles of RoPE are relative, so p positions of padding shift everything and change nothing."""
    width, p = cfg.T, cfg.T // 2
    ids = small.ids(cfg, width)
    logits, _ = run(cfg, ids, pad=np.full(3, p))
    bare, _ = run(cfg, ids[:, p:])
    np.testing.assert_allclose(logits[:, p:], bare, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in small.REMEMBERING if small.VARIANTS[name].memory not in POSITIONAL])
def test_padding_leaves_the_state_what_it_was_without(name):
    """A memory that leaves out the padding hands on what it hands on after the bare tokens."""
    cfg = small.VARIANTS[name]
    p, ids, params = cfg.T // 2, small.ids(cfg, 2 * cfg.T), small.params(cfg)
    logits, _ = run(cfg, ids, pad=np.full(3, p))
    _, states, _ = segment_forward(params, first_states(params, cfg, 3)[0], ids=ids[:, p:cfg.T], cfg=cfg)
    bare, _, _ = segment_forward(params, states, ids=ids[:, cfg.T:], cfg=cfg, write=False)
    np.testing.assert_allclose(logits[:, cfg.T:], bare, rtol=1e-11, atol=1e-12)


def test_without_memory_every_segment_is_independent():
    cfg = small.VARIANTS["none"]
    ids = small.ids(cfg, 3 * cfg.T)
    logits, states = run(cfg, ids)
    assert all(state is None for place in states for state in place)
    for start in range(0, 3 * cfg.T, cfg.T):
        alone, _ = run(cfg, ids[:, start:start + cfg.T])
        assert np.array_equal(logits[:, start:start + cfg.T], alone)

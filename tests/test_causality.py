"""No look ahead, no look aside: what a position must not see changes not one bit of what it says."""

import numpy as np
import pytest

from tests import small
from tinylm2.model import first_banks, segment_forward, story_forward

pytestmark = pytest.mark.core


def run(cfg, ids, **options):
    """The logits, and the banks that entered each segment."""
    logits, cache = story_forward(small.params(cfg), ids=ids, cfg=cfg, **options)
    return logits, cache["banks"]


def same_banks(ones, others):
    return all(one is other is None or np.array_equal(one, other) for one, other in zip(ones, others, strict=True))


def test_tokens_after_t_change_no_logit_up_to_t_and_no_earlier_bank(cfg):
    ids = small.ids(cfg, 3 * cfg.T)
    logits, banks = run(cfg, ids)
    for t in range(ids.shape[1] - 1):
        changed = ids.copy()
        changed[:, t + 1:] = small.other(cfg, ids)[:, t + 1:]
        found, found_banks = run(cfg, changed)
        assert np.array_equal(found[:, :t + 1], logits[:, :t + 1])
        assert not np.array_equal(found[:, t + 1], logits[:, t + 1])
        for s in range((t + 1) // cfg.T + 1):            # of the segments that begin at t + 1 or before
            assert same_banks(found_banks[s], banks[s])


def test_the_bank_carries_what_was_told(remembering):
    cfg = remembering
    ids = small.ids(cfg, 3 * cfg.T)
    changed = ids.copy()
    changed[:, 0] = small.other(cfg, ids)[:, 0]
    (logits, banks), (found, found_banks) = run(cfg, ids), run(cfg, changed)
    for s in (1, 2):
        assert not same_banks(found_banks[s], banks[s])
        assert not np.array_equal(found[:, s * cfg.T], logits[:, s * cfg.T])


def test_a_story_is_untouched_by_the_others_of_its_batch(cfg):
    ids = small.ids(cfg, 3 * cfg.T)
    changed = ids.copy()
    changed[1] = small.other(cfg, ids)[1]
    (logits, banks), (found, found_banks) = run(cfg, ids), run(cfg, changed)
    assert np.array_equal(found[[0, 2]], logits[[0, 2]])
    assert not np.array_equal(found[1], logits[1])
    for ones, others in zip(banks, found_banks, strict=True):
        assert same_banks([M if M is None else M[[0, 2]] for M in ones],
                          [M if M is None else M[[0, 2]] for M in others])


def test_a_story_says_the_same_alone_as_in_a_batch(cfg):
    ids = small.ids(cfg, 3 * cfg.T)
    logits, _ = run(cfg, ids)
    alone, _ = run(cfg, ids[1:2])
    np.testing.assert_allclose(alone, logits[1:2], rtol=1e-11, atol=1e-12)


def padded(cfg):
    """A story with all lengths of padding that differ, and where its padding stands."""
    pad = np.array([0, cfg.T - 1, cfg.T // 2])
    ids = small.ids(cfg, 3 * cfg.T)
    return ids, pad, np.arange(ids.shape[1]) < pad[:, None]


def test_what_stands_in_the_padding_changes_no_real_logit_and_no_bank(cfg):
    ids, pad, is_pad = padded(cfg)
    (logits, banks) = run(cfg, ids, pad=pad)
    found, found_banks = run(cfg, np.where(is_pad, small.other(cfg, ids), ids), pad=pad)
    assert np.array_equal(found[~is_pad], logits[~is_pad])
    assert all(same_banks(ones, others) for ones, others in zip(banks, found_banks, strict=True))
    if is_pad.any():
        assert not np.array_equal(found[is_pad], logits[is_pad])


def test_a_padded_position_sees_only_itself(cfg):
    ids, pad, is_pad = padded(cfg)
    logits, _ = run(cfg, ids, pad=pad)
    for t in range(cfg.T):
        found, _ = run(cfg, np.where(np.arange(ids.shape[1]) == t, ids, small.other(cfg, ids)), pad=pad)
        assert np.array_equal(found[is_pad[:, t], t], logits[is_pad[:, t], t])


def test_padding_leaves_a_story_what_it_was_without(cfg):
    """The angles of RoPE are relative, so p places of padding shift everything and change nothing."""
    width, p = cfg.T, cfg.T // 2
    ids = small.ids(cfg, width)
    logits, _ = run(cfg, ids, pad=np.full(3, p))
    bare, _ = run(cfg, ids[:, p:])
    np.testing.assert_allclose(logits[:, p:], bare, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, cfg in small.VARIANTS.items() if cfg.memory == "slots"])
def test_padding_leaves_the_slots_what_they_were_without(name):
    """A slot stands right behind the last token, however many places were padded in front."""
    cfg = small.VARIANTS[name]
    p, ids, params = cfg.T // 2, small.ids(cfg, 2 * cfg.T), small.params(cfg)
    logits, _ = run(cfg, ids, pad=np.full(3, p))
    _, banks, _ = segment_forward(params, first_banks(params, cfg, 3), ids=ids[:, p:cfg.T], cfg=cfg)
    bare, _, _ = segment_forward(params, banks, ids=ids[:, cfg.T:], cfg=cfg)
    np.testing.assert_allclose(logits[:, cfg.T:], bare, rtol=1e-11, atol=1e-12)


def test_without_memory_every_segment_stands_alone():
    cfg = small.VARIANTS["none"]
    ids = small.ids(cfg, 3 * cfg.T)
    logits, banks = run(cfg, ids)
    assert all(M is None for ones in banks for M in ones)
    for start in range(0, 3 * cfg.T, cfg.T):
        alone, _ = run(cfg, ids[:, start:start + cfg.T])
        assert np.array_equal(logits[:, start:start + cfg.T], alone)

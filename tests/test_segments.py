"""What a story is made of: segments joined by states and by nothing else, forward and backward."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support import small
from tests.support.leaves import leaves
from tinylm2.memories import MEMORIES, primitives
from tinylm2.model import Config, first_states, first_states_back, segment_backward, segment_forward, sum_dicts
from tinylm2.recurrence import story_backward, story_forward

pytestmark = pytest.mark.core

PAD = np.array([0, 2, 1])


def upstream(logits, seed=1):
    return np.random.default_rng(seed).standard_normal(logits.shape)


def gradients(params, cfg, ids, dlogits, **options):
    """The gradients of sum(dlogits * logits); where dlogits has fewer rows, they are the last."""
    logits, cache = story_forward(params, ids=ids, cfg=cfg, **options)
    full = np.zeros(logits.shape)
    full[:, logits.shape[1] - dlogits.shape[1]:] = dlogits
    return story_backward(full, cache)


def assert_same(states, others):
    """The same bits in every array of every state."""
    found, expected = dict(leaves(states)), dict(leaves(others))
    assert found.keys() == expected.keys()
    for path, x in expected.items():
        assert np.array_equal(found[path], x), path


# --------------------------------------------------------------------------------------------------- segment by segment


@pytest.mark.parametrize("short", [0, 1, 2])
def test_segment_by_segment_gives_the_bits_of_the_whole_story(cfg, short):
    """Logits, states and gradients; the last segment ends `short` tokens early, but has one token at least."""
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T - min(short, cfg.T - 1))
    pad = np.minimum(PAD, cfg.T - 1)
    logits, cache = story_forward(params, ids=ids, cfg=cfg, pad=pad)
    (states, first), parts, caches = first_states(params, cfg, 3), [], []
    for start in range(0, ids.shape[1], cfg.T):
        assert_same(states, cache["states"][start // cfg.T])
        part, states, segment = segment_forward(params, states, ids=ids[:, start:start + cfg.T], cfg=cfg,
                                                pad=pad if start == 0 and pad.any() else None,
                                                write=start + cfg.T < ids.shape[1])
        parts.append(part)
        caches.append(segment)
    assert np.array_equal(np.concatenate(parts, 1), logits)

    dlogits = upstream(logits)
    grads, dstates = {name: np.zeros(W.shape) for name, W in params.items()}, None
    for start, segment in reversed(list(zip(range(0, ids.shape[1], cfg.T), caches, strict=True))):
        shares, dstates = segment_backward(dlogits[:, start:start + cfg.T], dstates, segment)
        if start == 0:
            shares = sum_dicts(shares, first_states_back(dstates, first, cfg))
        for name, share in shares.items():
            grads[name] += share
    found = story_backward(dlogits, cache)
    assert all(np.array_equal(found[name], grads[name]) for name in params)


def test_a_short_last_segment_has_the_logits_of_the_full_one(cfg):
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T)
    logits, _ = story_forward(params, ids=ids, cfg=cfg)
    for length in range(2 * cfg.T + 1, 3 * cfg.T):
        short, _ = story_forward(params, ids=ids[:, :length], cfg=cfg)
        np.testing.assert_allclose(short, logits[:, :length], rtol=1e-11, atol=1e-12)


def test_a_first_segment_may_be_short_too(cfg):
    params, ids = small.params(cfg), small.ids(cfg, cfg.T)
    logits, _ = story_forward(params, ids=ids, cfg=cfg)
    for length in range(1, cfg.T):
        short, _ = story_forward(params, ids=ids[:, :length], cfg=cfg)
        np.testing.assert_allclose(short, logits[:, :length], rtol=1e-11, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------- last


def test_last_gives_the_last_rows(cfg):
    """To rounding, as the last block multiplies fewer rows. The states of blocks are the same bits: all tokens write
    them. A segment's own memory comes out of the last block, so it is the same to rounding."""
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T)
    logits, whole = story_forward(params, ids=ids, cfg=cfg, pad=np.minimum(PAD, cfg.T - 1))
    for last in range(cfg.T + 1):
        rows, cache = story_forward(params, ids=ids, cfg=cfg, pad=np.minimum(PAD, cfg.T - 1), last=last)
        assert rows.shape == (3, last, cfg.V)
        np.testing.assert_allclose(rows, logits[:, 3 * cfg.T - last:], rtol=1e-11, atol=1e-12)
        for (*blocks, segment), (*all_blocks, all_segment) in zip(cache["states"], whole["states"], strict=True):
            assert_same(blocks, all_blocks)
            for x, y in zip(segment or (), all_segment or (), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)


def test_last_gives_the_gradients_of_a_loss_on_the_last_rows(cfg):
    params, ids, last = small.params(cfg), small.ids(cfg, 3 * cfg.T), min(2, cfg.T)
    dlogits = np.random.default_rng(1).standard_normal((3, last, cfg.V))
    whole = gradients(params, cfg, ids, dlogits)
    rows = gradients(params, cfg, ids, dlogits, last=last)
    for name in params:
        np.testing.assert_allclose(rows[name], whole[name], rtol=1e-9, atol=1e-12, err_msg=name)


# -------------------------------------------------------------------------------------------------- truncate, recompute

EARLY = 7                                                # a token that stands at one position of a story only


def with_early(cfg, segments, at=0):
    ids = small.ids(cfg, segments * cfg.T)
    ids[ids == EARLY] = EARLY + 1
    ids[:, at] = EARLY
    return ids


@pytest.mark.parametrize(("segments", "cut"), [(2, 1), (3, 1), (3, 2), (4, 3)])
def test_the_cut_stops_the_gradient_of_what_was_read_before_it_and_of_nothing_else(remembering, segments, cut):
    """The loss stands in the last segment, behind the cut; a tied head would reach every token from there.

    The early token is the first that the memory still carries there: that of the story, or where a window begins.
    """
    cfg = replace(remembering, tied=False)
    at = small.earliest(cfg, segments * cfg.T - 1)
    assert at < (segments - 1) // cut * cut * cfg.T
    params, ids = small.params(cfg), with_early(cfg, segments, at)
    dlogits = np.random.default_rng(1).standard_normal((3, 1, cfg.V))
    whole = gradients(params, cfg, ids, dlogits)
    truncated = gradients(params, cfg, ids, dlogits, truncate=cut)
    assert whole["embed.W"][EARLY].any()
    assert not truncated["embed.W"][EARLY].any()
    assert truncated["embed.W"][ids[0, -1]].any()


def test_a_cut_behind_the_whole_story_cuts_nothing(remembering):
    cfg = remembering
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T)
    dlogits = np.random.default_rng(1).standard_normal((3, 1, cfg.V))
    whole, late = gradients(params, cfg, ids, dlogits), gradients(params, cfg, ids, dlogits, truncate=3)
    assert np.array_equal(whole.buffer, late.buffer)


def test_between_two_cuts_the_gradient_flows(remembering):
    """truncate=2 on four segments: segment 2 still learns from the loss in segment 3, segment 1 does not."""
    cfg = replace(remembering, tied=False, D=32)         # features may be so sparse that in 8 no query meets a key
    params, ids = small.params(cfg), small.ids(cfg, 4 * cfg.T)
    before, behind = cfg.V - 1, cfg.V - 2
    ids[ids >= behind] = 0
    ids[:, 2 * cfg.T - 1], ids[:, 2 * cfg.T] = before, behind
    dlogits = np.random.default_rng(1).standard_normal((3, 1, cfg.V))
    grads = gradients(params, cfg, ids, dlogits, truncate=2)
    assert not grads["embed.W"][before].any()
    assert grads["embed.W"][behind].any()


def test_without_memory_no_earlier_segment_learns_from_the_last():
    cfg = small.VARIANTS["none"]
    params, ids = small.params(cfg), with_early(cfg, 2)
    grads = gradients(params, cfg, ids, np.random.default_rng(1).standard_normal((3, 1, cfg.V)))
    assert not grads["embed.W"][EARLY].any()


@pytest.mark.parametrize("options", [{}, {"pad": True}, {"last": 1}, {"truncate": 2}, {"pad": True, "last": 1}],
                         ids=lambda options: ", ".join(options) or "plain")
def test_recompute_gives_the_same_bits_and_keeps_no_segment(cfg, options):
    options = {**options, "pad": np.minimum(PAD, cfg.T - 1)} if "pad" in options else options
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T)
    logits, cache = story_forward(params, ids=ids, cfg=cfg, **options)
    again, recomputed = story_forward(params, ids=ids, cfg=cfg, recompute=True, **options)
    assert np.array_equal(again, logits)
    assert recomputed["segments"] == [None] * 3
    assert None not in cache["segments"]                 # only on request: it costs a forward pass
    dlogits = upstream(logits)
    assert np.array_equal(story_backward(dlogits, recomputed).buffer, story_backward(dlogits, cache).buffer)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(("options", "said"), [
    ({"pad": [0, 6, 0]}, "pad has shape (3,) and values 0..6, expected (3,) and 0..5"),
    ({"pad": [0, -1, 0]}, "pad has shape (3,) and values -1..0, expected (3,) and 0..5"),
    ({"pad": [0, 0]}, "pad has shape (2,) and values 0..0, expected (3,) and 0..5"),
    ({"pad": [[0], [0], [0]]}, "pad has shape (3, 1) and values 0..0, expected (3,) and 0..5"),
    ({"last": 4}, "last is 4, expected 0 to 3"),
    ({"last": -1}, "last is -1, expected 0 to 3"),
], ids=str)
def test_pad_and_last_that_do_not_fit_are_refused_in_one_line(options, said):
    cfg = small.CFG                                      # two segments of 6 tokens and one of 3
    with pytest.raises(ValueError, match="^story_forward: ") as error:
        story_forward(small.params(cfg), ids=small.ids(cfg, 15), cfg=cfg, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_segment_has_no_more_rows_to_give_than_tokens():
    cfg = small.CFG
    params = small.params(cfg)
    with pytest.raises(ValueError, match="^segment_forward: last is 6, expected 0 to 5, the tokens of the segment$"):
        segment_forward(params, first_states(params, cfg, 3)[0], ids=small.ids(cfg, 5), cfg=cfg, last=6)


def test_a_segment_that_does_not_write_hands_on_the_states_that_it_read(remembering):
    params = small.params(remembering)
    for states in (first_states(params, remembering, 3)[0], small.states(remembering)):
        _, found, _ = segment_forward(params, states, ids=small.ids(remembering, 5), cfg=remembering, write=False)
        assert all(after is before for before, after in zip(states, found, strict=True))
        _, written, _ = segment_forward(params, states, ids=small.ids(remembering, 5), cfg=remembering)
        assert not small.same_states(remembering, states, written)


@pytest.mark.parametrize("pad", [None, PAD], ids=["plain", "padded"])
def test_a_segment_behind_a_past_has_the_logits_of_one_piece(cfg, pad):
    """The first tokens are read, then the others behind their keys and values, with and without padding."""
    params, ids = small.params(cfg), small.ids(cfg, 5)
    for states in (first_states(params, cfg, 3)[0], small.states(cfg)):
        options = {"cfg": cfg, "write": False, "pad": pad}
        whole, _, _ = segment_forward(params, states, ids=ids, **options)
        _, _, cache = segment_forward(params, states, ids=ids[:, :3], **options)
        for rows in (None, 1):
            rest, _, _ = segment_forward(params, states, ids=ids[:, 3:], last=rows, **options,
                                         past=[block["kv"] for block in cache["blocks"]])
            np.testing.assert_allclose(rest, whole[:, 5 - rest.shape[1]:], rtol=1e-9, atol=1e-11)


def test_padding_must_end_within_a_short_first_segment():
    with pytest.raises(ValueError, match=r"expected \(3,\) and 0\.\.3"):
        story_forward(small.params(small.CFG), ids=small.ids(small.CFG, 4), cfg=small.CFG, pad=[0, 4, 0])


def test_a_story_without_tokens_is_refused():
    with pytest.raises(ValueError, match="story_forward: ids has no tokens, expected at least one"):
        story_forward(small.params(small.CFG), ids=small.ids(small.CFG, 0), cfg=small.CFG)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"N": 9}, "N=9 slots, expected at most D=8"),
    ({"D": 9}, "D=9 is not divisible by H=4 heads"),
    ({"D": 12}, "head size 3 (D=12, H=4), expected an even number"),
    ({"G": 3}, "G=3 key/value heads do not divide H=4 heads"),
    ({"memory": "slot"}, "memory 'slot', expected one of " + ", ".join(MEMORIES)),
    ({"memory_blocks": (0, 2)}, "memory_blocks (0, 2), expected numbers in 0..1"),
    ({"memory_blocks": (-1,)}, "memory_blocks (-1,), expected numbers in 0..1"),
    ({"head_dim": 3}, "head size 3 (D=8, H=4), expected an even number"),
    ({"head_dim": 0}, "head size 0 (D=8, H=4), expected an even number"),
    ({"base": 0.0}, "base 0.0 and eps 1e-05, expected above 0"),
    ({"eps": float("nan")}, "base 10000.0 and eps nan, expected above 0"),
    ({"scaling": (8, 4, 1, 64)}, "scaling (8, 4, 1, 64), expected factor, low < high, length"),
    *(({"memory": name, "head_dim": 6}, f"head size 6, expected D / H = 2 with memory {name}")
      for name, memory in MEMORIES.items() if getattr(memory, "check", None) is primitives.check_heads),
    *(({"memory": name, "memory_blocks": (0,)}, f"memory_blocks (0,), expected none with memory {name}")
      for name, memory in MEMORIES.items() if hasattr(memory, "enter_forward")),
    *(({letter: 0}, f"{letter} is 0, expected at least 1") for letter in "VDLHGFNT"),
], ids=str)
def test_a_config_that_does_not_fit_is_refused_in_one_line(wrong, said):
    with pytest.raises(ValueError, match="^config: ") as error:
        Config(**{"V": 11, "D": 8, "L": 2, "H": 4, "G": 2, "F": 12, "N": 4, "T": 6, **wrong})
    assert said in str(error.value)
    assert "\n" not in str(error.value)

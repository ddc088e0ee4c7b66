"""What a story is made of: segments joined by banks and by nothing else, forward and backward."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support import small
from tinylm2.model import Config, first_banks, segment_backward, segment_forward, story_backward, story_forward

pytestmark = pytest.mark.core

PAD = np.array([0, 2, 1])


def upstream(logits, seed=1):
    return np.random.default_rng(seed).standard_normal(logits.shape)


def gradients(params, cfg, ids, dlogits, **options):
    """The gradients of sum(dlogits * logits); dlogits weighs the last rows where it has fewer."""
    logits, cache = story_forward(params, ids=ids, cfg=cfg, **options)
    full = np.zeros(logits.shape)
    full[:, logits.shape[1] - dlogits.shape[1]:] = dlogits
    return story_backward(full, cache)


# --------------------------------------------------------------------------------------------------- segment by segment


@pytest.mark.parametrize("short", [0, 1, 2])
def test_segment_by_segment_gives_the_bits_of_the_whole_story(cfg, short):
    """Logits, banks and gradients; the last segment ends `short` tokens early, at one token at least."""
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T - min(short, cfg.T - 1))
    pad = np.minimum(PAD, cfg.T - 1)
    logits, cache = story_forward(params, ids=ids, cfg=cfg, pad=pad)
    banks, parts, caches = first_banks(params, cfg, 3), [], []
    for start in range(0, ids.shape[1], cfg.T):
        for M, entered in zip(banks, cache["banks"][start // cfg.T], strict=True):
            assert M is entered is None or np.array_equal(M, entered)
        part, banks, segment = segment_forward(params, banks, ids=ids[:, start:start + cfg.T], cfg=cfg,
                                               pad=pad if start == 0 and pad.any() else None,
                                               write=start + cfg.T < ids.shape[1])
        parts.append(part)
        caches.append(segment)
    assert np.array_equal(np.concatenate(parts, 1), logits)

    dlogits = upstream(logits)
    grads, dbanks = {name: np.zeros(W.shape) for name, W in params.items()}, None
    for start, segment in reversed(list(zip(range(0, ids.shape[1], cfg.T), caches, strict=True))):
        shares, dbanks = segment_backward(dlogits[:, start:start + cfg.T], dbanks, segment)
        for name, share in shares.items():
            grads[name] += share
    found = story_backward(dlogits, cache)
    assert all(np.array_equal(found[name], grads[name]) for name in params)


def test_a_short_last_segment_says_what_the_full_one_says_there(cfg):
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


# ----------------------------------------------------------------------------------------------------------------- tail


def test_tail_gives_the_last_rows(cfg):
    """To rounding, as the last block multiplies fewer rows. The banks are the same bits: all tokens write them."""
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T)
    logits, whole = story_forward(params, ids=ids, cfg=cfg, pad=np.minimum(PAD, cfg.T - 1))
    for tail in range(cfg.T + 1):
        last, cache = story_forward(params, ids=ids, cfg=cfg, pad=np.minimum(PAD, cfg.T - 1), tail=tail)
        assert last.shape == (3, tail, cfg.V)
        np.testing.assert_allclose(last, logits[:, 3 * cfg.T - tail:], rtol=1e-11, atol=1e-12)
        for ones, others in zip(cache["banks"], whole["banks"], strict=True):
            assert all(M is other is None or np.array_equal(M, other) for M, other in zip(ones, others, strict=True))


def test_tail_gives_the_gradients_of_a_loss_on_the_last_rows(cfg):
    params, ids, tail = small.params(cfg), small.ids(cfg, 3 * cfg.T), min(2, cfg.T)
    dlogits = np.random.default_rng(1).standard_normal((3, tail, cfg.V))
    whole = gradients(params, cfg, ids, dlogits)
    last = gradients(params, cfg, ids, dlogits, tail=tail)
    for name in params:
        np.testing.assert_allclose(last[name], whole[name], rtol=1e-9, atol=1e-12, err_msg=name)


# ----------------------------------------------------------------------------------------------------- truncate, recompute

EARLY = 7                                                # a token that stands in the first segment only


def with_early(cfg, segments):
    ids = small.ids(cfg, segments * cfg.T)
    ids[ids == EARLY] = EARLY + 1
    ids[:, 0] = EARLY
    return ids


@pytest.mark.parametrize(("segments", "cut"), [(2, 1), (3, 1), (3, 2), (4, 3)])
def test_the_cut_stops_the_gradient_of_what_was_told_before_it_and_of_nothing_else(remembering, segments, cut):
    """The loss stands in the last segment, behind the cut; a tied head would reach every token from there."""
    cfg = replace(remembering, tied=False)
    params, ids = small.params(cfg), with_early(cfg, segments)
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
    cfg = replace(remembering, tied=False)
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


@pytest.mark.parametrize("options", [{}, {"pad": True}, {"tail": 1}, {"truncate": 2}, {"pad": True, "tail": 1}],
                         ids=lambda options: ", ".join(options) or "plain")
def test_replay_gives_the_same_bits_and_keeps_no_segment(cfg, options):
    options = {**options, "pad": np.minimum(PAD, cfg.T - 1)} if "pad" in options else options
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T)
    logits, cache = story_forward(params, ids=ids, cfg=cfg, **options)
    again, replayed = story_forward(params, ids=ids, cfg=cfg, recompute=True, **options)
    assert np.array_equal(again, logits)
    assert replayed["segments"] == [None] * 3
    assert None not in cache["segments"]                 # asked for by name only: it costs a forward
    dlogits = upstream(logits)
    assert np.array_equal(story_backward(dlogits, replayed).buffer, story_backward(dlogits, cache).buffer)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(("options", "said"), [
    ({"pad": [0, 6, 0]}, "pad has shape (3,) and values 0..6, expected (3,) and 0..5"),
    ({"pad": [0, -1, 0]}, "pad has shape (3,) and values -1..0, expected (3,) and 0..5"),
    ({"pad": [0, 0]}, "pad has shape (2,) and values 0..0, expected (3,) and 0..5"),
    ({"pad": [[0], [0], [0]]}, "pad has shape (3, 1) and values 0..0, expected (3,) and 0..5"),
    ({"tail": 4}, "tail is 4, expected 0 to 3"),
    ({"tail": -1}, "tail is -1, expected 0 to 3"),
], ids=str)
def test_pad_and_tail_that_do_not_fit_are_refused_in_one_line(options, said):
    cfg = small.CFG                                      # two segments of 6 tokens and one of 3
    with pytest.raises(ValueError, match="^story_forward: ") as error:
        story_forward(small.params(cfg), ids=small.ids(cfg, 15), cfg=cfg, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_segment_has_no_more_rows_to_give_than_tokens():
    cfg = small.CFG
    params = small.params(cfg)
    with pytest.raises(ValueError, match="^segment_forward: tail is 6, expected 0 to 5, the tokens of the segment$"):
        segment_forward(params, first_banks(params, cfg, 3), ids=small.ids(cfg, 5), cfg=cfg, tail=6)


def test_a_segment_that_does_not_write_hands_on_the_banks_that_it_read(remembering):
    params = small.params(remembering)
    banks = first_banks(params, remembering, 3)
    _, found, _ = segment_forward(params, banks, ids=small.ids(remembering, 5), cfg=remembering, write=False)
    assert all(after is before for before, after in zip(banks, found, strict=True))


def test_a_segment_behind_a_past_says_what_it_says_in_one_piece(cfg):
    params, ids = small.params(cfg), small.ids(cfg, 5)
    banks = first_banks(params, cfg, 3)
    whole, _, _ = segment_forward(params, banks, ids=ids, cfg=cfg, write=False)
    _, _, cache = segment_forward(params, banks, ids=ids[:, :2], cfg=cfg, write=False)
    rest, _, _ = segment_forward(params, banks, ids=ids[:, 2:], cfg=cfg, write=False,
                                 past=[block["kv"] for block in cache["blocks"]])
    np.testing.assert_allclose(rest, whole[:, 2:], rtol=1e-9, atol=1e-11)


def test_padding_must_end_within_a_short_first_segment():
    with pytest.raises(ValueError, match=r"expected \(3,\) and 0\.\.3"):
        story_forward(small.params(small.CFG), ids=small.ids(small.CFG, 4), cfg=small.CFG, pad=[0, 4, 0])


def test_a_story_without_tokens_is_refused():
    with pytest.raises(ValueError, match="story_forward: ids has no tokens, expected at least one"):
        story_forward(small.params(small.CFG), ids=small.ids(small.CFG, 0), cfg=small.CFG)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"N": 9}, "N=9 slots, expected at most D=8"),
    ({"D": 9}, "D=9 is not divisible by H=4 heads"),
    ({"D": 12}, "heads are 3 wide (D=12, H=4), expected an even width"),
    ({"G": 3}, "G=3 key/value heads do not divide H=4 heads"),
    ({"memory": "slot"}, "memory 'slot', expected one of slots, printed, none"),
    ({"memory_blocks": (0, 2)}, "memory_blocks (0, 2), expected numbers in 0..1"),
    ({"memory_blocks": (-1,)}, "memory_blocks (-1,), expected numbers in 0..1"),
    *(({letter: 0}, f"{letter} is 0, expected at least 1") for letter in "VDLHGFNT"),
], ids=str)
def test_a_config_that_does_not_fit_is_refused_in_one_line(wrong, said):
    with pytest.raises(ValueError, match="^config: ") as error:
        Config(**{"V": 11, "D": 8, "L": 2, "H": 4, "G": 2, "F": 12, "N": 4, "T": 6, **wrong})
    assert said in str(error.value)
    assert "\n" not in str(error.value)

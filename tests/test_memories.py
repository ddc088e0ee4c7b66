"""What every memory of the table must declare and do, and what only some of them can: a window, full attention, RMT.

Causality, padding, gradients, devices, dtypes and counts of every memory stand in the files of those names: they walk
the same table.
"""

import inspect
from dataclasses import replace

import numpy as np
import pytest

from tests.support import small
from tests.support.leaves import leaves, map_arrays
from tinylm2 import ops
from tinylm2.data import TASKS, GrammarFiller, Stories, word_tokenizer
from tinylm2.decoding import answer
from tinylm2.memories import MEMORIES, lm2, pooled, rmt, variant, window
from tinylm2.model import Config, count_params, first_states, init_params, segment_forward, with_params_of
from tinylm2.recurrence import story_backward, story_forward
from tinylm2.training.curriculum import curriculum
from tinylm2.training.settings import Settings
from tinylm2.training.trainer import Trainer

pytestmark = pytest.mark.core

REAL = {name: memory for name, memory in MEMORIES.items() if memory is not None}
T, PAD = small.CFG.T, np.array([2, 0, 3])
INTERFACE = {                                            # pair: the forward's arguments, with "*" behind optional ones
    "first": ("p", "cfg", "B"), "read": ("n", "state", "p", "cfg"), "keys": ("state", "p", "cfg"),
    "write": ("seg", "state", "p", "cfg", "pad*"), "enter": ("x", "state", "cfg", "pad*", "write*"),
    "leave": ("h", "last"),
}


@pytest.fixture(params=MEMORIES)
def cfg(request):
    """The small model with each memory of the table."""
    return replace(small.CFG, memory=request.param)


@pytest.fixture(params=REAL)
def memory(request):
    return REAL[request.param]


def with_memory(memory):
    """The small model with this memory."""
    return replace(small.CFG, memory=next(name for name, found in REAL.items() if found is memory))


def gradients(params, cfg, ids, **options):
    """The gradients of a random weighting of the logits."""
    logits, cache = story_forward(params, ids=ids, cfg=cfg, **options)
    return story_backward(np.random.default_rng(1).standard_normal(logits.shape), cache)


# ------------------------------------------------------------------------------------------------------------ interface


def test_the_table_has_the_memories_that_the_documents_compare():
    assert {"lm2", "pooled", "rmt", "window", "none", "full"} <= MEMORIES.keys()


def test_a_memory_belongs_to_blocks_or_to_a_segment(memory):
    """Blocks read it by an output gate or by keys, and write it; a segment is entered and left."""
    has = {pair for pair in INTERFACE if hasattr(memory, f"{pair}_forward")}
    assert has in ({"first", "read", "write"}, {"first", "keys", "write"}, {"first", "enter", "leave"})
    assert not hasattr(memory, "write_forward") or type(memory.WRITE_USES_READ) is bool
    assert "keys" not in has or callable(memory.hidden)


def test_a_memory_has_the_pairs_of_the_interface_with_its_arguments(memory):
    for pair, expected in INTERFACE.items():
        if hasattr(memory, f"{pair}_forward"):
            found = inspect.signature(getattr(memory, f"{pair}_forward")).parameters.values()
            assert tuple(p.name + "*" * (p.default is not p.empty) for p in found) == expected
            assert callable(getattr(memory, f"{pair}_backward"))
    for pair in memory.PAIRS:
        assert callable(getattr(memory, f"{pair}_forward"))
        assert callable(getattr(memory, f"{pair}_backward"))


def test_a_state_is_a_tuple_of_arrays_with_the_declared_names(memory):
    """One row per story; None stands for zero, such as a count of hidden keys."""
    cfg = with_memory(memory)
    params = small.params(cfg)
    _, cache = story_forward(params, ids=small.ids(cfg, 3 * T), cfg=cfg, pad=PAD)
    for states in cache["states"]:
        assert len(states) == cfg.L + 1
        for found, state in zip(cfg.memories, states, strict=True):
            assert (found is None) == (state is None)
            if found is not None:
                assert type(state) is tuple
                assert len(state) == len(memory.state_shapes(cfg))
                assert all(x is None or len(x) == 3 for x in state)


def test_the_names_of_parameters_are_new_and_those_of_a_block_begin_with_mem(memory):
    names = memory.param_shapes(small.CFG)
    if hasattr(memory, "write_forward"):
        assert all(name.startswith("mem.") for name in names)
    assert not names.keys() & {"embed.W", "head.W", "norm.g"}


def test_every_parameter_of_a_memory_learns(cfg):
    grads = gradients(small.params(cfg), cfg, small.ids(cfg, 3 * T))
    assert all(g.any() for g in grads.values())


def test_a_state_is_never_changed_in_place(cfg):
    params, states = small.params(cfg), small.states(cfg)
    before = map_arrays(np.copy, states)
    for write in (True, False):
        segment_forward(params, states, ids=small.ids(cfg, T), cfg=cfg, write=write)
        for (path, x), (_, y) in zip(leaves(states), leaves(before), strict=True):
            assert np.array_equal(x, y), path


def test_every_memory_gets_the_parameters_of_lm2_by_the_width_of_its_feed_forward(cfg):
    base = Config(V=80)
    found = with_params_of(base, replace(base, memory=cfg.memory))
    assert abs(count_params(found) - count_params(base)) <= 3 * base.D * base.L / 2
    assert Settings(memory=cfg.memory).config(80) == found


def test_a_variant_is_a_copy_with_a_function_replaced_and_the_original_stays():
    """The copy's other functions call the replacement: here a write whose gates never let anything in."""
    def kept(zin, zforget, R, M):
        return lm2.gated_sum_forward(zin - 1e9, zforget + 1e9, R, M)

    frozen = variant(lm2, gated_sum_forward=kept)
    cfg, original = small.CFG, lm2.gated_sum_forward
    p = {name: np.random.default_rng(0).standard_normal(shape) for name, shape in lm2.param_shapes(cfg).items()}
    p |= {"attn.Wqkv": np.ones((8, 16)), "attn.Wo": np.ones((8, 8))}
    state = (np.random.default_rng(1).standard_normal((3, 4, 8)),)
    k = np.random.default_rng(2).standard_normal((3, 6, 2, 2))
    (same,), _ = frozen.write_forward((None, None, k, k), state, p, cfg=cfg)
    (moved,), _ = lm2.write_forward((None, None, k, k), state, p, cfg=cfg)
    assert np.array_equal(same, state[0])
    assert not np.allclose(moved, state[0])
    assert lm2.gated_sum_forward is original
    assert frozen is not lm2
    with pytest.raises(AttributeError, match="no_such_function"):
        variant(lm2, no_such_function=kept)


def test_a_new_memory_is_its_module_and_a_line_of_the_table(monkeypatch):
    """A copy of LM2's that reads nothing, under a name of its own: the model, a story and an answer take it."""
    def nothing(n, state, p, *, cfg):
        y, cache = lm2.read_forward(n, state, p, cfg=cfg)
        return y * 0, cache

    monkeypatch.setitem(MEMORIES, "blind", variant(lm2, read_forward=nothing))
    cfg = replace(small.CFG, memory="blind")
    params, ids = small.params(cfg), small.ids(cfg, 3 * T - 2)
    plain = {name: W for name, W in params.items() if ".mem." not in name}
    logits, _ = story_forward(params, ids=ids, cfg=cfg)
    np.testing.assert_array_equal(logits, story_forward(plain, ids=ids, cfg=replace(cfg, memory="none"))[0])
    assert answer(params, ids=ids, cfg=cfg, answer_len=2, end=0).shape == (3, 2)


# --------------------------------------------------------------------------------------------------------- every memory


def test_a_longer_story_has_the_same_beginning(cfg):
    params, ids = small.params(cfg), small.ids(cfg, 3 * T)
    long, short = (story_forward(params, ids=x, cfg=cfg)[0] for x in (ids, ids[:, :2 * T]))
    np.testing.assert_allclose(long[:, :2 * T], short, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("truncate", "reaches"), [(None, True), (3, True), (1, False), (2, False)])
def test_truncation_stops_the_gradient_of_a_token_read_before_the_cut(memory, truncate, reaches):
    """It stands as early as the memory still carries it to the last token, before the last segment."""
    cfg = with_memory(memory)
    params, ids, rare = small.params(cfg), small.ids(cfg, 3 * T), cfg.V - 1
    ids[ids == rare] = 0
    ids[0, small.earliest(cfg, 3 * T - 1)] = rare
    assert gradients(params, cfg, ids, last=1, truncate=truncate)["embed.W"][rare].any() == reaches


def test_recomputing_gives_the_same_bits_with_padding_and_a_cut(cfg):
    params, ids = small.params(cfg), small.ids(cfg, 4 * T)
    kept, recomputed = (gradients(params, cfg, ids, pad=PAD, truncate=2, recompute=recompute).buffer
                        for recompute in (False, True))
    assert np.array_equal(kept, recomputed)


def test_after_the_end_nothing_but_the_end_is_answered(cfg):
    params, ids = small.params(cfg), small.ids(cfg, 2 * T - 3)
    first = answer(params, ids=ids, cfg=cfg, answer_len=1, end=cfg.V)[0, 0]
    assert (answer(params, ids=ids, cfg=cfg, answer_len=3, end=first)[0] == first).all()


def test_the_trainer_trains_it(cfg):
    tokenizer = word_tokenizer()
    cfg = Config(V=tokenizer.size, D=16, F=24, N=4, memory=cfg.memory)
    trainer = Trainer(init_params(cfg, 0), cfg=cfg, max_lr=1e-2, warmup=5,
                      stages=curriculum(segment_len=32, segments=(2,), steps=(2,)),
                      stories=Stories([TASKS["qa1"]], tokenizer=tokenizer, filler=GrammarFiller(), seed=0))
    losses = [trainer.step()["loss"] for _ in range(30)]
    assert losses[-1] < 0.6 * losses[0]


# ------------------------------------------------------------------------------------------ a window and full attention


SEES_ALL = {"full": {}, "window": {"N": 40}}             # a story of 40 tokens or less is seen whole


def one_segment(params, cfg, ids, **options):
    """Plain attention over the whole story as one segment: logits and gradients."""
    plain = replace(cfg, memory="none", T=ids.shape[1])
    logits, cache = story_forward(params, ids=ids, cfg=plain, **options)
    return logits, story_backward(np.random.default_rng(1).standard_normal(logits.shape), cache)


@pytest.mark.parametrize("pad", [None, PAD], ids=["plain", "padded"])
@pytest.mark.parametrize("length", [3 * T, 6 * T - 2, 40])
@pytest.mark.parametrize("name", SEES_ALL)
def test_a_window_as_long_as_the_story_is_attention_over_one_long_segment(name, length, pad):
    """Logits and all gradients, to 1e-12 of the largest; and the segments do matter: without the window they differ."""
    cfg = replace(small.CFG, memory=name, **SEES_ALL[name])
    params, ids = small.params(cfg), small.ids(cfg, length)
    logits, cache = story_forward(params, ids=ids, cfg=cfg, pad=pad)
    grads = story_backward(np.random.default_rng(1).standard_normal(logits.shape), cache)
    whole, whole_grads = one_segment(params, cfg, ids, pad=pad)
    np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-12 * abs(whole).max())
    for key, g in whole_grads.items():
        np.testing.assert_allclose(grads[key], g, rtol=0, atol=1e-12 * abs(g).max(), err_msg=key)
    assert not np.allclose(logits, story_forward(params, ids=ids, cfg=replace(cfg, memory="none"), pad=pad)[0])


@pytest.mark.parametrize("N", [3 * T, 3 * T + 1, 1000])
def test_full_attention_is_a_window_that_is_long_enough_bit_for_bit(N):
    cfg = replace(small.CFG, memory="full")
    params, ids = small.params(cfg), small.ids(cfg, 3 * T + 2)
    for pad in (None, PAD):
        full, _ = story_forward(params, ids=ids, cfg=cfg, pad=pad)
        assert np.array_equal(full, story_forward(params, ids=ids, cfg=replace(cfg, memory="window", N=N), pad=pad)[0])


@pytest.mark.parametrize("N", [1, 4, T, T + 3, 2 * T])
def test_a_window_forgets_what_lies_more_than_N_positions_before_the_segment(N):
    """One block, so that nothing is passed on from token to token: the N-th position before the segment is the last one
    that moves a logit, and the last one whose token has a gradient."""
    cfg = replace(small.CFG, memory="window", N=N, L=1)
    params, start = small.params(cfg), 3 * T
    ids = small.ids(cfg, 4 * T)
    logits, _ = story_forward(params, ids=ids, cfg=cfg, last=T)
    for t in range(start):
        changed = ids.copy()
        changed[:, t] = small.other(cfg, ids)[:, t]
        found, _ = story_forward(params, ids=changed, cfg=cfg, last=T)
        assert np.array_equal(found, logits) == (t < start - N), t
        rare = ids % (cfg.V - 1)
        rare[:, t] = cfg.V - 1
        assert gradients(params, cfg, rare, last=T)["embed.W"][cfg.V - 1].any() == (t >= start - N), t


@pytest.mark.parametrize("N", [1, 4, T + 3, 2 * T])
def test_a_window_hides_as_many_of_its_keys_as_are_padding(N):
    cfg = replace(small.CFG, memory="window", N=N)
    params, pad = small.params(cfg), np.array([0, 5, 3])
    _, cache = story_forward(params, ids=small.ids(cfg, 4 * T), cfg=cfg, pad=pad)
    for s, states in enumerate(cache["states"][1:], 1):
        first = max(0, s * T - N)                        # the position of the first key that is kept
        for k, v, hidden in states[:cfg.L]:
            assert k.shape == v.shape == (3, s * T - first, cfg.G, cfg.K)
            assert hidden.tolist() == np.maximum(pad - first, 0).tolist()


def test_a_window_keeps_keys_where_they_stand_before_the_next_segment():
    """What the first block keeps are its keys turned to positions -N to -1, and its values as they are."""
    cfg = replace(small.CFG, memory="window", L=1)
    params, ids = small.params(cfg), small.ids(cfg, 2 * T)
    _, cache = story_forward(params, ids=ids, cfg=cfg)
    (k, v, hidden), _ = cache["states"][1]
    n, _ = ops.rmsnorm_forward(params["embed.W"][ids[:, T - 4:T]] * cfg.D**0.5, params["blocks.0.attn.g"])
    _, Wk, Wv = np.split(params["blocks.0.attn.Wqkv"], [cfg.H * cfg.K, (cfg.H + cfg.G) * cfg.K], axis=1)
    turned, _ = ops.rope_forward((n @ Wk).reshape(3, 4, cfg.G, cfg.K), start=-4)
    np.testing.assert_allclose(k, turned, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(v, (n @ Wv).reshape(3, 4, cfg.G, cfg.K), rtol=1e-10, atol=1e-13)
    assert hidden is None


def test_a_window_has_no_parameters_and_starts_empty():
    for name in SEES_ALL:
        cfg = replace(small.CFG, memory=name)
        assert count_params(cfg) == count_params(replace(cfg, memory="none"))
        states, _ = first_states(small.params(cfg), cfg, 3)
        assert [k.shape[1] for k, _, _ in states[:cfg.L]] == [0] * cfg.L
    assert window.size(small.CFG) == small.CFG.N
    assert MEMORIES["full"].size(small.CFG) > 10**9
    assert window.size is not MEMORIES["full"].size


# ------------------------------------------------------------------------------------------------------------------ rmt


RMT = replace(small.CFG, memory="rmt")


def test_rmt_begins_with_the_learned_memory_at_a_tokens_scale():
    params = small.params(RMT)
    (*blocks, (M,)), _ = first_states(params, RMT, 3)
    assert blocks == [None] * RMT.L
    np.testing.assert_allclose(M, np.stack([params["memory.W"] * RMT.D**0.5] * 3))


def test_rmt_lays_its_memory_around_the_tokens_and_padding_before_it():
    x, M = np.arange(6.0).reshape(2, 3, 1) + 10, np.arange(4.0).reshape(2, 2, 1)
    y, _ = rmt.enter_forward(x, (M,), cfg=RMT)
    assert y[..., 0].tolist() == [[0, 1, 10, 11, 12, 0, 1], [2, 3, 13, 14, 15, 2, 3]]
    y, _ = rmt.enter_forward(x, (M,), cfg=RMT, pad=np.array([2, 0]))
    assert y[..., 0].tolist() == [[10, 11, 0, 1, 12, 0, 1], [2, 3, 13, 14, 15, 2, 3]]
    y, _ = rmt.enter_forward(x, (M,), cfg=RMT, write=False)
    assert y[..., 0].tolist() == [[0, 1, 10, 11, 12], [2, 3, 13, 14, 15]]


def test_the_memory_of_rmt_sees_the_last_token_of_its_segment_and_no_later_one():
    params, ids = small.params(RMT), small.ids(RMT, 2 * T)
    for t, moves in ((0, True), (T - 1, True), (T, False)):
        changed = ids.copy()
        changed[:, t] = small.other(RMT, ids)[:, t]
        (M,), (found,) = (story_forward(params, ids=x, cfg=RMT)[1]["states"][1][-1] for x in (ids, changed))
        assert np.array_equal(M, found) != moves


@pytest.mark.parametrize(("truncate", "reaches"), [(None, True), (3, True), (1, False), (2, False)])
def test_the_first_memory_of_rmt_learns_through_every_segment_unless_cut(truncate, reaches):
    """The loss stands in the third segment, two passes through the stack behind the learned rows."""
    grads = gradients(small.params(RMT), RMT, small.ids(RMT, 3 * T), last=2, truncate=truncate)
    assert grads["memory.W"].any() == reaches


# ---------------------------------------------------------------------------------------------------------- lm2, pooled


def test_lm2_and_pooled_read_alike_and_write_differently():
    assert pooled.read_forward is lm2.read_forward
    assert pooled.write_forward is not lm2.write_forward
    assert lm2.param_shapes(small.CFG).keys() - pooled.param_shapes(small.CFG) == {"mem.bin", "mem.bforget"}


@pytest.mark.parametrize("name", ["lm2", "pooled"])
def test_a_bank_starts_as_rows_of_the_identity(name):
    cfg = replace(small.CFG, memory=name)
    states, _ = first_states(small.params(cfg), cfg, 3)
    for (M,) in states[:cfg.L]:
        assert np.array_equal(M, np.broadcast_to(np.eye(cfg.N, cfg.D), (3, cfg.N, cfg.D)))
    with pytest.raises(ValueError, match="N=9 slots, expected at most D=8"):
        replace(cfg, N=9)

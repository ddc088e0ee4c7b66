"""Numbers at the edge stay finite; a number that is not finite is found, named and never learned from."""

import re

import numpy as np
import pytest

from tests.support import small
from tests.support.leaves import leaves, map_arrays
from tinylm2 import layers, ops
from tinylm2.checking import diagnose
from tinylm2.data import HaystackSampler
from tinylm2.memories import MEMORIES, lm2, rmt, window
from tinylm2.model import segment_backward, segment_forward
from tinylm2.recurrence import story_backward, story_forward
from tinylm2.training import loop, run_dir
from tinylm2.training.curriculum import Stage
from tinylm2.training.run_dir import RunDir
from tinylm2.training.settings import Settings
from tinylm2.training.step import NotFinite

FLOATS = ("float32", "float64")


def random(*shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_finite(tree):
    found = list(leaves(tree))
    assert found
    for path, x in found:
        assert np.isfinite(x).all(), path


# ------------------------------------------------------------------------------------------------------------- extremes


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_logits_of_ten_thousand_have_a_finite_loss_and_gradient(dtype, size):
    logits = np.zeros((2, 3, 5), dtype)
    logits[..., 1] = size
    logits[0, 0] = size                                  # all alike
    targets = np.array([[0, 1, 2], [1, 0, 4]])
    loss, cache = ops.cross_entropy_forward(logits, targets=targets, weights=np.ones((2, 3), dtype))
    (dlogits,) = ops.cross_entropy_backward(1.0, cache)
    assert_finite((loss, dlogits))
    one, others = (0, 1e4) if size > 0 else (1e4 + np.log(4), np.log(4))
    assert float(loss) == pytest.approx(np.mean([np.log(5), one, others, one, others, others]), rel=1e-5)


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
def test_scores_of_ten_thousand_attend_to_one_place(dtype):
    q, k, v = (random(2, 3, 2, 4, dtype=dtype, seed=seed) for seed in range(3))
    y, cache = ops.attend_forward(q * 1e2, k * 1e2, v, causal=True)
    assert_finite((y, ops.attend_backward(np.ones_like(y), cache)))


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("causal", [True, False])
def test_rows_of_only_padding_may_be_in_a_batch(dtype, causal):
    """Pad reaches to the last place but one: with causal queries, all padded ones see just themselves."""
    q, k, v = (random(3, 4, 2, 4, dtype=dtype, seed=seed) for seed in range(3))
    y, cache = ops.attend_forward(q, k, v, causal=causal, pad=np.array([3, 0, 1]))
    assert_finite((y, ops.attend_backward(np.ones_like(y), cache)))
    np.testing.assert_array_equal(y[0, 3], v[0, 3])      # nobody else to see


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1e4, -1e4, 1e30, -1e30])
def test_saturated_gates_are_shut_or_open_and_finite(dtype, size):
    x = np.full((2, 3), size, dtype)
    for forward, backward, at in ((ops.sigmoid_forward, ops.sigmoid_backward, (0, 1)),
                                  (ops.tanh_forward, ops.tanh_backward, (-1, 1)),
                                  (ops.silu_forward, ops.silu_backward, (0, size))):
        y, cache = forward(x)
        (dx,) = backward(np.ones_like(x), cache)
        assert_finite((y, dx))
        np.testing.assert_allclose(y, at[int(size > 0)], rtol=1e-6)
        np.testing.assert_allclose(dx, float(forward is ops.silu_forward and size > 0), rtol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_a_bank_behind_saturated_gates_is_kept_or_replaced(dtype, size):
    R, M = (random(2, 3, 4, dtype=dtype, seed=seed) for seed in range(2))
    W, b = np.zeros((4, 4), dtype), np.full(4, size, dtype)
    M_next, cache = lm2.memory_update_forward(R, M, W, b, W, -b)
    assert_finite((M_next, lm2.memory_update_backward(np.ones_like(M), cache)))
    np.testing.assert_allclose(M_next, np.tanh(R) if size > 0 else M, rtol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_zeros_and_of_huge_numbers_are_normed(dtype):
    x = np.array([[0, 0, 0, 0], [1e15, -1e15, 1e15, 1e15], [1e-15, 0, 0, 0]], dtype)
    y, cache = ops.rmsnorm_forward(x, np.ones(4, dtype))
    assert_finite((y, ops.rmsnorm_backward(np.ones_like(x), cache)))
    np.testing.assert_allclose(y[1], [1, -1, 1, 1], rtol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_feed_forward_of_huge_gates_is_finite(dtype):
    h = random(2, 3, 4, dtype=dtype) * 1e4
    y, cache = layers.feed_forward_forward(h, random(4, 12, dtype=dtype), random(6, 4, dtype=dtype))
    assert_finite((y, layers.feed_forward_backward(np.ones_like(y), cache)))


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_model_of_huge_parameters_stays_finite(cfg, dtype):
    """A thousand times its start: every gate saturated, every softmax sharp."""
    params, ids = small.params(cfg, dtype), small.ids(cfg, 3 * cfg.T)
    params.buffer *= 1e3
    pad = np.array([0, cfg.T - 1, cfg.T // 2])
    logits, cache = story_forward(params, ids=ids, cfg=cfg, pad=pad)
    assert_finite((logits, story_backward(random(*logits.shape, dtype=dtype), cache)))


@pytest.mark.core
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_segment_of_one_token_is_finite_even_behind_huge_states(cfg, dtype):
    params, ids = small.params(cfg, dtype), small.ids(cfg, 1)
    states = map_arrays(lambda x: x * np.asarray(1e6, dtype), small.states(cfg, dtype))
    logits, next_states, cache = segment_forward(params, states, ids=ids, cfg=cfg)
    dstates = map_arrays(np.ones_like, next_states)
    assert_finite((logits, next_states))
    assert_finite(segment_backward(random(*logits.shape, dtype=dtype), dstates, cache))


# --------------------------------------------------------------------------------------------------- numbers gone wrong


def a_run(memory="lm2"):
    """(TrainedModel, Trainer) of a run of six steps."""
    model = run_dir.new(Settings(hidden_size=8, ff=12, slots=4, segments="2", memory=memory))
    trainer = model.trainer()
    trainer.stages = (Stage("B", HaystackSampler(facts=(2,), segments=(2,)), 4, 6),)
    return model, trainer


@pytest.fixture
def run():
    with np.errstate(all="ignore"):
        yield a_run()


@pytest.mark.parametrize(("module", "name", "where"), [
    (ops, "attend_forward", "story > segment 1 > block 1 > self_attention > attend, forward"),
    (ops, "cross_entropy_backward", "cross_entropy, backward"),
    (ops, "rmsnorm_backward", "story > segment 1 > rmsnorm, backward"),
    (lm2, "memory_update_forward", "story > segment 1 > block 1 > write > memory_update, forward"),
    (lm2, "memory_update_backward", "story > segment 2 > block 1 > write > memory_update, backward"),
    (layers, "feed_forward_backward", "story > segment 1 > block 1 > feed_forward, backward"),
    (rmt, "enter_forward", "story > segment 1 > enter, forward"),
    (rmt, "leave_backward", "story > segment 1 > leave, backward"),
    (window, "write_backward", "story > segment 2 > block 1 > write, backward"),
])
def test_the_first_operation_that_is_not_finite_is_named_and_nothing_is_updated(monkeypatch, module, name, where):
    _, run = a_run(next((name for name, memory in MEMORIES.items() if memory is module), "lm2"))
    run.step()
    function = getattr(module, name)

    def wrong(*args, **keywords):
        result = function(*args, **keywords)
        _, x = next(leaves(result))
        x[...] = np.inf
        return result

    monkeypatch.setattr(module, name, wrong)
    before = run.params.buffer.copy(), run.optimizer.m.copy(), run.optimizer.v.copy(), run.optimizer.t
    said = rf"^step 1: the loss is .*; first not finite: {re.escape(where)}$"
    with np.errstate(all="ignore"), pytest.raises(NotFinite, match=said):
        run.step()
    assert getattr(module, name) is wrong                # what was watched is left as it was
    after = run.params.buffer, run.optimizer.m, run.optimizer.v, run.optimizer.t
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    assert run.progress.step == 1


def test_a_parameter_that_is_not_finite_is_named(run):
    _, run = run
    run.params["blocks.1.ff.Wdown"][0, 0] = np.inf
    with pytest.raises(NotFinite, match="step 0: .* first not finite: blocks.1.ff.Wdown, a parameter"):
        run.step()


def test_gradients_whose_norm_overflows_are_named_as_such(monkeypatch, run):
    _, run = run
    function = ops.embedding_backward
    monkeypatch.setattr(ops, "embedding_backward", lambda dy, cache: tuple(g * np.float32(1e30)
                                                                           for g in function(dy, cache)))
    with pytest.raises(NotFinite, match="norm inf; first not finite: the norm, of finite gradients"):
        run.step()


def test_where_all_is_finite_nothing_is_found(run):
    _, run = run
    seen = []
    assert diagnose.first_not_finite(lambda: seen.append(run.step()), run.params) == ""
    assert seen


@pytest.mark.parametrize(("broken_in", "said"), [
    (4, "step 5: the loss is nan, .*; first not finite: head.W, a parameter"),
    (3, "step 4: head.W is not finite; the last checkpoint stays")])
def test_the_last_good_checkpoint_is_untouched_and_the_metrics_end_before_the_step(tmp_path, run, broken_in, said):
    loaded, run = run
    folder, saved = RunDir(tmp_path), []

    def show(metrics):
        if metrics["step"] == broken_in:
            saved.append((tmp_path / "model.npz").read_bytes())
            run.params["head.W"][0, 0] = np.nan

    with pytest.raises(NotFinite, match=said):
        loop.train(folder, loaded, run, save_every=2, show=show)
    assert (tmp_path / "model.npz").read_bytes() == saved[0]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == broken_in + 1
    assert run_dir.load(tmp_path)[2]["step"] == (2 if broken_in == 3 else 4)

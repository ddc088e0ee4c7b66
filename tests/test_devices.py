"""One source for every device: fake_cupy gives NumPy's bits and never waits for the device, a GPU gives its numbers.

Tests marked `gpu` run where there is one.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.support import fake_cupy, small
from tinylm2 import ops
from tinylm2.backend import get_xp, to_device, to_host
from tinylm2.data import (
    TASKS,
    Batch,
    GrammarFiller,
    HaystackSampler,
    Stories,
    encode_examples,
    generated_examples,
    word_tokenizer,
)
from tinylm2.decoding import answer
from tinylm2.gpu import array_module
from tinylm2.inspect.evaluate import ask
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, init_params
from tinylm2.optim import AdamW
from tinylm2.recurrence import story_backward, story_forward
from tinylm2.training import checkpoint
from tinylm2.training.curriculum import Stage
from tinylm2.training.step import train_step
from tinylm2.training.trainer import Trainer

FLOATS = ["float32", "float64"]


def a_batch(cfg, segments=3, seed=0):
    """Three rows, the last two tokens of each the answer and the end."""
    tokens = small.ids(cfg, segments * cfg.T + 1, seed)
    last = min(2, cfg.T)
    weights = np.zeros(tokens[:, 1:].shape, np.float32)
    weights[:, -last:] = 1
    return Batch(tokens[:, :-1], tokens[:, 1:], weights, np.minimum([0, 2, 1], cfg.T - 1), last, ("a", "b", "c"))


def a_pass(params, cfg, batch, **options):
    """Forward, loss and backward: what a training step does between its uploads and its update."""
    xp = get_xp(params.buffer)
    ids, targets, weights = (to_device(x, xp) for x in (batch.ids, batch.targets, batch.weights))
    with fake_cupy.watch() as seen:
        logits, cache = story_forward(params, ids=ids, cfg=cfg, pad=batch.pad, **options)
        rows = slice(-logits.shape[1], None)
        loss, loss_cache = ops.cross_entropy_forward(logits, targets=targets[:, rows], weights=weights[:, rows])
        (dlogits,) = ops.cross_entropy_backward(1.0, loss_cache)
        grads = story_backward(dlogits, cache)
    return SimpleNamespace(seen=seen, logits=host(logits), loss=host(loss), grads=host(grads.buffer))


def host(x):
    return np.asarray(x) if isinstance(x, np.generic) else np.array(to_host(x))      # NumPy's own loss is a scalar


def steps(params, cfg, count=2, **options):
    """A few whole training steps: numbers and where the parameters and moments went."""
    optimizer, numbers, seen = AdamW(params), [], []
    for step in range(count):
        with fake_cupy.watch() as watched:
            numbers.append(train_step(params, optimizer, a_batch(cfg, seed=step), cfg=cfg, lr=1e-2, **options))
        seen.append(watched)
    state = [host(x) for x in (params.buffer, optimizer.m, optimizer.v)]
    return SimpleNamespace(numbers=numbers, state=state, seen=seen)


def assert_equal_steps(found, expected):
    for ones, others in zip(found.numbers, expected.numbers, strict=True):
        assert ones[:2] == others[:2]
        assert np.array_equal(ones[2], others[2])
    for x, y in zip(found.state, expected.state, strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)


# ----------------------------------------------------------------------------------------------- the model on fake_cupy


@pytest.mark.parametrize("options", [{}, {"last": 1}, {"truncate": 2}, {"recompute": True}], ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_pass_gives_numpys_bits_and_copies_nothing_back(cfg, dtype, options):
    params = small.params(cfg, dtype)
    expected = a_pass(params, cfg, a_batch(cfg), **options)
    found = a_pass(small.on_device(params, fake_cupy.xp), cfg, a_batch(cfg), **options)
    for name in ("logits", "loss", "grads"):
        x, y = getattr(found, name), getattr(expected, name)
        assert x.dtype == y.dtype == dtype
        assert np.array_equal(x, y)
    assert found.seen.copies == []
    assert found.seen.uploads in ([], [(3,)])            # the padding, where there is any
    assert found.seen.operations.total() > 100


@pytest.mark.parametrize(("dtype", "options"), [
    ("float64", {}), ("float32", {}), ("float32", {"lm": 0.5}), ("float32", {"recompute": True, "truncate": 1}),
], ids=str)
def test_training_steps_give_numpys_bits_with_one_copy_each(cfg, dtype, options):
    expected = steps(small.params(cfg, dtype), cfg, **options)
    found = steps(small.on_device(small.params(cfg, dtype), fake_cupy.xp), cfg, **options)
    assert_equal_steps(found, expected)
    assert [len(seen.copies) for seen in found.seen] == [1, 1]


def test_a_step_launches_the_same_operations_every_time(cfg):
    """Nothing grows, nothing depends on what the numbers are; tables are computed in the first step."""
    seen = steps(small.on_device(small.params(cfg), fake_cupy.xp), cfg, count=3).seen
    assert seen[1].operations == seen[2].operations
    assert seen[1].uploads == seen[2].uploads


TINY = Config(V=200, D=64, L=2, H=4, G=4, F=176, N=1, T=64, memory="none")
LAUNCHES = 193                                           # lower it when it falls; the plain style makes 663


def test_a_step_at_the_tiny_size_launches_few_operations():
    tokens = np.random.default_rng(0).integers(0, TINY.V, (4, TINY.T + 1))
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((4, TINY.T), np.float32), np.zeros(4, int), TINY.T, ())
    params = init_params(TINY, 0, xp=fake_cupy.xp)
    optimizer = AdamW(params)
    for _ in range(2):
        with fake_cupy.watch() as seen:
            train_step(params, optimizer, batch, cfg=TINY, lr=1e-3)
    assert seen.operations.total() <= LAUNCHES, seen.operations
    assert len(seen.copies) <= 2


def asking(xp, dtype="float64", count=6, segments=2, memory="lm2"):
    """A word model, its tokenizer, and questions to ask it over two segments."""
    tokenizer, filler = word_tokenizer(), GrammarFiller()
    cfg = Config(V=tokenizer.size, D=8, L=2, H=2, G=1, F=12, N=4, T=32, memory=memory)
    examples = generated_examples(TASKS["qa1"], count, seed=0)
    rows, _ = encode_examples(examples, segments, tokenizer=tokenizer, filler=filler, segment_len=cfg.T, seed=0,
                              answer_len=2)
    return small.on_device(small.params(cfg, dtype), xp), cfg, tokenizer, rows


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("frozen", [False, True])
def test_answers_are_numpys_with_one_copy_per_token(frozen, memory):
    params, cfg, tokenizer, rows = asking(np, memory=memory)
    there, *_ = asking(fake_cupy.xp, memory=memory)
    ids = np.array([row.prompt for row in rows])
    pad = np.array([0, 2, 1, 0, 3, 0])[:len(rows)]
    given = {"ids": ids, "cfg": cfg, "answer_len": 2, "end": tokenizer.end, "pad": pad, "frozen": frozen}
    expected = answer(params, **given)
    with fake_cupy.watch() as seen:
        found = answer(there, **given)
    assert np.array_equal(found, expected)
    assert seen.copies == [(len(rows),)] * 2


def test_evaluation_gives_numpys_answers():
    params, cfg, tokenizer, rows = asking(np)
    there, *_ = asking(fake_cupy.xp)
    expected = ask(params, rows, cfg=cfg, tokenizer=tokenizer, answer_len=2)
    assert ask(there, rows, cfg=cfg, tokenizer=tokenizer, answer_len=2) == expected
    assert len(set(expected)) > 1


def a_run(params, cfg, tokenizer):
    """Four steps of two stages on fresh stories."""
    stories = Stories([TASKS["qa1"]], tokenizer=tokenizer, filler=GrammarFiller(), seed=0)
    stages = (Stage("A", HaystackSampler(facts=(2,), segment_len=16, filler=False), 4, 2),
              Stage("B", HaystackSampler(facts=(2,), segments=(2,), segment_len=32), 4, 2))
    run = Trainer(params, cfg=cfg, stories=stories, stages=stages)
    return run, list(run.steps())


def test_a_run_is_numpys_bit_for_bit_and_so_is_its_checkpoint(tmp_path):
    saved = []
    for xp in (np, fake_cupy.xp):
        params, cfg, tokenizer, _ = asking(xp, "float32")
        run, metrics = a_run(params, cfg, tokenizer)
        path = tmp_path / f"{xp.__name__}.npz"
        checkpoint.save(path, run.params, run.moments, {"metrics": metrics})
        saved.append(path.read_bytes())
        again, moments, _ = checkpoint.load(path, xp=xp)
        assert get_xp(again.buffer, moments["m"]) is xp
        assert np.array_equal(host(again.buffer), host(run.params.buffer))
    assert saved[0] == saved[1]


# -------------------------------------------------------------------------------------------------------- on a real GPU


@pytest.fixture
def cupy():
    return array_module("gpu")


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"last": 1}, {"recompute": True}], ids=str)
def test_a_gpu_gives_numpys_numbers(cfg, cupy, options):
    params = small.params(cfg)
    expected, found = (a_pass(small.on_device(params, xp), cfg, a_batch(cfg), **options) for xp in (np, cupy))
    for name in ("logits", "loss", "grads"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
def test_a_gpu_trains_as_numpy_does(cfg, cupy):
    expected, found = (steps(small.on_device(small.params(cfg), xp), cfg) for xp in (np, cupy))
    for x, y in zip(found.state, expected.state, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_gpu_gives_the_same_step_twice_bit_for_bit(cfg, cupy, dtype):
    assert_equal_steps(*(steps(small.on_device(small.params(cfg, dtype), cupy), cfg) for _ in range(2)))


def embedding_error(xp, dtype):
    """How far dW is off where 4,096 gradients of one sign are summed for 80 tokens, relative to its largest entry."""
    rng = np.random.default_rng(0)
    ids, dy = rng.integers(0, 80, 4096), rng.uniform(0.5, 1.5, (4096, 8))
    ids[ids == 8] = 9
    dy[ids == 7] = 0
    _, cache = ops.embedding_forward(to_device(np.zeros((90, 8), dtype), xp), ids=to_device(ids, xp))
    (dW,) = ops.embedding_backward(to_device(dy.astype(dtype), xp), cache)
    exact = np.zeros((90, 8))
    np.add.at(exact, ids, dy)
    assert not host(dW)[7].any()                         # its gradients are zero
    assert not host(dW)[[8, *range(80, 90)]].any()       # tokens that did not occur
    return np.abs(host(dW) - exact).max() / exact.max()


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float64", 1e-14)])
def test_an_embedding_gradient_is_exact_to_its_own_digits(dtype, error):
    assert embedding_error(np, dtype) < error


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float64", 1e-14)])
def test_an_embedding_gradient_is_exact_on_a_gpu_too(cupy, dtype, error):
    """CuPy's add.reduceat subtracts running sums of all rows: digits of the whole are lost on every part."""
    assert embedding_error(cupy, dtype) < error


@pytest.mark.gpu
def test_a_gpu_answers_as_numpy_does(cupy):
    params, cfg, tokenizer, rows = asking(np)
    there, *_ = asking(cupy)
    expected = ask(params, rows, cfg=cfg, tokenizer=tokenizer, answer_len=2)
    assert ask(there, rows, cfg=cfg, tokenizer=tokenizer, answer_len=2) == expected


@pytest.mark.gpu
def test_a_gpu_learns_qa1(cupy):
    """The first stage of the main job: it must reach its threshold."""
    tokenizer = word_tokenizer()
    cfg = Config(V=tokenizer.size)
    stories = Stories([TASKS["qa1"]], tokenizer=tokenizer, filler=GrammarFiller(), seed=0)
    stages = (Stage("A", HaystackSampler(facts=(2,), segment_len=16, filler=False), 128, 1000, loss_threshold=0.15,
                    required=True),)
    run = Trainer(init_params(cfg, 0, xp=cupy), cfg=cfg, stories=stories, stages=stages)
    *_, last = run.steps()
    assert last["accuracy"] > 0.9

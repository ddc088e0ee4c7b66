"""One source for every device: fake_cupy gives NumPy's bits and never waits for the device, a GPU gives its numbers.

Tests marked `gpu` run where there is one; `-p tests.support.pretend_gpu` runs them on the fake CuPy.
"""

import sys
import warnings
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support import fake_cupy, small
from tests.support.leaves import leaves, map_arrays
from tinylm2 import decoding, ops
from tinylm2.backend import einsum, get_xp, to_device, to_host
from tinylm2.checking.cases import CASES
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
from tinylm2.gpu import array_module, upload
from tinylm2.inspect.evaluate import ask
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, init_params
from tinylm2.optim import AdamW, clip
from tinylm2.recurrence import story_backward, story_forward
from tinylm2.training import checkpoint
from tinylm2.training import step as training_step
from tinylm2.training.curriculum import Stage
from tinylm2.training.step import loss_and_gradients, train_step
from tinylm2.training.trainer import Trainer

FLOATS = ["float32", "float64"]
PRETENDED = "tests.support.pretend_gpu" in sys.modules   # the fake CuPy stands for CuPy: shorter where a CPU is slow


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
LAUNCHES = 190                                           # lower it when it falls; the plain style makes 663


def test_a_step_at_the_tiny_size_launches_few_operations():
    tokens = np.random.default_rng(0).integers(0, TINY.V, (4, TINY.T + 1))
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((4, TINY.T), np.float32), np.zeros(4, int), TINY.T, ())
    params = init_params(TINY, 0, xp=fake_cupy.xp)
    optimizer = AdamW(params)
    for _ in range(2):
        with fake_cupy.watch() as seen:
            train_step(params, optimizer, batch, cfg=TINY, lr=1e-3)
    assert seen.operations.total() <= LAUNCHES, seen.operations
    assert len(seen.copies) == len(seen.uploads) == 1    # what it reports; ids, targets and weights


def test_an_upload_of_several_arrays_is_one_copy_and_each_array_its_own():
    arrays = [np.arange(6).reshape(2, 3), np.zeros((0, 3), np.float32), np.ones((3, 5), np.float32)[:, 1:],
              np.arange(12.0)[::2]]
    with fake_cupy.watch() as seen:
        found = upload(fake_cupy.xp, *arrays)
    assert len(seen.uploads) == 1
    assert not +seen.operations                          # the parts are views
    for x, y in zip(found, arrays, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert np.array_equal(to_host(x), y)
    assert all(x is y for x, y in zip(upload(np, *arrays), arrays, strict=True))


def recorded(monkeypatch, xp, stages, **options):
    """What a run does, in its order: ("make", step) where a batch is made, "ask" where the device is asked."""
    params, cfg, tokenizer, _ = asking(xp, "float32")
    seen, sampler = [], HaystackSampler(facts=(2,), segment_len=16, filler=False)

    def make(stories, step, *rest):
        seen.append(("make", step))
        return sampler.batch(stories, step, *rest)

    monkeypatch.setattr(training_step, "to_host", lambda x: seen.append("ask") or to_host(x))
    stories = Stories([TASKS["qa1"]], tokenizer=tokenizer, filler=GrammarFiller(), seed=0)
    stages = [Stage(str(i), SimpleNamespace(batch=make), 4, steps) for i, steps in enumerate(stages)]
    run = Trainer(params, cfg=cfg, stories=stories, stages=stages, **options)
    return seen, [metrics["loss"] for metrics in run.steps()]


def test_the_next_batch_is_made_while_the_device_computes(monkeypatch):
    """None is made for a step behind the end of a stage, and none twice."""
    late, expected = recorded(monkeypatch, np, (3, 1))
    early, found = recorded(monkeypatch, fake_cupy.xp, (3, 1))
    assert late == [x for step in range(4) for x in (("make", step), "ask")]
    assert early == [("make", 0), ("make", 1), "ask", ("make", 2), "ask", "ask", ("make", 3), "ask"]
    assert found == expected
    assert recorded(monkeypatch, np, (3, 1), ahead=True) == (early, expected)
    assert recorded(monkeypatch, fake_cupy.xp, (3, 1), ahead=False) == (late, expected)


def test_tables_are_kept_per_device(monkeypatch):
    """On two GPUs the table of the first would be read across, or not at all."""
    x = to_device(np.ones((1, 3, 2, 4)), fake_cupy.xp)
    first, again = (ops.rope_forward(x, start=5)[1] for _ in range(2))
    assert first is again
    monkeypatch.setattr(fake_cupy.Array, "device", SimpleNamespace(id=1))
    assert ops.rope_forward(x, start=5)[1] is not first


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


def there_and_back(case, xp):
    """Every array that a pair returns, forwards and backwards, in float64: [(path, host array)]."""
    inputs, constants = map_arrays(lambda x: to_device(x, xp), case.build(np.random.default_rng(0)))
    if case.slope_of:                                    # a forward for the checker alone
        constants.pop("states")
    *outputs, cache = getattr(case.module, f"{case.pair}_forward")(*inputs, **constants)
    rng = np.random.default_rng(1)
    dy = map_device(lambda y: to_device(rng.standard_normal(y.shape), xp), outputs)
    found = outputs, getattr(case.module, f"{case.pair}_backward")(*dy, cache)
    return list(leaves(map_device(host, found)))


def map_device(function, tree):
    """The same tree with every array of any device replaced; a Flat becomes a dict."""
    if isinstance(tree, dict):
        return {key: map_device(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return tuple(map_device(function, value) for value in tree)
    return function(tree) if hasattr(tree, "dtype") else tree


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_pair_gives_numpys_numbers_on_a_gpu(cupy, case):
    expected, found = (there_and_back(case, xp) for xp in (np, cupy))
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (path, x), (_, y) in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-10 * max(1, np.abs(y).max(initial=0)), err_msg=path)


SUMS = [("...d,...d->...", (2, 3, 5)), ("rd,rd->d", (4, 3)), ("...ut->...t", (2, 3, 4)), ("rv->r", (3, 4)),
        ("bthk,bthk->bht", (2, 3, 4, 5)), ("btd->d", (2, 3, 4)), ("rd,rd->d", (0, 3)), ("...d,...d->...", (2, 0, 5))]


@pytest.mark.gpu
@pytest.mark.parametrize(("sums", "shape"), SUMS, ids=str)
def test_a_gpu_sums_as_einsum_does(cupy, sums, shape):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for _ in range(sums.count(",") + 1)]
    found = host(einsum(sums, *(to_device(x, cupy) for x in arrays)))
    assert found.shape == np.einsum(sums, *arrays).shape
    np.testing.assert_allclose(found, np.einsum(sums, *arrays), rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"last": 1}, {"recompute": True}, {"truncate": 2}], ids=str)
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
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_gpu_answers_as_numpy_does(cupy, memory):
    params, cfg, tokenizer, rows = asking(np, memory=memory)
    there, *_ = asking(cupy, memory=memory)
    for frozen in (False, True):
        options = {"cfg": cfg, "tokenizer": tokenizer, "answer_len": 2, "frozen": frozen}
        assert ask(there, rows, **options) == ask(params, rows, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_gpu_generates_what_numpy_does(cupy, memory):
    """Over the border of a segment and beyond, story by story the likeliest token."""
    params, cfg, _, rows = asking(np, memory=memory)
    there, *_ = asking(cupy, memory=memory)
    ids = np.array([row.prompt for row in rows])

    def generated(params):
        tokens = decoding.decode(params, lambda logits: to_host(logits.argmax(-1)), ids=ids, cfg=cfg)
        return np.stack(list(islice(tokens, cfg.T + 8)))

    assert np.array_equal(generated(there), generated(params))


@pytest.mark.gpu
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("way", ["to the GPU", "to the CPU"])
def test_a_run_resumes_on_the_other_device(cupy, tmp_path, memory, way):
    cfg = small.VARIANTS[memory]
    first, second = (np, cupy) if way == "to the GPU" else (cupy, np)

    def train(xp, params, moments, seeds):
        optimizer = AdamW(params)
        if moments:
            optimizer.m[...], optimizer.v[...], optimizer.t = moments["m"], moments["v"], 2
        for seed in seeds:
            train_step(params, optimizer, a_batch(cfg, seed=seed), cfg=cfg, lr=1e-2)
        return params, {"m": optimizer.m, "v": optimizer.v}

    path = tmp_path / "model.npz"
    checkpoint.save(path, *train(first, small.on_device(small.params(cfg), first), None, (0, 1)), {})
    params, moments, _ = checkpoint.load(path, xp=second)
    found, _ = train(second, params, moments, (2, 3))
    expected, _ = train(np, small.params(cfg), None, (0, 1, 2, 3))
    np.testing.assert_allclose(host(found.buffer), expected.buffer, rtol=1e-8, atol=1e-8)


@pytest.mark.gpu
def test_a_gpu_is_never_waited_for_inside_a_step(cfg, cupy):
    """CuPy itself says where it waits: until the step's numbers are asked for, nowhere."""
    import cupyx

    if not hasattr(cupyx, "allow_synchronize"):
        pytest.skip("this CuPy does not say where it waits for the device")
    params = small.on_device(small.params(cfg, "float32"), cupy)
    steps(params, cfg, count=1)                          # tables and kernels are made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # it calls itself deprecated
        with cupyx.allow_synchronize(False):
            _, _, grads = loss_and_gradients(params, a_batch(cfg), cfg=cfg)
            clip(grads, 1.0)


@pytest.mark.gpu
def test_a_million_tokens_take_no_more_memory_than_a_few(cupy):
    """While a story is read, one segment and the states stand on the device."""
    cfg = Config(V=50, D=32, H=2, G=2, N=16, T=32 if PRETENDED else 512)
    params, pool = init_params(cfg, 0, xp=cupy), cupy.get_default_memory_pool()
    held = []
    for length in (2**11, 2**12) if PRETENDED else (2**14, 2**20):
        pool.free_all_blocks()
        ids = np.random.default_rng(0).integers(0, cfg.V, (1, length - 1), dtype=np.uint16)
        decoding.answer(params, ids=ids, cfg=cfg, answer_len=1, end=0)
        held.append(pool.total_bytes())
    assert held[1] <= held[0] + 2**20


@pytest.mark.gpu
def test_memory_stops_growing_after_every_length(cupy):
    """CuPy's pool keeps what it got: batches of other lengths must find their place in it."""
    cfg, pool = Config(V=50, D=32, H=2, G=2, N=8, T=64), cupy.get_default_memory_pool()
    params, held = init_params(cfg, 0, xp=cupy), []
    optimizer = AdamW(params)
    for length in (1, 2, 3) if PRETENDED else 6 * tuple(np.random.default_rng(0).permutation(range(1, 200, 7))):
        tokens = np.random.default_rng(length).integers(0, cfg.V, (4 if PRETENDED else 512 // length + 1, length + 1))
        last = (length - 1) % cfg.T + 1
        weights = np.zeros(tokens[:, 1:].shape, np.float32)
        weights[:, -last:] = 1
        batch = Batch(tokens[:, :-1], tokens[:, 1:], weights, np.zeros(len(tokens), int), last, ())
        train_step(params, optimizer, batch, cfg=cfg, lr=1e-3)
        held.append(pool.total_bytes())
    half = held[len(held) // 2]
    assert held[-1] <= 1.1 * half, f"{half} bytes after three rounds of every length, {held[-1]} after six"


@pytest.mark.gpu
def test_a_second_gpu_computes_with_tables_of_its_own(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one GPU")
    cfg, found = small.CFG, []
    for number in (0, 1):
        with cupy.cuda.Device(number):
            found.append(a_pass(small.on_device(small.params(cfg), cupy), cfg, a_batch(cfg)).grads)
    assert np.array_equal(*found)


@pytest.mark.gpu
def test_a_gpu_learns_qa1(cupy):
    """The first stage of the main job: it must reach its threshold."""
    if PRETENDED:
        pytest.skip("the fake CuPy is the CPU: too slow")
    tokenizer = word_tokenizer()
    cfg = Config(V=tokenizer.size)
    stories = Stories([TASKS["qa1"]], tokenizer=tokenizer, filler=GrammarFiller(), seed=0)
    stages = (Stage("A", HaystackSampler(facts=(2,), segment_len=16, filler=False), 128, 1000, loss_threshold=0.15,
                    required=True),)
    run = Trainer(init_params(cfg, 0, xp=cupy), cfg=cfg, stories=stories, stages=stages)
    *_, last = run.steps()
    assert last["accuracy"] > 0.9

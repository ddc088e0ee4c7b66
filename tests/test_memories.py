"""The baselines: their gradients, what may reach what, and that trainer and evaluation serve them as they serve LM2."""

import inspect

import numpy as np
import pytest

from baselines import full, rmt
from baselines.cases import CASES, CFG
from tinylm2 import generate, model
from tinylm2.data import TASKS, GrammarFiller, Stories, word_tokenizer
from tinylm2.training.trainer import Trainer, curriculum

T, PAD = CFG.T, np.array([2, 0, 3])
CONTENDERS = {"rmt": (rmt, CFG), "full": (full, full.config(CFG))}


@pytest.fixture(params=CONTENDERS)
def contender(request):
    return CONTENDERS[request.param]


def _params(module, cfg):
    params = module.init_params(cfg, 0, dtype="float64")
    params.buffer += np.random.default_rng(0).normal(0, 0.3, params.buffer.shape)
    return params


def _ids(length, seed=0):
    return np.random.default_rng(seed).integers(0, CFG.V - 1, (3, length))          # never the last token


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.module.__name__}, {case.name}")
def test_gradients(case):
    check = case.check(directions=3)
    assert check.passed, check


def test_every_pair_has_a_case():
    pairs = {name.removesuffix("_backward") for name, _ in inspect.getmembers(rmt, inspect.isfunction)
             if name.endswith("_backward")}
    assert pairs == {case.pair for case in CASES if case.module is rmt}


def test_no_token_changes_a_logit_before_it(contender):
    module, cfg = contender
    params, ids = _params(module, cfg), _ids(3 * T)
    for t in (2, T, 2 * T + 1):
        later = ids.copy()
        later[:, t:] = (later[:, t:] + 1) % cfg.V
        logits, changed = (module.story_forward(params, ids=x, cfg=cfg)[0] for x in (ids, later))
        assert np.array_equal(logits[:, :t], changed[:, :t])
        assert not np.array_equal(logits[:, t:], changed[:, t:])


def test_padding_reaches_no_real_logit(contender):
    module, cfg = contender
    params, ids = _params(module, cfg), _ids(3 * T)
    other = ids.copy()
    for row, pad in zip(other, PAD, strict=True):
        row[:pad] = CFG.V - 1
    logits, changed = (module.story_forward(params, ids=x, cfg=cfg, pad=PAD)[0] for x in (ids, other))
    for row, pad in enumerate(PAD):
        assert np.array_equal(logits[row, pad:], changed[row, pad:])


def test_padding_moves_nothing_rmt_reads_a_padded_segment_as_a_shorter_one():
    params, ids = _params(rmt, CFG), _ids(T)
    padded, _ = rmt.story_forward(params, ids=ids, cfg=CFG, pad=np.array([2, 2, 2]))
    shorter, _ = rmt.story_forward(params, ids=ids[:, 2:], cfg=CFG)
    np.testing.assert_allclose(padded[:, 2:], shorter, rtol=1e-10)


def test_rmt_carries_what_was_told_and_truncation_stops_its_gradient():
    params, ids = _params(rmt, CFG), _ids(3 * T)
    ids[0, 1] = CFG.V - 1                                # told once, in the first segment
    for truncate, reaches in ((None, True), (3, True), (1, False), (2, False)):
        logits, cache = rmt.story_forward(params, ids=ids, cfg=CFG, tail=1, truncate=truncate)
        grads = rmt.story_backward(np.random.default_rng(1).normal(size=logits.shape), cache)
        assert grads["embed.W"][CFG.V - 1].any() == reaches


def test_rmt_replays_bit_for_bit():
    params, ids = _params(rmt, CFG), _ids(3 * T)
    kept, replayed = (rmt.story_backward(*rmt.story_forward(params, ids=ids, cfg=CFG, pad=PAD, recompute=recompute)).buffer
                      for recompute in (False, True))
    assert np.array_equal(kept, replayed)


def test_rmt_gives_another_length_of_story_the_same_beginning():
    params, ids = _params(rmt, CFG), _ids(3 * T)
    long, short = (rmt.story_forward(params, ids=x, cfg=CFG)[0] for x in (ids, ids[:, :2 * T]))
    np.testing.assert_allclose(long[:, :2 * T], short, rtol=1e-10)


def test_rmt_has_no_other_memory():
    with pytest.raises(ValueError, match="expected 'none'"):
        rmt.param_shapes(model.Config(V=7, memory="slots"))


def test_answers_are_the_likeliest_tokens_one_after_another(contender, monkeypatch):
    module, cfg = contender
    monkeypatch.setattr(full, "PIECE", 4)                # a story in several pieces, the last of them short
    params, told = _params(module, cfg), _ids(3 * T - 2)
    said = module.answer(params, ids=told, cfg=cfg, places=2, end=CFG.V, pad=PAD)
    for place in range(2):
        logits, _ = module.story_forward(params, ids=told, cfg=cfg, pad=PAD, tail=1)
        assert np.array_equal(said[:, place], logits[:, -1].argmax(-1))
        told = np.concatenate((told, said[:, place:place + 1]), 1)


def test_after_the_end_nothing_but_the_end_is_said(contender):
    module, cfg = contender
    params, told = _params(module, cfg), _ids(2 * T - 3)
    first = module.answer(params, ids=told, cfg=cfg, places=1, end=CFG.V)[0, 0]
    said = module.answer(params, ids=told, cfg=cfg, places=3, end=first)
    assert (said[0] == first).all()


def test_full_attention_is_lm2_without_memory_on_one_long_segment():
    cfg = full.config(CFG)
    params, ids = _params(full, cfg), _ids(2 * T)
    plain = model.story_forward(params, ids=ids, cfg=model.Config(**{**vars(CFG), "T": 2 * T}))[0]
    assert np.array_equal(full.story_forward(params, ids=ids, cfg=cfg)[0], plain)
    assert not np.allclose(plain, model.story_forward(params, ids=ids, cfg=CFG)[0])


@pytest.mark.parametrize("name", CONTENDERS)
def test_the_trainer_trains_it(name):
    module, tokenizer = CONTENDERS[name][0], word_tokenizer()
    cfg = model.Config(V=tokenizer.size, D=16, F=24, N=4, memory="none")
    cfg = full.config(cfg) if module is full else cfg
    params = module.init_params(cfg, 0)
    run = Trainer(params, cfg=cfg, model=module, peak=1e-2, warmup=5,
              stages=curriculum(width=32, segments=(2,), steps=(2,)),
              stories=Stories([TASKS["qa1"]], tokenizer=tokenizer, filler=GrammarFiller(), seed=0))
    losses = [run.step()["loss"] for _ in range(30)]
    assert losses[-1] < 0.6 * losses[0]


def test_contenders_take_what_lm2_takes():
    for module in (rmt, full):
        for name in ("param_shapes", "init_params", "story_forward", "story_backward"):
            assert inspect.signature(getattr(module, name)) == inspect.signature(getattr(model, name))
    arguments = list(inspect.signature(generate.answer).parameters)
    assert list(inspect.signature(rmt.answer).parameters) == arguments
    assert set(inspect.signature(full.answer).parameters) <= set(arguments)

"""What the tests of pictures and of the page look at: a small run that has learned nothing, and one of its stories."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np

from tinylm2.data import EVALUATION, TASKS, Rng, encode_examples, examples, without_filler
from tinylm2.inspect.trace import pieces, traced_answer
from tinylm2.model import init_params
from tinylm2.training import run_dir
from tinylm2.training.settings import Settings

SETTINGS = Settings(hidden_size=16, ff=20, slots=6, segment=16, segments="2", steps="5")


@cache
def loaded(**config):
    """A TrainedModel moved off its start, so that its weights and gates differ; `config` changes its Config."""
    found = run_dir.new(SETTINGS)
    cfg = replace(found.cfg, **config)
    params = init_params(cfg, 0)
    params.buffer += np.random.default_rng(0).normal(0, 0.5, params.buffer.shape).astype("float32")
    return replace(found, cfg=cfg, params=params)


def save(folder, found=None):
    """The run in a folder, as training leaves it."""
    found = found or loaded()
    folder = run_dir.RunDir(folder)
    folder.claim()
    folder.describe(found)
    folder.save(found, found.trainer())


def row_of(found, segments=4, answer_len=1):
    """A question whose fact lies before the last segment, with padding where there is no filler (segments=0)."""
    story = examples(TASKS["qa1"].story(Rng(3, EVALUATION, 1, 0)), "qa1")
    rows, _ = encode_examples(list(story), segments, tokenizer=found.tokenizer, filler=found.filler,
                              segment_len=found.cfg.T, seed=3, answer_len=answer_len)
    return max(rows, key=lambda row: row.distance)


def seen(found, row, answer_len=1):
    """Everything about one row: .row, .words, .live and .frozen, the two TracedAnswers."""
    live, frozen = (traced_answer(found.params, row, cfg=found.cfg, tokenizer=found.tokenizer, answer_len=answer_len,
                                  frozen=frozen) for frozen in (False, True))
    return SimpleNamespace(row=row, words=pieces(found.tokenizer, row.prompt), live=live, frozen=frozen)


def own(found, example, answer_len=1):
    """The same of an Example of one's own, without filler."""
    row = without_filler(example, tokenizer=found.tokenizer, segment_len=found.cfg.T, answer_len=answer_len)
    return seen(found, row, answer_len)

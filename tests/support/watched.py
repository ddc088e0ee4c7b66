"""What the tests of pictures and of the page look at: a small run that has learned nothing, and one of its stories."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np

from tinylm2 import runs
from tinylm2.data import TASKS, Rng, alone, encode_examples, examples
from tinylm2.data.rng import EVALUATION
from tinylm2.model import init_params
from tinylm2.inspect.trace import pieces, watch

SETTINGS = runs.Settings(width=16, ff=20, slots=6, segment=16, segments="2", steps="5")


@cache
def loaded(**config):
    """A model moved off its start, so that its weights and gates differ; `config` changes its Config."""
    found = runs.new(SETTINGS)
    cfg = replace(found.cfg, **config)
    params = init_params(cfg, 0)
    params.buffer += np.random.default_rng(0).normal(0, 0.5, params.buffer.shape).astype("float32")
    return replace(found, cfg=cfg, params=params)


def save(folder, found=None):
    """The run in a folder, as training leaves it."""
    found = found or loaded()
    folder = runs.RunDir(folder)
    folder.claim()
    folder.describe(found)
    folder.save(found, found.training())


def row_of(found, segments=4, room=1):
    """A question whose fact lies before the last segment, with padding where there is no filler (segments=0)."""
    story = examples(TASKS["qa1"].story(Rng(3, EVALUATION, 1, 0)), "qa1")
    rows, _ = encode_examples(list(story), segments, tokenizer=found.tokenizer, filler=found.filler,
                              width=found.cfg.T, seed=3, room=room)
    return max(rows, key=lambda row: row.distance)


def seen(found, row, places=1):
    """Everything about one row: .row, .words, .live and .frozen, the two Readings."""
    live, frozen = (watch(found.params, row, cfg=found.cfg, tokenizer=found.tokenizer, places=places, frozen=frozen)
                    for frozen in (False, True))
    return SimpleNamespace(row=row, words=pieces(found.tokenizer, row.prompt), live=live, frozen=frozen)


def own(found, example, places=1):
    """The same of an Example of one's own, told alone."""
    return seen(found, alone(example, tokenizer=found.tokenizer, width=found.cfg.T, room=places), places)

"""Hashes of what training and answering give, to prove that a redesign moves nothing: `python -m tests.full bits`.

The same numbers on the same machine, whatever the code looks like: `bits.json` was written before the house was rebuilt
(commit 8a2ad0b and its API), and every case must still give it. Bits depend on the machine's BLAS, so elsewhere
the comparison means nothing; `python -m tests.support.bits FILE` writes a file of its own to compare with.

`full` moved: version 0.1.0 read a whole story as one segment, now it is read segment by segment, and the products'
sums run in another order. Its losses are compared within rounding instead. `lm2, all tasks` moved when the stories of
qa5, qa7, qa15, qa18 and qa19 were changed.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.baselines import baseline
from tinylm2.data import TASKS, GrammarFiller, Stories, encode_examples, generated_examples, word_tokenizer
from tinylm2.inspect.evaluate import ask
from tinylm2.model import init_params
from tinylm2.training.curriculum import curriculum
from tinylm2.training.settings import Settings
from tinylm2.training.trainer import Trainer

KEPT = Path(__file__).with_name("bits.json")


def hashed(params):
    """A hash of every tensor by its name, whatever their order in the buffer."""
    found = hashlib.sha256()
    for name in sorted(params):
        found.update(name.encode() + np.ascontiguousarray(params[name]).tobytes())
    return found.hexdigest()[:16]


def shortened(stages, steps):
    """All stages of a curriculum, each of so many steps."""
    return tuple(replace(stage, steps=steps, required=False, loss_threshold=None) for stage in stages)


def trained(memory, seed, steps, tasks=("qa1",)):
    """(params, cfg, tokenizer, filler, losses): a model after so many steps of each stage."""
    tokenizer, filler = word_tokenizer(), GrammarFiller()
    cfg = baseline(memory, Settings().config(tokenizer.size))
    stories = Stories([TASKS[name] for name in tasks], tokenizer=tokenizer, filler=filler, seed=seed)
    stages = curriculum(segment_len=32, segments=[4], steps=[1000], mixed=0 if len(tasks) == 1 else len(tasks))
    params = init_params(cfg, seed)
    trainer = Trainer(params, cfg=cfg, stories=stories, stages=shortened(stages, steps), max_lr=6e-3)
    return params, cfg, tokenizer, filler, [metrics["loss"] for metrics in trainer.steps()]


def answers(params, cfg, tokenizer, filler, segments):
    """A hash of the greedy answers to forty questions of qa1."""
    rows, _ = encode_examples(generated_examples(TASKS["qa1"], 40, seed=5), segments, tokenizer=tokenizer,
                              filler=filler, segment_len=32, seed=5)
    texts = ask(params, rows, cfg=cfg, tokenizer=tokenizer, answer_len=1)
    return hashlib.sha256("|".join(texts).encode()).hexdigest()[:16]


CASES = {
    "lm2, seed 0": ("lm2", 0, 40), "lm2, seed 1": ("lm2", 1, 40), "pooled": ("pooled", 0, 14), "none": ("none", 0, 14),
    "rmt": ("rmt", 0, 14), "full": ("full", 0, 14),
    "lm2, all tasks": ("lm2", 0, 7, tuple(TASKS)),
}


def measure(show=print):
    """Case -> hashes of its parameters, losses and answers, and its last loss."""
    found = {}
    for name, case in CASES.items():
        *model, losses = trained(*case)
        found[name] = {"parameters": hashed(model[0]),
                       "losses": hashlib.sha256(np.array(losses).tobytes()).hexdigest()[:16],
                       **{f"answers at {n}": answers(*model, n) for n in (0, 8)}, "last loss": losses[-1]}
        show(f"{name}: {found[name]}")
    return found


def compare(found, kept):
    """Lines that name what moved; the last loss of `full` may move by rounding."""
    moved = [f"{name}: {key} is {found[name][key]}, expected {kept[name][key]}" for name in kept if name != "full"
             for key in kept[name] if found[name][key] != kept[name][key]]
    full = found["full"]["last loss"], kept["full"]["last loss"]
    return moved + [f"full: the last loss is {full[0]}, expected about {full[1]}"] * (abs(full[0] - full[1]) > 1e-2)


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(measure(), file, indent=1)

"""Hashes of what training and answering give, to prove that a redesign moves nothing: `python -m tests.full bits`.

Bits depend on the machine's BLAS, so hashes are compared on one machine only: write them before a change with
`python -m tests.bits FILE`, compare after it with `python -m tests.full bits`.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hashlib
import json
import sys
from dataclasses import replace

import numpy as np

from experiments.contenders import contender
from tinylm2 import evaluate, runs
from tinylm2.data import TASKS, GrammarFiller, Stories, evaluation_rows, fresh_examples, word_tokenizer
from tinylm2.train import Run, curriculum

OLD = {"lm2": "slots", "pooled": "printed"}


def hashed(params):
    """A hash of every tensor by its name, whatever their order in the buffer."""
    found = hashlib.sha256()
    for name in sorted(params):
        found.update(name.encode() + np.ascontiguousarray(params[name]).tobytes())
    return found.hexdigest()[:16]


def shortened(stages, steps):
    """All stages of a curriculum, each of so many steps."""
    return tuple(replace(stage, steps=steps, must=False, bar=None) for stage in stages)


def trained(memory, seed, steps, tasks=("qa1",)):
    """(params, cfg, tokenizer, filler, answer): a model after so many steps of each stage."""
    tokenizer, filler = word_tokenizer(), GrammarFiller()
    module, cfg = contender(OLD.get(memory, memory), runs.Settings().config(tokenizer.size))
    stories = Stories([TASKS[name] for name in tasks], tokenizer=tokenizer, filler=filler, seed=seed)
    stages = curriculum(width=32, segments=[4], steps=[1000], mixed=0 if len(tasks) == 1 else len(tasks))
    params = module.init_params(cfg, seed)
    losses = [m["loss"] for m in Run(params, cfg=cfg, stories=stories, stages=shortened(stages, steps), peak=6e-3,
                                     model=module).steps()]
    return params, cfg, tokenizer, filler, module.answer, losses


def answers(params, cfg, tokenizer, filler, answer, segments):
    """A hash of the greedy answers to forty questions of qa1."""
    rows, _ = evaluation_rows(fresh_examples(TASKS["qa1"], 40, seed=5), segments, tokenizer=tokenizer, filler=filler,
                              width=32, seed=5)
    texts = evaluate.ask_rows(params, rows, cfg=cfg, tokenizer=tokenizer, places=1, answer=answer)
    return hashlib.sha256("|".join(texts).encode()).hexdigest()[:16]


CASES = {
    "lm2, seed 0": ("lm2", 0, 40), "lm2, seed 1": ("lm2", 1, 40), "pooled": ("pooled", 0, 14), "none": ("none", 0, 14),
    "rmt": ("rmt", 0, 14), "full": ("full", 0, 14),
    "lm2, all tasks": ("lm2", 0, 7, tuple(TASKS)),
}


def measure():
    """Case -> hashes of its parameters, losses and answers."""
    found = {}
    for name, case in CASES.items():
        *model, losses = trained(*case)
        found[name] = {"parameters": hashed(model[0]),
                       "losses": hashlib.sha256(np.array(losses).tobytes()).hexdigest()[:16],
                       **{f"answers at {n}": answers(*model, n) for n in (0, 8)}, "last loss": losses[-1]}
        print(name, found[name], flush=True)
    return found


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(measure(), file, indent=1)

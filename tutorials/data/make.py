"""Train the small runs that lessons 13 to 15 load: `python -m tutorials.data.make lm2`, about a minute of a core each.

A run is NAME.npz: the parameters, without the optimizer's moments, and a JSON text with its config, its tokenizer and
its course: loss and accuracy, means of ten steps. `lesson.trained(NAME)` reads it.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from experiments.baselines import baseline
from tinylm2.data import TASKS, GrammarFiller, Stories, word_tokenizer
from tinylm2.model import init_params
from tinylm2.training.curriculum import curriculum
from tinylm2.training.settings import Settings
from tinylm2.training.trainer import Trainer

FOLDER = Path(__file__).resolve().parent
CURRICULUM = ("A", "A2", "B")
# name: (memory, seed, stages, steps of stage B)
RUNS = {
    "lm2": ("lm2", 0, CURRICULUM, 1000),                 # what `python train_tiny.py` trains
    "lm2-1": ("lm2", 1, CURRICULUM, 1000),
    "none": ("none", 0, CURRICULUM, 1000),
    "pooled": ("pooled", 0, CURRICULUM, 1000),
    "rmt": ("rmt", 0, CURRICULUM, 1000),
    "full": ("full", 0, CURRICULUM, 1000),
    **{name: (name, 0, CURRICULUM, 1000) for name in ("window", "memformer", "infini", "armt", "titans")},
    "straight": ("lm2", 0, ("B",), 1300),                # full length from the first step on
}
MEAN_OF = 10


def make(name):
    """Train a run and write it."""
    memory, seed, stages, steps = RUNS[name]
    tokenizer = word_tokenizer()
    cfg = baseline(memory, Settings().config(tokenizer.size))
    stories = Stories([TASKS["qa1"]], tokenizer=tokenizer, filler=GrammarFiller(), seed=seed)
    plan = curriculum(segment_len=Settings().segment, segments=(4,), steps=(steps,))
    plan = [stage for stage in plan if stage.name in stages]
    params = init_params(cfg, seed)
    began, course = time.process_time(), []
    for metrics in Trainer(params, cfg=cfg, stories=stories, stages=plan).steps():
        course.append(metrics)
        if len(course) % 100 == 0:
            print(f"{name}: step {len(course)}, stage {metrics['stage']}, loss {metrics['loss']:.3f}", flush=True)
    meta = {"config": asdict(cfg), "tokenizer": tokenizer.to_json(), "course": thinned(course),
            "seconds": round(time.process_time() - began)}
    arrays = {f"param.{key}": W for key, W in params.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)


def thinned(course):
    """A line every ten steps of a stage: [stage, first step, mean loss, mean accuracy]."""
    lines, start = [], 0
    while start < len(course):
        stage = course[start]["stage"]
        part = [metrics for metrics in course[start:start + MEAN_OF] if metrics["stage"] == stage]
        means = [float(np.mean([metrics[key] for metrics in part])) for key in ("loss", "accuracy")]
        lines.append([stage, start, *(round(mean, 4) for mean in means)])
        start += len(part)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=RUNS)
    for name in parser.parse_args().names:
        make(name)

"""horizon: where does it forget, and what helps?

qa1 alone, so that nothing but keeping is asked. Stage B goes through a plan, (longest story in segments: steps), one
part after another; after each part, and at its end over the whole range, the model is asked far beyond what it trained
on, split by how many segments ago the fact was told.
"""

import sys
from dataclasses import replace

from experiments.baselines import contender
from experiments.runner import (
    HELD_OUT,
    Experiment,
    ask,
    curve,
    fresh,
    language,
    learn,
    markdown,
    spread,
    stages,
)
from experiments.ablations import VARIANTS as PARTS
from tinylm2.model import Config

ASKS = "Where does the memory forget, and what helps? qa1, asked at up to 4,096 segments (131,072 tokens)."
QUARTERS = ("nearest", "near", "far", "farthest")        # of the distances that a length allows

_TO_64 = {4: 400, 8: 200, 16: 200, 32: 200, 64: 250}
_TO_256 = {4: 400, 8: 200, 16: 200, 32: 200, 64: 150, 128: 150, 256: 150}

# name -> what differs: the plan {longest: steps}, N, bforget, a part of `parts`, the contender, the learning rate
VARIANTS = {
    "up to 4": {"plan": {4: 2000}},
    "up to 8": {"plan": {4: 600, 8: 1200}},
    "up to 16": {"plan": {4: 600, 8: 600, 16: 900}},
    "up to 32": {"plan": {4: 600, 8: 600, 16: 600, 32: 800}},
    "up to 64": {"plan": _TO_64},
    "up to 256": {"plan": _TO_256},
    "up to 256, rate 3e-3": {"plan": _TO_256, "rate": 3e-3},
    "up to 32, no steps between": {"plan": {32: 1400}},
    "up to 64, bforget 6": {"plan": _TO_64, "bforget": 6.0},
    "up to 64, 32 slots": {"plan": _TO_64, "slots": 32},
    "up to 64, gates see the bank": {"plan": _TO_64, "part": "gates see the bank, too"},
    "up to 64, query not turned": {"plan": _TO_64, "part": "a slot's query is not turned"},
    "up to 64, no output gate": {"plan": _TO_64, "part": "no output gate"},
    "up to 64, bout 0": {"plan": _TO_64, "part": "bout 0"},
    "up to 64, rmt": {"plan": _TO_64, "contender": "rmt"},
}


def measure(name, seed, budget, show):
    """Train by the variant's plan and ask at every length."""
    variant = VARIANTS[name]
    part = PARTS[variant.get("part", "all parts")]
    cfg = part.config(replace(Config(V=language()[0].size), N=variant.get("slots", Config.N)))
    with part.installed(cfg):
        return _measure(variant, part, cfg, seed, budget, show)


def _measure(variant, part, cfg, seed, budget, show):
    plan = {longest: max(1, round(steps * budget["scale"])) for longest, steps in variant["plan"].items()}
    module, cfg = contender(variant.get("contender", "slots"), cfg)
    params = module.init_params(cfg, seed)
    part.start(params)
    for key, b in params.items():
        if key.endswith("bforget"):
            b[...] = variant.get("bforget", 3.0)
    learned = learn(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show, model=module, peak=variant.get("rate", 6e-3),
                    stages=stages(segments=tuple(plan), steps=tuple(plan.values()), early=budget.get("early")))
    accuracy, quarters = {}, {}
    for segments, questions in budget["questions"].items():
        show(f"asking at {segments} segments")
        found = ask(params, fresh(["qa1"], questions, HELD_OUT), [int(segments)], cfg=cfg, seed=HELD_OUT,
                    answer=module.answer)[segments]["qa1"]
        accuracy[segments], quarters[segments] = found["accuracy"], _quarters(found, int(segments))
    return {**learned, "parameters": int(params.buffer.size), "accuracy": accuracy, "quarters": quarters}


def _quarters(found, segments):
    """Mean accuracy over the distances of each quarter; None where no question had one."""
    parts = [[] for _ in QUARTERS]
    for distance, accuracy in found["by_distance"].items():
        parts[int(distance) * len(QUARTERS) // segments].append(accuracy)
    return [sum(part) / len(part) if part else None for part in parts]


def report(results):
    lengths = list(results.budget["questions"])
    rows = [[name, results.seeds(name), *(spread(results.values(name, "accuracy", n)) for n in lengths),
             spread(results.values(name, "steps"), 0), spread(results.values(name, "cpu_s"), 0)]
            for name in results.variants if results.of(name)]
    text = [markdown(["trained on", "seeds", *(f"{n} segments" for n in lengths), "steps", "seconds"], rows), "",
            "The same by distance: mean accuracy over the distances of each quarter of the length.", ""]
    rows = [[name, n, *(spread([quarters[i] for quarters in results.values(name, "quarters", n)
                                if quarters[i] is not None]) for i in range(len(QUARTERS)))]
            for name in results.variants if results.of(name) for n in lengths]
    return "\n".join([*text, markdown(["trained on", "segments", *QUARTERS], rows)])


def draw(results, plt):
    """Accuracy against length."""
    lengths = list(results.budget["questions"])
    figure, axes = plt.subplots(figsize=(7, 4))
    for name in results.variants:
        cells = results.of(name)
        if cells:
            curve(axes, [int(n) for n in lengths], [[cell["accuracy"][n] for n in lengths] for cell in cells], name,
                  marker=".")
    axes.axhline(1 / 6, color="grey", linestyle=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks([int(n) for n in lengths], lengths)
    axes.set_xlabel("segments of 32 tokens")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))              # beside the curves, which fill the picture
    return figure


_ASKED = {"4": 256, "8": 256, "16": 256, "32": 256, "64": 256, "128": 256, "256": 256, "1024": 128, "4096": 64}
EXPERIMENT = Experiment(
    name="horizon", asks=ASKS, measure=measure, report=report, draw=draw,
    cells=lambda budget: budget.get("variants", VARIANTS),
    budgets={
        "small": {"variants": ["up to 64"], "scale": 1.0, "questions": _ASKED},
        "large": {"scale": 1.0, "questions": _ASKED},
        "quick": {"variants": ["up to 8"], "scale": 0.002, "early": 2, "questions": {"4": 5, "16": 5}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

"""horizon: where does it forget, and what helps?

The task is qa1 alone, so only keeping a fact is measured. Stage B follows a plan, {longest story in segments: steps}.
The model is then evaluated far beyond the lengths of its training, also by distance of the fact.
"""

import sys

from benchmarks.tables import markdown, mean_range
from experiments import ablations
from experiments.baselines import baseline
from experiments.runner import (
    HELD_OUT,
    Experiment,
    curve,
    evaluate,
    generated,
    label_ends,
    language,
    stages,
    train,
)
from tinylm2.model import Config, init_params

QUESTION = "Where does the memory forget, and what helps? qa1, evaluated at up to 4,096 segments (131,072 tokens)."
QUARTERS = ("nearest", "near", "far", "farthest")        # of the distances that a length allows

_TO_64 = {4: 400, 8: 200, 16: 200, 32: 200, 64: 250}
_TO_256 = {4: 400, 8: 200, 16: 200, 32: 200, 64: 150, 128: 150, 256: 150}

# name -> what differs: the plan {longest: steps}, the memory (an ablation or a baseline), N, the learning rate
VARIANTS = {
    "up to 4": {"plan": {4: 2000}},
    "up to 8": {"plan": {4: 600, 8: 1200}},
    "up to 16": {"plan": {4: 600, 8: 600, 16: 900}},
    "up to 32": {"plan": {4: 600, 8: 600, 16: 600, 32: 800}},
    "up to 64": {"plan": _TO_64},
    "up to 256": {"plan": _TO_256},
    "up to 256, lr 3e-3": {"plan": _TO_256, "lr": 3e-3},
    "up to 32, no steps between": {"plan": {32: 1400}},
    "up to 64, bforget 6": {"plan": _TO_64, "memory": "bforget 6"},
    "up to 64, 32 slots": {"plan": _TO_64, "N": 32},
    "up to 64, gates see the bank": {"plan": _TO_64, "memory": "gates see the bank, too"},
    "up to 64, query not rotated": {"plan": _TO_64, "memory": "slot queries not rotated"},
    "up to 64, no output gate": {"plan": _TO_64, "memory": "no output gate"},
    "up to 64, bout 0": {"plan": _TO_64, "memory": "bout 0"},
    "up to 64, gates that can shut": {"plan": _TO_64, "memory": "gates that can shut"},
    "up to 256, gates that can shut": {"plan": _TO_256, "memory": "gates that can shut"},
    "up to 64, piecewise-linear gates": {"plan": _TO_64, "memory": "piecewise-linear gates"},
    "up to 256, piecewise-linear gates": {"plan": _TO_256, "memory": "piecewise-linear gates"},
    "up to 64, rmt": {"plan": _TO_64, "memory": "rmt"},
}


@ablations.registered()
def measure(name, seed, budget, show):
    """Train by the variant's plan and evaluate at every length."""
    variant = VARIANTS[name]
    plan = {longest: max(1, round(steps * budget["scale"])) for longest, steps in variant["plan"].items()}
    cfg = baseline(variant.get("memory", "lm2"), Config(V=language()[0].size, N=variant.get("N", Config.N)))
    params = init_params(cfg, seed)
    learned = train(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show, max_lr=variant.get("lr", 6e-3),
                    stages=stages(segments=tuple(plan), steps=tuple(plan.values()), early=budget.get("early")))
    accuracy, quarters = {}, {}
    for segments, questions in budget["questions"].items():
        show(f"evaluating at {segments} segments")
        found = evaluate(params, generated(["qa1"], questions, HELD_OUT), [int(segments)], cfg=cfg,
                         seed=HELD_OUT)[segments]["qa1"]
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
    rows = [[name, results.seeds(name), *(results.mean(name, "accuracy", n) for n in lengths),
             results.mean(name, "steps", digits=0), results.mean(name, "cpu_s", digits=0)]
            for name in results.variants if results.of(name)]
    text = [markdown(["trained on", "seeds", *(f"{n} segments" for n in lengths), "steps", "seconds"], rows), "",
            "The same by distance: mean accuracy over the distances of each quarter of the length.", ""]
    rows = [[name, n, *(mean_range([quarters[i] for quarters in results.values(name, "quarters", n)
                                if quarters[i] is not None]) for i in range(len(QUARTERS)))]
            for name in results.variants if results.of(name) for n in lengths]
    return "\n".join([*text, markdown(["trained on", "segments", *QUARTERS], rows)])


def draw(results, plt):
    """Accuracy against length: the plans in colour, changes to one of them in grey."""
    lengths = list(results.budget["questions"])
    figure, axes = plt.subplots(figsize=(7, 4.4))
    for name in sorted(results.variants, key=lambda name: "," not in name):
        trials = results.of(name)
        change = {"color": "#8a8a8a", "linewidth": 0.9, "linestyle": "--"} if "," in name else {}
        if trials:
            curve(axes, [int(n) for n in lengths], [[trial["accuracy"][n] for n in lengths] for trial in trials], name,
                  marker=".", **change)
    axes.plot([int(n) for n in lengths], [1 / 6] * len(lengths), color="grey", linestyle=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks([int(n) for n in lengths], lengths)
    axes.set_xlabel("segments of 32 tokens")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.02)
    axes.set_title(_message(results, lengths[-1]), loc="left")
    label_ends(axes)
    return figure


def _message(results, longest):
    """The plans with the highest and the lowest accuracy at the longest length."""
    means = {name: sum(found) / len(found) for name in results.variants
             if (found := results.values(name, "accuracy", longest))}
    best, least = max(means, key=means.get), min(means, key=means.get)
    return f"At {int(longest):,} segments: {means[best]:.2f} ({best}) to {means[least]:.2f} ({least})"


_QUESTIONS = {"4": 256, "8": 256, "16": 256, "32": 256, "64": 256, "128": 256, "256": 256, "1024": 128, "4096": 64}
EXPERIMENT = Experiment(
    name="horizon", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: budget.get("variants", VARIANTS),
    budgets={
        "small": {"variants": ["up to 64"], "scale": 1.0, "questions": _QUESTIONS},
        "large": {"scale": 1.0, "questions": _QUESTIONS},
        "quick": {"variants": ["up to 8"], "scale": 0.002, "early": 2, "questions": {"4": 5, "16": 5}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

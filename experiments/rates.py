"""rates: which learning rate is best for each model of `table`?

The same training, but shorter: each model at a few learning rates, evaluated on development questions. So none of the
questions of `table` were used to choose its learning rates.
"""

import sys

from benchmarks.tables import markdown
from experiments import table
from experiments.baselines import NAMES
from experiments.runner import DEVELOPMENT, Experiment, label_ends

QUESTION = ("Which learning rate suits each model of `table`? Its training cut short, evaluated on questions that it "
            "does not report: mean accuracy over the tasks, and over the lengths of at least 128 tokens.")


def measure(variant, seed, budget, show):
    """Train one model at one learning rate and evaluate it on development questions."""
    name, lr = variant.split(" at ")
    found = table.train_and_evaluate(name, seed, budget, show, lr=float(lr), question_seed=DEVELOPMENT)
    long = [mean for segments, mean in found["mean"].items() if segments != "0"]
    return {**found, "score": sum(long) / len(long)}


def report(results):
    """One row per memory and learning rate; below, the best learning rate of each memory."""
    lengths = list(results.budget["questions"])
    rows = [[name, results.seeds(name), *(results.mean(name, "mean", n) for n in lengths),
             results.mean(name, "score"), results.mean(name, "steps", digits=0),
             results.mean(name, "cpu_s", digits=0)] for name in results.variants if results.of(name)]
    best = ", ".join(f"{name} {max(found, key=found.get)}" for name, found in _scores(results).items())
    header = ["memory and lr", "seeds", *(f"{32 * int(n)}" for n in lengths), "mean from 128", "steps", "seconds"]
    return "\n".join([markdown(header, rows), "", f"The best of each: {best}."])


def _scores(results):
    """memory -> learning rate -> mean score over the seeds."""
    scores = {}
    for variant in results.variants:
        found = results.values(variant, "score")
        if found:
            name, lr = variant.split(" at ")
            scores.setdefault(name, {})[lr] = sum(found) / len(found)
    return scores


def draw(results, plt):
    """Score against learning rate, one line per memory."""
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name, found in _scores(results).items():
        axes.plot([float(lr) for lr in found], list(found.values()), marker=".", label=name)
        best = max(found, key=found.get)
        axes.plot(float(best), found[best], "o", color=axes.get_lines()[-1].get_color(), markersize=9, fillstyle="none")
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([float(lr) for lr in results.budget["lrs"]], results.budget["lrs"])
    axes.set_xlabel("learning rate")
    axes.set_ylabel("accuracy, mean from 128 tokens on")
    axes.set_title("The best rate of each model has a ring", loc="left")
    label_ends(axes)
    return figure


def _variants(budget):
    return [f"{name} at {lr}" for name in NAMES for lr in budget["lrs"]]


_LRS = ["0.0015", "0.003", "0.006"]
_SHORT = {"questions": {"0": 60, "4": 60, "8": 60, "16": 60, "32": 60}, "reach": {}}
EXPERIMENT = Experiment(
    name="rates", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=_variants,
    budgets={
        "small": {**_SHORT, "model": {}, "tasks": ["qa1"], "lrs": _LRS, "segments": [4], "steps": [150]},
        "medium": {**_SHORT, "model": {}, "tasks": table.TASKS, "lrs": _LRS, "segments": [8], "steps": [400],
                   "grow": [[1, 600, 300], [6, 400, 400], [10, 400, 400]]},
        "quick": {"model": {}, "tasks": ["qa1"], "lrs": ["0.006"], "segments": [2], "steps": [2], "early": 2,
                  "questions": {"0": 3, "4": 3}, "reach": {}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

"""rates: which learning rate suits each contender of `table`?

The same training, cut short, one contender at a few rates, asked with questions of the development seed: what `table`
takes from here was chosen by none of the questions that it reports.
"""

import sys

from experiments import table
from experiments.baselines import NAMES
from experiments.runner import DEVELOPMENT, Experiment, markdown, spread

ASKS = ("Which learning rate suits each contender of `table`? Its training cut short, asked with questions that it "
        "does not report: mean accuracy over the tasks, and over the lengths of at least 128 tokens.")


def measure(variant, seed, budget, show):
    """Train one contender at one rate and ask development questions."""
    name, rate = variant.split(" at ")
    found = table.train_and_ask(name, seed, budget, show, rate=float(rate), questions=DEVELOPMENT)
    told = [mean for segments, mean in found["mean"].items() if segments != "0"]
    return {**found, "score": sum(told) / len(told)}


def report(results):
    """A row a contender and rate; the best rate of each contender below."""
    lengths = list(results.budget["questions"])
    rows = [[name, results.seeds(name), *(spread(results.values(name, "mean", n)) for n in lengths),
             spread(results.values(name, "score")), spread(results.values(name, "steps"), 0),
             spread(results.values(name, "cpu_s"), 0)] for name in results.variants if results.of(name)]
    best = ", ".join(f"{name} {max(found, key=found.get)}" for name, found in _scores(results).items())
    return "\n".join([markdown(["contender", "seeds", *(f"{32 * int(n)}" for n in lengths), "mean from 128", "steps",
                                "seconds"], rows), "", f"The best of each: {best}."])


def _scores(results):
    """contender -> rate -> mean score over the seeds."""
    scores = {}
    for variant in results.variants:
        found = results.values(variant, "score")
        if found:
            name, rate = variant.split(" at ")
            scores.setdefault(name, {})[rate] = sum(found) / len(found)
    return scores


def draw(results, plt):
    """Score against rate, a line a contender."""
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name, found in _scores(results).items():
        axes.plot([float(rate) for rate in found], list(found.values()), marker=".", label=name)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([float(rate) for rate in results.budget["tried"]], results.budget["tried"])
    axes.set_xlabel("learning rate")
    axes.set_ylabel("accuracy, mean from 128 tokens on")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _cells(budget):
    return [f"{name} at {rate}" for name in NAMES for rate in budget["tried"]]


_TRIED = ["0.0015", "0.003", "0.006"]
_SHORT = {"questions": {"0": 60, "4": 60, "8": 60, "16": 60, "32": 60}, "reach": {}}
EXPERIMENT = Experiment(
    name="rates", asks=ASKS, measure=measure, report=report, draw=draw, cells=_cells,
    budgets={
        "small": {**_SHORT, "model": {}, "tasks": ["qa1"], "tried": _TRIED, "segments": [4], "steps": [150]},
        "medium": {**_SHORT, "model": {}, "tasks": table.TASKS, "tried": _TRIED, "segments": [8], "steps": [400],
                   "grow": [[1, 600, 300], [6, 400, 400], [10, 400, 400]]},
        "quick": {"model": {}, "tasks": ["qa1"], "tried": ["0.006"], "segments": [2], "steps": [2], "early": 2,
                  "questions": {"0": 3, "4": 3}, "reach": {}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

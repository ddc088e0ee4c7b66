"""alone: each of the twenty tasks by itself, in the model of `joint`: what can it learn, and how soon?

What is not learned alone is too hard for the model or its budget; what is learned alone and not in `joint` is crowded
out there.
"""

import sys

from experiments import joint
from experiments.runner import EVERY, Experiment, by_number, curve, markdown, spread
from tinylm2.data import TASKS

ASKS = "Each of the twenty tasks alone, without filler, in the model of `joint`: which are learned, and how soon?"


def measure(task, seed, budget, show):
    """Train one model on one task and ask it what `joint` asks."""
    return joint.measure("slots", seed, {**budget, "tasks": [task], "weights": {}}, show)


def report(results):
    rows = [[task, TASKS[task].title, *(spread(results.values(task, source, "accuracy", task)) for source in _SOURCES),
             spread(results.values(task, "steps"), 0), spread(results.values(task, "cpu_s"), 0)]
            for task in results.variants if results.of(task)]
    return markdown(["task", "", *_SOURCES, "steps", "seconds"], rows)


def draw(results, plt):
    """Accuracy while training, a panel a task."""
    figure, axes = plt.subplots(4, 5, figsize=(11, 7), sharey=True)
    for ax, task in zip(axes.flat, results.variants, strict=False):
        accuracies = results.values(task, "accuracies")
        curve(ax, range(0, EVERY * max(map(len, accuracies), default=0), EVERY), accuracies, task)
        ax.axhline(joint.PASS, color="grey", linestyle=":")
        ax.set_title(task, fontsize=9)
        ax.set_ylim(0, 1.02)
    for ax in axes[-1]:
        ax.set_xlabel("steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("rows right")
    figure.tight_layout()
    return figure


_SOURCES = "generated", "official"
_MEDIUM = joint.EXPERIMENT.budgets["medium"]
_SAME = {name: _MEDIUM[name] for name in ("size", "rate", "model")}
EXPERIMENT = Experiment(
    name="alone", asks=ASKS, measure=measure, report=report, draw=draw, cells=lambda budget: budget["tasks"],
    options=joint.EXPERIMENT.options,
    budgets={
        "small": {**_SAME, "tasks": by_number(TASKS), "questions": 1000, "grow": [[1, 400, 2000]]},
        "medium": {**_SAME, "tasks": by_number(TASKS), "questions": 1000, "grow": [[1, 400, 10_000]]},
        "quick": {**_SAME, "tasks": ["qa1", "qa20"], "size": 16, "model": {"T": 64}, "questions": 3,
                  "grow": [[1, 2, 2]]},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

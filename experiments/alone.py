"""alone: which of the twenty tasks does the model of `joint` learn by itself, and how fast?

A task that is not learned alone is too hard for the model or its budget. One that is learned alone and not in `joint`
suffers from the other tasks there.
"""

import sys

from benchmarks.tables import markdown
from experiments import joint
from experiments.runner import EVERY, Experiment, by_number, curve
from tinylm2.data import TASKS

QUESTION = "Each of the twenty tasks alone, without filler, in the model of `joint`: which are learned, and how soon?"


def measure(task, seed, budget, show):
    """Train one model on one task and evaluate it as `joint` does."""
    return joint.measure("lm2", seed, {**budget, "tasks": [task], "weights": {}}, show)


def report(results):
    rows = [[task, TASKS[task].title, *(results.mean(task, source, "accuracy", task) for source in _SOURCES),
             results.mean(task, "steps", digits=0), results.mean(task, "cpu_s", digits=0)]
            for task in results.variants if results.of(task)]
    return markdown(["task", "", *_SOURCES, "steps", "seconds"], rows)


def draw(results, plt):
    """Accuracy while training, one panel per task."""
    figure, axes = plt.subplots(4, 5, figsize=(11, 7), sharey=True)
    passed = 0
    for ax, task in zip(axes.flat, results.variants, strict=False):
        accuracies = results.values(task, "accuracies")
        scores = next(filter(None, (results.values(task, source, "accuracy", task) for source in _SOURCES[::-1])), [0])
        mean = sum(scores) / len(scores)
        passed += mean >= joint.PASS
        curve(ax, range(0, EVERY * max(map(len, accuracies), default=0), EVERY), accuracies, task,
              color="C2" if mean >= joint.PASS else "C1")
        ax.axhline(joint.PASS, color="grey", linestyle=":")
        ax.set_title(f"{task}: {mean:.3f}", loc="left")
        ax.set_ylim(0, 1.02)
    for ax in axes[-1]:
        ax.set_xlabel("steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("rows correct")
    figure.suptitle(f"{passed} of {len(results.variants)} tasks reach {joint.PASS:.0%} alone (green). Curves: "
                    "training; numbers: held-out questions, official ones if there are", x=0.01, ha="left")
    figure.tight_layout()
    return figure


_SOURCES = "generated", "official"
_MEDIUM = joint.EXPERIMENT.budgets["medium"]
_SAME = {name: _MEDIUM[name] for name in ("batch_size", "lr", "model")}
EXPERIMENT = Experiment(
    name="alone", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: budget["tasks"],
    options=joint.EXPERIMENT.options,
    budgets={
        "small": {**_SAME, "tasks": by_number(TASKS), "questions": 1000, "grow": [[1, 400, 2000]]},
        "medium": {**_SAME, "tasks": by_number(TASKS), "questions": 1000, "grow": [[1, 400, 10_000]]},
        "quick": {**_SAME, "tasks": ["qa1", "qa20"], "batch_size": 16, "model": {"T": 64}, "questions": 3,
                  "grow": [[1, 2, 2]]},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

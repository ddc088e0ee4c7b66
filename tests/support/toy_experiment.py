"""toy: an experiment whose trials take a moment each, to be spread over processes and killed."""

import os
import sys
import time
from pathlib import Path

from experiments.runner import Experiment


def measure(variant, seed, budget, show):
    """A number of the variant and seed. TRIALS names a folder in which each trial leaves a file as it begins."""
    if "TRIALS" in os.environ:
        Path(os.environ["TRIALS"], f"{variant}{seed} {os.getpid()}").touch()
    time.sleep(budget["seconds"] * (3 if variant == "a" else 1))         # the first ends last
    return {"accuracy": ord(variant) + seed / 10}


def report(results):
    return "\n".join(f"{name}: {results.mean(name, 'accuracy')}" for name in results.variants)


def draw(results, plt):
    return plt.figure(figsize=(1, 1))


def experiment(seconds):
    return Experiment(name="toy", question="Why?", measure=measure, report=report, draw=draw,
                      variants=lambda budget: ["a", "b", "c"], budgets=dict.fromkeys(("small", "quick"), {
                          "seconds": seconds}))


EXPERIMENT = experiment(0.2)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())

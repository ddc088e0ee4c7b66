"""million: is a fact kept over a million tokens?

The plans of `horizon` that keep best, asked up to 32,768 segments (1,048,576 tokens). qa1 alone, as there.
"""

import sys

from experiments import horizon
from experiments.runner import Experiment

QUESTION = "Is a fact kept over a million tokens? qa1, evaluated at up to 32,768 segments (1,048,576 tokens)."
VARIANTS = ["up to 256, gates that can shut", "up to 256", "up to 64, gates that can shut", "up to 64",
            "up to 256, piecewise-linear gates"]

_QUESTIONS = {"4": 256, "16": 256, "64": 256, "256": 256, "1024": 128, "4096": 64, "16384": 64, "32768": 64}
EXPERIMENT = Experiment(
    name="million", question=QUESTION, measure=horizon.measure, report=horizon.report, draw=horizon.draw,
    variants=lambda budget: VARIANTS,
    budgets={
        "small": {"scale": 1.0, "questions": _QUESTIONS},
        "quick": {"scale": 0.002, "early": 2, "questions": {"4": 5, "16": 5}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

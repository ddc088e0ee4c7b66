"""million: is a fact kept over a million tokens?

The best plans of `horizon`, evaluated up to 32,768 segments (1,048,576 tokens), also on qa1 alone.
"""

import sys

from experiments import horizon
from experiments.runner import Experiment, label_ends

QUESTION = "Is a fact kept over a million tokens? qa1, evaluated at up to 32,768 segments (1,048,576 tokens)."
VARIANTS = ["up to 256, gates that can shut", "up to 256", "up to 64, gates that can shut", "up to 64",
            "up to 256, piecewise-linear gates"]

def draw(results, plt):
    """Accuracy against length, one line per seed, because seeds differ more than plans."""
    lengths = list(results.budget["questions"])
    figure, axes = plt.subplots(figsize=(7, 4))
    for number, name in enumerate(name for name in results.variants if results.of(name)):
        for trial in results.of(name):
            axes.plot([int(n) for n in lengths], [trial["accuracy"][n] for n in lengths], marker=".",
                      color=f"C{number}", label=f"{name.removeprefix('up to 256, ')}, seed {trial['seed']}")
    axes.plot([int(n) for n in lengths], [1 / 6] * len(lengths), color="grey", linestyle=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks([int(n) for n in lengths], lengths, fontsize=8)
    axes.set_xlabel("segments of 32 tokens")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.02)
    ends = [trial["accuracy"][lengths[-1]] for name in results.variants for trial in results.of(name)]
    axes.set_title(f"At {32 * int(lengths[-1]):,} tokens: {max(ends):.2f} (best seed) to {min(ends):.2f}", loc="left")
    label_ends(axes)
    return figure


_QUESTIONS = {"4": 256, "16": 256, "64": 256, "256": 256, "1024": 128, "4096": 64, "16384": 64, "32768": 64}
EXPERIMENT = Experiment(
    name="million", question=QUESTION, measure=horizon.measure, report=horizon.report, draw=draw,
    variants=lambda budget: VARIANTS,
    budgets={
        "small": {"scale": 1.0, "questions": _QUESTIONS},
        "quick": {"scale": 0.002, "early": 2, "questions": {"4": 5, "16": 5}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

"""blocks: how many blocks should have a memory? The paper's Figure 5 at tiny size.

A memory in the first block alone, in the first half of the blocks, and in all of them. The task is qa1 in filler. All
models have equal numbers of parameters.
"""

import sys
from dataclasses import replace

from experiments.runner import EVERY, Experiment, curve, label_ends, language, learn_qa1, qa1_table
from tinylm2.model import Config, with_params_of

QUESTION = "How many blocks should carry a memory? qa1, trained on 2 to 4 segments, equal numbers of parameters."
VARIANTS = {"no block": lambda L: (), "the first block": lambda L: (0,), "the first half": lambda L: range(L // 2),
            "all blocks": lambda L: range(L)}


def measure(name, seed, budget, show):
    """Train with memory in some blocks and evaluate at every length."""
    everywhere = Config(V=language()[0].size, **budget["model"])
    cfg = with_params_of(everywhere, replace(everywhere, memory_blocks=tuple(VARIANTS[name](everywhere.L))))
    return learn_qa1(cfg, seed, budget, show, max_lr=budget["lr"])


def report(results):
    """One row per variant."""
    return qa1_table(results, "memory in")


def _in_order(results):
    """Whether every variant ends at a lower mean loss than the one with fewer blocks with memory."""
    last = [[trial["losses"][-1] for trial in results.of(name)] for name in results.variants if results.of(name)]
    means = [sum(losses) / len(losses) for losses in last]
    return len(means) > 1 and means == sorted(means, reverse=True)


def draw(results, plt):
    """The training loss in stage B, in which memory is needed."""
    figure, axes = plt.subplots(figsize=(7, 4))
    parts = -(-results.budget["steps"] // EVERY)
    for name in results.variants:
        trials = results.of(name)
        if trials:
            curve(axes, [EVERY * (i + 1) for i in range(parts)], [trial["losses"][-parts:] for trial in trials], name)
    axes.set_xlabel("steps of stage B")
    axes.set_ylabel("loss")
    axes.set_title("The loss falls faster where more blocks have a memory" if _in_order(results) else
                   "The loss of stage B", loc="left")
    label_ends(axes)
    return figure


EXPERIMENT = Experiment(
    name="blocks", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: budget["variants"],
    budgets={
        "small": {"variants": ["the first block", "the first half", "all blocks"], "model": {"L": 4}, "lr": 3e-3,
                  "steps": 300, "segments": [4, 8, 16], "questions": 500},
        "large": {"variants": list(VARIANTS), "model": {"D": 64, "L": 8, "H": 4, "G": 4, "F": 160, "N": 32},
                  "lr": 2e-3, "steps": 2000, "segments": [4, 8, 16], "questions": 1000},
        "quick": {"variants": ["the first block", "all blocks"], "model": {}, "lr": 3e-3, "steps": 2, "early": 2,
                  "segments": [4], "questions": 5},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

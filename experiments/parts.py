"""parts: which parts of the memory help?

One part is removed or changed at a time. Stories, curriculum, steps, learning rate and number of parameters stay the
same. Each model is trained on qa1 with up to 4 segments and evaluated at 4, 8 and 16 segments.
"""

import sys

from experiments import ablations
from experiments.baselines import baseline
from experiments.runner import Experiment, language, learn_qa1, qa1_table
from tinylm2.model import Config

QUESTION = "Which parts of the memory help? One is removed or changed at a time; qa1, trained on 2 to 4 segments."


# name -> what differs: the memory, N, the weight of a language-model loss
VARIANTS = {
    "all parts": {},
    **{name: {"memory": name} for name in ablations.ABLATIONS if name != "bforget 6"},
    **{f"{N} slots": {"N": N} for N in (4, 8, 32)},
    "language-model loss added, weight .1": {"lm": 0.1},
}


@ablations.registered()
def measure(name, seed, budget, show):
    """Train one variant and evaluate it."""
    variant = VARIANTS[name]
    cfg = baseline(variant.get("memory", "lm2"), Config(V=language()[0].size, N=variant.get("N", Config.N)))
    return learn_qa1(cfg, seed, budget, show, lm=variant.get("lm", 0.0))


def report(results):
    """One row per variant."""
    return qa1_table(results, "variant")


def draw(results, plt):
    """The mean of each variant at the longest length, sorted, with one point per seed; a line at "all parts"."""
    length = str(results.budget["segments"][-1])
    found = {name: values for name in results.variants if (values := results.values(name, "accuracy", length))}
    means = {name: sum(values) / len(values) for name, values in found.items()}
    names, whole = sorted(found, key=means.get), next(iter(found))
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(names) + 1))
    axes.axvline(means[whole], color="C2", linestyle="--", linewidth=1)
    for row, name in enumerate(names):
        apart = max(found[name]) < min(found[whole]) or min(found[name]) > max(found[whole])
        axes.plot(found[name], [row] * len(found[name]), "o", color="#777777", markersize=3.5, fillstyle="none")
        axes.plot(means[name], row, "o", color="C2" if name == whole else "C1" if apart else "#777777", markersize=7)
        axes.annotate(f"{means[name]:.2f}"[1:], (1.0, row), (6, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"accuracy at {length} segments: large the mean, small the seeds")
    axes.set_title("Orange: every seed is on one side of every seed of all parts (green)", loc="left")
    return figure


EXPERIMENT = Experiment(
    name="parts", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: budget.get("variants", VARIANTS),
    budgets={
        "small": {"steps": 400, "segments": [4, 8, 16], "questions": 500},
        "large": {"steps": 2000, "segments": [4, 8, 16, 64], "questions": 1000},
        "quick": {"variants": ["all parts", "no norm on the bank", "start: learned"], "steps": 2, "early": 2,
                  "segments": [4], "questions": 5},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

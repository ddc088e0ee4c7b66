"""parts: which parts of the memory help?

One part is removed or changed at a time; everything else stays: stories, curriculum, steps, learning rate, and the
number of parameters. Each model is evaluated on qa1 at 4, 8 and 16 segments, where training ends at 4.
"""

import sys

from benchmarks.tables import markdown
from experiments import ablations
from experiments.baselines import baseline
from experiments.runner import DEVELOPMENT, Experiment, evaluate, generated, language, stages, train
from tinylm2.model import Config, init_params

QUESTION = "Which parts of the memory help? One is removed or changed at a time; qa1, trained on 2 to 4 segments."


# name -> what differs: the memory, N, the weight of a language model's loss
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
    params = init_params(cfg, seed)
    learned = train(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show, lm=variant.get("lm", 0.0),
                    stages=stages(segments=(4,), steps=(budget["steps"],), early=budget.get("early")))
    scores = evaluate(params, generated(["qa1"], budget["questions"], DEVELOPMENT), budget["segments"], cfg=cfg,
                      seed=DEVELOPMENT)
    return {**learned, "parameters": int(params.buffer.size),
            "accuracy": {n: found["qa1"]["accuracy"] for n, found in scores.items()}}


def report(results):
    lengths = [str(n) for n in results.budget["segments"]]
    rows = [[name, results.seeds(name), *(results.mean(name, "accuracy", n) for n in lengths),
             results.mean(name, "steps", digits=0), results.mean(name, "parameters", digits=0),
             results.mean(name, "cpu_s", digits=0)] for name in results.variants if results.of(name)]
    return markdown(["variant", "seeds", *(f"{n} segments" for n in lengths), "steps", "parameters", "seconds"], rows)


def draw(results, plt):
    """The mean of each variant at the longest length, ordered, with one point per seed; a line at all parts."""
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

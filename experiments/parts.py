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
    """One bar per variant at the longest length, one point per seed."""
    length = str(results.budget["segments"][-1])
    names = [name for name in reversed(results.variants) if results.values(name, "accuracy", length)]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(names) + 1))
    for row, name in enumerate(names):
        values = results.values(name, "accuracy", length)
        axes.barh(row, sum(values) / len(values), color="C0" if row < len(names) - 1 else "C2", alpha=0.5)
        axes.plot(values, [row] * len(values), "k.", markersize=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"accuracy at {length} segments, one point per seed")
    axes.set_xlim(0, 1)
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

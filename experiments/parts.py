"""parts: which parts of the memory earn their place?

One part is taken away or changed at a time; everything else stays: stories, curriculum, steps, learning rate, and the
number of parameters. Asked are fresh qa1 questions at 4, 8 and 16 segments, where training ends at 4.
"""

import sys

from experiments.runner import DEVELOPMENT, Experiment, ask, fresh, language, learn, markdown, spread, stages
from experiments.ablations import VARIANTS
from tinylm2 import model
from tinylm2.model import Config

ASKS = "Which parts of the memory earn their place? One is taken away at a time; qa1, trained on 2 to 4 segments."


def measure(name, seed, budget, show):
    """Train one variant and ask it."""
    variant = VARIANTS[name]
    cfg = variant.config(Config(V=language()[0].size))
    with variant.installed(cfg):
        params = model.init_params(cfg, seed)
        variant.start(params)
        learned = learn(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show, model=model, **variant.training,
                        stages=stages(segments=(4,), steps=(budget["steps"],), early=budget.get("early")))
        scores = ask(params, fresh(["qa1"], budget["questions"], DEVELOPMENT), budget["segments"], cfg=cfg,
                     seed=DEVELOPMENT)
    return {**learned, "parameters": int(params.buffer.size),
            "accuracy": {n: found["qa1"]["accuracy"] for n, found in scores.items()}}


def report(results):
    lengths = [str(n) for n in results.budget["segments"]]
    rows = [[name, results.seeds(name), *(spread(results.values(name, "accuracy", n)) for n in lengths),
             spread(results.values(name, "steps"), 0), spread(results.values(name, "parameters"), 0),
             spread(results.values(name, "cpu_s"), 0)] for name in results.variants if results.of(name)]
    return markdown(["variant", "seeds", *(f"{n} segments" for n in lengths), "steps", "parameters", "seconds"], rows)


def draw(results, plt):
    """A bar a variant at the longest length, a point a seed."""
    length = str(results.budget["segments"][-1])
    names = [name for name in reversed(results.variants) if results.values(name, "accuracy", length)]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(names) + 1))
    for row, name in enumerate(names):
        values = results.values(name, "accuracy", length)
        axes.barh(row, sum(values) / len(values), color="C0" if row < len(names) - 1 else "C2", alpha=0.5)
        axes.plot(values, [row] * len(values), "k.", markersize=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"accuracy at {length} segments, a point a seed")
    axes.set_xlim(0, 1)
    return figure


EXPERIMENT = Experiment(
    name="parts", asks=ASKS, measure=measure, report=report, draw=draw,
    cells=lambda budget: budget.get("variants", VARIANTS),
    budgets={
        "small": {"steps": 400, "segments": [4, 8, 16], "questions": 500},
        "large": {"steps": 2000, "segments": [4, 8, 16, 64], "questions": 1000},
        "quick": {"variants": ["all parts", "no norm on the bank", "start: learned"], "steps": 2, "early": 2,
                  "segments": [4], "questions": 5},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

"""general: does memory cost general ability? The paper asks with MMLU; here it is the loss of a language model.

A language model's loss on every token is trained beside the answer's, then measured on stories that were never seen,
split into segments that had to be read without a past (the first) and with one (the others).
"""

import sys
from dataclasses import replace

from experiments.baselines import contender
from experiments.runner import HELD_OUT, Experiment, fresh, language, learn, markdown, spread, stages
from tinylm2.data import encode_examples
from tinylm2.data.samplers import make_batch
from tinylm2.model import Config
from tinylm2.ops import cross_entropy_forward

ASKS = ("Does memory cost general ability? Loss of a language model, nats a token, on held-out stories of 4 segments; "
        "as many parameters each.")
CONTENDERS = ["slots", "printed", "none", "rmt"]


def measure(name, seed, budget, show):
    """Train with a language model's loss beside the answer's, then measure that loss on held-out rows."""
    tokenizer, filler = language()
    module, cfg = contender(name, Config(V=tokenizer.size))
    params = module.init_params(cfg, seed)
    plan = stages(segments=(4,), steps=(budget["steps"],), early=budget.get("early"))
    learned = learn(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show, model=module, lm=budget["lm"],
                    stages=[replace(stage, must=False) for stage in plan])       # the answer is not what is asked
    rows, _ = encode_examples(fresh(["qa1"], budget["rows"], HELD_OUT)["qa1"], 4, tokenizer=tokenizer, filler=filler,
                              width=cfg.T, seed=HELD_OUT)
    batch = make_batch(rows, tokenizer.end)
    logits, _ = module.story_forward(params, ids=batch.ids, cfg=cfg, pad=batch.pad)

    def loss(weights, segments):
        places = slice(segments[0] * cfg.T, segments[1] * cfg.T)
        return float(cross_entropy_forward(logits[:, places], targets=batch.targets[:, places],
                                           weights=weights[:, places])[0])

    return {**learned, "parameters": int(params.buffer.size), "first": loss(batch.lm_weights, (0, 1)),
            "later": loss(batch.lm_weights, (1, 4)), "answer": loss(batch.weights, (3, 4))}


def report(results):
    parts = ("first", "later", "answer")
    rows = [[name, results.seeds(name), *(spread(results.values(name, part)) for part in parts),
             spread(results.values(name, "parameters"), 0), spread(results.values(name, "cpu_s"), 0)]
            for name in results.variants if results.of(name)]
    return markdown(["contender", "seeds", "first segment", "later segments", "answer", "parameters", "seconds"], rows)


def draw(results, plt):
    """Held-out loss, a point a seed."""
    figure, axes = plt.subplots(figsize=(6, 3))
    for column, name in enumerate(results.variants):
        for part, marker in (("first", "o"), ("later", "s")):
            values = results.values(name, part)
            axes.plot([column] * len(values), values, marker, color="C0" if part == "first" else "C1",
                      label=f"{part} segment{'s' * (part == 'later')}" if column == 0 else None)
    axes.set_xticks(range(len(results.variants)), results.variants)
    axes.set_ylabel("held-out loss, nats a token")
    axes.legend()
    return figure


EXPERIMENT = Experiment(
    name="general", asks=ASKS, measure=measure, report=report, draw=draw, cells=lambda budget: budget["contenders"],
    budgets={
        "small": {"contenders": ["slots", "none"], "steps": 300, "lm": 1.0, "rows": 500},
        "large": {"contenders": CONTENDERS, "steps": 4000, "lm": 1.0, "rows": 2000},
        "quick": {"contenders": ["slots", "rmt"], "steps": 2, "early": 2, "lm": 1.0, "rows": 10},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

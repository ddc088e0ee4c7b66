"""general: does a memory cost general ability? The paper uses MMLU; here we measure a language-model loss.

Training adds a language-model loss on every token to the answer loss. The loss is then measured on new stories,
separately for the first segment, which has no past, and for the later ones.
"""

import sys
from dataclasses import replace

from benchmarks.tables import markdown
from experiments.baselines import baseline
from experiments.runner import HELD_OUT, Experiment, generated, language, stages, train
from tinylm2.data import encode_examples, make_batch
from tinylm2.model import Config, init_params
from tinylm2.ops import cross_entropy_forward
from tinylm2.recurrence import story_forward

QUESTION = ("Does memory cost general ability? Loss of a language model, nats per token, on held-out stories of 4 "
            "segments; equal numbers of parameters.")
MEMORIES = ["lm2", "pooled", "none", "rmt"]


def measure(name, seed, budget, show):
    """Train with a language-model loss added to the answer loss, then measure it on held-out rows."""
    tokenizer, filler = language()
    cfg = baseline(name, Config(V=tokenizer.size))
    params = init_params(cfg, seed)
    plan = stages(segments=(4,), steps=(budget["steps"],), early=budget.get("early"))
    learned = train(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show, lm=budget["lm"],
                    stages=[replace(stage, required=False) for stage in plan])   # the answer is not measured
    examples = generated(["qa1"], budget["rows"], HELD_OUT)["qa1"]
    rows, _ = encode_examples(examples, 4, tokenizer=tokenizer, filler=filler, segment_len=cfg.T, seed=HELD_OUT)
    batch = make_batch(rows, tokenizer.end)
    logits, _ = story_forward(params, ids=batch.ids, cfg=cfg, pad=batch.pad)

    def loss(weights, segments):
        places = slice(segments[0] * cfg.T, segments[1] * cfg.T)
        return float(cross_entropy_forward(logits[:, places], targets=batch.targets[:, places],
                                           weights=weights[:, places])[0])

    return {**learned, "parameters": int(params.buffer.size), "first": loss(batch.lm_weights, (0, 1)),
            "later": loss(batch.lm_weights, (1, 4)), "answer": loss(batch.weights, (3, 4))}


def report(results):
    parts = ("first", "later", "answer")
    rows = [[name, results.seeds(name), *(results.mean(name, part) for part in parts),
             results.mean(name, "parameters", digits=0), results.mean(name, "cpu_s", digits=0)]
            for name in results.variants if results.of(name)]
    return markdown(["memory", "seeds", "first segment", "later segments", "answer", "parameters", "seconds"], rows)


def draw(results, plt):
    """Held-out loss, one point per seed."""
    figure, axes = plt.subplots(figsize=(6, 3))
    for column, name in enumerate(results.variants):
        for part, marker in (("first", "o"), ("later", "s")):
            values = results.values(name, part)
            axes.plot([column] * len(values), values, marker, color="C0" if part == "first" else "C1", fillstyle="none")
            if values:
                mean = sum(values) / len(values)
                axes.annotate(f"{part} segment{'s' * (part == 'later')}: {mean:.3f}", (column, mean), (9, 0),
                              textcoords="offset points", va="center", fontsize=8)
    axes.set_xticks(range(len(results.variants)), results.variants)
    axes.set_xlim(-0.3, len(results.variants) - 0.3)
    axes.set_ylabel("held-out loss, nats per token")
    axes.set_title("Loss on held-out text, one point per seed; lower is better", loc="left")
    return figure


EXPERIMENT = Experiment(
    name="general", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: budget["memories"],
    budgets={
        "small": {"memories": ["lm2", "none"], "steps": 300, "lm": 1.0, "rows": 500},
        "large": {"memories": MEMORIES, "steps": 4000, "lm": 1.0, "rows": 2000},
        "quick": {"memories": ["lm2", "rmt"], "steps": 2, "early": 2, "lm": 1.0, "rows": 10},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

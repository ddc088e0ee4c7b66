"""gallery: what is each way of remembering worth?

qa1 with every memory of the library. One group of trials chooses a learning rate per memory, on questions of the
development seed. The main group has equal numbers of parameters. A last group also holds about equal numbers of state,
1,050 per block, which window, armt and titans hold anyway. All train by one plan of longer and longer stories.
"""

import sys
import time
from dataclasses import replace
from math import prod

from benchmarks.tables import markdown
from experiments.baselines import baseline
from experiments.runner import (
    DEVELOPMENT,
    EVERY,
    HELD_OUT,
    Experiment,
    curve,
    evaluate,
    generated,
    language,
    stages,
    train,
)
from tinylm2.model import Config, init_params, with_params_of

QUESTION = ("What is each way of remembering worth? qa1, equal numbers of parameters, evaluated at up to 4,096 "
            "segments (131,072 tokens), and the numbers of state beside it.")
NAMES = ("lm2", "pooled", "rmt", "window", "memformer", "infini", "armt", "titans", "none")
EQUAL_STATE = {"lm2": {"N": 32}, "pooled": {"N": 32}, "rmt": {"N": 64}, "memformer": {"N": 32},
               "infini": {"H": 1, "G": 1}}
LEARNED = 0.75                                           # training accuracy that a memory must reach and keep


def measure(variant, seed, budget, show):
    """Train one model and evaluate it at every length: "armt", "armt at 0.003" or "armt, equal state"."""
    name, lr, questions, question_seed = variant.partition(",")[0], None, budget["questions"], HELD_OUT
    if " at " in name:
        name, lr = name.split(" at ")
        questions, question_seed = budget["development"], DEVELOPMENT
    cfg = _config(name, EQUAL_STATE[name] if variant.endswith("state") else {})
    params, began = init_params(cfg, seed), time.process_time()
    learned = train(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show, max_lr=float(lr or budget["lr"][name]),
                    stages=stages(segments=budget["segments"], steps=budget["steps"], early=budget.get("early")))
    ms = 1e3 * (time.process_time() - began) / max(1, learned["steps"])
    accuracy = {}
    for segments, count in questions.items():
        show(f"evaluating at {segments} segments")
        accuracy[segments] = evaluate(params, generated(["qa1"], count, question_seed), [int(segments)], cfg=cfg,
                                      seed=question_seed)[segments]["qa1"]["accuracy"]
    return {**learned, "steps_to_learn": _steps_to_learn(learned["accuracies"]), "ms": ms, "state": _state(cfg),
            "parameters": int(params.buffer.size), "accuracy": accuracy, "mean": sum(accuracy.values()) / len(accuracy)}


def _config(name, sizes):
    """A memory at the number of parameters that LM2 has by default; `sizes` are the letters that match the state."""
    like = Config(V=language()[0].size)
    cfg = baseline(name, like)
    return with_params_of(like, replace(cfg, **sizes)) if sizes else cfg


def _state(cfg):
    """How many numbers the memory of one story holds, over all blocks."""
    return sum(prod(shape) for memory in cfg.memories if memory is not None
               for shape in memory.state_shapes(cfg).values())


def _steps_to_learn(accuracies):
    """Steps until the training accuracy stays above LEARNED; None where it never does."""
    below = [i for i, accuracy in enumerate(accuracies) if accuracy < LEARNED]
    first = below[-1] + 1 if below else 0
    return EVERY * first if first < len(accuracies) else None


def report(results):
    """One row per memory; below, the trials that chose the learning rates."""
    lengths = list(results.budget["questions"])
    rows = [[name, results.seeds(name), *(results.mean(name, "accuracy", n, digits=2) for n in lengths),
             *(results.mean(name, key, digits=0) for key in ("steps_to_learn", "steps", "state", "parameters", "ms"))]
            for name in results.variants if " at " not in name and results.of(name)]
    header = ["memory", "seeds", *(f"{n} segments" for n in lengths), f"steps to stay above {LEARNED}", "steps",
              "numbers of state", "parameters", "ms per step"]
    text = [markdown(header, rows)]
    tried = [name for name in results.variants if " at " in name and results.of(name)]
    if tried:
        lengths = list(results.budget["development"])
        rows = [[name, results.seeds(name), *(results.mean(name, "accuracy", n, digits=2) for n in lengths),
                 results.mean(name, "mean", digits=2), results.mean(name, "steps_to_learn", digits=0)]
                for name in tried]
        text += ["", "Learning rates, on questions that are not reported above:", "",
                 markdown(["memory and lr", "seeds", *(f"{n} segments" for n in lengths), "mean",
                           f"steps to stay above {LEARNED}"], rows), "", f"The best of each: {_best(results, tried)}."]
    return "\n".join(text)


def _best(results, tried):
    """ "armt 0.006, titans 0.003": the learning rate with the highest mean accuracy per memory."""
    scores = {}
    for variant in tried:
        name, lr = variant.split(" at ")
        found = results.values(variant, "mean")
        scores.setdefault(name, {})[lr] = sum(found) / len(found)
    return ", ".join(f"{name} {max(found, key=found.get)}" for name, found in scores.items())


def draw(results, plt):
    """Accuracy against length, and at the longest length against the numbers of state."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2))
    lengths = list(results.budget["questions"])
    for name in results.variants:
        trials = results.of(name)
        if not trials or " at " in name:
            continue
        if "," not in name:
            curve(left, [int(n) for n in lengths], [[trial["accuracy"][n] for n in lengths] for trial in trials], name,
                  marker=".")
        longest = results.values(name, "accuracy", lengths[-1])
        state = max(1, trials[0]["state"])               # none has no state, and a log axis no zero
        right.plot(state, sum(longest) / len(longest), marker="o" if "," not in name else "s", color="black")
        right.annotate(name, (state, sum(longest) / len(longest)), (4, 4), textcoords="offset points", fontsize=7)
    for axes, label in ((left, "segments of 32 tokens"), (right, "numbers of state of one story")):
        axes.axhline(1 / 6, color="grey", linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xlabel(label)
        axes.set_ylim(0, 1.05)
    left.set_ylabel("accuracy")
    right.set_ylabel(f"accuracy at {lengths[-1]} segments")
    left.legend(fontsize=7)
    return figure


def _variants(budget):
    chosen = [f"{name} at {lr}" for name in budget["names"] for lr in budget["lrs"]]
    return [*budget["names"], *(f"{name}, equal state" for name in EQUAL_STATE if name in budget["names"]), *chosen]


_QUESTIONS = {"4": 256, "8": 256, "16": 256, "64": 256, "256": 256, "1024": 128, "4096": 64}
_DEVELOPMENT = {"4": 128, "8": 128, "16": 128, "64": 128}
_LR = dict.fromkeys(NAMES, 6e-3)
_LRS = ["0.003", "0.006", "0.012"]
EXPERIMENT = Experiment(
    name="gallery", question=QUESTION, measure=measure, report=report, draw=draw, variants=_variants,
    budgets={
        "small": {"names": NAMES, "lr": _LR, "lrs": _LRS, "segments": [4, 8], "steps": [600, 600],
                  "questions": _QUESTIONS, "development": _DEVELOPMENT},
        "large": {"names": NAMES, "lr": _LR, "lrs": _LRS, "segments": [4, 8, 16, 32, 64],
                  "steps": [800, 400, 200, 200, 250], "questions": _QUESTIONS, "development": _DEVELOPMENT},
        "quick": {"names": NAMES, "lr": _LR, "lrs": ["0.006"], "segments": [2], "steps": [2], "early": 2,
                  "questions": {"4": 3, "8": 3}, "development": {"4": 3}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

"""gallery: how accurate is each memory?

qa1 with every memory of the library, and the ten tasks of `table` with the memories that `table` does not have. Each
memory is trained at the best of three learning rates, which the command finds first, with short trainings of seed 0 and
development questions. The main trials have equal numbers of parameters. The "equal state" trials also have states of
about equal size, 1,050 numbers per block, as window, armt and titans always have. All use one plan of ever longer
stories. "infini, sum" is an ablation: Infini-attention's other write, without the delta rule (lesson 20 says why).

    python -m experiments.gallery --budget medium --write        also puts the table of qa1 into docs/RESULTS.md
"""

import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import numpy as np

from benchmarks import machine
from benchmarks.memories import peak, state_size
from benchmarks.step import Workload, tinylm2_step
from benchmarks.tables import markdown
from experiments import rates, runner, table
from experiments.baselines import baseline
from experiments.runner import (
    DEVELOPMENT,
    EVERY,
    HELD_OUT,
    Experiment,
    Results,
    evaluate,
    generated,
    language,
    stages,
    train,
)
from tinylm2 import ops
from tinylm2.backend import get_xp
from tinylm2.errors import parse_json, read_lines
from tinylm2.memories import MEMORIES, infini, primitives
from tinylm2.memories import variant as memory_variant
from tinylm2.model import Config, init_params, with_params_of

QUESTION = ("What is each way of remembering worth? qa1, equal numbers of parameters, evaluated at up to 4,096 "
            "segments (131,072 tokens), and the numbers of state beside it.")
NAMES = ("lm2", "pooled", "rmt", "window", "memformer", "infini", "armt", "titans", "none")
EQUAL_STATE = {"lm2": {"N": 32}, "pooled": {"N": 32}, "rmt": {"N": 64}, "memformer": {"N": 32},
               "infini": {"H": 1, "G": 1}}
STATE, MIX, SUM = ", equal state", ", mix", ", sum"      # what follows a memory's name in a variant
LEARNED = 0.75                                           # training accuracy that a memory must reach and keep
CHANCE = 1 / 6
TRIALS = runner.FOLDER / "trials.jsonl"


# ------------------------------------------------------------------------------------------------------------ ablation


def store_sum_forward(k, v, A, z, *, pad=None, **rope):
    """Infini-attention's linear write: every value as it is.   A' = A + f(k)' v,   z' = z + sum f(k)         equation 4

    k rotated keys and v values (B, T, G, K), A (B, G, K, K), z (B, G, K), pad (B,) -> A', z'
    """
    xp, cache = get_xp(k, A), {}
    k, cache["rope"] = ops.rope_forward(k, step=-1, **rope)
    f, cache["elu1"] = primitives.elu1_forward(k.swapaxes(1, 2))
    real = 1 if pad is None else (xp.arange(k.shape[1]) >= pad[:, None])[:, None, :, None]
    f, v = f * real, v.swapaxes(1, 2)
    cache["stored"] = f, v, real
    return A + f.swapaxes(2, 3) @ v, z + f.sum(2), cache


def store_sum_backward(dA_next, dz_next, cache):
    """Gradients at k, v, A and z: A and z only grow, so theirs pass; a key and its value share dA'."""
    f, v, real = cache["stored"]
    (dk,) = primitives.elu1_backward((v @ dA_next.swapaxes(2, 3) + dz_next[:, :, None]) * real, cache["elu1"])
    (dk,) = ops.rope_backward(dk.swapaxes(1, 2), cache["rope"])
    return dk, (f @ dA_next).swapaxes(1, 2), dA_next, dz_next


@contextmanager
def registered():
    """In this context, the ablation is in MEMORIES as "infini, sum"."""
    name = f"infini{SUM}"
    MEMORIES[name] = memory_variant(infini, store_forward=store_sum_forward, store_backward=store_sum_backward)
    try:
        yield
    finally:
        del MEMORIES[name]


# -------------------------------------------------------------------------------------------------------------- trials


def before(variant, budget):
    """The trials from which the learning rate of this variant is chosen."""
    if " at " in variant:
        return []
    lrs = budget["mix_lrs" if variant.endswith(MIX) else "lrs"]
    return [f"{variant.removesuffix(STATE).removesuffix(SUM)} at {lr}" for lr in lrs]


@registered()
def measure(variant, seed, budget, show):
    """One trial: "armt", "armt, equal state", "infini, sum", "armt, mix", or "armt" or "armt, mix" at 0.003."""
    base, _, lr = variant.partition(" at ")
    name, mix = base.removesuffix(MIX).removesuffix(STATE), base.endswith(MIX)
    if lr:
        return (rates.measure(f"{name} at {lr}", seed, rates.EXPERIMENT.budgets[budget["mix"]], show) if mix else
                _learn(_config(name), seed, budget["choose"], budget["development"], DEVELOPMENT, float(lr), show))
    lr = best(budget["before"])
    if mix:
        found = table.train_and_evaluate(name, seed, table.EXPERIMENT.budgets[budget["mix"]], show, lr=lr,
                                         question_seed=HELD_OUT)
        return {**found, "lr": lr}
    cfg = _config(name, EQUAL_STATE[name] if base.endswith(STATE) else None)
    cost = step_cost(cfg)
    return {**_learn(cfg, seed, budget, budget["questions"], HELD_OUT, lr, show), "lr": lr, "state": state_size(cfg),
            **cost}


def best(tried):
    """The learning rate with the highest score, of {variant: numbers of its trial}."""
    return float(max(tried, key=lambda variant: tried[variant]["score"]).partition(" at ")[2])


def _learn(cfg, seed, plan, questions, question_seed, lr, show):
    """Train a model on qa1 by a plan and evaluate it at every length."""
    params = init_params(cfg, seed)
    learned = train(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show, max_lr=lr,
                    stages=stages(segments=plan["segments"], steps=plan["steps"], early=plan.get("early")))
    accuracy = {}
    for segments, count in questions.items():
        show(f"evaluating at {segments} segments")
        accuracy[segments] = evaluate(params, generated(["qa1"], count, question_seed), [int(segments)], cfg=cfg,
                                      seed=question_seed)[segments]["qa1"]["accuracy"]
    return {**learned, "steps_to_learn": steps_to_learn(learned["accuracies"]), "accuracy": accuracy,
            "score": sum(accuracy.values()) / len(accuracy), "parameters": int(params.buffer.size)}


def _config(name, sizes=None):
    """A memory with the number of parameters of the default LM2. sizes: letters that give it the state's size."""
    like = Config(V=language()[0].size)
    cfg = baseline(name, like)
    return with_params_of(like, replace(cfg, **sizes)) if sizes else cfg


def step_cost(cfg, batch=64, segments=4, turns=5):
    """(median processor time of a training step in ms, its peak memory in MB)."""
    step = tinylm2_step(Workload(cfg, batch=batch, last=2, segments=segments), np)
    step()                                               # the first one makes tables
    ms = 1e3 * median(machine.seconds(step, time.process_time) for _ in range(turns))
    return {"ms": ms, "MB": peak(step) / 2**20}


def steps_to_learn(accuracies):
    """The number of steps until the training accuracy stays above LEARNED; None where it does not."""
    below = [i for i, accuracy in enumerate(accuracies) if accuracy < LEARNED]
    first = below[-1] + 1 if below else 0
    return EVERY * first if first < len(accuracies) else None


# -------------------------------------------------------------------------------------------------------------- report


def report(results):
    """One row per memory; below, the mix of tasks, and the learning-rate trials."""
    groups = {"qa1": [], "mix": [], "tried": []}
    for name in filter(results.of, results.variants):
        groups["tried" if " at " in name else "mix" if name.endswith(MIX) else "qa1"].append(name)
    text = _qa1(results, groups["qa1"]) if groups["qa1"] else []
    text += _mix(results, groups["mix"]) if groups["mix"] else []
    return "\n".join(text + (_tried(results, groups["tried"]) if groups["tried"] else []) + _earlier())


def _qa1(results, names):
    lengths = list(results.budget["questions"])
    rows = [[name, results.seeds(name), *(results.mean(name, "accuracy", n, digits=2) for n in lengths),
             _learned(results, name), *(results.mean(name, key, digits=0) for key in ("state", "parameters")),
             results.mean(name, "ms", digits=0), results.mean(name, "MB", digits=0), results.mean(name, "lr")]
            for name in names]
    header = ["memory", "seeds", *(f"{n} segments" for n in lengths), f"steps to stay above {LEARNED}",
              "numbers of state", "parameters", "ms per step", "MB", "lr"]
    return [markdown(header, rows), "", "State: the numbers that are kept of one story, 4 bytes each. ms and MB: "
            "processor time and peak memory of a training step, 64 stories of 4 segments."]


def _learned(results, name):
    """ "900 (850-950)", and the number of seeds that learned, if not all did."""
    found, seeds = results.values(name, "steps_to_learn"), len(results.of(name))
    text = results.mean(name, "steps_to_learn", digits=0)
    return text if len(found) in (0, seeds) else f"{text}, {len(found)} of {seeds} seeds"


def _mix(results, names):
    """The table of the mix: first the trials of `table` with the same plan, then those of this command."""
    mix = results.budget["mix"]
    kept = Results(table.EXPERIMENT, runner.FOLDER / "table.json", table.EXPERIMENT.budgets[mix], mix)
    lengths = list(kept.budget["questions"])
    rows = [[name.removesuffix(MIX), found.seeds(name), *(found.mean(name, "mean", n, digits=2) for n in lengths)]
            for found, some in ((kept, kept.variants), (results, names)) for name in some if found.of(name)]
    return ["", f"Ten tasks in one model, by the plan of `table` (budget {mix}), from which the first rows come. Mean "
            "accuracy by tokens of the text:", "",
            markdown(["memory", "seeds", *(str(32 * int(n)) for n in lengths)], rows)]


def _tried(results, names):
    rows = [[name, results.seeds(name), results.mean(name, "score"), results.mean(name, "steps", digits=0)]
            for name in names]
    bases = dict.fromkeys(name.partition(" at ")[0] for name in names)
    chosen = {base: best({name: results.of(name)[0] for name in names if name.startswith(f"{base} at ")})
              for base in bases}
    return ["", "Learning rates, a short training each, mean accuracy over questions that are not reported above:", "",
            markdown(["memory and lr", "seeds", "accuracy", "steps"], rows), "",
            "The best of each: " + ", ".join(f"{base} {lr:g}" for base, lr in chosen.items()) + "."]


def _earlier():
    """The trials with which memories were improved, from trials.jsonl: one seed, development questions."""
    trials = [parse_json(line, TRIALS) for line in read_lines(TRIALS)]
    lengths = ("4", "8", "16", "64")
    rows = [[trial["memory"], trial["note"], *("{segments}; {steps}; {lr:g}".format(**trial["settings"]).split("; ")),
             *(f"{trial['accuracy'][n]:.2f}" if n in trial["accuracy"] else "-" for n in lengths)] for trial in trials]
    return ["", "Earlier trials, by which the memories got their starts: seed 0, development questions.", "",
            markdown(["memory", "what", "segments", "steps", "lr", *(f"{n} segments" for n in lengths)], rows)]


def draw(results, plt):
    """Accuracy at the longest length against the size of the state; a line joins a memory's two sizes."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    longest, places = list(results.budget["questions"])[-1], {}
    for name in results.variants:
        found = [] if " at " in name or name.endswith(MIX) else results.values(name, "accuracy", longest)
        if found:
            state = max(16, results.of(name)[0]["state"])                # none has no state, and a log axis no zero
            places[name] = state, sum(found) / len(found), min(found), max(found)
    for name, (state, mean, low, high) in places.items():
        main = places.get(name.removesuffix(STATE), (state, mean))
        axes.plot([main[0], state], [main[1], mean], color="grey", linewidth=0.6)
        axes.plot([state, state], [low, high], color="grey", linewidth=1.5)
        axes.plot(state, mean, "o", color="black", markersize=5,
                  markerfacecolor="white" if name.endswith(STATE) else "black")
    for name, y in _apart({name: place[:2] for name, place in places.items()}).items():
        axes.annotate(name.replace(STATE, " *"), (places[name][0], y), (7, 0), textcoords="offset points",
                      fontsize=8, va="center")
    axes.axhline(CHANCE, color="grey", linestyle=":")
    axes.set_xscale("log", base=2)
    ticks = [16] + [2**k for k in range(8, 13)]
    axes.set_xticks(ticks, ["0", *map(str, ticks[1:])])
    axes.set_xlim(11, 2**13)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("numbers of state of one story   (* hollow: about equal state)")
    axes.set_ylabel(f"accuracy at {32 * int(longest):,} tokens")
    return figure


def _apart(places, height=0.045, width=1.6):
    """name -> position of its label, so that labels at nearly equal states do not overlap."""
    placed = {}
    for name, (x, y) in sorted(places.items(), key=lambda item: item[1][1]):
        below = [placed[other] for other in placed if max(x, places[other][0]) < width * min(x, places[other][0])]
        placed[name] = max([y, *(other + height for other in below)])
    return placed


# ------------------------------------------------------------------------------------------------------------- budgets


def _variants(budget):
    main = [*budget["names"], *(f"{name}{STATE}" for name in EQUAL_STATE if name in budget["names"]),
            *(f"{name}{SUM}" for name in budget["names"] if name == "infini"),
            *(f"{name}{MIX}" for name in budget["mixed"])]
    return main + list(dict.fromkeys(tried for name in main for tried in before(name, budget)))


_QUESTIONS = {"4": 256, "8": 256, "16": 256, "64": 256, "256": 256, "1024": 64, "4096": 64}
_MIXED = tuple(name for name in NAMES if name not in table.NAMES)        # `table` has the others
_CHOOSE = {"lrs": ["0.003", "0.006", "0.012"], "choose": {"segments": [4], "steps": [600]},
           "development": {"4": 128, "8": 128, "16": 128}, "mix_lrs": rates.EXPERIMENT.budgets["medium"]["lrs"]}
EXPERIMENT = Experiment(
    name="gallery", question=QUESTION, measure=measure, before=before, report=report, draw=draw, variants=_variants,
    budgets={
        "small": {"names": NAMES, "mixed": [], "mix": "small", **_CHOOSE, "segments": [4, 8], "steps": [600, 300],
                  "questions": _QUESTIONS},
        "medium": {"names": NAMES, "mixed": _MIXED, "mix": "medium", **_CHOOSE, "segments": [4, 8, 16, 32, 64],
                   "steps": [600, 300, 200, 200, 250], "questions": _QUESTIONS},
        "quick": {"names": ["lm2", "infini", "none"], "mixed": ["infini"], "mix": "quick", "lrs": ["0.006"],
                  "mix_lrs": rates.EXPERIMENT.budgets["quick"]["lrs"],
                  "choose": {"segments": [2], "steps": [2], "early": 2}, "segments": [2], "steps": [2], "early": 2,
                  "questions": {"4": 3, "8": 3}, "development": {"4": 3}},
    })


def main(argv=None):
    """As for every experiment; --write also puts the table of qa1 into docs/RESULTS.md."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    status = EXPERIMENT.main([argument for argument in arguments if argument != "--write"])
    if "--write" in arguments and status == 0:
        text = (runner.FOLDER / "gallery.md").read_text(encoding="utf-8")
        table_of_qa1 = text[text.index("| memory |"):].partition("\n\n")[0]
        machine.write("gallery", table_of_qa1, runner.FOLDER.parent / "RESULTS.md")
    return status


if __name__ == "__main__":
    sys.exit(main())

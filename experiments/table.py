"""table: the paper's Table 1 at tiny size.

One model per memory and seed, trained on stories of at most 256 tokens, evaluated over texts of 0 to 8,192 tokens. All
have equal numbers of parameters, the same stories, the same trainer. The small budget trains on qa1 alone, the others
train joint models of qa1 to qa10 as in the paper.
"""

import sys
from dataclasses import replace

from benchmarks.tables import markdown
from experiments.baselines import NAMES, baseline
from experiments.runner import (
    HELD_OUT,
    Experiment,
    by_number,
    curve,
    evaluate,
    generated,
    label_ends,
    language,
    stages,
    train,
)
from tinylm2.model import Config, init_params
from tinylm2.training.curriculum import growing

QUESTION = ("What is a memory worth beside other memories? Equal numbers of parameters, trained on stories of at most "
            "256 tokens: mean accuracy over the tasks by length of the text, in tokens (0: no filler).")
PAPER = {"LM2": (0.925, 0.783, 0.658, 0.559, 0.399), "RMT": (0.764, 0.479, 0.514, 0.384, 0.355),
         "Llama": (0.750, 0.506, 0.463, 0.422, 0.312)}   # at 0, 1k, 2k, 4k, 8k tokens and longer
FROM = 512                                               # tokens: leads are averaged over lengths from here on


def measure(name, seed, budget, show):
    """Train one model on all tasks and evaluate it at every length that it reaches."""
    return train_and_evaluate(name, seed, budget, show, lr=budget["lr"][name], question_seed=HELD_OUT)


def train_and_evaluate(name, seed, budget, show, *, lr, question_seed):
    """One model at one learning rate: by number of segments, accuracy of each task, and the mean over the tasks."""
    cfg = baseline(name, Config(V=language()[0].size, **budget["model"]))
    params = init_params(cfg, seed)
    learned = train(params, cfg=cfg, tasks=budget["tasks"], seed=seed, show=show, max_lr=lr, stages=_stages(budget))
    accuracy = {}
    for segments, count in budget["questions"].items():
        if int(segments) > budget["reach"].get(name, int(segments)):
            continue
        show(f"evaluating at {segments} segments")
        found = evaluate(params, generated(budget["tasks"], count, question_seed), [int(segments)], cfg=cfg,
                         seed=question_seed)[segments]
        accuracy[segments] = {task: scores["accuracy"] for task, scores in found.items()}
    mean = {segments: sum(found.values()) / len(found) for segments, found in accuracy.items() if found}
    return {**learned, "parameters": int(params.buffer.size), "accuracy": accuracy, "mean": mean}


def _stages(budget):
    """qa1 by the library's curriculum; several tasks first form a growing mix without filler, before stage B."""
    plan = stages(segments=budget["segments"], steps=budget["steps"], early=budget.get("early"))
    if "grow" not in budget:
        return plan
    return growing(budget["grow"], segment_len=Config.T) + tuple(
        replace(stage, sampler=replace(stage.sampler, facts=(None, None, 2, 4, 6, 8, 10)))
        for stage in plan if stage.name.startswith("B"))


def _tokens(segments):
    return 32 * int(segments)


def report(results):
    lengths = list(results.budget["questions"])
    names = [name for name in results.variants if results.of(name)]
    rows = [[name, results.seeds(name), *(results.mean(name, "mean", n, digits=2) for n in lengths),
             results.mean(name, "parameters", digits=0), results.mean(name, "cpu_s", digits=0)] for name in names]
    text = [markdown(["memory", "seeds", *(f"{_tokens(n)}" for n in lengths), "parameters", "seconds"], rows), ""]
    if "lm2" in names:
        text += [_lead(results, other, lengths) for other in names if other != "lm2"]
    if len(results.budget["tasks"]) > 1:
        rows = [[name, task, *(_mean(results.values(name, "accuracy", n, task)) for n in lengths)]
                for name in names for task in by_number(results.budget["tasks"])]
        text += ["", "By task, mean over seeds:", "",
                 markdown(["memory", "task", *(f"{_tokens(n)}" for n in lengths)], rows)]
    text += ["", "The paper, at 0, 1k, 2k, 4k and 8k tokens or more, of a model 30,000 times as large: "
             + "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in PAPER.items()) + "."]
    return "\n".join(text)


def _lead(results, other, lengths):
    """LM2's accuracy minus another memory's, averaged over the long lengths at which both were evaluated."""
    leads = []
    for n in lengths:
        ours, theirs = results.values("lm2", "mean", n), results.values(other, "mean", n)
        if _tokens(n) >= FROM and ours and theirs and sum(theirs):
            leads.append(sum(ours) / len(ours) / (sum(theirs) / len(theirs)) - 1)
    if not leads:
        return f"- `lm2` against `{other}`: not both evaluated at {FROM} tokens or more."
    return f"- `lm2` against `{other}`: {100 * sum(leads) / len(leads):+.1f} % over texts of {FROM} tokens and more."


def _mean(values):
    return f"{sum(values) / len(values):.2f}" if values else "-"


def draw(results, plt):
    """Mean accuracy over the tasks against the length of the text."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for name in results.variants:
        lengths = [n for n in results.budget["questions"] if results.values(name, "mean", n)]
        if lengths:
            curve(axes, [max(_tokens(n), 64) for n in lengths],
                  [[trial["mean"][n] for n in lengths] for trial in results.of(name)], name, marker=".")
    axes.set_xscale("log", base=2)
    tokens = [_tokens(n) for n in results.budget["questions"]]
    axes.set_xticks([max(n, 64) for n in tokens], tokens)
    axes.set_xlabel("tokens of the text")
    axes.set_ylabel("accuracy, mean of the tasks")
    axes.set_ylim(0, 1.02)
    axes.set_title(_message(results), loc="left")
    label_ends(axes)
    return figure


def _message(results):
    """The two best memories at the middle length."""
    length = list(results.budget["questions"])[len(results.budget["questions"]) // 2]
    means = {name: sum(found) / len(found) for name in results.variants
             if (found := results.values(name, "mean", length))}
    ranked = sorted(means, key=means.get, reverse=True)[:2]
    return f"At {_tokens(length):,} tokens: " + ", then ".join(f"{name} {means[name]:.2f}" for name in ranked)


TASKS = [f"qa{i}" for i in (1, 6, 9, 10, 8, 7, 5, 2, 3, 4)]             # in the order in which they join
_LR = {"lm2": 3e-3, "pooled": 6e-3, "none": 1.5e-3, "rmt": 3e-3, "full": 6e-3}              # experiments/rates.py
EXPERIMENT = Experiment(
    name="table", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: NAMES,
    budgets={
        "small": {
            "model": {}, "tasks": ["qa1"], "lr": _LR, "segments": [4, 8], "steps": [300, 200],
            "questions": {"0": 256, "4": 256, "8": 256, "16": 256, "32": 256, "64": 128, "128": 64, "256": 64},
            "reach": {"full": 128}},
        "medium": {
            "model": {}, "tasks": TASKS, "lr": _LR, "segments": [4, 8], "steps": [600, 800],
            "grow": [[1, 600, 500], [6, 400, 600], [10, 400, 2000]],
            "questions": {"0": 100, "4": 100, "8": 100, "16": 100, "32": 100, "64": 100, "128": 50, "256": 50},
            "reach": {"full": 128}},
        "large": {
            "model": {"D": 64, "L": 4, "H": 4, "G": 4, "F": 160, "N": 32}, "tasks": TASKS,
            "lr": dict.fromkeys(_LR, 2e-3), "segments": [4, 8], "steps": [4000, 8000],
            "grow": [[1, 600, 500], [6, 400, 2000], [10, 400, 12000]],
            "questions": {"0": 200, "4": 200, "8": 200, "16": 200, "32": 200, "64": 100, "128": 100, "256": 50},
            "reach": {}},
        "quick": {
            "model": {}, "tasks": ["qa1", "qa6"], "lr": _LR, "segments": [2], "steps": [2], "early": 2,
            "grow": [[1, 2, 2], [2, 2, 2]],
            "questions": {"0": 3, "4": 3}, "reach": {}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

"""leaderboard: BABILong's protocol at tiny size. One model per task, qa1 to qa5, with up to 1,048,576 tokens.

The protocol of Kuratov et al. (2024): a model per task is trained on stories of limited length and evaluated on far
longer texts, scored by the official rule (`tinylm2.inspect.evaluate.babilong`). Three things are easier here: the
vocabulary has about two hundred words, the filler is a small grammar instead of books, and training stories never
repeat. Two things are harder: the models have 0.2 million parameters instead of 130 million, and no pretraining. So the
published figures beside ours are for orientation only; they do not rank the models.
"""

import sys

from benchmarks.tables import markdown
from experiments import ablations
from experiments.baselines import baseline
from experiments.runner import (
    HELD_OUT,
    Experiment,
    checkpoint_of,
    evaluate,
    generated,
    label_ends,
    language,
    train,
)
from tinylm2.data import HaystackSampler, find_file, read_examples
from tinylm2.inspect.evaluate import babilong
from tinylm2.model import Config, init_params
from tinylm2.training.curriculum import LENGTHS, Stage, growing

QUESTION = ("How far does one model per task reach, qa1 to qa5, by BABILong's rule? Trained on texts of at most 8,192 "
            "tokens, asked over up to 1,048,576 (0: no filler).")
TASKS = ("qa1", "qa2", "qa3", "qa4", "qa5")
# Percent, mean of qa1 to qa5; BABILong's leaderboard: fine-tuned, one model per task, trained on up to 16k tokens.
PUBLISHED = {"ARMT 137M": {0: 99.3, 4096: 98.1, 16384: 98.1, 65536: 97.9, 131072: 96.9, 1048576: 93.4},
             "Mamba 130M": {0: 98.5, 4096: 98.7, 16384: 98.5, 65536: 97.0, 131072: 92.5},
             "RMT 137M": {0: 99.4, 4096: 92.3, 16384: 85.6, 65536: 69.9, 131072: 58.5, 1048576: 42.8}}


@ablations.registered()
def measure(name, seed, budget, show):
    """Train one memory on one task and evaluate it at every length."""
    memory, task = name.split(", ")
    tokenizer, _ = language()
    cfg = baseline(memory, Config(V=tokenizer.size, **budget["model"]))
    params = init_params(cfg, seed)
    learned = train(params, cfg=cfg, tasks=[task], seed=seed, show=show, max_lr=budget["lr"],
                    stages=plan(budget, cfg.T), kept=checkpoint_of("leaderboard", name, seed, budget))
    accuracy = {}
    for tokens, count in budget["questions"].items():
        examples = generated([task], count, HELD_OUT)
        if budget["stories"]:
            examples = {task: read_examples(find_file(budget["stories"], task), task, tokenizer)[:count]}
        show(f"asking over {tokens} tokens")
        segments = int(tokens) // cfg.T
        found = evaluate(params, examples, [segments], cfg=cfg, seed=HELD_OUT, metric=babilong)[str(segments)]
        if task in found:                                # otherwise no story of the task fits a text this short
            accuracy[tokens] = found[task]["accuracy"]
    return {**learned, "parameters": int(params.buffer.size), "accuracy": accuracy}


def plan(budget, segment_len):
    """The stages: the task without filler, short stories first; then stories in more and more filler."""
    stages = growing([[1, *budget["learn"]]], segment_len=segment_len, batch_size=budget["batch_size"])
    for longest, steps in budget["plan"].items():
        sampler = HaystackSampler(facts=(None, None, 2, 4, 6, 8, 10), segment_len=segment_len, gap=0.7,
                                  segments=tuple(n for n in LENGTHS if n <= int(longest)))
        stages += (Stage(f"B{longest}", sampler, budget["batch_size"], steps),)
    return stages


def report(results):
    """One row per memory and task, the mean over the tasks, and the published figures below it."""
    lengths = list(results.budget["questions"])
    rows = [[name, results.seeds(name), *(results.mean(name, "accuracy", n) for n in lengths),
             results.mean(name, "parameters", digits=0), results.mean(name, "cpu_s", digits=0)]
            for name in results.variants if results.of(name)]
    for memory in results.budget["memories"]:
        means = [_mean(results, memory, n) for n in lengths]
        rows.append([f"**{memory}, mean of {len(results.budget['tasks'])}**", "",
                     *("-" if mean is None else f"{mean:.3f}" for mean in means), "", ""])
    rows += [[f"{name.split()[0]}, published", "",
              *(f"{figures[int(n)] / 100:.3f}" if int(n) in figures else "-" for n in lengths), name.split()[1], ""]
             for name, figures in PUBLISHED.items()]
    return markdown(["memory and task", "seeds", *(f"{int(n):,}" for n in lengths), "parameters", "seconds"], rows)


def _mean(results, memory, tokens):
    """Mean over the tasks of the means over the seeds; None where a task was not evaluated."""
    found = [results.values(f"{memory}, {task}", "accuracy", tokens) for task in results.budget["tasks"]]
    return sum(sum(seeds) / len(seeds) for seeds in found) / len(found) if all(found) else None


def draw(results, plt):
    """Mean accuracy of the tasks against the tokens of the text; dotted lines for the published means."""
    lengths = list(results.budget["questions"])
    figure, axes = plt.subplots(figsize=(8, 4))
    for memory in results.budget["memories"]:
        means = {int(n): _mean(results, memory, n) for n in lengths if _mean(results, memory, n) is not None}
        axes.plot([max(n, 512) for n in means], means.values(), marker=".", label=memory if means else None)
    for name, figures in PUBLISHED.items():
        axes.plot([max(n, 512) for n in figures], [percent / 100 for percent in figures.values()], ":", color="grey",
                  marker=".", label=f"{name}, published")
    axes.set_xscale("log", base=2)
    axes.set_xticks([max(int(n), 512) for n in lengths], [f"{int(n):,}" for n in lengths], rotation=45)
    axes.set_xlabel("tokens of the text")
    axes.set_ylabel("accuracy by BABILong's rule, mean of the tasks")
    axes.set_ylim(0, 1.02)
    label_ends(axes)
    return figure


_QUESTIONS = {"0": 256, "1024": 256, "4096": 256, "16384": 128, "65536": 64, "131072": 64, "1048576": 32}
_COMMON = {"memories": ["lm2", "gates that can shut"], "tasks": list(TASKS), "lr": 1.5e-3, "batch_size": 16,
           "model": {"D": 64, "L": 3, "H": 4, "G": 4, "F": 160, "N": 16, "T": 128}}
EXPERIMENT = Experiment(
    name="leaderboard", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: [f"{memory}, {task}" for memory in budget["memories"] for task in budget["tasks"]],
    options={"stories": "a folder of official bAbI files: their questions instead of generated ones"}, logged=True,
    budgets={
        "small": {**_COMMON, "learn": [600, 4000], "plan": {4: 800, 8: 600, 16: 400, 32: 200, 64: 100},
                  "questions": {**_QUESTIONS, "1048576": 16}},
        "large": {**_COMMON, "learn": [1000, 30_000], "plan": {4: 2000, 8: 2000, 16: 1500, 32: 800, 64: 400},
                  "questions": _QUESTIONS},
        "quick": {**_COMMON, "memories": ["lm2"], "tasks": ["qa1", "qa5"], "learn": [2, 2], "plan": {2: 2},
                  "batch_size": 4, "model": {}, "questions": {"0": 3, "256": 3}},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

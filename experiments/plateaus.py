"""plateaus: are qa16 and qa19 learned if their steps are asked first, and then fewer and fewer of them?

In `joint` and alone, both tasks stay at guessing, for any depth. Here a row first asks every hop of the answer, in
order, before the question itself ("What is Lily? swan. Who is a swan? Greg. What color is Greg? gray."). So each answer
is one look-up away from what is in the row. Then the hops are removed, the first one first, a fraction at a time
(stepwise internalisation, Deng et al. 2024, arXiv 2405.14838). The next fraction is removed only when the mean loss of
the last 20 steps is below a threshold. If that never happens, training ends, and the trial records the fraction.

Questions of the evaluation have no hops. The first stage also has short stories, which are easier, so training accuracy
can be compared with that of the questions only afterwards.
"""

import re
import sys
from dataclasses import dataclass, replace

from benchmarks.tables import markdown
from experiments import joint
from experiments.baselines import baseline
from experiments.runner import EVERY, Experiment, checkpoint_of, curve, label_ends, language, train
from tinylm2.data import BucketSampler, Question
from tinylm2.data.samplers import story_sequence
from tinylm2.model import Config, init_params
from tinylm2.training.curriculum import Stage

QUESTION = ("qa16 and qa19 alone, without filler: are they learned when every step of an answer is asked before the "
            "question, and the steps are taken away at the pace at which accuracy holds?")
# name -> what differs: the task, whether hops are asked, a fraction of the size of each step, letters of the model
VARIANTS = {f"{task}, {name}": {"task": task, **more} for task in ("qa16", "qa19") for name, more in {
    "plain": {"hops": False},
    "hops": {},
    "hops, half steps": {"pace": 0.5},
    "hops, D 128": {"model": {"D": 128, "F": 320}},
    "hops, batches of 128": {"batch_size": 128},
}.items()}


def hops(story, task):
    """The questions that lead to the answer of a story's last line, in order.

    qa16: the kind, the last other member of this kind, its colour. qa19: both steps of the way.
    """
    *_, asked = story
    told = [story[line - 1].text.rstrip(".").split() for line in asked.support]
    if task == "qa16":
        (name, *_, kind), (peer, *_), (*_, color) = told
        return (Question(f"What is {name}?", kind), Question(f"Who is a {kind}?", peer),
                Question(f"What color is {peer}?", color))
    start, goal = re.fullmatch(r"How do you go from the (\w+) to the (\w+)\?", asked.text).groups()
    (middle,) = {told[0][1], told[0][-1]} - {start}
    first, then = asked.answer.split(",")
    return (Question(f"How do you go from the {start} to the {middle}?", first),
            Question(f"How do you go from the {middle} to the {goal}?", then))


@dataclass(frozen=True)
class HopSampler(BucketSampler):
    """Stories of one question, with its hops before it except the first `removed` ones. 1.3 means: the first is always
    removed, the second in three rows of ten. facts: as in `BucketSampler`."""

    removed: float = 0.0

    def sequence(self, stories, *key):
        task = stories.draw_task(self.tasks, *key)
        rng = stories.rng(task.number, *key)
        facts = rng.choice(self.facts)
        *told, asked = task.story(rng) if facts is None else task.story(rng, questions=1, facts=facts)
        removed = int(self.removed) + rng.bernoulli(self.removed % 1)
        return story_sequence((*told, *hops((*told, asked), task.name)[removed:], asked), task.name, stories.tokenizer)


HOPS = {"qa16": 3, "qa19": 2}


def plan(variant, budget, segment_len):
    """The stages: all hops, with short stories, too; fewer and fewer hops, until a threshold each; none, to the end."""
    task, size = variant["task"], variant.get("batch_size", budget["batch_size"])
    count = HOPS[task]
    last = Stage("no hops", HopSampler(segment_len=segment_len, removed=float(count)), size, budget["after"])
    first = Stage("all hops", HopSampler(facts=(None, None, 3, 4), segment_len=segment_len), size, budget["learn"],
                  loss_threshold=budget["hold"], required=budget["strict"])
    if not variant.get("hops", True):
        return (Stage("plain", last.sampler, size, budget["plain"]),)
    parts = round(count / (budget["step"] * variant.get("pace", 1)))
    fewer = tuple(replace(first, name=f"{count * i / parts:.2f} removed", steps=budget["patience"],
                          sampler=HopSampler(segment_len=segment_len, removed=count * i / parts))
                  for i in range(1, parts + 1))
    return (first, *fewer, last)


def measure(name, seed, budget, show):
    """Train one model on one task and evaluate it as `joint` does."""
    variant = VARIANTS[name]
    cfg = baseline("lm2", Config(V=language()[0].size, **budget["model"] | variant.get("model", {})))
    params = init_params(cfg, seed)
    stages = plan(variant, budget, cfg.T)
    learned = train(params, cfg=cfg, tasks=[variant["task"]], seed=seed, show=show, max_lr=budget["lr"], stages=stages,
                    kept=checkpoint_of("plateaus", name, seed, budget))
    return {**learned, "reached": list(learned["stages"])[-1],
            **joint.asked(params, cfg, {**budget, "tasks": [variant["task"]]}, show)}


def report(results):
    rows = []
    for name in results.variants:
        if results.of(name):
            task = VARIANTS[name]["task"]
            reached = ", ".join(results.values(name, "reached"))
            rows.append([name, len(results.of(name)), reached,
                         *(results.mean(name, source, "accuracy", task) for source in ("generated", "official")),
                         results.mean(name, "steps", digits=0), results.mean(name, "cpu_s", digits=0)])
    return markdown(["variant", "seeds", "last stage", "generated", "official", "steps", "seconds"], rows)


def draw(results, plt):
    """Whole rows correct while training, hops included; one panel per task."""
    figure, panels = plt.subplots(1, len(HOPS), figsize=(11, 3.5), sharey=True)
    for axes, task in zip(panels, HOPS, strict=True):
        for name in results.variants:
            found = results.values(name, "accuracies") if VARIANTS[name]["task"] == task else []
            curve(axes, range(0, EVERY * max(map(len, found), default=0), EVERY), found, name.partition(", ")[2])
        axes.axhline(joint.PASS, color="grey", linestyle=":")
        axes.set_title(task)
        axes.set_xlabel("steps")
        axes.set_ylim(0, 1.02)
        label_ends(axes)
    panels[0].set_ylabel("rows correct, hops included")
    figure.subplots_adjust(wspace=0.8)
    return figure


_MEDIUM = joint.EXPERIMENT.budgets["medium"]
_COMMON = {"variants": list(VARIANTS), "strict": True, "hold": 0.05, "step": 0.1, "questions": 1000,
           **{name: _MEDIUM[name] for name in ("batch_size", "lr", "model")}}
EXPERIMENT = Experiment(
    name="plateaus", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: budget["variants"], options=joint.EXPERIMENT.options, logged=True,
    budgets={
        "small": {**_COMMON, "learn": 20_000, "patience": 6000, "after": 2000, "plain": 12_000},
        "large": {**_COMMON, "learn": 40_000, "patience": 20_000, "after": 10_000, "plain": 60_000},
        "quick": {**_COMMON, "variants": ["qa16, plain", "qa16, hops", "qa19, hops"], "strict": False, "step": 1.0,
                  "learn": 2, "patience": 2, "after": 2, "plain": 2, "batch_size": 4, "model": {"T": 64},
                  "questions": 3},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())

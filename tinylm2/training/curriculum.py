"""The curriculum: stages of growing difficulty, without which answers are not learned (docs/MODEL.md)."""

import math
from dataclasses import dataclass, replace
from typing import Any

from tinylm2.data import BucketSampler, HaystackSampler, TextSampler

WINDOW = 20                                              # how many of the last losses a stage's threshold looks at
MIXES = 1, 6, 12                                         # numbers of tasks that a growing mix has before it has all
LENGTHS = tuple(sorted({2**k for k in range(1, 13)} | {3 * 2**k for k in range(12)}))        # segments: 2 3 4 6 8 ...


@dataclass(frozen=True)
class Stage:
    """Part of a curriculum: batches of a sampler for `steps` steps, or until the mean of the last 20 losses is below
    `loss_threshold`. A `required` stage that does not reach its threshold ends the run."""

    name: str
    sampler: HaystackSampler | BucketSampler | TextSampler
    batch_size: int
    steps: int
    loss_threshold: float | None = None
    required: bool = False


def curriculum(*, segment_len: int, segments: Any, steps: Any, mixed: int = 0, short: Any = (1, 16),
               required: bool = True) -> tuple:
    """The stages that get answers learned. On full-length stories from the start, names are never bound to places.

    A learns to bind a name to a place in two facts, A2 to find them in one full segment, B to keep them over segments.
    A's threshold is low because two names that are still mistaken for each other in A stay so, and with four names one
    such pair costs only .04: few stories name both, and the end token, which costs nothing, halves the mean.
    segments and steps: B's longest story and its length, one after another where there are several ("4,8,16" teaches
    to keep facts longer and longer); 0 segments are stories without filler. mixed: how many tasks a mix has; it is
    `growing` before B. 0 is one task alone. short: (segments, tokens per segment) of A's rows. required: whether a run
    ends where A is not learned; nobody knows whether a task of the user's own can be, with two facts.
    """
    if mixed:
        facts = (None, None, 2, 4, 6, 8, 10)
        counts = [count for count in MIXES if count < mixed] + [mixed]
        stages = list(growing([(n, 600 if n == 1 else 400, 500) for n in counts], segment_len=segment_len))
    else:
        facts = (2, 4, 6, 8, 10)
        first = HaystackSampler(facts=(2,), segments=short[:1], segment_len=short[1], filler=False)
        second = HaystackSampler(facts=(2, 4, 6), segment_len=segment_len)
        stages = [Stage("A", first, 128, 1000, loss_threshold=0.02, required=required),
                  Stage("A2", second, 64, 300, loss_threshold=0.05)]
    for longest, count in zip(segments, steps, strict=True):
        name = "B" if len(segments) == 1 else f"B{longest}"
        if longest == 0:
            sampler = _natural(segment_len)
        else:
            lengths = tuple(n for n in LENGTHS if n <= longest) or (1,)
            sampler = HaystackSampler(facts=facts, segments=lengths, segment_len=segment_len, gap=0.7)
        if count:
            stages.append(Stage(name, sampler, 64, count))
    return tuple(stages)


def growing(plan: Any, *, segment_len: int, batch_size: int = 64) -> tuple[Stage, ...]:
    """Stages of a mix that grows, without filler: rows of `plan` are (number of tasks, steps on short stories, steps on
    full stories), `batch_size` stories per batch on average, twice as many in the very first. Each stage but the last
    ends when it has learned.

    All at once, twenty tasks are learned six times as slowly: most of them ask who is where, and a twentieth of a batch
    teaches that badly. The first task comes alone and with the shortest stories, so that no two names are mistaken for
    each other. Each mix is trained on short stories before full ones, for a question that needs a long story is
    otherwise answered at random for thousands of steps.
    """
    stages = []
    for tasks, brief, full in plan:
        natural = replace(_natural(segment_len), tasks=tasks)
        first = Stage(f"A{tasks}", replace(natural, facts=(1, 2, None)), batch_size, brief, loss_threshold=0.02)
        if tasks == 1:
            first = replace(first, sampler=replace(natural, facts=(1, 2)), batch_size=2 * batch_size)
        stages += [first, Stage(f"G{tasks}", natural, batch_size, full, loss_threshold=0.02)]
    return (*stages[:-1], replace(stages[-1], loss_threshold=None))


def _natural(segment_len):
    """Rows without filler: two in five as the real files tell them, half of these with all of their questions."""
    return BucketSampler(facts=(None, None, 2, 4, 6), segment_len=segment_len, every=0.5)


def learning_rate(peak: float, step: int, *, warmup: int, decay_from: int | None = None, decay_steps: int = 1,
                  floor: float = 0.05) -> float:
    """The rate of a step: up in a line over `warmup` steps, then level; from `decay_from` on down a half cosine to
    `floor` of the peak over `decay_steps` steps."""
    rate = peak * min(1.0, (step + 1) / warmup)
    if decay_from is not None:
        done = min(1.0, max(0.0, (step - decay_from) / decay_steps))
        rate *= floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
    return rate

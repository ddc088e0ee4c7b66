"""The curriculum: stages of growing difficulty, and the learning rate of each step (docs/MODEL.md)."""

import math
from dataclasses import dataclass, replace
from typing import Any

from tinylm2.data import BucketSampler, HaystackSampler, TextSampler

WINDOW = 20                                              # a threshold is for the mean of the last losses
MIXES = 1, 6, 12                                         # numbers of tasks in a growing mix, before all of them
LENGTHS = tuple(sorted({2**k for k in range(1, 13)} | {3 * 2**k for k in range(12)}))        # segments: 2 3 4 6 8 ...


@dataclass(frozen=True)
class Stage:
    """A stage: batches of a sampler for `steps` steps, or until the mean of 20 losses is below `loss_threshold`.

    A `required` stage that does not reach its threshold ends the run.
    """

    name: str
    sampler: HaystackSampler | BucketSampler | TextSampler
    batch_size: int
    steps: int
    loss_threshold: float | None = None
    required: bool = False


def curriculum(*, segment_len: int, segments: Any, steps: Any, mixed: int = 0, short: Any = (1, 16),
               required: bool = True) -> tuple:
    """The stages of a run. With full-length stories from the start, a model never learns to bind names to places.

    Stage A teaches to bind a name to a place in two facts, A2 to find them in one full segment, B to keep them over
    segments. A's threshold is low: two names that are still confused after A stay confused, and one such pair of four
    names costs only .04, because few stories have both and the end token, which is easy, halves the mean.
    segments, steps: for each stage B, its longest story and its number of steps; 0 segments: stories without filler.
    mixed: the number of tasks of a mix, which is trained by `growing` before B; 0: one task, without a mix.
    short: (segments, tokens per segment) of A's rows.
    required: does a run end where A is not learned? Nobody knows whether a task of the user's own can be learned there.
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
    """Stages of a mix of tasks that grows, without filler.

    plan: rows of (number of tasks, steps on short stories, steps on full stories). A batch has `batch_size` stories on
    average, twice as many in the first stage. Each stage but the last may end early, at its threshold.

    All at once, twenty tasks are learned six times more slowly: most of them ask who is where, and one batch has too
    few questions of each. The first task is trained alone with the shortest stories, so that no two names are confused.
    Each mix is trained on short stories before full ones: otherwise a question that needs a long story is answered at
    random for thousands of steps.
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
    """Rows without filler: two in five are full stories as in the official files, half of them with all questions."""
    return BucketSampler(facts=(None, None, 2, 4, 6), segment_len=segment_len, every=0.5)


def learning_rate(max_lr: float, step: int, *, warmup: int, decay_from: int | None = None, decay_steps: int = 1,
                  floor: float = 0.05) -> float:
    """The learning rate of a step: a linear warm-up over `warmup` steps, then max_lr. From `decay_from` on, it falls
    along a half cosine to `floor` * max_lr, over `decay_steps` steps."""
    rate = max_lr * min(1.0, (step + 1) / warmup)
    if decay_from is not None:
        done = min(1.0, max(0.0, (step - decay_from) / decay_steps))
        rate *= floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
    return rate

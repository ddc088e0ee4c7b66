"""Endless batches of stories. Two samplers with one interface: `batch(stories, step, batch_size, shard, shards)`.

`HaystackSampler` inserts facts into filler, in rows of an exact number of segments. `BucketSampler` makes batches of
stories of similar length, without filler. Both go from Example to Sequence to Batch. A sampler is a plain value: each
stage of a curriculum has one.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from tinylm2.data.batch import Sequence, collate, make_batch
from tinylm2.data.haystack import filler_tokens, insert_in_haystack, without_filler
from tinylm2.data.rng import DATA, EVALUATION, Rng
from tinylm2.data.stories import Fact, Question, Story, examples
from tinylm2.data.tokenizer import Tokenizer
from tinylm2.errors import BadInput

TRIES, PATIENCE = 1000, 20                               # tries per row at most; tries per task
GROUP = 16                                               # steps whose stories are sorted by length together


class Stories:
    """The source of stories: tasks and their weights, the tokenizer, the filler and the seed.

    Each row has its own random stream. Its key is: number of the task, step, row, try. So an extra draw
    changes no other story, and any process can make any row.
    """

    def __init__(self, tasks: Any, *, tokenizer: Any, filler: Any, seed: int, weights: Any = None) -> None:
        self.tasks, self.weights = tuple(tasks), tuple(weights or [1] * len(tasks))
        self.tokenizer, self.filler, self.seed = tokenizer, filler, seed

    def rng(self, number: int, *key: Any) -> Rng:
        """The random stream of this key. number: that of a task, 0 for choices that belong to no task."""
        return Rng(self.seed, DATA, number, *key)

    def draw_task(self, first: int | None, *key: Any) -> Any:
        """One of the first `first` tasks (None: all), drawn by weight."""
        tasks = self.tasks[:first]
        return tasks[0] if len(tasks) == 1 else self.rng(0, *key).weighted_choice(tasks, self.weights[:first])


@dataclass(frozen=True)
class HaystackSampler:
    """Rows of one number of segments: a few facts and a question, inserted into filler.

    facts: the number of facts of each story is one of these, all equally likely; None stands for any question of a
    story made as the official file has it. segments: the same for each batch. filler: without it, rows are padded on
    the left, and only rows that are too short for the batch get filler. gap: see `insert_in_haystack`. tasks: use only
    the first `tasks` tasks of the mix. Where no story of a task fits after several tries, another task is drawn.
    """

    facts: tuple[int | None, ...] = (None,)
    segments: tuple[int, ...] = (1,)
    segment_len: int = 32
    filler: bool = True
    gap: float = 0.0
    tasks: int | None = None

    def batch(self, stories: Stories, step: int, batch_size: int, shard: int = 0, shards: int = 1) -> Any:
        """The Batch of this step, or one of its equal parts. Only the rows of that part are made."""
        if batch_size % shards:
            raise BadInput(f"--shards: found {shards}, expected a number that divides a batch of {batch_size} rows")
        segments, size = stories.rng(0, step).choice(self.segments), batch_size // shards
        rows = [self._row(stories, segments, step, i) for i in range(shard * size, (shard + 1) * size)]
        return make_batch(rows, stories.tokenizer.end)

    def _row(self, stories, segments, step, i):
        """Row i of a step, an EncodedExample of the first story that fits."""
        for attempt in range(TRIES):
            if attempt % PATIENCE == 0:
                task = stories.draw_task(self.tasks, step, i, attempt)
            rng = stories.rng(task.number, step, i, attempt)
            row = self._encoded(stories, _example(task, rng, self.facts), rng, segments)
            if row and row.segments == segments:
                return row
        raise BadInput(f"{task.name}: found no story among {TRIES} that fits {segments} segments of {self.segment_len} "
                       f"tokens, expected other numbers of facts ({self.facts}) or segments")

    def _encoded(self, stories, example, rng, segments):
        row = None
        if not self.filler:
            row = without_filler(example, tokenizer=stories.tokenizer, segment_len=self.segment_len)
        if row is None or row.segments < segments:
            row = insert_in_haystack(example, rng, tokenizer=stories.tokenizer, filler=stories.filler,
                                     segments=segments, segment_len=self.segment_len, gap=self.gap)
        return row


@dataclass(frozen=True)
class BucketSampler:
    """Stories without filler, in batches of similar length (length bucketing); `batch_size` stories on average.

    The stories of GROUP steps are sorted by length and cut into GROUP batches with equal numbers of tokens. So the
    distribution of lengths is unchanged, there is little padding, and all steps cost about the same: many short rows
    or a few long ones. Each step takes one batch of its group, in random order. A batch has as many columns as its
    longest story, rounded up to whole segments if that is longer than one segment. With probability `every`, a row has
    all questions of its story, where the official file asks them. facts, tasks: as in `HaystackSampler`.
    """

    facts: tuple[int | None, ...] = (None,)
    segment_len: int = 32
    every: float = 0.0
    tasks: int | None = None

    def batch(self, stories: Stories, step: int, batch_size: int, shard: int = 0, shards: int = 1) -> Any:
        """The Batch of this step, or one of its parts, which differ by one row at most; None where the part is empty.

        The rows of GROUP steps are made together, so every process makes all of them.
        """
        group, place = divmod(step, GROUP)
        batches, rng = _group(self, stories, group, batch_size), stories.rng(0, group, GROUP)
        rows = batches[rng.shuffled(range(GROUP))[place]]
        return self._side_by_side(rows, stories, stories.rng(0, step)).part(shard, shards)

    def sequence(self, stories: Stories, *key: Any) -> Sequence:
        """The Sequence of one story without filler, with weight 1 on its answers and their ends."""
        task = stories.draw_task(self.tasks, *key)
        rng = stories.rng(task.number, *key)
        facts = rng.choice(self.facts)
        story = task.story(rng) if facts is None else task.story(rng, questions=1, facts=facts)
        if facts is None and not rng.bernoulli(self.every):
            example = rng.choice(list(examples(story, task.name)))
            story = (*map(Fact, example.facts), Question(example.question, example.answer))
        return story_sequence(story, task.name, stories.tokenizer)

    def _side_by_side(self, sequences, stories, rng):
        """Pad on the left by less than a segment. Where more is missing, the row begins with filler."""
        longest = max(len(sequence.ids) for sequence in sequences) - 1
        columns = longest if longest <= self.segment_len else -(-longest // self.segment_len) * self.segment_len
        rows = []
        for sequence in sequences:
            missing = columns + 1 - len(sequence.ids)
            filled = missing // self.segment_len * self.segment_len
            head = [stories.tokenizer.pad] * (missing - filled)
            head += filler_tokens(stories.filler, rng, filled, stories.tokenizer)
            weights = [0] * missing + sequence.weights
            rows.append(Sequence(sequence.task, head + sequence.ids, weights, missing - filled))
        return collate(rows, self.segment_len)


def story_sequence(story: Story, task: str, tokenizer: Tokenizer) -> Sequence:
    """The Sequence of a whole story, with weight 1 on every answer and its end."""
    ids, weights = [], []
    for line in story:
        tokens = tokenizer.encode(line.text)
        answered = [*tokenizer.encode(line.answer), tokenizer.end] if isinstance(line, Question) else []
        ids += tokens + answered
        weights += [0] * len(tokens) + [1] * len(answered)
    return Sequence(task, ids, weights)


@lru_cache(maxsize=1)
def _group(sampler, stories, group, batch_size):
    """The sequences of each batch of a group, shortest first."""
    sequences = [sampler.sequence(stories, group, i) for i in range(GROUP * batch_size)]
    return _cut(sorted(sequences, key=lambda sequence: len(sequence.ids)))


def _cut(sequences):
    """Cut sorted sequences into GROUP lists with about equal numbers of tokens, at least one sequence in each."""
    ends = np.cumsum([len(sequence.ids) for sequence in sequences])
    batch = np.arange(GROUP + 1)
    cuts = np.searchsorted(GROUP * ends, batch * ends[-1], "right")
    cuts = np.minimum(cuts, len(sequences) - GROUP + batch)   # after a very long story, one is left for every batch
    return [sequences[start:end] for start, end in pairwise(cuts)]


def _example(task, rng, facts):
    """The example of one story with so many facts; None: any question of a story as in the official file."""
    facts = rng.choice(facts)
    if facts is None:
        return rng.choice(list(examples(task.story(rng), task.name)))
    (example,) = examples(task.story(rng, questions=1, facts=facts), task.name)
    return example


def generated_examples(task: Any, count: int, *, seed: int) -> Any:
    """The first `count` questions of generated stories of a task, with as many facts as in the official file."""
    found, number = [], 0
    while len(found) < count:
        found.extend(examples(task.story(Rng(seed, EVALUATION, task.number, number)), task.name))
        number += 1
    return found[:count]


def max_answer_len(examples: Any, tokenizer: Any) -> int:
    """A: the number of tokens of the longest answer."""
    return max(len(tokenizer.encode(example.answer)) for example in examples)


def encode_examples(examples: Any, segments: Any, *, tokenizer: Any, filler: Any, segment_len: int, seed: int,
                    answer_len: int | None = None) -> tuple:
    """(EncodedExamples over `segments` segments, number of examples that do not fit).

    segments 0: without filler, in as many segments as each needs. answer_len: positions left free for the answer
    (default: the length of the longest one).
    """
    answer_len = answer_len or max_answer_len(examples, tokenizer)
    if segments == 0:
        return [without_filler(example, tokenizer=tokenizer, segment_len=segment_len, answer_len=answer_len)
                for example in examples], 0
    rows = [insert_in_haystack(example, Rng(seed, EVALUATION, 0, segments, i), tokenizer=tokenizer, filler=filler,
                               segments=segments, segment_len=segment_len, answer_len=answer_len)
            for i, example in enumerate(examples)]
    kept = [row for row in rows if row is not None]
    return kept, len(rows) - len(kept)

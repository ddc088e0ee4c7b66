"""Endless batches of stories. Two samplers with one interface: `batch(stories, step, batch_size, shard, shards)`.

`HaystackSampler` inserts facts into filler, in rows of an exact number of segments. `BucketSampler` puts stories of
about one length side by side, without filler. Both go from a story's examples to `Sequence`s to a `Batch`, and both are
plain values: what a stage of a curriculum trains on is one of them.
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

TRIES, PATIENCE = 1000, 20                               # stories tried for one row at most, and of one task in a row
GROUP = 16                                               # steps whose stories are sorted by length together


class Stories:
    """Where stories come from: tasks, how often each is drawn, the tokenizer, the filler and the seed.

    Each row has its own random stream, named by its task's number, its step, its number and the try. So an extra draw
    changes no other story, and any process can make any row.
    """

    def __init__(self, tasks: Any, *, tokenizer: Any, filler: Any, seed: int, weights: Any = None) -> None:
        self.tasks, self.weights = tuple(tasks), tuple(weights or [1] * len(tasks))
        self.tokenizer, self.filler, self.seed = tokenizer, filler, seed

    def rng(self, number: int, *key: Any) -> Rng:
        """The random stream of this key: `number` is a task's, 0 for what belongs to no task."""
        return Rng(self.seed, DATA, number, *key)

    def draw_task(self, first: int | None, *key: Any) -> Any:
        """One of the first so many tasks (None: all), by weight."""
        tasks = self.tasks[:first]
        return tasks[0] if len(tasks) == 1 else self.rng(0, *key).weighted_choice(tasks, self.weights[:first])


@dataclass(frozen=True)
class HaystackSampler:
    """Rows of one number of segments: a few facts and a question, inserted into filler.

    `facts` per story and `segments` per batch are drawn evenly from those given; facts None takes any question of a
    story as the real file tells it. Without `filler`, rows are padded on the left, and only those too short for the
    batch are filled up. gap: the probability of `insert_in_haystack`'s gap. tasks: only the first so many of the mix.
    A task of which no story fits, after several tries, makes room for another.
    """

    facts: tuple[int | None, ...] = (None,)
    segments: tuple[int, ...] = (1,)
    segment_len: int = 32
    filler: bool = True
    gap: float = 0.0
    tasks: int | None = None

    def batch(self, stories: Stories, step: int, batch_size: int, shard: int = 0, shards: int = 1) -> Any:
        """The Batch of this step, or one of its equal parts: only that part's rows are made."""
        if batch_size % shards:
            raise BadInput(f"--shards: found {shards}, expected a number that divides a batch of {batch_size} rows")
        segments, size = stories.rng(0, step).choice(self.segments), batch_size // shards
        rows = [self._row(stories, segments, step, i) for i in range(shard * size, (shard + 1) * size)]
        return make_batch(rows, stories.tokenizer.end)

    def _row(self, stories, segments, step, i):
        """Row i of a step, an EncodedExample: the first story that fits."""
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
    """Stories without filler, side by side with others of about their length; a batch has `batch_size` on average.

    The stories of GROUP steps are sorted by length and cut into batches of as many tokens each. So the distribution of
    lengths is unchanged, rows are padded little, and steps cost about the same: many short rows or a few long ones. A
    random stream says which batch of its group a step takes. The columns are the longest story's, or whole segments
    where that is longer than one. With probability `every` a row asks all questions of its story, where the real file
    asks them. `facts` and `tasks` as in `HaystackSampler`.
    """

    facts: tuple[int | None, ...] = (None,)
    segment_len: int = 32
    every: float = 0.0
    tasks: int | None = None

    def batch(self, stories: Stories, step: int, batch_size: int, shard: int = 0, shards: int = 1) -> Any:
        """The Batch of this step, or one of its parts, as equal as its number of rows allows; None where it is empty.

        The rows of GROUP steps are made together, so every process makes all of them.
        """
        group, place = divmod(step, GROUP)
        batches, rng = _group(self, stories, group, batch_size), stories.rng(0, group, GROUP)
        rows = batches[rng.shuffled(range(GROUP))[place]]
        return self._side_by_side(rows, stories, stories.rng(0, step)).part(shard, shards)

    def sequence(self, stories: Stories, *key: Any) -> Sequence:
        """The Sequence of one story without filler: its text, and weight 1 on its answers and their ends."""
        task = stories.draw_task(self.tasks, *key)
        rng = stories.rng(task.number, *key)
        facts = rng.choice(self.facts)
        story = task.story(rng) if facts is None else task.story(rng, questions=1, facts=facts)
        if facts is None and not rng.bernoulli(self.every):
            example = rng.choice(list(examples(story, task.name)))
            story = (*map(Fact, example.facts), Question(example.question, example.answer))
        return story_sequence(story, task.name, stories.tokenizer)

    def _side_by_side(self, sequences, stories, rng):
        """Pad on the left by less than a segment; where more is missing, filler opens the row."""
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
    """The Sequence of a whole story: its text, and weight 1 on every answer and its end."""
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
    """GROUP lists of sequences that are sorted by length: as many tokens in each as can be, one row at least."""
    ends = np.cumsum([len(sequence.ids) for sequence in sequences])
    place = np.arange(GROUP + 1)
    cuts = np.searchsorted(GROUP * ends, place * ends[-1], "right")
    cuts = np.minimum(cuts, len(sequences) - GROUP + place)   # behind stories longer than a share, one for every batch
    return [sequences[start:end] for start, end in pairwise(cuts)]


def _example(task, rng, facts):
    """The example of one story: so many facts and a question, or any question of a story as the real file tells it."""
    facts = rng.choice(facts)
    if facts is None:
        return rng.choice(list(examples(task.story(rng), task.name)))
    (example,) = examples(task.story(rng, questions=1, facts=facts), task.name)
    return example


def generated_examples(task: Any, count: int, *, seed: int) -> Any:
    """The first `count` questions of generated stories of a task, as the real file tells them."""
    found, number = [], 0
    while len(found) < count:
        found.extend(examples(task.story(Rng(seed, EVALUATION, task.number, number)), task.name))
        number += 1
    return found[:count]


def max_answer_len(examples: Any, tokenizer: Any) -> int:
    """A: how many tokens the longest answer has."""
    return max(len(tokenizer.encode(example.answer)) for example in examples)


def encode_examples(examples: Any, segments: Any, *, tokenizer: Any, filler: Any, segment_len: int, seed: int,
                    answer_len: int | None = None) -> tuple:
    """EncodedExamples that ask these examples over `segments` segments, and how many examples do not fit.

    segments 0: without filler, in as many segments as each needs. All leave room for the longest answer.
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

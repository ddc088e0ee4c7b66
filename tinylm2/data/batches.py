"""Rows side by side: the batches that training learns from and the questions that evaluation asks."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tinylm2.data.dice import DATA, EVALUATION, Dice
from tinylm2.data.errors import BadInput
from tinylm2.data.haystack import alone, hide, opening
from tinylm2.data.stories import Question, examples

TRIES, PATIENCE = 1000, 20                               # stories told for one row at most, of one task in a row
GROUP = 16                                               # steps whose stories are told at once, to be sorted by length


@dataclass(frozen=True)
class Batch:
    """B rows of one number of segments S. A row is `[pad] story question answer end`, C + 1 tokens long: C = S*T, or
    fewer where one segment is more than any of the rows needs.

    ids (B, C) is the row without its last token, targets (B, C) without its first; weights (B, C) float32 are 1 where
    the target is an answer or its end, 0 elsewhere; pad (B,) counts the padding on the left. The last `tail` columns,
    all in the last segment, hold every weight that is not 0; None where questions are asked before it, too. `tasks`
    names each row's task.
    """

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    pad: np.ndarray
    tail: int | None
    tasks: tuple[str, ...]

    @property
    def lm_weights(self):
        """Weights of a language model's loss on the whole text: 1 on every token behind a token that is no padding."""
        return (np.arange(self.ids.shape[1]) >= self.pad[:, None]).astype(np.float32)


def make_batch(rows, end):
    """The Batch of rows whose prompts leave room for just their answers; `end` is the end token."""
    tokens = np.array([row.prompt + row.answer + [end] for row in rows], np.int64)
    longest = max(len(row.answer) for row in rows)
    weights = np.zeros(tokens[:, 1:].shape, np.float32)
    for weight, row in zip(weights, rows, strict=True):
        weight[-len(row.answer) - 1:] = 1
    pad = np.array([row.pad for row in rows], np.int64)
    return Batch(tokens[:, :-1], tokens[:, 1:], weights, pad, longest + 1, tuple(row.example.task for row in rows))


def make_prompts(rows):
    """ids (B, S*T - room) and pad (B,) of rows of one S and one room: what is asked, without the answers."""
    return np.array([row.prompt for row in rows], np.int64), np.array([row.pad for row in rows], np.int64)


@dataclass(frozen=True)
class Shape:
    """What the rows of a stage look like. `facts` a story and `segments` of `width` tokens a batch are drawn evenly
    from those given. facts None: any question of a story as the real file tells it. Without `filler` rows are padded on
    the left, and only those too short for the batch are filled up; `gap` is `hide`'s. tasks: only so many of the mix,
    its first ones.

    segments None: stories side by side that are about as long, each in as many segments as it needs (`Stories.alike`);
    with probability `every` a row then asks all questions of its story, where the real file asks them.
    """

    facts: tuple[int | None, ...] = (None,)
    segments: tuple[int | None, ...] = (1,)
    width: int = 32
    filler: bool = True
    gap: float = 0.0
    every: float = 0.0
    tasks: int | None = None


class Stories:
    """Endless batches of fresh stories, every one a function of (seed, step) and what is asked for, alone.

    `tasks` are Task values, `weights` how often each is told (default: evenly). The dice of a row are its own, named by
    its task's number, its step (or group of steps), its place there and the try: one more throw moves no other story. A
    task of which no story fits, try after try, makes room for another.
    """

    def __init__(self, tasks, *, tokenizer, filler, seed, weights=None):
        self.tasks, self.weights = tuple(tasks), tuple(weights or [1] * len(tasks))
        self.tokenizer, self.filler, self.seed = tokenizer, filler, seed
        self._kept = None, None

    def batch(self, shape, step, size):
        """The Batch of `size` rows that belongs to this step; `alike` keeps to `size` on average."""
        dice = Dice(self.seed, DATA, 0, step)
        segments = dice.pick(shape.segments)
        if segments is None:
            return self.alike(shape, step, size)
        return make_batch([self._row(shape, segments, step, i) for i in range(size)], self.tokenizer.end)

    def alike(self, shape, step, size):
        """The Batch of this step, of stories that are about as long: a row for `size` on average.

        The stories of GROUP steps, drawn like any others, are sorted by length and cut into batches of as many tokens
        each. So each length is as frequent as among stories, little is padded, and steps cost about the same: many
        short rows or a few long ones. Dice say which batch of its group a step takes. The columns are the longest
        story's, or whole segments where that is longer than one.
        """
        group, place = divmod(step, GROUP)
        batches, dice = self._group(shape, group, size), Dice(self.seed, DATA, 0, group, GROUP)
        rows = batches[dice.shuffled(range(GROUP))[place]]
        return self._side_by_side(rows, shape.width, Dice(self.seed, DATA, 0, step))

    def _group(self, shape, group, size):
        """The rows of each batch of a group, shortest first; kept until another group is asked for."""
        key = shape, group, size
        if self._kept[0] != key:
            told = [self._told(shape, group, i) for i in range(GROUP * size)]
            self._kept = key, _cut(sorted(told, key=lambda row: len(row[1])))
        return self._kept[1]

    def _told(self, shape, *key):
        """(task's name, ids, weights) of one story without filler: its text, and 1 on its answers and their ends."""
        task = self._task(shape, *key)
        dice = Dice(self.seed, DATA, task.number, *key)
        facts = dice.pick(shape.facts)
        story = task.story(dice) if facts is None else task.story(dice, questions=1, facts=facts)
        if facts is None and not dice.chance(shape.every):
            example = dice.pick(list(examples(story, task.name)))
            lines = [(fact, None) for fact in example.facts] + [(example.question, example.answer)]
        else:
            lines = [(line.text, line.answer if isinstance(line, Question) else None) for line in story]
        ids, weights = [], []
        for text, answer in lines:
            tokens = self.tokenizer.encode(text)
            told = [] if answer is None else [*self.tokenizer.encode(answer), self.tokenizer.end]
            ids += tokens + told
            weights += [0] * len(tokens) + [1] * len(told)
        return task.name, ids, weights

    def _side_by_side(self, rows, width, dice):
        """The Batch of `_told` rows: padded on the left by less than a segment, opened with filler where that is not
        enough."""
        longest = max(len(ids) for _, ids, _ in rows) - 1
        columns = longest if longest <= width else -(-longest // width) * width
        tokens = np.full((len(rows), columns + 1), self.tokenizer.pad, np.int64)
        weights, pads = np.zeros((len(rows), columns + 1), np.float32), np.zeros(len(rows), np.int64)
        for i, (_, ids, asked) in enumerate(rows):
            missing = columns + 1 - len(ids)
            filled = missing // width * width
            ids = opening(self.filler, dice, filled, self.tokenizer) + ids
            tokens[i, -len(ids):], weights[i, -len(asked):] = ids, asked
            pads[i] = missing - filled
        tail = columns + 1 - int(weights.any(0).argmax())
        return Batch(tokens[:, :-1], tokens[:, 1:], weights[:, 1:], pads, tail if tail <= width else None,
                     tuple(task for task, _, _ in rows))

    def _row(self, shape, segments, step, i):
        """Row i of a step: of a task drawn by weight, the first story that fits."""
        for attempt in range(TRIES):
            if attempt % PATIENCE == 0:
                task = self._task(shape, step, i, attempt)
            dice = Dice(self.seed, DATA, task.number, step, i, attempt)
            row = self._place(_tell(task, dice, shape), dice, shape, segments)
            if row and row.segments == segments:
                return row
        raise BadInput(f"{task.name}: found no story among {TRIES} that fits {segments} segments of {shape.width} "
                       f"tokens, expected other numbers of facts ({shape.facts}) or segments")

    def _task(self, shape, *key):
        tasks = self.tasks[:shape.tasks]
        if len(tasks) == 1:
            return tasks[0]
        return Dice(self.seed, DATA, 0, *key).weighted(tasks, self.weights[:shape.tasks])

    def _place(self, example, dice, shape, segments):
        row = None if shape.filler else alone(example, tokenizer=self.tokenizer, width=shape.width)
        if row is None or row.segments < segments:
            row = hide(example, dice, tokenizer=self.tokenizer, filler=self.filler, segments=segments,
                       width=shape.width, gap=shape.gap)
        return row


def _cut(rows):
    """GROUP lists of `_told` rows that are sorted by length: as many tokens in each as can be, a row at least."""
    ends = np.cumsum([len(ids) for _, ids, _ in rows])
    place = np.arange(GROUP + 1)
    cuts = np.searchsorted(GROUP * ends, place * ends[-1], "right")
    cuts = np.minimum(cuts, len(rows) - GROUP + place)   # behind stories longer than a share, a row for every batch
    return [rows[start:end] for start, end in pairwise(cuts)]


def _tell(task, dice, shape):
    """The example of one story: so many facts and a question, or any question of a story as the real file tells it."""
    facts = dice.pick(shape.facts)
    if facts is None:
        return dice.pick(list(examples(task.story(dice), task.name)))
    (example,) = examples(task.story(dice, questions=1, facts=facts), task.name)
    return example


def fresh_examples(task, count, *, seed):
    """The first `count` questions of fresh stories of a task, told as the real file tells them."""
    found, number = [], 0
    while len(found) < count:
        found.extend(examples(task.story(Dice(seed, EVALUATION, task.number, number)), task.name))
        number += 1
    return found[:count]


def longest_answer(examples, tokenizer):
    """A: the places that the longest answer needs."""
    return max(len(tokenizer.encode(example.answer)) for example in examples)


def evaluation_rows(examples, segments, *, tokenizer, filler, width, seed, room=None):
    """The rows that ask these examples over `segments` segments of `width` tokens (0: without filler, in as many
    segments as each needs), all with room for the longest answer, and how many examples do not fit and are left out."""
    room = room or longest_answer(examples, tokenizer)
    if segments == 0:
        return [alone(example, tokenizer=tokenizer, width=width, room=room) for example in examples], 0
    rows = [hide(example, Dice(seed, EVALUATION, 0, segments, i), tokenizer=tokenizer, filler=filler, segments=segments,
                 width=width, room=room) for i, example in enumerate(examples)]
    kept = [row for row in rows if row is not None]
    return kept, len(rows) - len(kept)

"""How often a model is right: by length of the text, by distance and by depth of the facts that an answer needs."""

import re
from collections import defaultdict
from functools import cache

import numpy as np

from tinylm2 import generate
from tinylm2.data import TASKS, evaluation_rows, fresh_examples, longest_answer, make_prompts

BATCH = 64                                               # rows answered at once
DEPTHS = 5                                               # bins of equal width over the text


def ask_rows(params, rows, *, cfg, tokenizer, places, frozen=False, progress=None, answer=None):
    """The answer to each row, as text, in the rows' order. Rows of one number of segments are answered together.

    `answer` tells tokens from prompts, as `generate.answer` (the default) does for LM2.
    """
    answer, options = answer or generate.answer, {"frozen": True} if frozen else {}
    texts = [None] * len(rows)
    groups = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.segments].append(i)
    for members in groups.values():
        for start in range(0, len(members), BATCH):
            part = members[start:start + BATCH]
            ids, pad = make_prompts([rows[i] for i in part])
            tokens = answer(params, ids=ids, cfg=cfg, places=places, end=tokenizer.end, pad=pad, **options)
            for i, row_tokens in zip(part, tokens.tolist(), strict=True):
                told = row_tokens[:row_tokens.index(tokenizer.end)] if tokenizer.end in row_tokens else row_tokens
                texts[i] = tokenizer.decode(told)
            if progress:
                progress(len(part))
    return texts


def exact(said, example, tokenizer):
    """The answer, the whole answer and nothing else."""
    return said == tokenizer.plain(example.answer)


def babilong(said, example, tokenizer):
    """BABILong's rule (Kuratov et al. 2024): of all labels of the task, only the target's are said, in any order.

    Labels that the question names do not count: "John is in the garden" answers where John is.
    """
    labels, named = labels_of(example.task), _words(example.question)
    target = _words(example.answer)
    return _words(said) & (labels - named | target) == target


@cache
def labels_of(task):
    """The closed set of words that answer a task, read off many of its stories."""
    return frozenset().union(*(_words(e.answer) for e in fresh_examples(TASKS[task], 2000, seed=0)))


def _words(text):
    return frozenset(re.findall(r"\w+", text.lower()))


METRICS = {"exact": exact, "babilong": babilong}


def score(rows, texts, tokenizer, metric=exact):
    """How often the metric holds: {"accuracy", "questions", "by_distance": {"0": ...}, "by_depth": {"0.0": ...}}.

    Distance counts the borders between segments that the farthest supporting fact must cross; depth is where in the
    text it starts, in fifths. Rows that do not know their support count in the accuracy only.
    """
    right = [metric(text, row.example, tokenizer) for row, text in zip(rows, texts, strict=True)]
    by_distance, by_depth = defaultdict(list), defaultdict(list)
    for row, r in zip(rows, right, strict=True):
        if row.distance is not None:
            by_distance[row.distance].append(r)
            by_depth[min(int(row.depth * DEPTHS), DEPTHS - 1)].append(r)
    return {
        "accuracy": _mean(right),
        "questions": len(right),
        "by_distance": {str(d): _mean(by_distance[d]) for d in sorted(by_distance)},
        "by_depth": {f"{d / DEPTHS:.1f}": _mean(by_depth[d]) for d in sorted(by_depth)},
    }


def _mean(values):
    return float(np.mean(values)) if values else None


def evaluate(params, examples, segments, *, cfg, tokenizer, filler, seed, width=None, frozen=False, progress=None,
             answer=None, metric=exact):
    """Ask the examples over each number of segments (0: without filler): {"0": score, "4": score, ...}.

    A segment is `width` tokens long, cfg.T if not given. "left_out" counts the examples whose facts do not fit.
    """
    places = longest_answer(examples, tokenizer)
    scores = {}
    for count in segments:
        rows, left_out = evaluation_rows(examples, count, tokenizer=tokenizer, filler=filler, width=width or cfg.T,
                                         seed=seed, room=places)
        texts = ask_rows(params, rows, cfg=cfg, tokenizer=tokenizer, places=places, frozen=frozen, progress=progress,
                         answer=answer)
        scores[str(count)] = score(rows, texts, tokenizer, metric) | {"left_out": left_out}
    return scores

"""Accuracy of a model by length of the text, and by distance and depth of the facts that an answer needs."""

from collections import defaultdict
from typing import Any

import numpy as np

from tinylm2 import decoding
from tinylm2.data import encode_examples, make_prompts, max_answer_len
from tinylm2.errors import BadInput
from tinylm2.flat import Flat
from tinylm2.model import Config

BATCH = 64                                               # rows answered together
DEPTHS = 5                                               # bins of equal width over the text


def ask(params: Flat, rows: Any, *, cfg: Config, tokenizer: Any, answer_len: int, frozen: bool = False,
        progress: Any = None, comm: Any = None) -> list:
    """The answer to each EncodedExample, as text, in order. Rows with equal numbers of segments are answered together.

    comm: a communicator of R processes, each of which answers every R-th batch. All of them get all answers.
    """
    groups = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.segments].append(i)
    parts = [members[start:start + BATCH] for members in groups.values() for start in range(0, len(members), BATCH)]
    texts = {}
    for part in parts if comm is None else parts[comm.rank::comm.size]:
        ids, pad = make_prompts([rows[i] for i in part])
        tokens = decoding.answer(params, ids=ids, cfg=cfg, answer_len=answer_len, end=tokenizer.end, pad=pad,
                                   frozen=frozen)
        for i, row_tokens in zip(part, tokens.tolist(), strict=True):
            kept = row_tokens[:row_tokens.index(tokenizer.end)] if tokenizer.end in row_tokens else row_tokens
            texts[i] = tokenizer.decode(kept)
        if progress:
            progress(len(part) * (1 if comm is None else comm.size))
    for others in [] if comm is None else comm.gather(texts):
        texts |= others
    return [texts[i] for i in range(len(rows))]


def exact(text: str, example: Any, tokenizer: Any) -> bool:
    """Whether the text is the whole answer and nothing else."""
    return text == tokenizer.plain(example.answer)


_PLACES = "bathroom bedroom garden hallway kitchen office"
# The closed set of answers of each task, as BABILong publishes it.
LABELS = {task: frozenset(labels.split()) for task, labels in {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4", "qa11", "qa12", "qa13"), _PLACES),
    "qa5": "bill fred jeff mary apple football milk", "qa7": "none one two three", "qa8": "apple football milk nothing",
    **dict.fromkeys(("qa6", "qa9", "qa17", "qa18"), "no yes"), "qa10": "maybe no yes",
    "qa14": "bedroom cinema kitchen office park school", "qa15": "cat mouse sheep wolf",
    "qa16": "gray green white yellow", "qa19": "e,e e,n e,s n,e n,n n,w s,e s,s s,w w,n w,s w,w",
    "qa20": "bedroom bored garden hungry kitchen thirsty tired"}.items()}


def babilong(text: str, example: Any, tokenizer: Any = None) -> bool:
    """BABILong's rule for free text (Kuratov et al. 2024): of the task's labels, the text has exactly the target's.

    Only the text before the first full stop, `<context>` or `<example>` counts, in lower case. A label counts if it is
    a part of this text and not of the question. A target with a comma and more than three characters
    ("football,milk") stands for several labels; a path ("n,w") is one label. tokenizer: if given, a path that it
    prints as "n w" is read as "n,w".
    """
    if example.task not in LABELS:
        raise BadInput(f"--metric: found the task {example.task!r}, expected one whose labels BABILong publishes")
    text, question, target = text.lower(), example.question.lower(), example.answer.lower()
    for stop in (".", "<context>", "<example>"):
        text = text.partition(stop)[0]
    if tokenizer is not None and example.task == "qa19":
        text = ",".join(text.split())
    named = {label for label in LABELS[example.task] if label in text and label not in question}
    parts = target.split(",") if "," in target and len(target) > 3 else [target]
    return named == set(parts)


METRICS = {"exact": exact, "babilong": babilong}


def score(rows: Any, texts: Any, tokenizer: Any, metric: Any = exact) -> dict:
    """The metric's means: {"accuracy", "questions", "by_distance": {"0": ...}, "by_depth": {"0.0": ...}}.

    Distance: the number of segment borders that the farthest supporting fact must cross. Depth: where in the text this
    fact starts, in fifths. Rows without known support count only in the accuracy.
    """
    correct = [metric(text, row.example, tokenizer) for row, text in zip(rows, texts, strict=True)]
    by_distance, by_depth = defaultdict(list), defaultdict(list)
    for row, c in zip(rows, correct, strict=True):
        if row.distance is not None:
            by_distance[row.distance].append(c)
            by_depth[min(int(row.depth * DEPTHS), DEPTHS - 1)].append(c)
    return {
        "accuracy": _mean(correct),
        "questions": len(correct),
        "by_distance": {str(d): _mean(by_distance[d]) for d in sorted(by_distance)},
        "by_depth": {f"{d / DEPTHS:.1f}": _mean(by_depth[d]) for d in sorted(by_depth)},
    }


def _mean(values):
    return float(np.mean(values)) if values else None


def evaluate(params: Flat, examples: Any, segments: Any, *, cfg: Config, tokenizer: Any, filler: Any, seed: int,
             segment_len: int | None = None, frozen: bool = False, progress: Any = None, metric: Any = exact,
             comm: Any = None) -> Any:
    """Scores of the examples over each number of segments (0: without filler): {"0": score, "4": score, ...}.

    segment_len: tokens per segment (default: cfg.T). "left_out" counts the examples whose facts do not fit.
    """
    answer_len = max_answer_len(examples, tokenizer)
    scores = {}
    for count in segments:
        rows, left_out = encode_examples(examples, count, tokenizer=tokenizer, filler=filler,
                                         segment_len=segment_len or cfg.T, seed=seed, answer_len=answer_len)
        texts = ask(params, rows, cfg=cfg, tokenizer=tokenizer, answer_len=answer_len, frozen=frozen, progress=progress,
                    comm=comm)
        scores[str(count)] = score(rows, texts, tokenizer, metric) | {"left_out": left_out}
    return scores

"""Batches for training, and prompts for evaluation."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Sequence:
    """A training row: token ids, a weight per token (1 on an answer and its end), the number of padding tokens."""

    task: str
    ids: list[int]
    weights: list[int]
    pad: int = 0


@dataclass(frozen=True)
class Batch:
    """B rows of C + 1 tokens: S segments of T tokens, or one shorter segment where no row needs more.

    ids (B, C) are the rows without their last token, targets (B, C) without their first. weights (B, C), float32, are 1
    where the target belongs to an answer or is its end, else 0. pad (B,) counts the padding on the left. last: all
    weights above 0 are in the last `last` columns, within one segment; None where a question comes earlier. tasks: the
    name of each row's task.
    """

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    pad: np.ndarray
    last: int | None
    tasks: tuple[str, ...]

    def part(self, shard: int, shards: int) -> Any:
        """Part number `shard` of `shards` parts, a Batch; None where it has no row."""
        B = len(self.ids)
        rows = slice(B * shard // shards, B * (shard + 1) // shards)
        if rows.start == rows.stop:
            return None
        return Batch(self.ids[rows], self.targets[rows], self.weights[rows], self.pad[rows], self.last,
                     self.tasks[rows])

    @property
    def lm_weights(self) -> Any:
        """Weights of a language-model loss: 1 where the token before is not padding."""
        return (np.arange(self.ids.shape[1]) >= self.pad[:, None]).astype(np.float32)


def collate(sequences: Any, segment_len: int) -> Any:
    """The Batch of Sequences, all of the same length."""
    tokens = np.array([sequence.ids for sequence in sequences], np.int64)
    weights = np.array([sequence.weights for sequence in sequences], np.float32)
    last = tokens.shape[1] - int(weights.any(0).argmax())
    return Batch(tokens[:, :-1], tokens[:, 1:], weights[:, 1:],
                 np.array([sequence.pad for sequence in sequences], np.int64), last if last <= segment_len else None,
                 tuple(sequence.task for sequence in sequences))


def make_batch(examples: Any, end: int) -> Any:
    """The Batch of EncodedExamples. Each prompt leaves as many positions free as its answer has tokens. end: the id."""
    return collate([example.sequence(end) for example in examples], examples[0].segment_len)


def make_prompts(examples: Any) -> tuple:
    """ids (B, any) and pad (B,) of EncodedExamples of one length: the prompts, without the answers."""
    return (np.array([example.prompt for example in examples], np.int64),
            np.array([example.pad for example in examples], np.int64))

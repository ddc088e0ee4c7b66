"""Rows of a user's text, for a language-model loss: every token is predicted from those before it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinylm2.data.batch import Batch
from tinylm2.errors import BadInput


@dataclass(frozen=True)
class TextSampler:
    """Rows of `segments` whole segments, cut from a text at random. Same interface as the samplers of stories."""

    segments: int
    segment_len: int
    ids: Any = field(repr=False)

    def __post_init__(self):
        length = self.segments * self.segment_len + 1
        if len(self.ids) < length:
            raise BadInput(f"--text: found {len(self.ids)} tokens, expected at least {length}: a row of "
                           f"{self.segments} segments of {self.segment_len}")

    def batch(self, stories: Any, step: int, batch_size: int, shard: int = 0, shards: int = 1) -> Batch:
        """The Batch of this step, or one of its equal parts."""
        if batch_size % shards:
            raise BadInput(f"--shards: found {shards}, expected a number that divides a batch of {batch_size} rows")
        length, size = self.segments * self.segment_len + 1, batch_size // shards
        starts = [stories.rng(0, step, row).integers(len(self.ids) - length + 1)
                  for row in range(shard * size, (shard + 1) * size)]
        rows = np.array([self.ids[start:start + length] for start in starts], np.int64)
        return Batch(rows[:, :-1], rows[:, 1:], np.ones((size, length - 1), np.float32), np.zeros(size, np.int64), None,
                     ("text",) * size)

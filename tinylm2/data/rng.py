"""The random generator of the data: the same numbers on every platform, every NumPy and every device."""

from typing import Any

import numpy as np

# Random streams that are independent of each other: `default_rng([seed, stream, ...])`.
INIT, DATA, EVALUATION = 0, 1, 2

_BUFFER = 64                                             # numbers per call into NumPy: one by one cost 20x more


class Rng:
    """A random generator named by its key: `Rng(seed, DATA, task number, step, row)`.

    It uses the raw 64-bit words of the bit generator, the only random numbers that NumPy promises never to change. So a
    seed gives the same stories everywhere.
    """

    def __init__(self, *key: Any) -> None:
        self._raw = np.random.PCG64(np.random.SeedSequence(key)).random_raw         # the bit generator of default_rng
        self._words = []

    def integers(self, n: Any) -> Any:
        """A whole number from 0 to n - 1, all equally likely (bias under n / 2^53)."""
        if not self._words:
            self._words = self._raw(_BUFFER).tolist()
        return ((self._words.pop() >> 11) * n) >> 53

    def bernoulli(self, p: float) -> bool:
        """True with probability p."""
        return self.integers(1 << 53) < p * (1 << 53)

    def choice(self, items: Any) -> Any:
        """A random item of a sequence."""
        return items[self.integers(len(items))]

    def weighted_choice(self, items: Any, weights: Any) -> Any:
        """A random item of a sequence: item i with probability weights[i] / sum(weights)."""
        left = self.integers(1 << 53) / (1 << 53) * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def sample(self, items: Any, k: Any) -> Any:
        """k items of a sequence, without repetition, in random order."""
        pool = list(items)
        for i in range(k):
            j = i + self.integers(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def shuffled(self, items: Any) -> Any:
        """The whole sequence in random order."""
        return self.sample(items, len(items))

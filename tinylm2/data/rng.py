"""The random generator of the data: the same numbers on every platform, every NumPy and every device."""

from typing import Any

import numpy as np

# Streams that must not change each other: `default_rng([seed, stream, ...])`.
INIT, DATA, EVALUATION = 0, 1, 2

_BUFFER = 64                                             # numbers per call into NumPy: one by one cost 20x more


class Rng:
    """A random generator named by its key: `Rng(seed, DATA, task number, step, row)`.

    Built on the bit generator's raw 64-bit words, the only part of NumPy's random numbers that is promised to stay the
    same for ever, so that a seed means the same stories wherever they are made.
    """

    def __init__(self, *key: Any) -> None:
        self._raw = np.random.PCG64(np.random.SeedSequence(key)).random_raw         # default_rng's, without its rest
        self._words = []

    def integers(self, n: Any) -> Any:
        """A whole number from 0 to n - 1, each as likely (bias under n / 2^53)."""
        if not self._words:
            self._words = self._raw(_BUFFER).tolist()
        return ((self._words.pop() >> 11) * n) >> 53

    def bernoulli(self, p: float) -> bool:
        """True with probability p."""
        return self.integers(1 << 53) < p * (1 << 53)

    def choice(self, items: Any) -> Any:
        """One of a sequence."""
        return items[self.integers(len(items))]

    def weighted_choice(self, items: Any, weights: Any) -> Any:
        """One of a sequence, item i with probability weights[i] / sum(weights)."""
        left = self.integers(1 << 53) / (1 << 53) * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def sample(self, items: Any, k: Any) -> Any:
        """k different ones of a sequence, in random order."""
        pool = list(items)
        for i in range(k):
            j = i + self.integers(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def shuffled(self, items: Any) -> Any:
        """The whole sequence in random order."""
        return self.sample(items, len(items))

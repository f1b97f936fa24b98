"""Chance, from `Random.random` alone: the one method whose sequence Python promises to keep."""

from collections.abc import Sequence
from random import Random


class Dice:
    """Everything that is drawn for one article comes from one of these."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed).random

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random() < probability

    def fraction(self) -> float:
        """A number from 0 up to but not 1."""
        return self._random()

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        return int(self._random() * n)

    def pick(self, options: Sequence):
        """One of the options."""
        return options[int(self._random() * len(options))]

    def shuffled(self, items: Sequence) -> list:
        """A random order of the items (Fisher and Yates)."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = int(self._random() * (i + 1))
            items[i], items[j] = items[j], items[i]
        return items

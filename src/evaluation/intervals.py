"""Bootstrap intervals of ratio metrics, paired differences and win rates.

Every metric is a ratio of two sums over questions or pairs (matches / questions, nats / tokens), so
it is token-weighted where it should be. An interval resamples whole contexts: questions on one
context share their text and their difficulty, and are not independent draws.

One context has no interval: drawn again and again it is always the same. From a few contexts an
interval is too narrow: of 5, one of 95% covers the truth 85% of the time; of 20, 92%. So below
FEW_GROUPS nothing is called better or worse.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

# Fewer groups than this give a caution and no verdict.
FEW_GROUPS = 10


class Interval(NamedTuple):
    """A value and the ends of its bootstrap interval; NaN where there was nothing to divide by, and
    as ends where there is one group. groups: those that count in the value; None: not known.
    """

    value: float
    low: float
    high: float
    groups: int | None = None

    @property
    def few(self) -> bool:
        """Whether there are too few groups for a verdict."""
        return self.groups is not None and self.groups < FEW_GROUPS

    def verdict(self) -> int | None:
        """Of a difference: 1 above 0, -1 below, 0 not clearly either; None: too few groups."""
        return None if self.few else (self.low > 0) - (self.high < 0)

    def as_json(self) -> dict[str, float | None]:
        """Value and ends by name; JSON has no NaN, so None stands for it."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {name: end if math.isfinite(end) else None for name, end in ends.items()}

    def in_words(self, places: int = 2, sign: str = "") -> str:
        """The value with its interval.

        >>> Interval(50, 40, 62.5, 12).in_words(1), Interval(50, math.nan, math.nan, 1).in_words(0)
        ('50.0 [40.0, 62.5]', '50 (one context)')
        """
        form = f"{sign}.{places}f"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.value:{form}}" + " (one context)" * (self.groups == 1)


def caution(found: Iterable[Interval]) -> str:
    """What to say beside intervals of which some have too few groups; empty where none has."""
    few = {interval.groups for interval in found if interval.few and interval.groups}
    if not few:
        return ""
    counts = f"{min(few)}" if len(few) == 1 else f"{min(few)} to {max(few)}"
    contexts = "context" if few == {1} else "contexts"
    return (
        f"from {counts} {contexts}, expected at least {FEW_GROUPS}: "
        + ("no interval" if few == {1} else "intervals of so few are too narrow")
        + ", no verdict"
    )


# name -> numerators, denominators and groups, one of each a question or pair
Figures = dict[str, tuple[Sequence[float], Sequence[float], Sequence[Hashable]]]


def bootstrap_interval(
    numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[Hashable],
    seed: int = 0, draws: int = 1000, level: float = 0.95,
) -> Interval:
    """sum(numerators) / sum(denominators), and its percentile interval over resampled groups.

    One entry a question or pair; groups: the context each belongs to. A draw takes as many groups
    as there are, with replacement, each with all its entries (Efron and Tibshirani 1993, ch. 13).
    """
    assert len(numerators) == len(denominators) == len(groups), "one of each per question"
    numbers: dict[Hashable, int] = {}
    ids = np.fromiter((numbers.setdefault(g, len(numbers)) for g in groups), np.int64, len(groups))
    top = np.bincount(ids, np.asarray(numerators, np.float64))  # (groups,)
    bottom = np.bincount(ids, np.asarray(denominators, np.float64))
    if not bottom.sum():
        return Interval(np.nan, np.nan, np.nan)
    value, counted = float(top.sum() / bottom.sum()), int(np.count_nonzero(bottom))
    if counted == 1:
        return Interval(value, np.nan, np.nan, 1)
    rng = np.random.default_rng(seed)
    ratios = np.full(draws, np.nan)
    for draw in range(draws):  # one draw at a time: draws x groups need not fit in memory
        picked = rng.integers(0, len(top), len(top))
        if total := bottom[picked].sum():
            ratios[draw] = top[picked].sum() / total
    low, high = np.nanquantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), counted)


def intervals(figures: Figures) -> dict[str, Interval]:
    """Each figure's value with its interval."""
    return {name: bootstrap_interval(*figure) for name, figure in figures.items()}


def question_figures(figures: Figures) -> dict[str, dict[str, list[float]]]:
    """Each figure's values and denominators, for files; of pairs, which need not be one a
    question, with the contexts that they belong to.
    """
    return {
        name: {"values": list(top), "denominators": list(bottom), "contexts": list(groups)}
        for name, (top, bottom, groups) in figures.items()
    }


def paired_difference(
    numerators: Sequence[float], parent_numerators: Sequence[float],
    denominators: Sequence[float], groups: Sequence[Hashable],
    seed: int = 0, draws: int = 1000, level: float = 0.95,
) -> Interval:
    """Metric of a policy less its parent's on the same questions, and the difference's interval.

    Pairing by question takes out what both find hard, so this interval is far narrower than two
    separate ones suggest. The policy is above its parent where `low` > 0.
    """
    difference = np.subtract(numerators, parent_numerators)
    return bootstrap_interval(difference, denominators, groups, seed, draws, level)


def paired_gains(before: Figures, after: Figures) -> dict[str, Interval]:
    """What each figure gained on the same questions, with the interval of the paired difference.

    Leaves out figures without a question to measure them on.
    """
    return {
        name: paired_difference(values, before[name][0], denominators, groups)
        for name, (values, denominators, groups) in after.items()
        if any(denominators)
    }


def points_in_order(higher: Sequence[float], lower: Sequence[float]) -> np.ndarray:
    """1 where the first is greater, 0 where it is less, 1/2 for a tie: (pairs,)."""
    difference = np.subtract(higher, lower)
    return (difference > 0) + 0.5 * (difference == 0)

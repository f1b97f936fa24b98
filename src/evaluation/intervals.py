"""Bootstrap intervals of ratio metrics, paired differences and win rates.

Every metric is a ratio of two sums over questions or pairs (matches / questions, nats / tokens), so
it is token-weighted where it should be. An interval resamples whole contexts: questions on one
context share their text and their difficulty, and are not independent draws.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A value and the ends of its bootstrap interval; NaN where there was nothing to divide by."""

    value: float
    low: float
    high: float


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
    rng = np.random.default_rng(seed)
    ratios = np.full(draws, np.nan)
    for draw in range(draws):  # one draw at a time: draws x groups need not fit in memory
        picked = rng.integers(0, len(top), len(top))
        if total := bottom[picked].sum():
            ratios[draw] = top[picked].sum() / total
    low, high = np.nanquantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high))


def intervals(figures: Figures) -> dict[str, Interval]:
    """Each figure's value with its interval."""
    return {name: bootstrap_interval(*figure) for name, figure in figures.items()}


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


def points_in_order(higher: Sequence[float], lower: Sequence[float]) -> np.ndarray:
    """1 where the first is greater, 0 where it is less, 1/2 for a tie: (pairs,)."""
    difference = np.subtract(higher, lower)
    return (difference > 0) + 0.5 * (difference == 0)


def win_rate(
    scores: Sequence[float], parent_scores: Sequence[float], groups: Sequence[Hashable],
    seed: int = 0, draws: int = 1000, level: float = 0.95,
) -> Interval:
    """Share of questions whose answer scores above the parent's, ties half: 1/2 is no change."""
    points = points_in_order(scores, parent_scores)
    return bootstrap_interval(points, np.ones(len(points)), groups, seed, draws, level)

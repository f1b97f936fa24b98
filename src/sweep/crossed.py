"""Intervals over contexts and seeds: would other questions and other seeds say the same?

A metric's value for seed s on context c is y_sc. Seeds and contexts are two random factors
(Owen 2007, "The pigeonhole bootstrap"), and two variances of the mean are estimated:

    V_s = variance of the seeds' means / S        seeds, and what is noise within a seed
    V_c = variance of the contexts' means / C     contexts that several seeds share

If each seed has contexts of its own, as with the embedded data, V_s holds the contexts too and V_c
is 0. If all seeds share them, V_s cannot see them, because they move all seeds alike. Both contain
the noise of single (seed, context) entries, so V_s + V_c is not too small. The interval is

    mean +- sqrt(t(S - 1)^2 V_s + t(C - 1)^2 V_c)

with t the quantiles of Student's distribution. Its coverage is at least the stated level, for any
ratio of the variances (Banerjee 1960, Sankhya 22). The reason: the coverage is a concave function
of V_s and V_c, and each alone gives the level exactly. This holds for normal effects.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

FAMILY_LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over seeds with its interval; NaN ends where there is one seed and one context."""

    value: float
    low: float
    high: float
    seeds: int

    def verdict(self) -> int:
        """Of a difference: 1 above 0, -1 below, 0 not clearly either. One seed gives no verdict."""
        return 0 if self.seeds < 2 else int(self.low > 0) - int(self.high < 0)


def contributions(figure: Mapping[str, Sequence], names: Mapping[str, str]) -> dict[str, float]:
    """Context -> what it says of a metric, a ratio R of two sums: R + C (top_c - R bottom_c) /
    bottom, whose mean over the C contexts is R (the delta method's linear terms).

    figure: values, denominators and contexts, one a question, as eval_dpo.py --per_question writes;
    names: what each context is called in all seeds.
    """
    tops: dict[str, float] = {}
    bottoms: dict[str, float] = {}
    columns = (figure["contexts"], figure["values"], figure["denominators"])
    for context, top, bottom in zip(*columns, strict=True):
        name = names[str(context)]
        tops[name] = tops.get(name, 0.0) + top
        bottoms[name] = bottoms.get(name, 0.0) + bottom
    bottom = sum(bottoms.values())
    if not bottom:
        return {}
    ratio = sum(tops.values()) / bottom
    return {n: ratio + len(tops) * (tops[n] - ratio * bottoms[n]) / bottom for n in tops}


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The difference, context by context, of two policies measured on the same questions."""
    return {name: one[name] - other[name] for name in one} if one.keys() == other.keys() else {}


def crossed_interval(of_seeds: Sequence[Mapping[str, float]], level: float = 0.95) -> Estimate:
    """The mean over seeds and contexts of context -> value, one mapping a seed; see the module.

    With one seed the interval is over its contexts alone.
    """
    of_seeds = [values for values in of_seeds if values]
    if not of_seeds:
        return Estimate(math.nan, math.nan, math.nan, 0)
    means = np.array([sum(values.values()) / len(values) for values in of_seeds])
    seeds, value = len(means), float(means.mean())
    shares: dict[str, float] = {}  # of each context in the mean, around the seeds' means
    count: dict[str, int] = {}
    for values, mean in zip(of_seeds, means, strict=True):
        weight = 1 / (seeds * len(values))
        for name, y in values.items():
            shares[name] = shares.get(name, 0.0) + weight * (y - mean)
            count[name] = count.get(name, 0) + 1
    contexts = len(shares)
    shared = [share for name, share in shares.items() if count[name] > 1 or seeds == 1]
    squared = 0.0
    if seeds > 1:
        squared += t_quantile(seeds - 1, level) ** 2 * float(means.var(ddof=1)) / seeds
    if contexts > 1:
        of_contexts = contexts / (contexts - 1) * sum(share * share for share in shared)
        squared += t_quantile(contexts - 1, level) ** 2 * of_contexts
    half = math.sqrt(squared) if seeds > 1 or contexts > 1 else math.nan
    return Estimate(value, value - half, value + half, seeds)


def bonferroni(looks: int, level: float = FAMILY_LEVEL) -> float:
    """The level of each of so many intervals for all of them to hold together with `level`."""
    return 1 - (1 - level) / max(1, looks)


@lru_cache
def t_quantile(degrees: int, level: float = 0.95) -> float:
    """t with P(-t < T < t) = level, T of Student's distribution.

    With t = sqrt(degrees) / tan(angle), P(T > t) is half the share of the integral of
    sin^(degrees - 1) from 0 to pi / 2 that lies below the angle.

    >>> [round(t_quantile(n), 3) for n in (1, 2, 4, 199)], round(t_quantile(4, 0.999), 3)
    ([12.706, 4.303, 2.776, 1.972], 8.61)
    """
    nodes, weights = np.polynomial.legendre.leggauss(100)

    def below(angle: float) -> float:
        return angle / 2 * float(weights @ np.sin(angle / 2 * (nodes + 1)) ** (degrees - 1))

    wanted, low, high = (1 - level) * below(math.pi / 2), 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < wanted else (low, middle)
    return math.sqrt(degrees) / math.tan(high)

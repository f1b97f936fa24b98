"""How good the answers are: SQuAD v1.1 metrics, bootstrap intervals, win rates, floors and ceiling.

Every metric is a ratio of two sums over questions or pairs (matches / questions, nats / tokens), so
that it is token-weighted where it should be, and its interval resamples whole contexts: questions
on one context share their text and their difficulty, and are no independent draws.
"""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from src.data.squad_text import answer_type, normalize_answer, typed_spans
from src.generation import PromptTree, Sampling, generate_all
from src.losses import kl_estimates
from src.scoring import answer_logps


class Interval(NamedTuple):
    """A value and the ends of its bootstrap interval; NaN where there was nothing to divide by."""

    value: float
    low: float
    high: float


# name -> numerators, denominators and groups, one of each a question or pair
Figures = dict[str, tuple[Sequence[float], Sequence[float], Sequence[Hashable]]]


class Floors(NamedTuple):
    """One answer a question from each rule that reads nothing, and from a perfect copier."""

    random_span: list[str]
    first_of_type: list[str]
    majority: list[str]
    perfect_copy: list[str]


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 if the prediction equals any gold after normalisation, else 0; two empty strings: 1.

    Source: evaluate-v1.1.py of SQuAD, exact_match_score under metric_max_over_ground_truths.
    """
    assert not isinstance(golds, str), "golds is a string, expected a list of them"
    return float(any(normalize_answer(prediction) == normalize_answer(gold) for gold in golds))


def f1_score(prediction: str, golds: Sequence[str]) -> float:
    """Best F1 with any gold over the words left by normalisation, each counted as often as it is.

    0 where no word is shared, two empty strings included (v2.0 says 1 there, v1.1 says 0).
    Source: evaluate-v1.1.py of SQuAD, f1_score under metric_max_over_ground_truths.
    """
    assert not isinstance(golds, str), "golds is a string, expected a list of them"
    best = 0.0
    predicted = normalize_answer(prediction).split()
    for gold in golds:
        wanted = normalize_answer(gold).split()
        shared = (Counter(predicted) & Counter(wanted)).total()
        if shared:
            precision, recall = shared / len(predicted), shared / len(wanted)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


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


def floor_predictions(
    contexts: Sequence[str], golds: Sequence[Sequence[str]], train_answers: Sequence[str],
    seed: int = 0,
) -> Floors:
    """What rules score that understand nothing, and what the best copier could score.

    contexts: per question, the text that the model sees, cut to its window. golds: per question.
    random_span: a uniform start, as many words as a random training answer has.
    first_of_type: the first span of the gold's own type. The rule is told the type, which a model
        has to work out from the question, so it is a floor that a model must earn.
    majority: the most frequent training answer of that type, told likewise.
    perfect_copy: the gold where the context still holds one, else nothing: 1 less what was cut off.
    """
    rng = random.Random(seed)
    lengths = [len(answer.split()) for answer in train_answers] or [1]
    by_type: dict[str, Counter] = {}
    for answer in train_answers:
        by_type.setdefault(answer_type(answer), Counter())[answer] += 1
    floors = Floors([], [], [], [])
    for context, answers in zip(contexts, golds, strict=True):
        words = context.split()
        start, length = rng.randrange(len(words) or 1), rng.choice(lengths)
        kind = answer_type(answers[0])
        floors.random_span.append(" ".join(words[start : start + length]))
        floors.first_of_type.append(next(iter(typed_spans(context, kind)), ""))
        known = by_type.get(kind)
        floors.majority.append(known.most_common(1)[0][0] if known else "")
        floors.perfect_copy.append(next((a for a in answers if a in context), ""))
    return floors


class Asked(NamedTuple):
    """A held-out or training question as people read it."""

    context: str
    question: str
    golds: tuple[str, ...]


def metric_points(predictions: Sequence[str], asked: Sequence[Asked]) -> tuple[list, list]:
    """Exact match and F1 of each prediction."""
    em = [exact_match(p, q.golds) for p, q in zip(predictions, asked, strict=True)]
    f1 = [f1_score(p, q.golds) for p, q in zip(predictions, asked, strict=True)]
    return em, f1


def kl_of_samples(
    model: nn.Module, parent: nn.Module, prompts: Sequence[PromptTree], stop_id: int, *,
    seed: int = 0, first_row: int = 0, max_new_tokens: int = 24, device: torch.device | str = "cpu",
) -> np.ndarray:
    """KL from the parent, one estimate a question (Q,): summed k1 of one sample at temperature 1.

    Of a sample cut off at max_new_tokens its tokens count and no stop token, which it never drew: a
    term that is not drawn from the policy can make the mean negative. first_row: how many questions
    other ranks have before these, so that all draw from one stream.
    """
    ids = iter(
        generate_all(
            model, prompts, stop_id, sampling=Sampling(), seed=seed, first_row=first_row,
            max_new_tokens=max_new_tokens, device=device,
        )
    )  # fmt: skip
    trees = [(context, [(q, [next(ids)]) for q in questions]) for context, questions in prompts]
    logp, parent_logp = (
        answer_logps(m, trees, stop_id, device, first=max_new_tokens) for m in (model, parent)
    )
    return kl_estimates(logp, parent_logp).k1.numpy()

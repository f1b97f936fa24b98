"""Baselines: rules that do not use the question, and the upper bound of copying."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from src.data.answer_text import answer_type, typed_spans
from src.data.segmentation import piece_spans, pieces


class Baselines(NamedTuple):
    """One answer to each question from every rule."""

    random_span: list[str]
    first_of_type: list[str]
    majority: list[str]
    perfect_copy: list[str]


def baseline_predictions(
    contexts: Sequence[str], golds: Sequence[Sequence[str]], train_answers: Sequence[str],
    seed: int = 0,
) -> Baselines:
    """The answers of three lower baselines and of a perfect copier, the upper bound.

    contexts: per question, the text that the model sees, cut to its window. golds: per question.
    random_span: a uniform start, as many words as a random training answer has.
    first_of_type: the first span of the gold's type. The rule is given the type, which a model has
        to infer from the question.
    majority: the most frequent training answer of that type, which is given too.
    perfect_copy: a gold if the cut context still holds one, else nothing.
    """
    rng = random.Random(seed)
    lengths = [len(pieces(answer)) for answer in train_answers] or [1]
    by_type: dict[str, Counter] = {}
    for answer in train_answers:
        by_type.setdefault(answer_type(answer), Counter())[answer] += 1
    baselines = Baselines([], [], [], [])
    for context, answers in zip(contexts, golds, strict=True):
        words = piece_spans(context)
        start, length = rng.randrange(len(words) or 1), rng.choice(lengths)
        kind = answer_type(answers[0])
        baselines.random_span.append(_span(context, words[start : start + length]))
        baselines.first_of_type.append(next(iter(typed_spans(context, kind)), ""))
        known = by_type.get(kind)
        baselines.majority.append(known.most_common(1)[0][0] if known else "")
        baselines.perfect_copy.append(next((a for a in answers if a in context), ""))
    return baselines


def _span(context: str, words: Sequence[tuple[int, int]]) -> str:
    """The context from the first of these words to the last, on one line."""
    return " ".join(context[words[0][0] : words[-1][1]].split()) if words else ""

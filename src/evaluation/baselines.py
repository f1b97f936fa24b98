"""Baselines that read nothing, and the ceiling of a perfect copier."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from src.data.answer_text import answer_type, typed_spans
from src.data.segmentation import piece_spans, pieces


class Baselines(NamedTuple):
    """One answer a question from each rule that reads nothing, and from a perfect copier."""

    random_span: list[str]
    first_of_type: list[str]
    majority: list[str]
    perfect_copy: list[str]


def baseline_predictions(
    contexts: Sequence[str], golds: Sequence[Sequence[str]], train_answers: Sequence[str],
    seed: int = 0,
) -> Baselines:
    """What rules score that understand nothing, and what the best copier could score.

    contexts: per question, the text that the model sees, cut to its window. golds: per question.
    random_span: a uniform start, as many words as a random training answer has.
    first_of_type: the first span of the gold's own type. The rule is told the type, which a model
        has to work out from the question, so it is a floor that a model must earn.
    majority: the most frequent training answer of that type, told likewise.
    perfect_copy: the gold where the context still holds one, else nothing: 1 less what was cut off.
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

"""Exact match and F1: as SQuAD v1.1 defines them, or over mixed segmentation (MLQA), which counts
characters where a script has no blanks between words. Both are 0 to 1.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from src.data.answer_text import answer_tokens
from src.data.squad_types import Paragraph, Question


def exact_match(prediction: str, golds: Sequence[str], metric: str = "squad") -> float:
    """1 if the prediction equals any gold after normalisation, else 0; two empty strings: 1.

    Source: evaluate-v1.1.py of SQuAD, exact_match_score under metric_max_over_ground_truths.
    """
    assert not isinstance(golds, str), "golds is a string, expected a list of them"
    predicted = answer_tokens(prediction, metric)
    return float(any(predicted == answer_tokens(gold, metric) for gold in golds))


def f1_score(prediction: str, golds: Sequence[str], metric: str = "squad") -> float:
    """Best F1 with any gold over the words left by normalisation, each counted as often as it is.

    0 where no word is shared, two empty strings included (v2.0 says 1 there, v1.1 says 0).
    Source: evaluate-v1.1.py of SQuAD, f1_score under metric_max_over_ground_truths.
    """
    assert not isinstance(golds, str), "golds is a string, expected a list of them"
    best = 0.0
    predicted = answer_tokens(prediction, metric)
    for gold in golds:
        wanted = answer_tokens(gold, metric)
        shared = (Counter(predicted) & Counter(wanted)).total()
        if shared:
            precision, recall = shared / len(predicted), shared / len(wanted)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


class QAExample(NamedTuple):
    """A held-out or training question as people read it."""

    context: str
    question: str
    golds: tuple[str, ...]


def qa_example(paragraph: Paragraph, question: Question) -> QAExample:
    """A question as people read it; a prompt of the user's own is all question."""
    context = paragraph.context if paragraph.template else ""
    return QAExample(context, question.text, question.answers)


def em_and_f1(
    predictions: Sequence[str], examples: Sequence[QAExample], metric: str = "squad"
) -> tuple[list, list]:
    """Exact match and F1 of each prediction."""
    em = [exact_match(p, q.golds, metric) for p, q in zip(predictions, examples, strict=True)]
    f1 = [f1_score(p, q.golds, metric) for p, q in zip(predictions, examples, strict=True)]
    return em, f1

"""Negative controls: training data with no learnable signal.

A model that improves on it means that the evaluation is broken.
"""

import random
from collections.abc import Sequence

from src.data.encoding import EncodedParagraph
from src.data.windows import Tree


def answers_of(paragraphs: Sequence[EncodedParagraph]) -> list[list[int]]:
    """Every gold of every question."""
    return [gold for p in paragraphs for question in p.questions for gold in question.golds]


def apply_control(
    trees: Sequence[Tree],
    control: str,
    seed: str,
    block_size: int,
    answers: Sequence[Sequence[int]] = (),
) -> Sequence[Tree]:
    """The trees of a control run: contexts emptied, or each answer replaced by one of `answers`.

    Those are of all contexts: a batch has few, whose answers tell a context's kind of answer. One
    that does not fit the block beside its new question is cut.
    """
    if control == "no_context":
        return [([], questions) for _, questions in trees]
    if control == "shuffled_answers":
        rng = random.Random(seed)

        def with_others(context: Sequence[int], question: Sequence[int], count: int):
            budget = block_size - len(context) - len(question) - 1
            return question, [answer[:budget] for answer in rng.choices(answers, k=count)]

        return [
            (context, [with_others(context, q, len(asked)) for q, asked in questions])
            for context, questions in trees
        ]
    return trees

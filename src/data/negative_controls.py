"""Negative controls: training data with no learnable signal.

A model that improves on it means that the evaluation is broken.
"""

import random
from collections.abc import Sequence

from src.inference.logprobs import Tree


def apply_control(
    trees: Sequence[Tree], control: str, seed: str, block_size: int
) -> Sequence[Tree]:
    """The trees of a control run: answers shuffled among the questions, or contexts emptied.

    An answer that does not fit the block beside its new question is cut.
    """
    if control == "no_context":
        return [([], questions) for _, questions in trees]
    if control == "shuffled_answers":
        answers = [answers for _, questions in trees for _, answers in questions]
        random.Random(seed).shuffle(answers)
        shuffled = iter(answers)

        def another(context: Sequence[int], question: Sequence[int]):
            budget = block_size - len(context) - len(question) - 1
            return question, [answer[:budget] for answer in next(shuffled)]

        return [(c, [another(c, q) for q, _ in questions]) for c, questions in trees]
    return trees

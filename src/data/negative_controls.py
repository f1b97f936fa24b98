"""Training data of which nothing can be learnt: where a model learns from it all the same, the
measurement is wrong.
"""

import random
from collections.abc import Sequence

from src.inference.logprobs import Tree


def apply_control(
    trees: Sequence[Tree], control: str, seed: str, block_size: int
) -> Sequence[Tree]:
    """The trees of a control run: answers dealt out anew among the questions, or contexts emptied.
    An answer for which its new question leaves no room in a block is cut.
    """
    if control == "no_context":
        return [([], questions) for _, questions in trees]
    if control == "shuffled_answers":
        answers = [answers for _, questions in trees for _, answers in questions]
        random.Random(seed).shuffle(answers)
        dealt = iter(answers)

        def another(context: Sequence[int], question: Sequence[int]):
            room = block_size - len(context) - len(question) - 1
            return question, [answer[:room] for answer in next(dealt)]

        return [(c, [another(c, q) for q, _ in questions]) for c, questions in trees]
    return trees

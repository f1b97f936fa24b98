"""Demonstrations that differ in form: some people answer in whole sentences, some with a few words.

SFT imitates what it is shown, so it learns both forms as often as they were shown. Which one is
wanted, only feedback says (Stiennon et al. 2020, 2009.01325, section 1).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from random import Random

from src.data.segmentation import sentence_edges
from src.data.squad_types import NO_PLACE, Paragraph, Question


def in_sentences(paragraphs: Sequence[Paragraph], share: float, seed: int) -> list[Paragraph]:
    """The paragraphs, a share (0 to 1) of their questions answered with the gold's whole sentence
    instead; drawn by seed and question id. Answers without a place in the context stay.
    """
    if not share:
        return list(paragraphs)
    found = []
    for paragraph in paragraphs:
        edges = sentence_edges(paragraph.context)
        questions = tuple(
            _in_sentence(question, paragraph.context, edges)
            if Random(f"{seed}/{question.id}").random() < share else question
            for question in paragraph.questions
        )
        found.append(paragraph._replace(questions=questions))
    return found


def changed_questions(before: Sequence[Paragraph], after: Sequence[Paragraph]) -> int:
    """How many questions differ. One whose answer has no place, or is a sentence already, does not.
    """
    pairs = zip(before, after, strict=True)
    return sum(a != b for p, q in pairs for a, b in zip(p.questions, q.questions, strict=True))


def _in_sentence(question: Question, context: str, edges: Sequence[int]) -> Question:
    start = question.starts[0]
    if start == NO_PLACE:
        return question
    low = edges[bisect_right(edges, start) - 1]
    high = edges[bisect_left(edges, start + len(question.answers[0]))]
    sentence = context[low:high].strip()
    return question._replace(answers=(sentence,), starts=(context.index(sentence, low),))

"""--sentence_answers: which demonstrations answer in sentences, and with which."""

import pytest

from src.data.demonstrations import changed_questions, in_sentences
from src.data.pico import generate_articles
from src.data.squad_types import NO_PLACE, Paragraph, Question

CONTEXT = "Ada met Bob. On 3 May the Red Cross left Big Town. It was late."


def paragraph(answer, start=None):
    start = CONTEXT.index(answer) if start is None else start
    return Paragraph("T", CONTEXT, (Question("id", "q", (answer,), (start,)),))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [("Bob", "Ada met Bob."), ("Red Cross", "On 3 May the Red Cross left Big Town."),
     ("On 3 May", "On 3 May the Red Cross left Big Town."), ("late", "It was late.")],
)
def test_the_sentence_by_hand(answer, sentence):
    [found] = in_sentences([paragraph(answer)], 1.0, 0)
    question = found.questions[0]
    assert question.answers == (sentence,)
    assert CONTEXT[question.starts[0] :].startswith(sentence)


def test_what_has_no_place_stays():
    lonely = paragraph("Eve", NO_PLACE)
    found = in_sentences([lonely], 1.0, 0)
    assert found == [lonely] and changed_questions([lonely], found) == 0
    assert changed_questions([paragraph("Bob")], in_sentences([paragraph("Bob")], 1.0, 0)) == 1


def test_a_share_of_them_drawn_by_seed_and_id():
    paragraphs = generate_articles(0, "train", 60, 3)
    asked = [q for p in paragraphs for q in p.questions]
    assert in_sentences(paragraphs, 0.0, 0) == paragraphs

    def changed(share, seed=0, some=paragraphs):
        found = (q for p in in_sentences(some, share, seed) for q in p.questions)
        return {new.id for new, old in zip(found, asked, strict=True) if new != old}

    half = changed(0.5)
    assert abs(len(half) / len(asked) - 0.5) < 4 * 0.5 / len(asked) ** 0.5
    assert changed(0.25) < half  # a smaller share is part of a larger one
    assert changed(0.5, seed=1) != half
    one = in_sentences(paragraphs[3:4], 0.5, 0)[0]
    assert one == in_sentences(paragraphs, 0.5, 0)[3]  # whatever stands beside it

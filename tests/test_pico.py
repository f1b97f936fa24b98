"""The embedded data set: exact spans, disjoint names, distractors, floors, and independence."""

import hashlib
import json
import re
import time
from collections import Counter
from itertools import product

import pytest

from src.data import pico_facts
from src.data.pico import DIFFICULTIES, generate_articles, is_validation_name
from src.data.squad_text import normalize_answer
from src.data.squad_types import Paragraph, Question
from src.names import UserError

MONTHS = (
    "January February March April May June July August September October November December"
)
# What an answer looks like, most special first: a rule of the test's own.
SHAPES = {
    "day": re.compile(rf"\b\d{{1,2}} (?:{MONTHS.replace(' ', '|')})\b"),
    "year": re.compile(r"\b1\d{3}\b"),
    "number": re.compile(r"\b\d{2,3}\b(?! [A-Z])"),
    "work": re.compile(r"\bThe [A-Z][a-z]+ (?:Song|Book|Play|Poem|Opera|Dance)\b"),
    "person": re.compile(r"(?<!The )\b(?!The\b)[A-Z][a-z]+ [A-Z][a-z]+\b"),
    "town": re.compile(rf"\b[A-Z][a-z]+(?:{'|'.join(pico_facts.TOWN_ENDINGS)})\b"),
    "trade": re.compile(r"(?<=\ba )[a-z]+\b(?! of\b| named\b)"),
}


def shape_of(answer: str) -> str:
    if answer.isalpha() and answer.islower():
        return "trade"
    return next(name for name, pattern in SHAPES.items() if pattern.fullmatch(answer))


def spans_like(paragraph: Paragraph, question: Question) -> list[str]:
    """Every span of the answer's shape in reading order, but for what the question itself names."""
    kind = shape_of(question.answers[0])
    found = [match.group() for match in SHAPES[kind].finditer(paragraph.context)]
    return [span for span in dict.fromkeys(found) if span not in question.text]


def subjects(paragraph: Paragraph) -> list[str]:
    """The name of the entity that each question of a plain paragraph is about."""
    return [
        re.search(r"(?:The )?[A-Z][a-z]+ [A-Z][a-z]+", question.text[3:]).group()
        for question in paragraph.questions
    ]


@pytest.fixture(scope="module")
def default_paragraphs() -> list[Paragraph]:
    return generate_articles(3, "validation", 200, 2)


@pytest.fixture(scope="module", params=[2, 3])
def plain_paragraphs(request) -> list[Paragraph]:
    """About 1,000 paragraphs of the default difficulty and of the next, also in plain language."""
    return generate_articles(3, "validation", 200, request.param)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_answers_are_spans(difficulty, split):
    """`answer_start` is exact, the span is one of whole words, no text is padded or empty."""
    paragraphs = generate_articles(0, split, 60, difficulty)
    for paragraph in paragraphs:
        assert paragraph.context == paragraph.context.strip()
        assert "  " not in paragraph.context and "{" not in paragraph.context
        for question in paragraph.questions:
            (answer,), (start,) = question.answers, question.starts
            end = start + len(answer)
            assert paragraph.context[start:end] == answer
            around = paragraph.context[max(start - 1, 0) : start] + paragraph.context[end : end + 1]
            assert not re.search(r"\w", around)
            assert question.text.endswith("?") and "{" not in question.text
            assert normalize_answer(answer)
    ids = [question.id for paragraph in paragraphs for question in paragraph.questions]
    assert len(ids) == len(set(ids))


def test_ids_and_titles_say_where_they_come_from():
    paragraph = generate_articles(5, "train", 2, 3)[-1]
    assert re.fullmatch(r"pico-3-5-train-1-\d-0", paragraph.questions[0].id)
    titles = {paragraph.title for paragraph in generate_articles(5, "train", 300, 2)}
    assert len(titles) == 300


def test_a_question_has_one_answer():
    """No two facts of a paragraph answer the same question, whatever its wording."""
    for difficulty in DIFFICULTIES:
        for paragraph in generate_articles(9, "train", 100, difficulty):
            asked = [question.text for question in paragraph.questions]
            assert len(asked) == len(set(asked))


def test_answer_stands_in_a_sentence_about_the_entity(plain_paragraphs):
    """In plain language the answer's own sentence names the entity that is asked for."""
    for paragraph in plain_paragraphs:
        sentences = re.findall(r"[^.]+\.", paragraph.context)
        for question in paragraph.questions:
            holds = [sentence for sentence in sentences if question.answers[0] in sentence]
            name = subjects(paragraph)[paragraph.questions.index(question)]
            assert any(name in sentence for sentence in holds)


def test_default_shape(default_paragraphs):
    """Four sentences and four questions of one type, two each about two entities; all types."""
    seen = set()
    for paragraph in default_paragraphs:
        assert len(paragraph.questions) == paragraph.context.count(".") == 4
        about = subjects(paragraph)
        assert [about.count(name) for name in set(about)] == [2, 2]
        assert len({question.starts for question in paragraph.questions}) == 4
        (kind,) = {shape_of(question.answers[0]) for question in paragraph.questions}
        seen.add(kind)
    assert seen == set(SHAPES)


def test_next_shape():
    """At 3 two entities, six to eight questions of two types, several about each."""
    for paragraph in generate_articles(3, "validation", 200, 3):
        assert 6 <= len(paragraph.questions) <= 8
        about = subjects(paragraph)
        counts = sorted(about.count(name) for name in set(about))
        assert len(counts) == 2 and counts[0] >= 2
        assert len({shape_of(question.answers[0]) for question in paragraph.questions}) == 2


def test_every_answer_has_distractors(plain_paragraphs):
    """Four spans of the gold's type stand in the paragraph, up to two fewer where facts are out."""
    for paragraph in plain_paragraphs:
        left_out = 8 - len(paragraph.questions) if len(paragraph.questions) > 4 else 0
        for question in paragraph.questions:
            spans = spans_like(paragraph, question)
            assert question.answers[0] in spans
            assert len(spans) >= 4 - left_out, (paragraph.context, question)


def test_floors(plain_paragraphs):
    """Neither the first span of the answer's type nor the first name nor the first date scores.

    With four spans of a type in random order the first is right in 1/4 of the questions, in up to
    1/2 where two were left out. The limit is 40%, for each type alone too. The first number is held
    to it among the questions that a bare number answers; of all questions these are two in five.
    """
    hits: dict[str, list[bool]] = {}
    first_capital = first_number = numbers = 0
    for paragraph in plain_paragraphs:
        name = re.search(r"[A-Z][a-z]+(?: [A-Z][a-z]+)*", paragraph.context).group()
        digits = re.search(r"\d+|$", paragraph.context).group()
        for question in paragraph.questions:
            gold = question.answers[0]
            hit = spans_like(paragraph, question)[0] == gold
            hits.setdefault(shape_of(gold), []).append(hit)
            first_capital += name == gold
            first_number += digits == gold
            numbers += gold.isdigit()
    total = sum(map(len, hits.values()))
    assert set(hits) == set(SHAPES)
    assert 0.22 < sum(map(sum, hits.values())) / total < 0.33
    for kind, rights in hits.items():
        assert len(rights) > 40
        assert sum(rights) / len(rights) < 0.40, kind
    assert first_capital / total < 0.01
    assert first_number / total < 0.20
    assert first_number / numbers < 0.40


def test_default_floor_is_a_quarter(default_paragraphs):
    """All four spans are asked for: the first of the type answers one question in each paragraph.

    A person who is not asked for stands before that person's own fact, so no question more.
    """
    for paragraph in default_paragraphs:
        hits = [spans_like(paragraph, q)[0] == q.answers[0] for q in paragraph.questions]
        assert sum(hits) == 1, paragraph


@pytest.mark.parametrize(("difficulty", "low", "high"), [(2, 0.27, 0.40), (3, 0.02, 0.15)])
def test_sentences_are_shuffled(difficulty, low, high):
    """The two entities' sentences lie mixed.

    All of one before all of the other: 2 in 6 orders of two and two (a standard error of 0.015 over
    1,000 paragraphs), 2 in 35 of four and three.
    """
    paragraphs = generate_articles(3, "validation", 200, difficulty)
    blocked = 0
    for paragraph in paragraphs:
        order = sorted(
            (match.start(), name)
            for name in set(subjects(paragraph))
            for match in re.finditer(name, paragraph.context)
        )
        changes = sum(a[1] != b[1] for a, b in zip(order, order[1:], strict=False))
        blocked += changes == 1
    assert low < blocked / len(paragraphs) < high


def test_position_says_nothing(default_paragraphs):
    """Whichever question comes first, second, ..., each of the four facts is its as often."""
    counts = Counter()
    for paragraph in default_paragraphs:
        told = sorted(question.starts for question in paragraph.questions)
        counts.update(
            (asked, told.index(question.starts))
            for asked, question in enumerate(paragraph.questions)
        )
    # About 1,000 paragraphs: 1/4 with a standard error of 0.014.
    assert len(counts) == 16
    assert all(0.19 < n / len(default_paragraphs) < 0.31 for n in counts.values())


def test_position_says_nothing_among_more():
    """At 3 the first question is about the first fact once in seven, as chance has it."""
    paragraphs = generate_articles(3, "validation", 200, 3)
    first = [
        paragraph.questions[0].starts[0] == min(q.starts[0] for q in paragraph.questions)
        for paragraph in paragraphs
    ]
    # About 1,000 paragraphs of 6 to 8 facts: 1/7 with a standard error of 0.011.
    assert 0.10 < sum(first) / len(first) < 0.19


def capitalised(paragraphs: list[Paragraph]) -> set[str]:
    text = " ".join(
        " ".join([p.title, p.context, *(q.text for q in p.questions)]) for p in paragraphs
    )
    return set(re.findall(r"\b[A-Z][a-z]+\b", text))


def test_names_are_disjoint():
    """No invented word of any validation article stands in a training article, seeds and all."""
    words = {
        split: set.union(*(
            capitalised(generate_articles(seed, split, 150, difficulty))
            for seed in (0, 1)
            for difficulty in DIFFICULTIES
        ))
        for split in ("train", "validation")
    }
    shared = words["train"] & words["validation"]
    known = {*MONTHS.split(), "Annals", *(n for nouns in pico_facts.NOUNS.values() for n in nouns)}
    assert {word for word in shared - known if word[:3] in pico_facts.INITIALS} == set()
    # What they do share are sentence openings: a short, closed list.
    assert shared - known <= set(
        re.findall("[A-Z][a-z]*", "TheInOnAtForHowWhoWhatWhenWhereByToNearThereWithItHeSheDeath")
    )
    assert len(words["validation"]) > 500


def test_validation_hash_is_stable():
    """crc32 by hand for one word of each bucket, and about one word in eight of all."""
    assert is_validation_name("123456789") is (0xCBF43926 % 8 == 0)  # the CRC-32 check value
    words = [
        first + end for first, end in product(pico_facts.INITIALS, pico_facts.SURNAME_ENDINGS)
    ]
    assert 0.09 < sum(map(is_validation_name, words)) / len(words) < 0.16


def test_article_does_not_depend_on_the_number():
    few, many = (generate_articles(2, "train", n, 2) for n in (3, 30))
    assert many[: len(few)] == few
    assert many[len(few)].title != few[-1].title


def test_seed_split_and_difficulty_matter():
    contexts = [
        generate_articles(seed, split, 1, difficulty)[0].context
        for seed in (0, 1)
        for split in ("train", "validation")
        for difficulty in DIFFICULTIES
    ]
    assert len(set(contexts)) == len(contexts)


def test_same_everywhere():
    """The text under seed 0, pinned: a Python whose generator differed would be seen here."""
    text = json.dumps(generate_articles(0, "train", 20, 2))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4d62205a6a112823"


def test_harder_levels_are_harder():
    """More to choose from at 2, more text from 3, pronouns from 4, two sentences to join at 5."""
    texts = {d: generate_articles(0, "train", 60, d) for d in DIFFICULTIES}
    choices = {
        d: [len(spans_like(p, q)) for p in texts[d] for q in p.questions] for d in (1, 2)
    }
    assert sum(choices[1]) / len(choices[1]) < 2.2 and min(choices[2]) >= 4
    words = {d: sum(len(p.context.split()) for p in ps) / len(ps) for d, ps in texts.items()}
    assert 0.9 < words[2] / words[1] < 1.1
    assert 1.3 * words[2] < words[3] < words[4] / 1.2 < words[5] / 1.5
    pronoun = re.compile(r"(?:^|\. )(?:He|She|It) ")
    share = {
        d: sum(bool(pronoun.search(p.context)) for p in ps) / len(ps) for d, ps in texts.items()
    }
    assert share[1] == share[2] == share[3] == 0
    assert share[4] > 0.3 and share[5] > 0.3
    linked = re.compile(
        "the (?:friend|teacher|spouse|writer|buyer|leader|winner|founder|builder) of"
    )
    asks = {
        d: sum(bool(linked.search(q.text)) for p in ps for q in p.questions)
        for d, ps in texts.items()
    }
    assert asks[1] == asks[2] == asks[3] == asks[4] == 0 < asks[5]


def test_facts_table():
    """Each type of each kind has two facts and one place for the entity and the answer."""
    for kinds in pico_facts.FACTS.values():
        for facts in kinds.values():
            assert len(facts) >= 2
            for fact in facts:
                assert len(fact.statements) >= pico_facts.PLAIN <= len(fact.questions)
                for statement in fact.statements:
                    assert statement.count("{E}") == statement.count("{A}") == 1
                assert all(q.count("{E}") == 1 and "{A}" not in q for q in fact.questions)
                # A plain statement gives its answer after the entity and the verb.
                for statement in fact.statements[: pico_facts.PLAIN]:
                    assert statement.index("{E}") < statement.index("{A}")


def test_fast():
    """20,000 paragraphs in a few seconds: here 2,000 in under a second and a half."""
    start = time.process_time()
    assert len(generate_articles(0, "train", 400, 2)) > 1600
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize(
    "arguments", [(0, "dev", 1, 2), (0, "train", 1, 6), (0, "train", 1, 0), (0, "train", -1, 2)]
)
def test_bad_arguments(arguments):
    with pytest.raises(UserError, match="expected") as caught:
        generate_articles(*arguments)
    assert "\n" not in str(caught.value)

"""The embedded data set: exact spans, disjoint names, distractors, floors, and independence."""

import hashlib
import json
import re
import time
from itertools import product

import pytest

from src.data import pico_facts
from src.data.pico_squad import DIFFICULTIES, generate_articles, is_validation_name
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


@pytest.fixture(scope="module")
def default_paragraphs() -> list[Paragraph]:
    return generate_articles(3, "validation", 200, 2)


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


def test_answer_stands_in_a_sentence_about_the_entity(default_paragraphs):
    """At the default difficulty the answer's own sentence names the entity that is asked for."""
    for paragraph in default_paragraphs:
        sentences = re.findall(r"[^.]+\.", paragraph.context)
        for question in paragraph.questions:
            holds = [sentence for sentence in sentences if question.answers[0] in sentence]
            name = re.search(r"(?:The )?[A-Z][a-z]+ [A-Z][a-z]+", question.text[3:]).group()
            assert any(name in sentence for sentence in holds)


def test_default_shape(default_paragraphs):
    """Two entities, six to eight questions, both of them asked about, several facts each."""
    for paragraph in default_paragraphs:
        assert 6 <= len(paragraph.questions) <= 8
        subjects = [
            re.search(r"(?:The )?[A-Z][a-z]+ [A-Z][a-z]+", question.text[3:]).group()
            for question in paragraph.questions
        ]
        counts = sorted(subjects.count(name) for name in set(subjects))
        assert len(counts) == 2 and counts[0] >= 2


def test_every_answer_has_distractors(default_paragraphs):
    """Besides the gold at least one other span of its type stands in the paragraph."""
    for paragraph in default_paragraphs:
        for question in paragraph.questions:
            spans = spans_like(paragraph, question)
            assert question.answers[0] in spans
            assert len(spans) >= 2, (paragraph.context, question)


def test_floors(default_paragraphs):
    """Neither the first span of the answer's type nor the first name nor the first date scores.

    With four spans of a type in random order the first is right in 1/4 of the questions, in up to
    1/2 where two were left out. The issue's limit is 40%; so is the limit for each type alone.
    """
    hits: dict[str, list[bool]] = {}
    first_capital = first_number = 0
    for paragraph in default_paragraphs:
        name = re.search(r"[A-Z][a-z]+(?: [A-Z][a-z]+)*", paragraph.context).group()
        digits = re.search(r"\d+|$", paragraph.context).group()
        for question in paragraph.questions:
            gold = question.answers[0]
            hit = spans_like(paragraph, question)[0] == gold
            hits.setdefault(shape_of(gold), []).append(hit)
            first_capital += name == gold
            first_number += digits == gold
    total = sum(map(len, hits.values()))
    assert set(hits) == set(SHAPES)
    assert 0.22 < sum(map(sum, hits.values())) / total < 0.33
    for kind, rights in hits.items():
        assert sum(rights) / len(rights) < 0.40, kind
    assert first_capital / total < 0.01
    assert first_number / total < 0.20


def test_sentences_are_shuffled(default_paragraphs):
    """The two entities' sentences lie mixed: one after the other in 1 of 17 orders of 4 and 3."""
    blocked = 0
    for paragraph in default_paragraphs:
        first, *_ = entities = re.findall(
            r"((?:The )?[A-Z][a-z]+ [A-Z][a-z]+)",
            " ".join(q.text[3:] for q in paragraph.questions),
        )
        names = [first, next(name for name in entities if name != first)]
        order = sorted(
            (match.start(), name)
            for name in names
            for match in re.finditer(name, paragraph.context)
        )
        changes = sum(a[1] != b[1] for a, b in zip(order, order[1:], strict=False))
        blocked += changes == 1
    assert blocked / len(default_paragraphs) < 0.15


def test_position_says_nothing(default_paragraphs):
    """The question asked first is about the fact told first once in seven, as chance has it."""
    first = [
        paragraph.questions[0].starts[0] == min(q.starts[0] for q in paragraph.questions)
        for paragraph in default_paragraphs
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
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "eedd8a260da490de"


def test_harder_levels_are_harder():
    """More entities; pronouns and surnames from 3 on; questions over two sentences at 4."""
    texts = {d: generate_articles(0, "train", 60, d) for d in DIFFICULTIES}
    words = {d: sum(len(p.context.split()) for p in ps) / len(ps) for d, ps in texts.items()}
    assert words[1] < words[2] < words[3] < words[4]
    pronoun = re.compile(r"(?:^|\. )(?:He|She|It) ")
    share = {
        d: sum(bool(pronoun.search(p.context)) for p in ps) / len(ps) for d, ps in texts.items()
    }
    assert share[1] == share[2] == 0
    assert share[3] > 0.3 and share[4] > 0.3
    linked = re.compile(
        "the (?:friend|teacher|spouse|writer|buyer|leader|winner|founder|builder) of"
    )
    asks = {
        d: sum(bool(linked.search(q.text)) for p in ps for q in p.questions)
        for d, ps in texts.items()
    }
    assert asks[1] == asks[2] == asks[3] == 0 < asks[4]


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
    "arguments", [(0, "dev", 1, 2), (0, "train", 1, 5), (0, "train", 1, 0), (0, "train", -1, 2)]
)
def test_bad_arguments(arguments):
    with pytest.raises(UserError, match="expected") as caught:
        generate_articles(*arguments)
    assert "\n" not in str(caught.value)

"""`pico`, the embedded data set: SQuAD-shaped articles about invented people, works and places.

Every answer stands among spans of its own type, the sentences of all entities shuffled: from
difficulty 2 on four or more spans (at 3 down to two, where facts are left out). Copying the first
is right in 25% of the questions at 2, whatever the type, and in 28% at 3 (27% to 29% by type).

    1  one entity, two facts of each of two answer types, about 48 tokens
    2  two entities, two facts each, all four of one answer type, about 48 tokens
    3  two entities, four facts each of two answer types, some left out, about 83 tokens
    4  three entities, surnames and pronouns, more wordings, facts before their entity
    5  four entities, sentences about nobody who is asked for, questions that need two sentences

Up to 3, sentences name their entity in full, facts and questions have two wordings, and no two
names of a paragraph begin with the same syllable. Tokens are those of a whole context, a mean.

An invented name is a word that hashes to the validation bucket or to training, whatever it names,
so no name of a validation article ever occurs in a training article, under any seed. Everything is
drawn with `Random.random`, the one method whose sequence Python promises to keep.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from src.data import pico_facts as text
from src.data.squad_types import Paragraph, Question
from src.utils.errors import UserError

SPLITS = ("train", "validation")
DIFFICULTIES = (1, 2, 3, 4, 5)
# Entities of a paragraph, and answer types that they have two facts each of, by difficulty.
_ENTITIES = {1: 1, 2: 2, 3: 2, 4: 3, 5: 4}
_TYPES = {1: 2, 2: 1, 3: 2, 4: 2, 5: 2}
# Up to this difficulty the language is plain.
_PLAIN = 3
_HARDEST = 5
MAX_QUESTIONS = 8
# One invented word in this many belongs to validation.
_BUCKETS = 8
# Facts left untold, at most, by difficulty.
_DROPPED = {1: 0, 2: 0, 3: 2, 4: 3, 5: 4}


def is_validation_name(word: str) -> bool:
    """Whether an invented word belongs to the validation split (a hash that never changes)."""
    return zlib.crc32(word.encode()) % _BUCKETS == 0


def _only(split: str, words: Sequence[str]) -> tuple[str, ...]:
    wanted = split == "validation"
    return tuple(word for word in words if is_validation_name(word) == wanted)


@cache
def _words(split: str) -> dict[str, tuple[str, ...]]:
    """Every invented word of a split by what it names: given, surname, town, title."""
    endings = {
        "given": text.GIVEN_ENDINGS,
        "surname": text.SURNAME_ENDINGS,
        "town": [middle + end for middle in text.TOWN_MIDDLES for end in text.TOWN_ENDINGS],
        "title": text.TITLE_ENDINGS,
    }
    return {
        kind: _only(split, [first + end for first in text.INITIALS for end in ends])
        for kind, ends in endings.items()
    }


class _Entity(NamedTuple):
    kind: str
    name: str
    short: str  # a person's surname; the name itself for everything else
    pronoun: str


class _Told(NamedTuple):
    """One fact with its answer: what a sentence says and a question can ask."""

    entity: int
    fact: text.Fact
    answer: str


class _Writer:
    """Draws the names and values of one paragraph, none of them twice."""

    def __init__(self, rng: Random, split: str, difficulty: int) -> None:
        self.rng = rng
        self.words = _words(split)
        self.difficulty = difficulty
        self.used: set[str] = set()

    def below(self, n: int) -> int:
        return int(self.rng.random() * n)

    def pick(self, options: Sequence):
        return options[self.below(len(options))]

    def shuffled(self, items: Sequence) -> list:
        """A random order of the items (Fisher and Yates)."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items

    def fresh(self, draw: Callable[[], str], key_length: int | None = None) -> str:
        """Draw until the first `key_length` characters are none that this paragraph has had."""
        while (drawn := draw())[:key_length] in self.used:
            pass
        self.used.add(drawn[:key_length])
        return drawn

    def word(self, kind: str) -> str:
        """An invented word; up to difficulty 3 no other begins with its syllable."""
        key_length = 3 if self.difficulty <= _PLAIN else None
        return self.fresh(lambda: self.pick(self.words[kind]), key_length)

    def value(self, answer_type: str) -> str:
        """An answer of the given type: the text of the span."""
        if answer_type == "town":
            return self.word("town")
        if answer_type == "person":
            return f"{self.word('given')} {self.word('surname')}"
        if answer_type == "work":
            return f"The {self.word('title')} {self.pick(text.NOUNS['work'])}"
        if answer_type == "trade":
            return self.fresh(lambda: self.pick(text.TRADES))
        if answer_type == "day":
            return self.fresh(lambda: f"{1 + self.below(28)} {self.pick(text.MONTHS)}")
        low, high = (1100, 1999) if answer_type == "year" else (12, 990)
        return self.fresh(lambda: str(low + self.below(high - low)))

    def entity(self, kind: str) -> _Entity:
        if kind == "person":
            name = self.value("person")
            return _Entity(kind, name, name.split()[1], self.pick(("He", "She")))
        name = f"The {self.word('title')} {self.pick(text.NOUNS[kind])}"
        return _Entity(kind, name, name, "It")

    def facts(self, index: int, kind: str, answer_type: str) -> list[_Told]:
        """Two facts of one type about entity number `index`; years in the order of time."""
        options = text.FACTS[kind][answer_type]
        skipped = self.below(len(options)) if len(options) > 2 else -1
        chosen = [fact for i, fact in enumerate(options) if i != skipped][:2]
        answers = [self.value(answer_type) for _ in chosen]
        if answer_type == "year":
            answers.sort()
        return [_Told(index, fact, answer) for fact, answer in zip(chosen, answers, strict=True)]

    def wording(self, options: tuple[str, ...]) -> str:
        return self.pick(options[: text.PLAIN] if self.difficulty <= _PLAIN else options)


def _mention(writer: _Writer, entity: _Entity, previous: bool, known: bool) -> str:
    """How a sentence names its entity.

    previous: a pronoun can only mean it, since the last sentence was about it; known: named before.
    """
    if writer.difficulty <= _PLAIN or not known:
        return entity.name
    chance = writer.rng.random()
    if previous and chance < 0.5:
        return entity.pronoun
    return entity.short if chance < 0.7 else entity.name


def _filler(writer: _Writer) -> str:
    return writer.pick(text.FILLERS).format(
        P=writer.value("person"),
        T=writer.word("town"),
        U=writer.word("town"),
        Y=writer.value("year"),
        N=writer.value("number"),
    )


def _write(
    writer: _Writer, entities: list[_Entity], told: list[_Told], fillers: int
) -> tuple[str, list[int]]:
    """The context that tells the facts in the given order, and where each answer starts in it."""
    sentences: list[str] = []
    starts: list[int] = []
    position = 0
    last, known = -1, set()
    slots = {writer.below(len(told)) for _ in range(fillers)}
    for i, item in enumerate(told):
        if i in slots:
            sentences.append(_filler(writer))
            position += len(sentences[-1]) + 1
            last = -1  # "She" would now mean the person of the filler
        statement = writer.wording(item.fact.statements)
        entity = entities[item.entity]
        name = _mention(writer, entity, last == item.entity, item.entity in known)
        if name == entity.pronoun and not statement.startswith("{E}"):
            name = entity.name
        before, after = statement.replace("{E}", name).split("{A}")
        starts.append(position + len(before))
        sentences.append(before + item.answer + after)
        position += len(sentences[-1]) + 1
        # After "Anna taught her" another "she" could be either of the two.
        two_people = entity.kind == "person" and item.fact.noun
        last = -1 if two_people else item.entity
        known.add(item.entity)
    return " ".join(sentences), starts


def _kinds(writer: _Writer) -> list[str]:
    """The kinds of a paragraph's entities: each is the first one's again half the time."""
    kinds = list(text.FACTS)
    first = writer.pick(kinds)
    others = [
        first if writer.rng.random() < 0.5 else writer.pick(kinds)
        for _ in range(_ENTITIES[writer.difficulty] - 1)
    ]
    if writer.difficulty == _HARDEST and "person" not in others:
        others[-1] = "person"  # somebody for the questions that need two sentences
    return writer.shuffled([first, *others])


def _facts(writer: _Writer, entities: list[_Entity]) -> list[_Told]:
    """The facts of all entities, shuffled, some of them left out."""
    shared = [
        answer_type
        for answer_type in text.FACTS[entities[0].kind]
        if all(answer_type in text.FACTS[entity.kind] for entity in entities)
    ]
    # "Born in 1823" and "born on 4 May" would both answer "When?".
    types = writer.shuffled(shared)[: _TYPES[writer.difficulty]]
    while set(types) == {"year", "day"}:
        types = writer.shuffled(shared)[: _TYPES[writer.difficulty]]
    told = [
        item
        for index, entity in enumerate(entities)
        for answer_type in types
        for item in writer.facts(index, entity.kind, answer_type)
    ]
    return writer.shuffled(told)[: len(told) - writer.below(_DROPPED[writer.difficulty] + 1)]


def _linked(writer: _Writer, entities: list[_Entity], told: list[_Told]) -> dict[int, str]:
    """Make one entity the answer of another's fact: {its index: "the friend of NAME"} or {}.

    Changes `told` in place: the linked fact's answer becomes that person's name.
    """
    people = [i for i, entity in enumerate(entities) if entity.kind == "person"]
    target = writer.pick(people)
    for i, item in enumerate(told):
        if item.fact.noun and item.entity != target:
            told[i] = item._replace(answer=entities[target].name)
            return {target: f"{item.fact.noun} {entities[item.entity].name}"}
    return {}


def _paragraph(rng: Random, split: str, difficulty: int, title: str, key: str) -> Paragraph:
    writer = _Writer(rng, split, difficulty)
    entities = [writer.entity(kind) for kind in _kinds(writer)]
    told = _facts(writer, entities)
    links = _linked(writer, entities, told) if difficulty == _HARDEST else {}
    context, starts = _write(writer, entities, told, fillers=2 if difficulty == _HARDEST else 0)
    asked = writer.shuffled(range(len(told)))[:MAX_QUESTIONS]
    questions = []
    for number, i in enumerate(asked):
        item = told[i]
        name = entities[item.entity].name
        if item.entity in links and writer.rng.random() < 0.5:
            name = links[item.entity]
        question = writer.wording(item.fact.questions).replace("{E}", name)
        questions.append(Question(f"{key}-{number}", question, (item.answer,), (starts[i],)))
    return Paragraph(title, context, tuple(questions))


def _article(seed: int, split: str, number: int, difficulty: int) -> list[Paragraph]:
    """Article `number`: four to six paragraphs under one title, whatever else is generated."""
    key = f"pico-{difficulty}-{seed}-{split}-{number}"
    rng = Random(key)
    writer = _Writer(rng, split, difficulty)
    title = f"Annals of {writer.word('town')} {number + 1}"
    return [
        _paragraph(rng, split, difficulty, title, f"{key}-{p}") for p in range(4 + writer.below(3))
    ]


def generate_articles(
    seed: int, split: str, num_articles: int, difficulty: int = 2
) -> list[Paragraph]:
    """The paragraphs of `num_articles` articles (4 to 6 each, 4 questions a paragraph at 2).

    split: "train" or "validation", which share no invented name. Article i is a function of
    (seed, split, i, difficulty) alone, so asking for more changes none. Titles and question ids are
    unique within a call. Answers are exact: `context[start:].startswith(answer)`.
    """
    if split not in SPLITS:
        raise UserError(f"pico has no split {split!r}: expected one of {', '.join(SPLITS)}")
    if difficulty not in DIFFICULTIES:
        raise UserError(f"--difficulty {difficulty}: expected 1 to 5")
    if num_articles < 0:
        raise UserError(f"{num_articles} articles asked of pico: expected 0 or more")
    return [
        paragraph
        for number in range(num_articles)
        for paragraph in _article(seed, split, number, difficulty)
    ]

"""What `pico` can tell of each kind of entity: the notation of facts_*.py, and its reader.

A fact is a block of lines. The first names the type of its answer, and after `=` how a question may
name the answer by the fact ("the teacher of {E}"). Then follow, most plain first,

    {E} was taught by {A}.            statements: {E} is the entity, {A} the answer
    ? Who taught {E}?                 questions
    ?year In what year ... {E} ...?   questions for a part of the answer
    ?E Who was taught by {A}?         questions for the entity
    ?< Who is younger, {E} or {F}?    questions for the entity with the smaller answer, ?> larger
    ! {E} never met {A}.              decoys: they nearly answer a question, and answer none

{a A} and {in A} are the answer after its article or preposition ("a nurse", "on 4 May"). {year} is
an answer that is a year, {full} one after a preposition of the sentence's own. {his} {he} {him} are
the entity's pronouns, {U} is the unit of a measure. The facts of a type stand in the order of time.

Difficulties 1 and 2 use the first `EASY` facts of a type and their first `PLAIN` statements and
questions. Such a statement gives its answer after the words that say what it is: a model that reads
left to right finds the answer by what stood before it.
"""

import re
from typing import NamedTuple

from src.data.pico.facts_people import ANIMAL, FIGURE, PERSON
from src.data.pico.facts_things import (
    BUILDING,
    COMPANY,
    EVENT,
    NATURE,
    TEAM,
    THING,
    TOWN,
    WORK,
)

PLAIN = 2
EASY = 2

# A wording in pieces, literal text and slots in turn: ("", "E", " was born in ", "A", ".").
Wording = tuple[str, ...]


class Fact(NamedTuple):
    """One thing that can be told of an entity. See the top of this file."""

    answer_type: str
    limits: tuple[str, ...]  # "2-12", the least and the most; and the units of a measure
    noun: str
    statements: tuple[Wording, ...]
    questions: tuple[tuple[str, Wording], ...]  # the part that is asked for ("" for all), wording
    inverse: tuple[Wording, ...]
    comparisons: tuple[tuple[str, Wording], ...]  # "<" or ">", wording
    decoys: tuple[Wording, ...]


_SLOT = re.compile(r"\{(E|F|A|a A|in A|year|full|his|he|him|U)\}")


def _wording(text: str) -> Wording:
    """The pieces of a line; its first letter is small, since the line may stand after "and"."""
    pieces = _SLOT.split(text)
    pieces[0] = pieces[0][:1].lower() + pieces[0][1:]
    return tuple(pieces)


def _fact(block: str) -> Fact:
    header, *lines = block.strip().splitlines()
    header, _, noun = header.partition(" = ")
    answer_type, *limits = header.split()
    found: dict[str, list] = {kind: [] for kind in ("", "?", "?E", "?<", "!")}
    for line in lines:
        mark, _, text = line.strip().partition(" ")
        if mark[0] not in "?!":
            found[""].append(_wording(line.strip()))
        elif mark in ("?E", "!"):
            found[mark].append(_wording(text))
        elif mark in ("?<", "?>"):
            found["?<"].append((mark[1], _wording(text)))
        else:
            found["?"].append((mark[1:], _wording(text)))
    return Fact(answer_type, tuple(limits), noun, *map(tuple, found.values()))


def _facts(text: str) -> dict[str, tuple[Fact, ...]]:
    """The facts of a kind by the type of their answer. A sister is a person as a teacher is."""
    types: dict[str, list[Fact]] = {}
    for block in text.strip().split("\n\n"):
        fact = _fact(block)
        wide = {"woman": "person", "man": "person"}.get(fact.answer_type, fact.answer_type)
        types.setdefault(wide, []).append(fact)
    return {answer_type: tuple(facts) for answer_type, facts in types.items()}


FACTS: dict[str, dict[str, tuple[Fact, ...]]] = {
    "person": _facts(PERSON),
    "figure": _facts(FIGURE),
    "animal": _facts(ANIMAL),
    "work": _facts(WORK),
    "building": _facts(BUILDING),
    "town": _facts(TOWN),
    "team": _facts(TEAM),
    "company": _facts(COMPANY),
    "thing": _facts(THING),
    "event": _facts(EVENT),
    "nature": _facts(NATURE),
}

# Sentences about nobody who is asked for: persons P and Q, towns T and V, a year, a number.
FILLERS = tuple(
    tuple(re.split(r"\{([PQTVYN])\}", line.strip()))
    for line in """
    {P} once walked from {T} to {V}.
    In {Y} the rain in {T} fell for {N} days.
    {P} was seen in {T} in {Y}.
    The road from {T} to {V} is {N} miles long.
    There were {N} strangers in {T} that day.
    {P} and {Q} met on a train to {T}.
    Nobody remembers the name of {P} today.
    A letter from {P} never reached {T}.
    The newspapers of {T} wrote about {P} for {N} weeks.
    In {Y} a storm took the roofs of {N} houses in {T}.
    {P} wrote all this down in {Y}.
    It was {P} who told this to {Q}.
    A boat to {T} leaves every {N} days.
    The weather in {T} was fine.
    {P} sent {N} letters to {Q} without a reply.
    There is a song about {T} that {P} often sang.
    {P} took {N} photographs of {T}.
    The winter of {Y} was very cold in {T}.
    """.strip().splitlines()
)


def _all_words() -> frozenset[str]:
    """Every word of every wording in lower case. No invented name is one of them."""
    sources = (PERSON, FIGURE, ANIMAL, WORK, BUILDING, TOWN, TEAM, COMPANY, THING, EVENT, NATURE)
    fillers = [piece for filler in FILLERS for piece in filler[::2]]
    return frozenset(re.findall(r"[a-z]+", " ".join([*sources, *fillers]).lower()))


WORDS = _all_words()

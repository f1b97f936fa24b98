"""`pico`, the embedded data set: SQuAD-shaped articles that are written by rule.

The sentences tell facts of people, animals, works, buildings, towns, teams, firms, things, events
and landscapes (facts_people.py, facts_things.py). Every answer stands among others of its own type,
in random order: copying the first of the type is right in about a quarter of the questions at
difficulty 2, in a tenth at 3.

    1  one entity, two facts of each of two answer types; plain wordings (60 tokens)
    2  two entities, two facts each, all four of one answer type; plain wordings (60 tokens)
    3  two to four entities, every wording, names, dates and numbers of every form, paraphrased
       questions, questions for the entity: "Who was born in Bergen?" (100 tokens)
    4  three to five entities, alike in name; surnames and pronouns; two facts in one sentence;
       comparisons: "Who was born first?"; sentences that nearly answer a question, and sentences
       about nobody who is asked for (155 tokens)
    5  more of all this, and questions that need two sentences: "Where does the teacher of Nora Lund
       live?" (235 tokens)

Tokens are those of a whole context under the shipped tokenizer, a mean. A word of a name has 2.4 of
them at 1 and 2, and 3 to 3.5 from 3 on: mostly one to seven. `LEVELS` holds every number that makes
a difficulty easy or hard.

No name of a validation article occurs in a training article, under any seed: see names.py. Common
words (jobs, colours, months, nouns) are shared.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from src.data.pico.dice import Dice
from src.data.pico.facts import EASY, FACTS, FILLERS, PLAIN, Fact, Wording
from src.data.pico.names import Name, Names
from src.data.pico.values import Value, Values, is_listed
from src.data.squad_types import Paragraph, Question
from src.utils.errors import UserError

SPLITS = ("train", "validation")
DIFFICULTIES = (1, 2, 3, 4, 5)
MAX_QUESTIONS = 8


class Level(NamedTuple):
    """How hard a difficulty is. Fractions are chances."""

    # (entities, facts of a type each, answer types), one drawn for each paragraph.
    shapes: tuple[tuple[int, int, int], ...]
    left_out: int = 0  # facts that stay untold, at most
    easy: bool = False  # only the first facts of the commonest types, short names, plain values
    plain: float = 0.0  # a wording is one of the first two
    same_kind: float = 0.7  # a further entity is of the first one's kind
    same_facts: float = 0.7  # ... and then is told the same facts about
    longest: int = 12  # letters of a name's word
    free: float = 0.0  # a name has an unusual form
    alike: float = 0.0  # a name shares a word with that of the entity before
    grouped: float = 0.0  # a paragraph tells of one entity after the other
    short: float = 0.0  # a later mention is a pronoun or a part of the name
    joined: float = 0.0  # two sentences become one
    decoys: float = 0.0  # a fact comes with a sentence that nearly answers its question
    fillers: int = 0  # sentences about nobody who is asked for, at most
    inverse: float = 0.0  # a question gives the answer and asks for the entity
    compared: float = 0.0  # a question compares two entities
    linked: float = 0.0  # one entity is the answer of another's fact, which a question may name


LEVELS = {
    1: Level(shapes=((1, 2, 2),), easy=True, plain=1.0, longest=5),
    2: Level(shapes=((2, 2, 1),), easy=True, plain=1.0, longest=5),
    3: Level(
        shapes=((2, 2, 1), (2, 2, 2), (4, 1, 1), (4, 1, 2), (3, 2, 1), (3, 1, 2)),
        left_out=1,
        plain=0.3,
        longest=9,
        free=0.15,
        alike=0.15,
        joined=0.15,
        inverse=0.15,
    ),
    4: Level(
        shapes=((3, 2, 2), (4, 1, 2), (4, 2, 1), (5, 1, 1), (3, 3, 1)),
        left_out=2,
        plain=0.2,
        free=0.25,
        alike=0.35,
        grouped=0.5,
        short=0.6,
        joined=0.25,
        decoys=0.2,
        fillers=1,
        inverse=0.2,
        compared=0.1,
    ),
    5: Level(
        shapes=((4, 2, 2), (4, 1, 3), (5, 1, 2), (4, 3, 1)),
        left_out=4,
        plain=0.1,
        free=0.35,
        alike=0.5,
        grouped=0.5,
        short=0.7,
        joined=0.3,
        decoys=0.35,
        fillers=2,
        inverse=0.2,
        compared=0.25,
        linked=1.0,
    ),
}
# The answer types of the easy levels.
_EASY_TYPES = ("town", "when", "person", "count", "job", "colour", "thing", "work")
# ... and their kinds.
_EASY_KINDS = ("person", "figure", "work", "building", "company", "event")
# Where one kind is chosen at random; people are what most questions are about.
_KINDS = ("person", "person", "person", "figure", *(kind for kind in FACTS if kind != "person"))
# After a sentence with one of these answers, "it" could mean the answer.
_NAMED = ("person", "town", "country", "work", "team", "company", "thing", "animal", "room")
_FORMS = {"he": ("he", "his", "him"), "she": ("she", "her", "her"), "it": ("it", "its", "it")}


class _Entity(NamedTuple):
    kind: str
    name: str
    short: tuple[str, ...]  # parts of the name that mean nobody else in the paragraph
    pronoun: str


class _Told(NamedTuple):
    """One fact with its answer: what a sentence says and a question can ask."""

    entity: int
    fact: Fact
    value: Value
    decoy: bool = False


class _Clause(NamedTuple):
    """A sentence as it is being put together.

    spans: where in the text stand the answer of told fact i, under i, and the full name of entity
    e, under ~e.
    """

    text: str
    spans: dict[int, tuple[int, int]]

    def after(self, text: str, separator: str) -> "_Clause":
        """This clause behind a text."""
        shift = len(text) + len(separator)
        spans = {key: (start + shift, end + shift) for key, (start, end) in self.spans.items()}
        return _Clause(text + separator + self.text, spans)


def _names(dice: Dice, split: str, level: Level) -> Names:
    return Names(dice, split, level.free, level.longest, apart=level.easy)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


class _Writer:
    """Draws and words one paragraph."""

    def __init__(self, dice: Dice, split: str, level: Level) -> None:
        self.dice, self.level = dice, level
        self.names = _names(dice, split, level)
        self.values = Values(dice, level.easy)

    # What there is to tell.

    def kinds(self, number: int) -> list[str]:
        options = _EASY_KINDS if self.level.easy else _KINDS
        first = self.dice.pick(options)
        others = [
            first if self.dice.chance(self.level.same_kind) else self.dice.pick(options)
            for _ in range(number - 1)
        ]
        return self.dice.shuffled([first, *others])

    def named(self, kinds: Sequence[str]) -> list[_Entity]:
        """An entity of each kind. Some share a word with an earlier one of their kind."""
        drawn: list[tuple[str, Name, str]] = []
        nouns: set[str] = set()
        for kind in kinds:
            likes = [(name, pronoun) for other, name, pronoun in drawn if other == kind]
            like = likes[-1] if likes and self.dice.chance(self.level.alike) else (None, "")
            drawn.append((kind, *self._name(kind, *like, nouns)))
        parts = [part for _, name, _ in drawn for part in (name.head, name.tail)]
        entities = []
        for kind, name, pronoun in drawn:
            own = [part for part in (name.head, name.tail) if part and parts.count(part) == 1]
            short = tuple(own)
            if kind in ("work", "building", "event", "thing"):  # "the castle"
                short = (f"the {name.tail.lower()}",) if name.tail in own else ()
            elif pronoun == "it":
                short = ()
            text = name.text
            if kind == "work" and text.startswith("The ") and self.dice.chance(0.5):
                text = "the " + text[4:]
            entities.append(_Entity(kind, text, short, pronoun))
        return entities

    def _name(
        self, kind: str, like: Name | None, likes_pronoun: str, nouns: set[str]
    ) -> tuple[Name, str]:
        """A name and its pronoun. nouns: of the things that the paragraph has already."""
        names = self.names
        if kind in ("person", "figure"):
            pronoun = likes_pronoun or self.dice.pick(("she", "he"))
            return names.person("woman" if pronoun == "she" else "man", like), pronoun
        if kind == "animal":
            return names.pet(), self.dice.pick(("she", "he"))
        if kind == "town":
            return names.town(), "it"
        if kind == "nature":
            return names.landmark(), "it"
        if kind == "thing":
            return names.thing(nouns), "it"
        return getattr(names, kind)(like), "it"  # work, building, team, company, event

    def answer(self, fact: Fact) -> Value:
        """A value of the fact's type."""
        kind = fact.answer_type
        if is_listed(kind):
            return self.values.listed(kind)
        if kind == "when":
            return self.values.when(fact.limits[0])
        if kind == "count":
            return self.values.count(fact.limits[0])
        if kind == "measure":
            return self.values.measure(fact.limits[0], fact.limits[1:])
        if kind == "money":
            return self.values.money(fact.limits[0])
        if kind == "clock":
            return self.values.clock()
        if kind == "weekday":
            return self.values.weekday()
        if kind in ("country", "language"):
            return Value(self.names.word(kind, 0.7))
        if kind == "person":
            kind = self.dice.pick(("woman", "man"))
        if kind in ("woman", "man"):
            return Value(self.names.person(kind).text)
        return Value(getattr(self.names, kind)().text)

    def told(self, entities: list[_Entity], each: int, types: list[str]) -> list[_Told]:
        """`each` facts of each type about every entity, shuffled, some left out, and decoys."""
        told: list[_Told] = []
        for answer_type in types:
            chosen: dict[str, list[Fact]] = {}
            for index, entity in enumerate(entities):
                facts = _facts(entity.kind, self.level.easy)[answer_type]
                if entity.kind not in chosen or not self.dice.chance(self.level.same_facts):
                    numbers = sorted(self.dice.shuffled(range(len(facts)))[:each])
                    chosen[entity.kind] = [facts[number] for number in numbers]
                values = [self.answer(fact) for fact in chosen[entity.kind]]
                if answer_type == "when" and all(value.rank is not None for value in values):
                    values.sort(key=lambda value: value.rank)
                told += map(_Told, [index] * each, chosen[entity.kind], values)
        left_out = self.dice.below(self.level.left_out + 1)
        told = self.dice.shuffled(told)[: len(told) - left_out]
        decoys = [
            item._replace(value=self.answer(item.fact), decoy=True)
            for item in told
            if item.fact.decoys and self.dice.chance(self.level.decoys)
        ]
        told = self.dice.shuffled(told + decoys)
        if self.dice.chance(self.level.grouped):
            order = self.dice.shuffled(range(len(entities)))
            told.sort(key=lambda item: order[item.entity])
        return told

    def linked(self, entities: list[_Entity], told: list[_Told]) -> dict[int, str]:
        """Make one person the answer of another entity's fact: {its index: "the friend of NAME"}.

        Changes `told` in place. {} where no fact has a person for an answer.
        """
        people = [i for i, entity in enumerate(entities) if entity.kind in ("person", "figure")]
        if not people or not self.dice.chance(self.level.linked):
            return {}
        target = self.dice.pick(people)
        other = {"woman": "he", "man": "she"}
        for i, item in enumerate(told):
            fits = entities[target].pronoun != other.get(item.fact.answer_type)
            if item.fact.noun and fits and not item.decoy and item.entity != target:
                told[i] = item._replace(value=Value(entities[target].name))
                return {target: item.fact.noun.replace("{E}", entities[item.entity].name)}
        return {}

    # How it is told.

    def wording(self, options: tuple[Wording, ...], value: Value) -> Wording:
        """One of the wordings that the value fits into."""
        if self.dice.chance(self.level.plain):
            options = options[:PLAIN]
        while True:
            wording = self.dice.pick(options)
            if "year" not in wording or value.text == value.year:
                return wording

    def filler(self) -> str:
        """A sentence about nobody who is asked for."""
        draw = {
            "P": lambda: self.names.person("woman").text,
            "Q": lambda: self.names.person("man").text,
            "T": lambda: self.names.town().text,
            "V": lambda: self.names.town().text,
            "Y": lambda: str(self.values.number("1100-2020")),
            "N": lambda: str(self.values.number("13-900")),
        }
        pieces = list(self.dice.pick(FILLERS))
        pieces[1::2] = [draw[slot]() for slot in pieces[1::2]]
        return "".join(pieces)

    def write(
        self, entities: list[_Entity], told: list[_Told]
    ) -> tuple[str, dict[int, tuple[int, int]]]:
        """The context, and where the answers and the full names stand in it (see _Clause)."""
        fillers = self.dice.below(self.level.fillers + 1)
        slots = {self.dice.below(len(told)) for _ in range(fillers)}
        text, spans = "", {}
        teller = _Teller(self, entities, told)
        i = 0
        while i < len(told):
            if i in slots:
                text += (" " if text else "") + self.filler()
                teller.last = -1  # "she" would now mean the person of the filler
            two = i + 1 < len(told) and self.dice.chance(self.level.joined)
            clause = teller.both(i, i + 1) if two else teller.clause(i)
            clause = clause._replace(text=_capital(clause.text)).after(text, " " if text else "")
            text = clause.text
            spans = {**clause.spans, **spans}
            i += 1 + two
        return text, spans

    # How it is asked for.

    def question(
        self,
        i: int,
        entities: list[_Entity],
        told: list[_Told],
        spans: dict[int, tuple[int, int]],
        links: dict[int, str],
    ) -> tuple[str, tuple[int, int]]:
        """A question that told fact i answers, and where its answer stands."""
        item = told[i]
        entity, fact = entities[item.entity], item.fact
        if fact.comparisons and self.dice.chance(self.level.compared):
            rivals = [
                j
                for j, rival in enumerate(told)
                if rival.fact is fact
                and not rival.decoy
                and rival.entity != item.entity
                and None not in (rival.value.rank, item.value.rank)
            ]
            if rivals:
                rival = told[self.dice.pick(rivals)]
                sign, wording = self.dice.pick(fact.comparisons)
                smaller, larger = sorted((item, rival), key=lambda told: told.value.rank)
                right = smaller if sign == "<" else larger
                names = [entities[told.entity].name for told in self.dice.shuffled((item, rival))]
                text, _ = _fill(wording, names[0], item.value, "it", names[1])
                return _capital(text), spans[~right.entity]
        peers = sum(other.kind == entity.kind for other in entities)
        if fact.inverse and peers > 2 and self.dice.chance(self.level.inverse):
            text, _ = _fill(self.dice.pick(fact.inverse), "", item.value, entity.pronoun)
            return _capital(text), spans[~item.entity]
        options = fact.questions
        if self.dice.chance(self.level.plain):
            options = options[:PLAIN]
        while True:
            part, wording = self.dice.pick(options)
            asked = getattr(item.value, part) if part else item.value.text
            if asked:
                break
        name = entity.name
        if item.entity in links and self.dice.chance(0.5):
            name = links[item.entity]
        elif entity.short and self.dice.chance(self.level.short / 2):
            name = self.dice.pick(entity.short)
        text, _ = _fill(wording, name, item.value, entity.pronoun)
        start, end = spans[i]
        if part in ("year", "number"):
            start += item.value.text.index(asked)
            end = start + len(asked)
        return _capital(text), (start, end)


class _Teller:
    """Puts facts into sentences, one after the other, and knows what a pronoun would mean."""

    def __init__(self, writer: _Writer, entities: list[_Entity], told: list[_Told]) -> None:
        self.dice, self.level, self.writer = writer.dice, writer.level, writer
        self.entities, self.items = entities, told
        self.last = -1  # the entity that a pronoun would mean
        self.known: set[int] = set()  # entities that were named in full

    def _wording(self, i: int) -> Wording:
        item = self.items[i]
        options = item.fact.decoys if item.decoy else item.fact.statements
        return self.writer.wording(options, item.value)

    def _mention(self, index: int, wording: Wording) -> str:
        entity = self.entities[index]
        if index not in self.known or not self.dice.chance(self.level.short):
            return entity.name
        if _subject_first(wording) and index == self.last and self.dice.chance(0.7):
            return entity.pronoun
        return self.dice.pick(entity.short) if entity.short else entity.name

    def clause(self, i: int) -> _Clause:
        """A sentence that tells fact i."""
        wording = self._wording(i)
        return self._told(i, wording, self._mention(self.items[i].entity, wording))

    def _told(self, i: int, wording: Wording, mention: str) -> _Clause:
        item = self.items[i]
        entity = self.entities[item.entity]
        text, starts = _fill(wording, mention, item.value, entity.pronoun)
        spans = {i: (starts["A"], starts["A"] + len(item.value.text))}
        if mention == entity.name:
            spans[~item.entity] = (starts["E"], starts["E"] + len(mention))
            self.known.add(item.entity)
        named = _NAMED if entity.pronoun == "it" else ("person",)
        ambiguous = _wide(item.fact.answer_type) in named
        self.last = -1 if ambiguous else item.entity
        return _Clause(text, spans)

    def both(self, i: int, j: int) -> _Clause:
        """One sentence that tells facts i and j."""
        same = self.items[i].entity == self.items[j].entity
        first, second = self._wording(i), self._wording(j)
        entity = self.entities[self.items[i].entity]
        mention = self._mention(self.items[i].entity, first)
        one = self._told(i, first, mention)
        if same and _is_predicate(first) and _is_predicate(second):
            two = self._told(j, second, "")
            if mention != entity.pronoun and self.dice.chance(0.4):
                which = "which" if entity.pronoun == "it" else "who"
                told = one.text[len(mention) : -1]
                start, end = one.spans[i]
                shift = len(f", {which}")
                spans = {**one.spans, i: (start + shift, end + shift)}
                two = two.after(f"{mention}, {which}{told},", "")
                return _Clause(two.text, {**two.spans, **spans})
            two = two.after(one.text[:-1] + " and", "")
        else:
            two = self._told(j, second, self._mention(self.items[j].entity, second))
            link = ", and" if same else self.dice.pick((", and", ", while", ";"))
            two = two.after(one.text[:-1] + link, " ")
            if not same:
                self.last = -1  # "she" could mean either
        return _Clause(two.text, {**two.spans, **one.spans})


def _wide(answer_type: str) -> str:
    return "person" if answer_type in ("woman", "man") else answer_type


def _subject_first(wording: Wording) -> bool:
    return wording[0] == "" and wording[1] == "E"


def _is_predicate(wording: Wording) -> bool:
    """Whether all that follows the entity is said of it: not "{E}'s", not "{E} and {A}"."""
    return _subject_first(wording) and wording[2].startswith(" ") and wording[2] != " and "


def _fill(
    wording: Wording, mention: str, value: Value, pronoun: str, other: str = ""
) -> tuple[str, dict[str, int]]:
    """The text of a wording, and where the entity and the answer begin in it."""
    text, starts = "", {}
    skipped = 0
    for i, piece in enumerate(wording):
        if i % 2 == 0:
            text += piece[skipped:]
            skipped = 0
        elif piece == "E":
            starts["E"] = len(text)
            possessive = wording[i + 1].startswith("'s")
            if possessive and mention in _FORMS:  # "her teacher"
                text += _FORMS[mention][1]
                skipped = 2
            else:
                text += mention
                if possessive and mention.endswith("s"):  # "the Rovers' coach"
                    text += "'"
                    skipped = 2
        elif piece in ("A", "year", "full", "a A", "in A"):
            if piece in ("a A", "in A") and value.lead:
                text += value.lead + " "
            starts["A"] = len(text)
            text += value.text
        elif piece == "F":
            text += other
        elif piece == "U":
            text += value.unit
        else:
            text += _FORMS[pronoun][("he", "his", "him").index(piece)]
    return text, starts


@cache
def _facts(kind: str, easy: bool) -> dict[str, tuple[Fact, ...]]:
    """What can be told of a kind of entity, by the type of the answer."""
    if not easy:
        return FACTS[kind]
    return {t: facts[:EASY] for t, facts in FACTS[kind].items() if t in _EASY_TYPES}


@cache
def _shared_types(kinds: tuple[str, ...], each: int, easy: bool) -> tuple[str, ...]:
    """The answer types that every kind has `each` facts of. A week has only seven days."""
    tables = [_facts(kind, easy) for kind in kinds]
    return tuple(
        answer_type
        for answer_type in tables[0]
        if all(len(table.get(answer_type, ())) >= each for table in tables)
        and (answer_type != "weekday" or each * len(kinds) <= 5)
    )


def _paragraph(dice: Dice, split: str, level: Level, title: str, key: str) -> Paragraph:
    writer = _Writer(dice, split, level)
    number, each, types = dice.pick(level.shapes)
    kinds = writer.kinds(number)
    while not (shared := _shared_types(tuple(kinds), each, level.easy)):
        kinds = writer.kinds(number)
    entities = writer.named(kinds)
    told = writer.told(entities, each, dice.shuffled(shared)[:types])
    links = writer.linked(entities, told)
    context, spans = writer.write(entities, told)
    questions: dict[str, tuple[int, int]] = {}
    for i in dice.shuffled([i for i, item in enumerate(told) if not item.decoy]):
        if len(questions) < MAX_QUESTIONS:
            text, span = writer.question(i, entities, told, spans, links)
            questions.setdefault(text, span)
    return Paragraph(
        title,
        context,
        tuple(
            Question(f"{key}-{number}", text, (context[start:end],), (start,))
            for number, (text, (start, end)) in enumerate(questions.items())
        ),
    )


def _article(seed: int, split: str, number: int, difficulty: int) -> list[Paragraph]:
    """Article `number`: four to six paragraphs under one title, whatever else is generated."""
    key = f"pico-{difficulty}-{seed}-{split}-{number}"
    dice, level = Dice(key), LEVELS[difficulty]
    title = f"Annals of {_names(dice, split, level).word('town')} {number + 1}"
    return [
        _paragraph(dice, split, level, title, f"{key}-{p}") for p in range(4 + dice.below(3))
    ]


def generate_articles(
    seed: int, split: str, num_articles: int, difficulty: int = 2
) -> list[Paragraph]:
    """The paragraphs of `num_articles` articles (4 to 6 each, 4 questions a paragraph at 2).

    split: "train" or "validation", which share no name. Article i is a function of
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

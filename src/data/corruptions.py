"""Ways to spoil an answer. Each takes a scene and a random generator and offers candidates.

A corruption function returns a short list of texts, in no order that matters; it may be empty where
the kind does not apply. It need not avoid the golds or look at lengths: the caller does both.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import product
from random import Random
from typing import NamedTuple

from src.data.answer_text import answer_type, normalize_answer, typed_spans
from src.data.squad_types import Paragraph

_WORD = re.compile(r"\w(?:\S*\w)?")  # a run without blanks, its outer punctuation left out
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+|\n+")
_MAX_SENTENCE = 600  # characters; what has no full stop for longer is no sentence
_SAMPLES = 6  # candidates of each length that are drawn from a large set
_MAX_CANDIDATES = 24  # of a paragraph's spans or answers


class View(NamedTuple):
    """What all questions of a paragraph share. words: (first, end) characters of each word;
    sentence_ends: where sentences end, 0 and the context's end included; typed: spans by type;
    by_length: (length, word) of its different words, shortest first; lower: in lower case;
    normalised: texts that were normalised before."""

    paragraph: Paragraph
    words: list[tuple[int, int]]
    sentence_ends: list[int]
    typed: dict[str, list[str]]
    by_length: list[tuple[int, str]]
    lower: str
    normalised: dict[str, str]

    def normal(self, text: str) -> str:
        """The text as SQuAD compares it; questions of a paragraph ask for the same texts often."""
        if text not in self.normalised:
            self.normalised[text] = normalize_answer(text)
        return self.normalised[text]


class Scene(NamedTuple):
    """A chosen answer where it stands: characters [start, start + len(chosen)) of the context;
    first, last: its words; question: its number in the paragraph."""

    view: View
    question: int
    chosen: str
    start: int
    first: int
    last: int

    def span(self, first: int, last: int) -> str:
        """The context from word `first` to word `last`, both included."""
        words = self.view.words
        return self.view.paragraph.context[words[first][0] : words[last][1]]


def make_view(paragraph: Paragraph) -> View:
    """Everything about a paragraph that its questions' corruptions look up."""
    context = paragraph.context
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(context)), len(context)]
    typed = {kind: typed_spans(context, kind) for kind in ("date", "number", "name")}
    words = [match.span() for match in _WORD.finditer(context)]
    by_length = sorted({(end - first, context[first:end]) for first, end in words})
    return View(paragraph, words, ends, typed, by_length, context.lower(), {})


def make_scene(view: View, question: int, gold: int) -> Scene:
    """The paragraph seen from gold number `gold` of one of its questions."""
    asked = view.paragraph.questions[question]
    chosen, start = asked.answers[gold], asked.starts[gold]
    last = max(0, bisect_left(view.words, (start + len(chosen),)) - 1)
    first = min(last, max(0, bisect_right(view.words, start, key=lambda word: word[1])))
    return Scene(view, question, chosen, start, first, last)


def other_span(scene: Scene, rng: Random) -> Sequence[str]:
    """Spans of the same context that do not touch the answer, about as long; and shorter words."""
    words, size = len(scene.view.words), scene.last - scene.first + 1
    found = []
    for number in range(3 * _SAMPLES):
        # A third at the answer's own length, a third below it, a third up to three words above.
        low, high = ((size, size), (1, max(1, size - 1)), (size, size + 3))[number % 3]
        length = low + int(rng.random() * (high - low + 1))
        first = int(rng.random() * words)
        if first + length <= words and (first > scene.last or first + length <= scene.first):
            found.append(scene.span(first, first + length - 1))
    shorter = bisect_left(scene.view.by_length, (len(scene.chosen), ""))
    if size == 1 and shorter:  # random words are rarely shorter than a number of three digits
        found += [
            scene.view.by_length[int(rng.random() * shorter)][1] for _ in range(_SAMPLES // 2)
        ]
    return found


def same_type(scene: Scene, rng: Random) -> Sequence[str]:
    """Dates for a date, numbers for a number, names for a name, from the same context."""
    return _some(scene.view.typed.get(answer_type(scene.chosen), []), rng)


def shifted(scene: Scene, rng: Random) -> Sequence[str]:
    """Either edge, or both, moved by one or two words; something of the answer is left in."""
    found = []
    for left, right in product((-2, -1, 0, 1, 2), repeat=2):
        first, last = scene.first + left, scene.last + right
        overlaps = first <= scene.last and last >= scene.first
        inside = 0 <= first <= last < len(scene.view.words)
        if (left or right) and overlaps and inside:
            found.append(scene.span(first, last))
    return found


def truncated(scene: Scene, rng: Random) -> Sequence[str]:
    """One word missing at an end. Does not apply to single words."""
    if len(scene.chosen.split()) < 2:
        return []
    return [scene.chosen.split(None, 1)[1], scene.chosen.rsplit(None, 1)[0].rstrip(",;:")]


def shuffled(scene: Scene, rng: Random) -> Sequence[str]:
    """The answer's own words in another order. Does not apply to single words."""
    words = scene.chosen.split()
    if len(words) < 2:
        return []
    orders = [sorted(words, key=lambda _: rng.random()) for _ in range(_SAMPLES)]
    return [" ".join(order) for order in orders]


def other_answer(scene: Scene, rng: Random) -> Sequence[str]:
    """Golds of the paragraph's other questions."""
    questions = scene.view.paragraph.questions
    if len(questions) > _MAX_CANDIDATES:
        numbers = [int(rng.random() * len(questions)) for _ in range(_MAX_CANDIDATES)]
    else:
        numbers = list(range(len(questions)))
    return [gold for q in numbers if q != scene.question for gold in questions[q].answers]


def sentence(scene: Scene, rng: Random) -> Sequence[str]:
    """The whole sentence around the answer."""
    ends, end = scene.view.sentence_ends, scene.start + len(scene.chosen)
    low = ends[bisect_right(ends, scene.start) - 1]
    high = ends[bisect_left(ends, end)]
    return [scene.view.paragraph.context[low:high].strip()] if high - low <= _MAX_SENTENCE else []


def unrelated(scene: Scene, rng: Random) -> Sequence[str]:
    """Phrases about something else altogether, that the context does not hold."""
    phrases = [_phrase(rng) for _ in range(2 * _SAMPLES)]
    return [phrase for phrase in phrases if phrase.lower() not in scene.view.lower]


def _some(items: list[str], rng: Random) -> list[str]:
    """All items, or where they are many, some."""
    if len(items) <= _MAX_CANDIDATES:
        return items
    return [items[int(rng.random() * len(items))] for _ in range(_MAX_CANDIDATES)]


def _list(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# Everyday words, one token each under most tokenizers, the small one of `pico` included: an odd
# phrase of rare words would be longer in tokens than in characters.
_ADJECTIVES = _list(
    """
    common different early economic electric general high important large local long low modern
    new popular political private public red small southern wrong
    """
)
_NOUNS = _list(
    """
    area army author book building camp car century church city class color company computer
    construction country crowd day design education emperor energy engine field fleet force form
    friend garden government growth history house income language law leader letter member
    method model month name network number object office order people place plague population
    power prison problem program region report result road rock school series ship song state
    steam student support system teacher television theory time town tradition treatment tree
    wall war water world year
    """
)
_PLACES = _list(
    """
    America Australia California China England Europe France Scotland Warsaw
    """
)
_NUMBERS = tuple(map(str, range(2, 100)))
_YEARS = tuple(map(str, range(1500, 2020)))
# From one word to seven, a word drawn from each of the lists.
_FORMS: tuple[tuple[Sequence[str], ...], ...] = (
    (_NOUNS,),
    (_PLACES,),
    (_NUMBERS,),
    (_YEARS,),
    (_ADJECTIVES, _NOUNS),
    (_NUMBERS, _NOUNS),
    (("the",), _NOUNS, ("of",), _PLACES),
    (_ADJECTIVES, _NOUNS, ("and",), _NOUNS),
    (("a",), _NOUNS, ("from",), _PLACES, ("in",), _YEARS),
    (("the",), _ADJECTIVES, _ADJECTIVES, _NOUNS, ("and",), _NOUNS, _NOUNS),
)


def _phrase(rng: Random) -> str:
    """One of some millions of phrases."""
    form = _FORMS[int(rng.random() * len(_FORMS))]
    return " ".join(words[int(rng.random() * len(words))] for words in form)

"""Ways to spoil an answer. Each takes a scene and a random generator and offers candidates.

A corruption function returns a short list of texts. Their order does not matter, and the list is
empty if the kind does not apply. The function need not avoid the golds or look at lengths: the
caller does both.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from random import Random
from typing import NamedTuple

from src.data.answer_text import answer_tokens, answer_type, typed_spans
from src.data.segmentation import main_script, piece_spans, sentence_edges, word_spans
from src.data.squad_types import Paragraph

_MAX_SENTENCE = 600  # characters; a longer text without a full stop is no sentence
_SAMPLES = 6  # candidates of each length that are drawn from a large set
_MAX_CANDIDATES = 24  # of a paragraph's spans or answers
_COMMAS = ",;:，；：、،؛"


class View(NamedTuple):
    """What all questions of a paragraph share.

    metric: how answers are compared. words: where each word stands. sentence_ends: where sentences
    end, 0 and the context's end included. typed: spans by type. by_length: (length, word) of its
    different words, shortest first. lower: the context in lower case. script: what most of it is
    written in. sampled: a model's answers by question number. normalised: texts normalised before.
    """

    paragraph: Paragraph
    metric: str
    words: list[tuple[int, int]]
    sentence_ends: list[int]
    typed: dict[str, list[str]]
    by_length: list[tuple[int, str]]
    lower: str
    script: str | None
    sampled: Mapping[int, Sequence[str]]
    normalised: dict[str, str]

    def normal(self, text: str) -> str:
        """The text as the metric compares it; a paragraph's questions ask for the same texts often.
        """
        if text not in self.normalised:
            self.normalised[text] = " ".join(answer_tokens(text, self.metric))
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


def make_view(
    paragraph: Paragraph, metric: str = "squad", sampled: Mapping[int, Sequence[str]] | None = None
) -> View:
    """Everything about a paragraph that its questions' corruptions look up."""
    context = paragraph.context
    typed = {kind: typed_spans(context, kind) for kind in ("date", "number", "name")}
    words = word_spans(context)
    by_length = sorted({(end - first, context[first:end]) for first, end in words})
    lower, script = context.lower(), main_script(context)
    ends = sentence_edges(context)
    sampled = sampled or {}
    return View(paragraph, metric, words, ends, typed, by_length, lower, script, sampled, {})


def make_scene(view: View, question: int, gold: int) -> Scene:
    """The paragraph seen from gold number `gold` of one of its questions."""
    asked = view.paragraph.questions[question]
    chosen, start = asked.answers[gold], asked.starts[gold]
    last = max(0, bisect_left(view.words, (start + len(chosen),)) - 1)
    first = min(last, max(0, bisect_right(view.words, start, key=lambda word: word[1])))
    return Scene(view, question, chosen, start, first, last)


def other_span(scene: Scene, rng: Random) -> Sequence[str]:
    """Spans of the same context, about as long as the answer and apart from it; and shorter words.
    """
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
    chosen, words = scene.chosen, piece_spans(scene.chosen)
    if len(words) < 2:
        return []
    return [chosen[words[1][0] :], chosen[: words[-2][1]].rstrip(_COMMAS)]


def shuffled(scene: Scene, rng: Random) -> Sequence[str]:
    """The answer's own words in another order. Does not apply to single words."""
    chosen, words = scene.chosen, piece_spans(scene.chosen)
    if len(words) < 2:
        return []
    gaps = ["", *(" " if a[1] < b[0] else "" for a, b in pairwise(words))]
    orders = [sorted(words, key=lambda _: rng.random()) for _ in range(_SAMPLES)]
    return [
        "".join(gap + chosen[first:end] for gap, (first, end) in zip(gaps, order, strict=True))
        for order in orders
    ]


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
    """Phrases about something else altogether that are not in the context. They are in its script,
    because another script would give them away. For a script without words here, they are numbers
    and years.
    """
    phrases = [_phrase(scene.view.script, rng) for _ in range(2 * _SAMPLES)]
    return [phrase for phrase in phrases if phrase.lower() not in scene.view.lower]


def sampled(scene: Scene, rng: Random) -> Sequence[str]:
    """What the model itself answered (on-policy negatives, as in SPIN: Chen et al. 2024,
    2401.01335).
    """
    return list(scene.view.sampled.get(scene.question, ()))


def _some(items: list[str], rng: Random) -> list[str]:
    """All items, or some of them if they are many."""
    if len(items) <= _MAX_CANDIDATES:
        return items
    return [items[int(rng.random() * len(items))] for _ in range(_MAX_CANDIDATES)]


def _list(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# Everyday words, one token each under most tokenizers, including the small one of `pico`. An odd
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


# Everyday nouns by script, in its most used language. A phrase has one to five.
_OTHER_NOUNS = {
    "Han": _list(
        """
        城市 国王 学校 河流 军队 音乐 铁路 医院 教师 历史 山 海 书 花园 工厂 电影 语言 冬天
        """
    ),
    "Kana": _list(
        """
        都市 王 学校 川 軍隊 音楽 鉄道 病院 先生 歴史 山 海 本 庭 工場 ニュース テレビ ことば
        """
    ),
    "Hangul": _list(
        """
        도시 왕 학교 강 군대 음악 철도 병원 교사 역사 산 바다 책 정원 공장 영화 언어 겨울
        """
    ),
    "Thai": _list(
        """
        เมือง กษัตริย์ โรงเรียน แม่น้ำ กองทัพ ดนตรี รถไฟ ครู ประวัติ ภูเขา ทะเล หนังสือ สวน
        หนัง ภาษา บ้าน
        """
    ),
    "Devanagari": _list(
        """
        शहर राजा विद्यालय नदी सेना संगीत रेल अस्पताल शिक्षक इतिहास पहाड़ समुद्र किताब बगीचा
        भाषा घर
        """
    ),
    "Arabic": _list(
        """
        مدينة ملك مدرسة نهر جيش موسيقى قطار مستشفى معلم تاريخ جبل بحر كتاب حديقة مصنع لغة
        بيت
        """
    ),
    "Cyrillic": _list(
        """
        город король школа река армия музыка поезд больница учитель история гора море книга
        сад язык дом
        """
    ),
    "Greek": _list(
        """
        πόλη βασιλιάς σχολείο ποτάμι στρατός μουσική τρένο νοσοκομείο δάσκαλος ιστορία βουνό
        θάλασσα βιβλίο κήπος γλώσσα σπίτι
        """
    ),
    "Hebrew": _list(
        """
        עיר מלך מפעל נהר צבא מוזיקה רכבת מורה היסטוריה הר ים ספר גן שפה בית חורף
        """
    ),
}
_JOINED_BY = {"Han": "", "Kana": "", "Thai": ""}


def _forms(script: str | None) -> Sequence[Sequence[Sequence[str]]]:
    if script == "Latin":
        return _FORMS
    nouns = _OTHER_NOUNS.get(script or "")
    numbers = [(_NUMBERS,), (_YEARS,)]
    return numbers + [(nouns,) * count for count in range(1, 6)] if nouns else numbers


def _phrase(script: str | None, rng: Random) -> str:
    """One of some millions of phrases; one of some hundreds if there are only numbers."""
    forms = _forms(script)
    form = forms[int(rng.random() * len(forms))]
    blank = _JOINED_BY.get(script or "", " ")
    return blank.join(words[int(rng.random() * len(words))] for words in form)

"""Preference pairs: a gold answer against a corruption of a recorded kind.

`CORRUPTIONS` is the one table to edit: a kind's weight, what makes it, what it teaches. Weights are
relative to those of the other kinds that apply to a question.

A pair is a pure function of the seed, the data set's name, the question's id and its paragraph. For
the user's own prompts it also depends on the neighbouring prompts.

Length must not give the answer away. Some kinds only lengthen (`sentence`), some only shorten
(`truncated`), some keep the length (`shuffled`), and the others can do either. For each question,
the kind is drawn by weight. The kinds that can do either are tilted, all by the same share, just so
far that longer and shorter rejections are equally likely over the question's mix of kinds.

For the same reason, a rejected answer that does not fit the model's block is no candidate. If such
pairs were drawn first and dropped later, the shorter rejections would be left.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

from src.data import corruptions as corrupt
from src.data.squad_types import NO_PLACE, Paragraph
from src.data.windows import Place
from src.utils.constants import CORRUPTIONS as KINDS
from src.utils.errors import UserError

# (paragraph number, question number, gold number, text) -> whether the text can be an answer there.
Fits = Callable[[int, int, int, str], bool]
Corruption = Callable[[corrupt.Scene, Random], Sequence[str]]

# Three times as much as all others together. Most pairs that can have the model's own wrong answer
# get it, as far as the balance of lengths below allows.
SAMPLED_WEIGHT = 24.0

# kind -> (weight, what makes it, what it teaches)
CORRUPTIONS: dict[str, tuple[float, Corruption, str]] = {
    "other_span": (1.0, corrupt.other_span, "being in the text is not enough"),
    "same_type": (1.0, corrupt.same_type, "the right date, number or name, not just any"),
    "shifted": (1.0, corrupt.shifted, "where an answer begins and ends"),
    "truncated": (1.0, corrupt.truncated, "nothing of the answer may be missing"),
    "shuffled": (1.0, corrupt.shuffled, "word order"),
    "other_answer": (1.0, corrupt.other_answer, "to read the question, not only the text"),
    "sentence": (1.0, corrupt.sentence, "no more than was asked for"),
    "unrelated": (1.0, corrupt.unrelated, "to stay with the text"),
    "sampled": (SAMPLED_WEIGHT, corrupt.sampled, "not to make the mistakes that the model makes"),
}


# Kinds that need the place of the answer in its context.
_NEED_A_PLACE = ("other_span", "shifted", "sentence")
# How many of the user's own prompts on either side lend their answers, for other_answer.
_NEIGHBOURS = 8


class Pair(NamedTuple):
    """chosen: a gold of question number `question` of paragraph number `paragraph`; gold: which of
    its golds; rejected: the corruption, of this kind."""

    question_id: str
    paragraph: int
    question: int
    chosen: str
    rejected: str
    kind: str
    gold: int


def parse_corruptions(text: str | None) -> dict[str, float]:
    """`--corruptions kind=weight,...` as weights by kind; kinds that are not named get none.

    None is the default mix of the table.

    >>> parse_corruptions("sentence=1,shifted=0.5")
    {'sentence': 1.0, 'shifted': 0.5}
    """
    if text is None:
        return {kind: weight for kind, (weight, _, _) in CORRUPTIONS.items()}
    weights: dict[str, float] = {}
    for part in text.split(","):
        kind, _, number = (piece.strip() for piece in part.partition("="))
        if kind not in KINDS:
            raise UserError(
                f"--corruptions {text}: unknown kind {kind!r}; expected kind=weight,... with kinds "
                f"of {', '.join(KINDS)}"
            )
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not 0 <= weight < float("inf") or kind in weights:
            raise UserError(
                f"--corruptions {text}: {part!r}; expected each kind once, "
                "with a weight of 0 or more, as in shifted=1,sentence=0.5"
            )
        weights[kind] = weight
    if not any(weights.values()):
        raise UserError(f"--corruptions {text}: all weights are 0; give at least one kind a weight")
    return weights


def make_pairs(
    paragraphs: Sequence[Paragraph],
    seed: int,
    data_name: str,
    corruptions: dict[str, float] | None = None,
    metric: str = "squad",
    fits: Fits | None = None,
    sampled: Mapping[Place, Sequence[str]] | None = None,
) -> list[Pair]:
    """One pair a question, in order; a question to which no kind applies has none.

    corruptions: weights by kind, as parse_corruptions gives them.
    metric: how answers are compared. By it no rejected text equals a gold of its question. No
    rejected text is empty.
    fits: which golds and rejected texts may be taken, None: all. If none may, a pair that does not
    fit is made, to be counted.
    sampled: what a model answered, by (paragraph, question) number, for the kind of that name.
    """
    sampled = sampled or {}
    weights = parse_corruptions(None) if corruptions is None else corruptions
    weights = {kind: weights[kind] for kind in KINDS if weights.get(kind, 0) > 0}
    pairs = []
    for number, paragraph in enumerate(paragraphs):
        answers = {q: sampled.get((number, q), ()) for q in range(len(paragraph.questions))}
        view = corrupt.make_view(_with_neighbours(paragraphs, number), metric, answers)
        for q, question in enumerate(paragraph.questions):
            key = f"{seed}\n{data_name}\n{question.id}".encode()
            rng = Random(int.from_bytes(hashlib.sha256(key).digest()))
            golds = range(len(question.answers))
            if fits is not None:
                golds = [g for g in golds if fits(number, q, g, question.answers[g])] or golds
            gold = golds[int(rng.random() * len(golds))]
            scene = corrupt.make_scene(view, q, gold)
            allowed = None if fits is None else partial(fits, number, q, gold)
            spoiled = _spoil(scene, weights, rng, allowed)
            if spoiled is not None:
                rejected, kind = spoiled
                pairs.append(Pair(question.id, number, q, scene.chosen, rejected, kind, gold))
    return pairs


def _with_neighbours(paragraphs: Sequence[Paragraph], number: int) -> Paragraph:
    """The paragraph. A prompt of the user's own gets the neighbouring questions after its own:
    their answers show what a wrong answer looks like.
    """
    paragraph = paragraphs[number]
    if paragraph.template:
        return paragraph
    low = max(0, number - _NEIGHBOURS)
    near = [*paragraphs[low:number], *paragraphs[number + 1 : number + 1 + _NEIGHBOURS]]
    more = tuple(question for p in near for question in p.questions[:_NEIGHBOURS])
    return paragraph._replace(questions=paragraph.questions + more)


def _spoil(
    scene: corrupt.Scene,
    weights: dict[str, float],
    rng: Random,
    fits: Callable[[str], bool] | None,
) -> tuple[str, str] | None:
    """(rejected, kind), or None where no kind has a candidate that is wrong."""
    golds = scene.view.paragraph.questions[scene.question].answers
    right = {scene.view.normal(gold) for gold in golds} | {""}
    wrong = {}
    for kind in weights:
        if scene.start == NO_PLACE and kind in _NEED_A_PLACE:
            continue
        candidates = CORRUPTIONS[kind][1](scene, rng)
        wrong[kind] = [text for text in candidates if scene.view.normal(text) not in right]
    if fits is not None:
        fitting = {kind: list(filter(fits, texts)) for kind, texts in wrong.items()}
        wrong = fitting if any(fitting.values()) else wrong
    sides = {kind: _by_length(texts, len(scene.chosen)) for kind, texts in wrong.items() if texts}
    if not sides:
        return None
    tilt, balanced = _balance(sides, weights)
    kind = _draw(sides, balanced, rng)
    side = max(sides[kind]) if rng.random() < tilt else min(sides[kind])
    options = _clearly(side, sides[kind][side], scene.chosen)
    return options[int(rng.random() * len(options))], kind


def _by_length(candidates: Sequence[str], length: int) -> dict[float, list[str]]:
    """The candidates that are longer (1.0), as long (0.5) and shorter (0.0), if there are any."""
    sides: dict[float, list[str]] = {}
    for text in candidates:
        side = 0.5 + 0.5 * ((len(text) > length) - (len(text) < length))
        sides.setdefault(side, []).append(text)
    return sides


def _clearly(side: float, candidates: list[str], chosen: str) -> list[str]:
    """Of the candidates on one side, those that most tokenizers agree on: the lengths differ by a
    quarter of the longer text, and the words do not say the opposite. If there are none, all.
    """
    sign, words = 2 * side - 1, chosen.count(" ")
    clear = [
        text
        for text in candidates
        if 4 * abs(len(text) - len(chosen)) >= max(len(text), len(chosen))
        and sign * (text.count(" ") - words) >= 0
    ]
    return clear or candidates


def _balance(
    sides: dict[str, dict[float, list[str]]], weights: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """The chance t of a kind's longest side rather than its shortest, and the weights. They make
    the mean side over the kinds 1/2: the sum of w * (low + t * (high - low)) is half the sum of w.

    If no t does it, as for a one-letter answer, t stops at 0 (or 1), and the kinds that can only
    lengthen (or shorten) give up as much weight as it takes.
    """
    excess = sum(weights[kind] * (0.5 - min(found)) for kind, found in sides.items())
    freedom = sum(weights[kind] * (max(found) - min(found)) for kind, found in sides.items())
    tilt = excess / freedom if freedom else 0.5
    if 0 <= tilt <= 1 and (freedom or not excess):
        return tilt, weights
    tilt, end = (0.0, min) if excess < 0 else (1.0, max)
    heavy = sum(weights[kind] for kind, found in sides.items() if end(found) == 1 - tilt)
    light = sum(weights[kind] for kind, found in sides.items() if end(found) == tilt)
    only_heavy = heavy == sum(weights[kind] for kind in sides)
    scale = 1.0 if only_heavy else light / heavy
    return tilt, {
        kind: weights[kind] * (scale if end(found) == 1 - tilt else 1.0)
        for kind, found in sides.items()
    }


def _draw(sides: dict[str, dict], weights: dict[str, float], rng: Random) -> str:
    """A kind, by weight."""
    mark = rng.random() * sum(weights[kind] for kind in sides)
    for kind in sides:
        mark -= weights[kind]
        if mark < 0:
            return kind
    return kind

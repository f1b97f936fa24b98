"""Preference pairs of a file, a folder or a hub set, split into training and held-out pairs.

They are held out by context, or by prompt if there are no contexts. Both answers to a held-out
prompt, and all other pairs of it, are never trained on.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from src.data.squad_loader import Reading, sources_at
from src.data.squad_parse import LoadReport
from src.data.squad_preferences import Pair
from src.data.squad_splits import VALIDATION_SHARE, share_beginnings
from src.data.squad_types import Paragraph, Question, single_blanks
from src.data.trained_contexts import context_hash, texts_of
from src.preference.pair_rows import EXPECTED_ROWS, PreferenceRow, in_template, parse_pairs
from src.utils.errors import UserError

# Takes the place of a corruption's kind.
GIVEN = "rejected"


class GivenPairs(NamedTuple):
    """train, held_out: pairs without a context or prompt in common; identity: what `--pairs` named,
    the counts, and a sha256 of all usable pairs; report: what was dropped and decided. trained_on:
    contexts that earlier stages read, as `load_given_pairs` was given them.
    """

    train: list[PreferenceRow]
    held_out: list[PreferenceRow]
    identity: dict
    report: LoadReport
    trained_on: Collection[int] = frozenset()


class PairQuestions(NamedTuple):
    """Pairs with the prompts that they belong to. groups: (P,) number of each pair's context or
    prompt, for intervals.
    """

    paragraphs: list[Paragraph]
    pairs: list[Pair]
    groups: list[int]


def load_given_pairs(
    name: str,
    *,
    template: bool = True,
    reserved: Collection[str] = frozenset(),
    trained_on: Collection[int] = frozenset(),
    limit: int | None = None,
    strict: bool = False,
) -> GivenPairs:
    """Load `--pairs`. UserError, in one line, where no pair is left to train on or to hold out.

    template: whether the model reads contexts and questions, as `Paragraph.template`.
    reserved: contexts and prompts that are held out elsewhere, so that nothing may be trained on
    them.
    trained_on: hashes of contexts and prompts of earlier stages. Others are held out first.
    limit: held-out pairs to keep, a seeded choice of whole prompts, the last one cut.
    strict: refuse data if any of it would be dropped.
    """
    report = LoadReport(strict)
    reading = Reading(parse_pairs, "--pairs", EXPECTED_ROWS)
    sources = sources_at(name, report, reading)
    found = {split: _read(load(), name, template) for split, load in sources.items()}
    if not any(found.values()):
        raise UserError(
            f"--pairs {name}: no usable pair; {'; '.join(report.lines()) or 'it is empty'}"
        )
    rows = [row for split in found.values() for row in split]
    later = found.get("validation") or found.get("test") or []
    if found.get("train") and later:
        train, held_out = _disjoint(found["train"], later, reserved, report)
    else:
        train, held_out = _hold_out(rows, reserved, trained_on, name, report)
    if not train:
        raise UserError(
            f"--pairs {name}: all {len(held_out)} pairs are of held-out contexts or prompts of the "
            "checkpoint's own data, expected some of others to train on: compare answers to "
            "training questions"
        )
    held_out = _choose(held_out, limit)
    identity = {
        "pairs": name,
        "train_pairs": len(train),
        "held_out_pairs": len(held_out),
        "fingerprint": fingerprint(rows),
    }
    return GivenPairs(train, held_out, identity, report, trained_on)


def fingerprint(rows: Sequence[PreferenceRow]) -> str:
    """sha256 over all texts of the pairs, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def unit_of(row: PreferenceRow) -> str:
    """What a pair is held out by: its context, or its prompt if it has no context; blanks aside.
    """
    return single_blanks(row.question if row.context is None else row.context)


def units_of(paragraphs: Sequence[Paragraph]) -> set[str]:
    """The contexts and prompts of questions, as `unit_of` has them."""
    return {single_blanks(text) for p in paragraphs for text in texts_of(p)}


def _read(rows: list[PreferenceRow], name: str, template: bool) -> list[PreferenceRow]:
    """The rows as the model reads prompts."""
    if template:
        return [in_template(row) for row in rows]
    if any(row.context is not None for row in rows):
        raise UserError(
            f"--pairs {name}: rows of context and question given to a model of prompts of your "
            "own, expected rows of prompt, chosen and rejected"
        )
    return rows


def _disjoint(
    train: list[PreferenceRow],
    held_out: list[PreferenceRow],
    reserved: Collection[str],
    report: LoadReport,
) -> tuple[list[PreferenceRow], list[PreferenceRow]]:
    """The file's own splits, without training pairs of a held-out or a reserved prompt."""
    units = {unit_of(row) for row in held_out}
    kept = [row for row in train if unit_of(row) not in units]
    report.drop(
        "training pairs on a context or prompt of the held-out split",
        "the training split",
        len(train) - len(kept),
    )
    more = [row for row in kept if unit_of(row) in reserved]
    _note_reserved(len(more), report)
    return [row for row in kept if unit_of(row) not in reserved], [*held_out, *more]


def _hold_out(
    rows: list[PreferenceRow],
    reserved: Collection[str],
    trained_on: Collection[int],
    name: str,
    report: LoadReport,
) -> tuple[list[PreferenceRow], list[PreferenceRow]]:
    """Hold out whole contexts or prompts: all reserved ones, then others until a tenth of the pairs
    is held out, at least one. Those that no earlier stage was trained on come first. Hashes decide
    the order, so the choice is the same for every seed and stage.
    """
    unit, key = "context or prompt", unit_of
    if len({key(row) for row in rows}) == 1:
        unit, key = "question", PreferenceRow.prompt
    sizes = Counter(map(key, rows))
    if len(sizes) == 1:
        raise UserError(
            f"--pairs {name}: {len(rows)} pairs of one prompt, of which none can be held out; "
            "expected at least two prompts"
        )
    kept_away = {key(row) for row in rows if unit_of(row) in reserved}
    held = sum(sizes[one] for one in kept_away)
    _note_reserved(held, report)
    units, wanted = set(kept_away), VALIDATION_SHARE * len(rows)
    known = {key(row) for row in rows if context_hash(unit_of(row)) in trained_on}
    order = sorted(
        sizes.keys() - kept_away,
        key=lambda one: (one in known, hashlib.sha256(repr(one).encode()).digest()),
    )
    for one in order:
        if abs(held + sizes[one] - wanted) < abs(held - wanted):
            units.add(one)
            held += sizes[one]
    units = units or {order[0]}
    train = [row for row in rows if key(row) not in units]
    held_out = [row for row in rows if key(row) in units]
    report.notes.append(
        f"by {unit}, {len(units)} of {len(sizes)} are held out: {len(train)} pairs to train on, "
        f"{len(held_out)} held out"
    )
    return train, held_out


def _note_reserved(count: int, report: LoadReport) -> None:
    if count:
        report.notes.append(
            f"{count} pairs are of held-out contexts or prompts of the checkpoint's own data: they "
            "are held out"
        )


def _choose(rows: list[PreferenceRow], limit: int | None) -> list[PreferenceRow]:
    if limit is None or len(rows) <= limit:
        return rows
    units = list(dict.fromkeys(map(unit_of, rows)))
    random.Random(0).shuffle(units)
    order = {unit: number for number, unit in enumerate(units)}
    first = sorted(range(len(rows)), key=lambda n: order[unit_of(rows[n])])[:limit]
    return [rows[n] for n in sorted(first)]


def pair_questions(rows: Sequence[PreferenceRow]) -> PairQuestions:
    """The prompts of some pairs as paragraphs, each prompt once, with their pairs."""
    asked: dict[str | None, dict[str, Question]] = {}
    for context, question in map(PreferenceRow.prompt, rows):
        key = hashlib.sha256(f"{context}\x00{question}".encode()).hexdigest()[:24]
        asked.setdefault(context, {}).setdefault(question, Question(key, question, (), ()))
    prompts = asked.pop(None, {})
    paragraphs = [
        Paragraph(context, context, tuple(questions.values()))
        for context, questions in asked.items()
    ]
    alone = [Paragraph(text, "", (prompt,), False) for text, prompt in prompts.items()]
    paragraphs += share_beginnings(alone)
    places = {
        (paragraph.context if paragraph.template else None, question.text): (p, q, question.id)
        for p, paragraph in enumerate(paragraphs)
        for q, question in enumerate(paragraph.questions)
    }
    pairs = []
    for row in rows:
        p, q, key = places[row.prompt()]
        pairs.append(Pair(key, p, q, row.chosen, row.rejected, GIVEN, 0))
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(unit_of(row), len(numbers)) for row in rows]
    return PairQuestions(paragraphs, pairs, groups)

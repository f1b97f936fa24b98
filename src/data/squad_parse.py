"""From the values of data files and hub rows to paragraphs, checked row by row.

A row is one question in the layout of the hub's SQuAD, {"id", "title", "context", "question",
"answers"}, or a task of the user's own, {"prompt", "completion"} or {"prompt", "answers"}. The
official layout (v1.1 and v2.0: articles, paragraphs, qas) is read as such rows. A file of another
layout is refused. A row that cannot be used is dropped and counted by reason; under `strict` the
first of them is named in a UserError instead.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from src.data.row_files import BadLine
from src.data.squad_types import NO_PLACE, Paragraph, Question
from src.utils.errors import UserError

# Characters that an answer may stand away from its answer_start (annotation tools: 1 to 9).
NEAR = 20
_KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list",
          dict: "an object", type(None): "null", BadLine: "no JSON"}
EXPECTED_ROWS = (
    "rows of context, question and answers, rows of prompt and completion, or SQuAD's layout"
)


@dataclass
class LoadReport:
    """What loading left out, mended and decided.

    strict: the first row to be dropped is a UserError. dropped, mended: reason -> count; first: the
    place of each reason's first case; notes: whole sentences.
    """

    strict: bool = False
    dropped: dict[str, int] = field(default_factory=dict)
    mended: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, place: str, count: int = 1) -> None:
        """Count what is dropped at `place`, or refuse it."""
        if self.strict and count:
            raise UserError(
                f"{place}: {reason}; --strict_data takes only rows that can all be used: "
                "mend it, or leave the flag out to drop such rows"
            )
        self._count(self.dropped, reason, place, count)

    def mend(self, what: str, place: str) -> None:
        """Count what is used although it is not as it should be."""
        self._count(self.mended, what, place, 1)

    def _count(self, counts: dict[str, int], reason: str, place: str, count: int) -> None:
        if count:
            counts[reason] = counts.get(reason, 0) + count
            self.first.setdefault(reason, place)

    def lines(self) -> list[str]:
        """All of it for people, a reason a line."""
        return [
            *self.notes,
            *(f"dropped: {n} {reason}; first: {self.first[reason]}"
              for reason, n in self.dropped.items()),
            *(f"mended: {n} {what}; first: {self.first[what]}" for what, n in self.mended.items()),
        ]


class BadRow(Exception):
    """Why a row cannot be used."""


def rows_of(
    value: Any, source: str, report: LoadReport, expected: str = EXPECTED_ROWS
) -> Iterator[tuple[str, Any]]:
    """(place, row) of every question in a file's value: the official layout, {"data": rows}, a list
    of rows, or one row. UserError for any other layout. expected: the kinds of rows, in words.
    """
    if isinstance(value, dict):
        value = value.get("data", [value])
    if not isinstance(value, list):
        raise UserError(
            f"{source}: {kind_of(value)} where a list of rows or articles belongs; expected "
            f"{expected}"
        )
    official = any(isinstance(item, dict) and "paragraphs" in item for item in value)
    for number, item in enumerate(value, 1):
        if official:
            yield from _article_rows(item, f"{source}, article {number}", report)
        else:
            yield f"{source}, row {number}", item


def _article_rows(article: Any, place: str, report: LoadReport) -> Iterator[tuple[str, Any]]:
    """The rows of an article of the official layout, whose lists have to be there."""
    paragraphs = _list(article, "paragraphs", place)
    title = article.get("title")
    place += f" ({excerpt(title)})" if isinstance(title, str) else ""
    for p, paragraph in enumerate(paragraphs, 1):
        above = f"{place}, paragraph {p}"
        questions = _list(paragraph, "qas", above)
        if not questions:
            report.drop("paragraph without questions", above)
        for q, row in enumerate(questions, 1):
            if isinstance(row, dict):
                row = {**row, "title": title, "context": paragraph.get("context")}
            yield f"{above}, question {q}", row


def _list(holder: Any, key: str, place: str) -> list:
    found = holder.get(key, BadRow) if isinstance(holder, dict) else holder
    if isinstance(found, list) and isinstance(holder, dict):
        return found
    fault = f"no {key!r}" if found is BadRow else f"{kind_of(found)} where a list {key!r} belongs"
    raise UserError(
        f"{place}: {fault}; expected SQuAD's layout: articles, paragraphs, qas, answers"
    )


def parse_rows(rows: Iterable[tuple[str, Any]], report: LoadReport) -> list[Paragraph]:
    """Paragraphs of the usable rows, one for each title and context, in the order of the rows.

    report: what is dropped and mended is counted there.
    """
    found: dict[tuple[str, str, bool], list[Question]] = {}
    seen: set[str] = set()
    for place, row in rows:
        try:
            where, question = _read_row(row, place, report)
            asked = found.setdefault(where, [])
            if asked and not where[2]:
                asked[0] = _joined(asked[0], question)
            elif question.id in seen:
                raise BadRow("duplicate id")
            else:
                asked.append(question)
            seen.add(question.id)
        except BadRow as fault:
            report.drop(str(fault), with_id(place, row))
    return [
        Paragraph(title, context, tuple(asked), template)
        for (title, context, template), asked in found.items()
        if asked
    ]


def _joined(known: Question, again: Question) -> Question:
    """An equal prompt's answers beside those that are known."""
    answers = tuple(dict.fromkeys(known.answers + again.answers))
    return known._replace(answers=answers, starts=(NO_PLACE,) * len(answers))


def _read_row(row: Any, place: str, report: LoadReport) -> tuple[tuple[str, str, bool], Question]:
    """((title, context, template), question) of a row; BadRow where it cannot be used."""
    if not isinstance(row, dict):
        raise BadRow(f"{kind_of(row)} where an object belongs")
    template = "prompt" not in row or "question" in row
    if template:
        context, question = text_of(row, "context"), text_of(row, "question")
    else:
        context, question = "", text_of(row, "prompt")
    key = _id(row, context, question)
    if str(row.get("is_impossible")).lower() in ("true", "1", "1.0"):
        raise BadRow("unanswerable (v2.0)")
    if "answers" not in row and "answers.text" in row:  # as `datasets` flattens tables
        golds = {key: row.get(f"answers.{key}") for key in ("text", "answer_start")}
        row = row | {"answers": golds}
    if "answers" not in row and "completion" not in row:
        raise BadRow("no 'answers'" if template else "no 'completion' and no 'answers'")
    golds: list[tuple[str, Any]] = []
    for column in ("answers", "completion"):  # a table has both, of which a row may fill one
        if column in row and not any(text.strip() for text, _ in golds):
            golds = _golds(row[column]) or golds
    if not golds:
        raise BadRow("no answers")
    good = []
    for text, start in golds:
        if not text.strip():
            report.drop("empty answer", with_id(place, row))
        elif template:
            good.append(_placed(context, text, start, with_id(place, row), report))
        else:
            good.append((text.strip(), NO_PLACE))
    if not good:
        raise BadRow("question left without answers")
    title = question if not template else _title(row) or context
    return (title, context, template), Question(key, question, *map(tuple, zip(*good, strict=True)))


def _title(row: dict) -> str:
    """The article; "" where none is named: the context is then an article of its own."""
    title = _whole(row.get("title"))
    return "" if title is None or str(title).strip() == "" else sound_text(str(title), "title")


def _whole(value: Any) -> Any:
    """12 for 12.0 and None for NaN: a table with gaps holds its whole numbers as such. Any other
    value is itself.
    """
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def text_of(row: dict, key: str) -> str:
    """The text under a key of a row; BadRow without one."""
    if key not in row:
        raise BadRow(f"no {key!r}")
    if not isinstance(row[key], str):
        raise BadRow(f"{key!r} is {kind_of(row[key])}, expected text")
    if not row[key].strip():
        raise BadRow(f"empty {key}")
    return sound_text(row[key], key)


def sound_text(text: str, what: str) -> str:
    """The text, if it has UTF-8, hence tokens, and no NUL; else BadRow."""
    if "\x00" in text:
        raise BadRow(f"NUL in the {what}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"lone surrogate in the {what}") from None
    return text


def _id(row: dict, context: str, question: str) -> str:
    """The id as text; of a row without one, a hash of what is asked."""
    key = _whole(row.get("id"))
    if key is None:
        return hashlib.sha256(f"{context}\x00{question}".encode()).hexdigest()[:24]
    if type(key) not in (str, int):
        raise BadRow(f"'id' is {kind_of(key)}, expected text or a whole number")
    return text_of({"id": str(key)}, "id")


def _golds(value: Any) -> list[tuple[str, Any]]:
    """(text, answer_start or None) of each answer. It may have any of the usual shapes: a text, a
    list of texts, a list of {"text", "answer_start"}, or one such object, whose values are lists
    (the hub's) or single.
    """
    if isinstance(value, dict):
        if "text" not in value:
            raise BadRow("'answers' without 'text'")
        texts, starts = (v if isinstance(v, list) else [v]
                         for v in (value["text"], value.get("answer_start")))
        if len(starts) != len(texts):
            starts = [None] * len(texts)
        pairs = list(zip(texts, starts, strict=True))
    else:
        pairs = []
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                pairs += _golds(item)
            else:
                pairs.append((item, None))
    # NaN, the null of tables, is no text either.
    return [(_answer(text), start) for text, start in pairs if text is not None and text == text]


def _answer(text: Any) -> str:
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str):
        raise BadRow(f"an answer is {kind_of(text)}, expected text")
    return sound_text(text, "answer")


def _placed(
    context: str, text: str, start: Any, place: str, report: LoadReport
) -> tuple[str, int]:
    """(answer without blanks around it, its first character in the context or NO_PLACE).

    The annotator's position is taken: looking the text up would take its first occurrence. Only
    where the text does not stand there is it looked for, near that position or, without one, in the
    whole context, and taken where it occurs once.
    """
    if isinstance(start, str) and re.fullmatch(r"\d{1,9}(\.0+)?", start):
        start = float(start)  # CSV has "8", or "8.0" in a column with gaps
    start = _whole(start)
    known = type(start) is int and start != -1  # with -1 tools say that they do not know
    answer = text.strip()
    low, high = 0, len(context)
    if known:
        start += len(text) - len(text.lstrip())
        if start >= 0 and context.startswith(answer, start):
            return answer, start
        low, high = max(0, start - NEAR), max(0, start + NEAR + len(answer))
    found = context.find(answer, low, high)
    if found < 0 or context.find(answer, found + 1, high) >= 0:
        return answer, NO_PLACE
    report.mend(
        "answer found again near its answer_start" if known
        else "answer without answer_start that occurs once in its context", place
    )
    return answer, found


def kind_of(value: Any) -> str:
    """What a value is, in a word or two."""
    return _KINDS.get(type(value), type(value).__name__)


def with_id(place: str, row: Any) -> str:
    """The place, and what people find the row by: its id, or the names that it has."""
    if not isinstance(row, dict):
        return place
    if isinstance(row.get("id"), str | int):
        return f"{place} (id {excerpt(str(row['id']))})"
    return f"{place} (with {', '.join(map(excerpt, map(str, row)))[:200]})"


def excerpt(text: str) -> str:
    """A text for a message: one printable line of at most 40 characters."""
    printable = (c if c.isprintable() else ascii(c)[1:-1] for c in text[:40])
    return "".join(printable) or "empty text"

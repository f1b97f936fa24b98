"""The official SQuAD layout (v1.1 and v2.0), checked: bad files are refused, bad rows dropped.

A file of the wrong shape (broken JSON, a missing key, a number where text belongs) is no SQuAD
file: UserError, with article, paragraph and question named. A well-formed row that cannot be used
is dropped and counted by reason; under `strict` the first of them is named in a UserError instead.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.data.squad_types import Paragraph, Question
from src.utils.errors import UserError

MAX_FILE_BYTES = 2 << 30

_TYPES = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


class Dropped:
    """Counts of what was left out, by reason. `strict` turns the first of them into a UserError."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.counts: dict[str, int] = {}

    def add(self, reason: str, place: str, count: int = 1) -> None:
        """Count what is dropped at `place`, or refuse it."""
        if self.strict and count:
            raise UserError(
                f"{place}: {reason}; --strict_data takes only rows that can all be used: "
                "mend it, or leave the flag out to drop such rows"
            )
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count


def read_json(path: Path) -> Any:
    """The JSON value of a regular file of up to 2 GB; a fault is one line that names the file."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: no regular file; expected a SQuAD JSON file")
        if status.st_size > MAX_FILE_BYTES:
            raise UserError(
                f"{path}: {status.st_size} bytes; expected a SQuAD file of at most "
                f"{MAX_FILE_BYTES}: split it"
            )
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a SQuAD JSON file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; expected SQuAD JSON") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "is the file cut short? download it again"
        ) from None
    except (RecursionError, ValueError):  # nested too deep; a number of thousands of digits
        raise UserError(f"{path}: JSON that nests too deep or has absurd numbers") from None


def parse_squad(root: Any, source: str, dropped: Dropped) -> list[Paragraph]:
    """The paragraphs that have at least one usable question, in file order.

    root: the value of a SQuAD file; source: how messages call it; dropped: counts are added to it.
    Paragraphs of one title and context stay apart, as the file has them.
    """
    seen: set[str] = set()
    paragraphs = []
    for title, paragraph, place in _paragraphs(root, source):
        context = _get(paragraph, "context", str, place)
        rows = _get(paragraph, "qas", list, place)
        fault = _text_fault(title, "title") or _text_fault(context, "context")
        questions = []
        for number, row in enumerate(rows):
            where = f"{place}, question {number + 1}"
            question = _question(row, where, context, seen, dropped, fault)
            if question is not None:
                questions.append(question)
        if not rows:
            dropped.add("paragraph without questions", place)
        if questions:
            paragraphs.append(Paragraph(title, context, tuple(questions)))
    return paragraphs


def _paragraphs(root: Any, source: str) -> Iterator[tuple[str, Any, str]]:
    """(title, paragraph, place) of each paragraph; the layout above them is checked on the way."""
    for a, article in enumerate(_get(root, "data", list, source)):
        place = f"{source}, article {a + 1}"
        title = _get(article, "title", str, place)
        place = f"{place} ({_short(title)})"
        for p, paragraph in enumerate(_get(article, "paragraphs", list, place)):
            yield title, paragraph, f"{place}, paragraph {p + 1}"


def _question(
    row: Any, place: str, context: str, seen: set[str], dropped: Dropped, context_fault: str
) -> Question | None:
    """One row of `qas`, or None where it is dropped. Its whole shape is checked either way."""
    key = _get(row, "id", str, place)
    place = f"{place} (id {_short(key)})"
    text = _get(row, "question", str, place)
    golds = [
        (
            _get(answer, "text", str, f"{place}, answer {number + 1}"),
            _get(answer, "answer_start", int, f"{place}, answer {number + 1}"),
        )
        for number, answer in enumerate(_get(row, "answers", list, place))
    ]
    fault = context_fault or _text_fault(key, "id") or _text_fault(text, "question")
    if not fault and key in seen:
        fault = "duplicate id"
    if not fault and row.get("is_impossible") is True:
        fault = "unanswerable (v2.0)"
    if not fault and not golds:
        fault = "no answers"
    if fault:
        dropped.add(fault, place)
        return None
    good = []
    for answer, start in golds:
        # The annotator's position: looking the text up again would take its first occurrence.
        if not answer.strip():
            dropped.add("empty answer", place)
        elif start < 0 or not context.startswith(answer, start):
            dropped.add("answer not at its answer_start", place)
        else:
            lead = len(answer) - len(answer.lstrip())
            good.append((answer.strip(), start + lead))
    if not good:
        dropped.add("question left without answers", place)
        return None
    seen.add(key)
    return Question(key, text, tuple(a for a, _ in good), tuple(s for _, s in good))


def _get(holder: Any, key: str, kind: type, place: str) -> Any:
    """holder[key], which must exist and have exactly this JSON type (true is no number)."""
    if type(holder) is not dict:
        raise UserError(
            f"{place}: {_short(holder)} where an object with {key!r} belongs; "
            "expected the official SQuAD layout"
        )
    if key not in holder:
        raise UserError(f"{place}: no {key!r}; expected the official SQuAD layout")
    if type(holder[key]) is not kind:
        raise UserError(
            f"{place}: {key!r} is {_short(holder[key])}; expected {_TYPES[kind]}, "
            "as in the official SQuAD layout"
        )
    return holder[key]


def _text_fault(text: str, what: str) -> str:
    """Why this text cannot be used, or "". Lone surrogates have no UTF-8, hence no tokens."""
    if not text.strip() and what != "title":
        return f"empty {what}"
    if "\x00" in text:
        return f"NUL in the {what}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"lone surrogate in the {what}"
    return ""


def _short(value: Any) -> str:
    """A value for a message: one printable line of at most 40 characters, however large it is."""
    if isinstance(value, list | dict):
        return f"{_TYPES[type(value)]} of {len(value)}"
    text = value if isinstance(value, str) else str(value)
    return ascii(text[:40])[1:-1] or "empty text"

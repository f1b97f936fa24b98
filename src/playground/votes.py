"""The file of votes: whole lines only, whatever is killed, however many windows write.

A vote is one line of JSON. It counts once the file has been replaced by one with that line, flushed
to the disk. Writers take turns by a lock on a file beside it. `train_dpo.py --pairs` takes the file
as it is; a tie stands in it and is no pair.
"""

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from src.utils.file_lock import lock_file
from src.utils.files import require_file_place, write_atomically

# What may be voted.
A, B, TIE = "a", "b", "tie"


class Candidate(NamedTuple):
    """An answer. policy: its name on the page; sha256: of its checkpoint; seed, temperature: it was
    sampled with.
    """

    text: str
    policy: str
    sha256: str
    seed: int
    temperature: float


class Comparison(NamedTuple):
    """Two answers as they are shown. context: None where the question is a whole prompt."""

    context: str | None
    question: str
    a: Candidate
    b: Candidate


def vote_row(comparison: Comparison, vote: str, now: datetime | None = None) -> dict[str, Any]:
    """The line of a vote: a pair in a shape of `--pairs`, and all that is known of it."""
    row: dict[str, Any] = {"id": uuid.uuid4().hex, "vote": vote}
    row["time"] = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    if comparison.context is None:
        row["prompt"] = comparison.question
    else:
        row |= {"context": comparison.context, "question": comparison.question}
    if vote != TIE:
        chosen, rejected = comparison.a, comparison.b
        if vote == B:
            chosen, rejected = rejected, chosen
        row |= {"chosen": chosen.text, "rejected": rejected.text}
    return row | {"a": comparison.a._asdict(), "b": comparison.b._asdict()}


def _alone(path: Path) -> BinaryIO:
    """No other process or thread changes the file until the returned one is closed."""
    return lock_file(path.with_name(f".{path.name}.lock"), wait=True)


def append_vote(path: Path, row: dict[str, Any]) -> None:
    """Add one line and have it on the disk. Raises OSError, with the file as it was, where the disk
    refuses.

    The file is replaced by one with the line: a kill in the middle of a write would leave a part of
    the line.
    """
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    with _alone(path):
        before = path.read_bytes() if path.exists() else b""
        if before and not before.endswith(b"\n"):  # of another program
            before += b"\n"
        write_atomically(path, lambda file: file.write(before + line))


def remove_vote(path: Path, vote_id: str) -> bool:
    """Take a vote back, wherever in the file it stands; False where it is not there. A reader sees
    the file with it or without it, never a part.
    """
    with _alone(path):
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return False
        kept = [line for line in lines if _id_of(line) != vote_id]
        if len(kept) == len(lines):
            return False
        write_atomically(path, lambda file: file.writelines(kept))
    return True


def count_votes(path: Path) -> dict[str, int]:
    """Votes in the file: a, b and tie; other lines are not counted."""
    counts = dict.fromkeys((A, B, TIE), 0)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return counts
    for line in lines:
        vote = _row_of(line).get("vote")
        if isinstance(vote, str) and vote in counts:
            counts[vote] += 1
    return counts


def require_vote_file(path: Path) -> None:
    """UserError where no votes can be written, before anybody votes."""
    require_file_place("preferences", path)


def _row_of(line: bytes) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _id_of(line: bytes) -> str | None:
    return _row_of(line).get("id")

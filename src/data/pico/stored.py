"""Generated paragraphs, kept on disk: every stage wants them, and making them takes seconds."""

import contextlib
import hashlib
import json
from functools import cache
from pathlib import Path

from src.data.pico.generate import generate_articles
from src.data.squad_splits import count_questions, first
from src.data.squad_types import Paragraph, Question
from src.utils.files import write_atomically

CACHE_DIR = ".cache/pico"
# Below this many, making them takes no longer than reading them.
_WORTH_STORING = 5_000


def generate_questions(
    seed: int, split: str, questions: int, difficulty: int, cache_dir: str | Path = CACHE_DIR
) -> list[Paragraph]:
    """The first generated paragraphs that hold this many questions. More articles change none.

    cache_dir: a folder for one file a call. A damaged file is made anew; a folder that cannot be
    written is left alone.
    """
    key = f"{_generator()} {seed} {split} {questions} {difficulty}"
    path = Path(cache_dir) / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    if questions >= _WORTH_STORING and (found := _read(path)) is not None:
        return found
    articles, paragraphs = 4, generate_articles(seed, split, 4, difficulty)
    while (held := count_questions(paragraphs)) < questions:
        articles = max(articles + 1, int(1.02 * questions * articles / held) + 1)
        paragraphs = generate_articles(seed, split, articles, difficulty)
    paragraphs = first(paragraphs, questions)
    if questions >= _WORTH_STORING:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(paragraphs)
            body = f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}".encode()
            write_atomically(path, lambda file: file.write(body))
    return paragraphs


@cache
def _generator() -> str:
    """A hash of the generator's source: paragraphs of another version are not read."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _read(path: Path) -> list[Paragraph] | None:
    """The paragraphs of a file; None if there is none or it is damaged."""
    try:
        checksum, text = path.read_text(encoding="utf-8").split("\n", 1)
    except (OSError, ValueError):
        return None
    if hashlib.sha256(text.encode()).hexdigest() != checksum:
        return None
    return [
        Paragraph(title, context, tuple(
            Question(name, asked, tuple(answers), tuple(starts))
            for name, asked, answers, starts in questions
        ), template)
        for title, context, questions, template in json.loads(text)
    ]

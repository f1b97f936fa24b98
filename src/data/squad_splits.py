"""Operations on whole lists of paragraphs: count, hash, sample, and split by article title."""

import hashlib
import json
from collections.abc import Sequence
from random import Random

from src.data.squad_parse import Dropped
from src.data.squad_types import Paragraph
from src.utils.errors import UserError

VALIDATION_SHARE = 0.1  # of a lone file's titles


def count_questions(paragraphs: Sequence[Paragraph]) -> int:
    """Questions of all paragraphs together."""
    return sum(len(paragraph.questions) for paragraph in paragraphs)


def content_hash(paragraphs: Sequence[Paragraph]) -> str:
    """sha256 over all text and positions, as JSON, so that no two contents look alike."""
    digest = hashlib.sha256()
    for paragraph in paragraphs:
        digest.update(json.dumps(paragraph).encode())
    return digest.hexdigest()


def split_by_title(paragraphs: list[Paragraph], source: str) -> dict[str, list[Paragraph]]:
    """Train and validation of a lone file: a tenth of the titles, at least one, are held out.

    The titles' hashes alone decide, so every stage splits alike, whatever its seed.
    """
    titles = sorted(
        {p.title for p in paragraphs}, key=lambda title: hashlib.sha256(title.encode()).digest()
    )
    if len(titles) < 2:
        raise UserError(
            f"--dataset {source}: {len(titles)} articles with usable questions; what has no split "
            "of its own is split by title and needs two: give a folder with train*.json and "
            "validation*.json"
        )
    held_out = set(titles[: max(1, round(VALIDATION_SHARE * len(titles)))])
    return {
        "train": [p for p in paragraphs if p.title not in held_out],
        "validation": [p for p in paragraphs if p.title in held_out],
    }


def disjoint(
    train: list[Paragraph], validation: list[Paragraph], dropped: Dropped
) -> list[Paragraph]:
    """The training paragraphs whose title and context are not in validation."""
    titles = {p.title for p in validation}
    contexts = {p.context.strip() for p in validation}
    kept = [p for p in train if p.title not in titles and p.context.strip() not in contexts]
    dropped.add(
        "training questions on an article or context of the validation split",
        "the training split",
        count_questions(train) - count_questions(kept),
    )
    return kept


def sample(paragraphs: list[Paragraph], questions: int | None, seed: int) -> list[Paragraph]:
    """Whole paragraphs, drawn until they hold this many questions, in their old order."""
    if questions is None or count_questions(paragraphs) <= questions:
        return paragraphs
    rng = Random(f"sample-{seed}")
    order = sorted(range(len(paragraphs)), key=lambda _: rng.random())
    taken = len(first([paragraphs[i] for i in order], questions))
    return [paragraphs[i] for i in sorted(order[:taken])]


def first(paragraphs: list[Paragraph], questions: int) -> list[Paragraph]:
    """The shortest beginning of the list with at least this many questions."""
    held = 0
    for number, paragraph in enumerate(paragraphs):
        if held >= questions:
            return paragraphs[:number]
        held += len(paragraph.questions)
    return paragraphs

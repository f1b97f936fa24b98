"""The two records that every SQuAD-shaped source yields. No imports beyond typing, so no cycles."""

from typing import NamedTuple


class Question(NamedTuple):
    """A question; `answers[i]` starts at character `starts[i]` of the context; duplicates stay."""

    id: str
    text: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


class Paragraph(NamedTuple):
    """One context with its questions; `title` is the article's, the unit of every split."""

    title: str
    context: str
    questions: tuple[Question, ...]

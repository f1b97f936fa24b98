"""The two records that every source yields. No imports beyond typing, so no cycles."""

from typing import NamedTuple

NO_PLACE = -1


class Question(NamedTuple):
    """A question; `answers[i]` starts at character `starts[i]` of the context, NO_PLACE where that
    is not known; duplicates stay."""

    id: str
    text: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


class Paragraph(NamedTuple):
    """One context with its questions; `title` is the article's, the unit of every split.

    template: False for prompts of the user's own. Each question's text is then a whole prompt, of
    which `context` is the beginning that all of them share, perhaps empty.
    """

    title: str
    context: str
    questions: tuple[Question, ...]
    template: bool = True

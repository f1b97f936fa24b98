"""The two records that every source yields, and when two of their texts are the same. No imports
beyond typing, so no cycles.
"""

from typing import NamedTuple

NO_PLACE = -1


def single_blanks(text: str) -> str:
    """The text with each run of blanks and line ends as one blank, and none around it. Contexts and
    prompts are the same, and never on both sides of a split, where these are.

    >>> single_blanks(" It rained. \\r\\n All day.")
    'It rained. All day.'
    """
    return " ".join(text.split())


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

"""When two answers count as the same (SQuAD v1.1), and what type a span of text looks like."""

import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
)
_NUMBER_WORD = (
    "(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million)"
)
_CAPITALISED = r"[^\W\d_a-z][\w'’-]*"
# Tried in this order: a date holds a number, and a month is a capitalised word.
_TYPES = {
    "date": re.compile(
        rf"\b(?:\d{{1,2}} )?{_MONTH}\b(?: \d{{1,2}}\b)?(?:,? \d{{4}}\b)?|\b(?:1\d|20)\d\d\b"
    ),
    "number": re.compile(rf"\b\d+(?:[.,]\d+)*\b|\b{_NUMBER_WORD}\b", re.IGNORECASE),
    "name": re.compile(rf"\b{_CAPITALISED}(?: (?:(?:of|the|de|van|von) )*{_CAPITALISED})*"),
}
# Words that owe their capital to the start of a sentence; a name does not begin with them.
_OPENER = re.compile(
    "^(?:(?:A|After|All|Also|An|And|As|At|Before|Both|But|By|During|For|From|He|Her|His|How|I|If|In|"
    "It|Its|Many|Most|No|Of|On|One|Or|Other|She|Since|So|Some|That|The|Their|Then|There|These|They|"
    f"This|Those|To|Under|Until|We|What|When|Where|Which|While|Who|With|{_MONTH})(?: |$))+"
)


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation, drop articles, and squeeze white space, in that order.

    Punctuation is deleted, not replaced by a space, so "3-4" becomes "34"; an en dash is not
    ASCII and stays, so "3–4" does not.

    Source: evaluate-v1.1.py of SQuAD (Rajpurkar et al. 2016), normalize_answer.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_type(answer: str) -> str:
    """date, number, name or other, by its form alone.

    >>> [answer_type(a) for a in ("12 May 1804", "forty-two of 50", "Dar Bek", "a tailor")]
    ['date', 'number', 'name', 'other']
    """
    return next((kind for kind, form in _TYPES.items() if form.search(answer)), "other")


def typed_spans(context: str, kind: str) -> list[str]:
    """The spans of the context that look like this type, in order; for `other`, all its words.

    >>> typed_spans("In 1804 The Guild of Dar Bek had 50 poets.", "name")
    ['Guild of Dar Bek']
    """
    if kind == "other":
        return context.split()
    if kind == "number":  # the day and the year of a date are no numbers
        context = _TYPES["date"].sub("", context)
    spans = [match.group() for match in _TYPES[kind].finditer(context)]
    if kind == "name":
        spans = [_OPENER.sub("", span) for span in spans]
    return [span for span in spans if span]

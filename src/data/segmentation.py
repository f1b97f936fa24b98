"""Graphemes, words and sentences of any script, by Unicode properties.

A grapheme is what a reader takes for one character (`\\X`, UAX 29): a letter with its marks.
Nothing here cuts inside one. In scripts that write no blanks between words (Han, kana, Thai, Lao,
Khmer, Burmese) it takes a dictionary to find words. As in UAX 29 without a dictionary, every
grapheme counts as a word there, and a run of katakana as one word.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence

import regex

Span = tuple[int, int]  # characters [first, end)

# Letters of scripts without blanks. SA is Unicode's line-breaking class of Thai and its like.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{LB=SA}ーｰ"
# An unspaced "word". In Thai and Lao the vowels written before and after a consonant stay with it;
# in Khmer and Burmese a subscript, and a consonant that closes the syllable.
_UNIT = (
    r"(?:[\p{Katakana}][\p{Katakana}ーｰﾞﾟ\p{M}]*"
    rf"|[\p{{Logical_Order_Exception}}]*(?=[{UNSPACED}])\X"
    r"(?:(?<=[\u17D2\u1039])\X|(?=\p{Myanmar}[\u1037\u103A])\X|[ะาๅๆฯະາໆ\p{M}])*)"
)
# Marks that end a word with no blank after them: full stops but ASCII's, punctuation of East Asia,
# the Tibetan and Ethiopic marks between words.
_BREAKS = r"[\p{STerm}--[.!?]][[\u3000-\u303F\uFF00-\uFFEF]&&\p{P}]་፡"
_WORD = regex.compile(  # a run without blanks, its outer punctuation left out
    rf"(?V1){_UNIT}"
    rf"|[[\p{{L}}\p{{N}}_]--[{UNSPACED}]]"
    rf"(?:[\S--[{UNSPACED}]--[{_BREAKS}]]*[[\p{{L}}\p{{M}}\p{{N}}_]--[{UNSPACED}]])?"
)
_ASCII_WORD = re.compile(r"\w(?:\S*\w)?")  # what that is in ASCII, three times as fast
_HAS_UNSPACED = regex.compile(rf"(?V1)[{UNSPACED}]")
_OPENING = r"[\p{Ps}\p{Pi}]*"
_PIECE = regex.compile(
    rf"(?V1){_OPENING}{_UNIT}[[\p{{P}}\p{{S}}]--[\p{{Ps}}\p{{Pi}}]]*"
    rf"|[\S--[{UNSPACED}]]+?(?=\s|$|{_OPENING}[{UNSPACED}])"
)
_NO_BLANKS = re.compile(r"\S+")
_GRAPHEME = regex.compile(r"\X")
_LETTER = regex.compile(r"\p{L}")
_CLOSING = "[\"'”’)\\]」』】》〉〕）］»›]*"
# Thai and Lao have no full stop; a blank between their letters parts phrases. Greek asks with a
# semicolon.
_SENTENCE_END = regex.compile(
    rf"(?V1)(?:[.!?]|(?<=\p{{Greek}});){_CLOSING}\s+|[\p{{STerm}}--[.!?]]+{_CLOSING}\s*|\n+"
    r"|(?<=[\p{Thai}\p{Lao}])\s+(?=[\p{Thai}\p{Lao}])"
)
# Script -> the language that is most likely written in it (CLDR's likely subtags, UTS 35).
LANGUAGES = {
    "Han": "zh", "Kana": "ja", "Hangul": "ko", "Thai": "th", "Lao": "lo", "Khmer": "km",
    "Myanmar": "my", "Tibetan": "bo", "Devanagari": "hi", "Bengali": "bn", "Gurmukhi": "pa",
    "Gujarati": "gu", "Oriya": "or", "Tamil": "ta", "Telugu": "te", "Kannada": "kn",
    "Malayalam": "ml", "Sinhala": "si", "Arabic": "ar", "Hebrew": "he", "Cyrillic": "ru",
    "Greek": "el", "Armenian": "hy", "Georgian": "ka", "Ethiopic": "am",
}
_OF_SCRIPT = {name: rf"\p{{{name}}}" for name in ("Latin", *LANGUAGES)}
_OF_SCRIPT["Kana"] = r"[\p{Hiragana}\p{Katakana}]"
_SCRIPT_RUN = regex.compile("|".join(rf"(?P<{n}>{one}+)" for n, one in _OF_SCRIPT.items()))
_THE = re.compile(r"\bthe\b", re.IGNORECASE)


def word_spans(text: str) -> list[Span]:
    """Where the words stand, in order, outer punctuation left out.

    >>> text = "Dr. Ray's re-run (2010年)。"
    >>> [text[first:end] for first, end in word_spans(text)]
    ['Dr', "Ray's", 're-run', '2010', '年']
    """
    if text.isascii():
        return [match.span() for match in _ASCII_WORD.finditer(text)]
    return _widened([match.span() for match in _WORD.finditer(text)], text)


def _widened(spans: Sequence[Span], text: str) -> list[Span]:
    """The spans, moved outwards to the edges of graphemes; those that then overlap become one."""
    edges = [match.start() for match in _GRAPHEME.finditer(text)] + [len(text)]
    found: list[Span] = []
    for first, end in spans:
        first = edges[bisect_right(edges, first) - 1]
        end = edges[bisect_left(edges, end)]
        if found and first < found[-1][1]:
            before = found.pop()
            first, end = before[0], max(end, before[1])
        found.append((first, end))
    return found


def piece_spans(text: str) -> list[Span]:
    """The text cut at blanks, and where a script has none between its words; punctuation stays.

    >>> piece_spans("《三体》 is good.")
    [(0, 2), (2, 4), (5, 7), (8, 13)]
    """
    if text.isascii():
        return [match.span() for match in _NO_BLANKS.finditer(text)]
    pattern = _PIECE if _HAS_UNSPACED.search(text) else _NO_BLANKS
    return _widened([match.span() for match in pattern.finditer(text)], text)


def pieces(text: str) -> list[str]:
    """The texts of `piece_spans`; for a script with blanks, text.split().

    >>> pieces("《三体》 is good.")
    ['《三', '体》', 'is', 'good.']
    """
    return [text[first:end] for first, end in piece_spans(text)]


def sentence_edges(text: str) -> list[int]:
    """Where sentences begin and end: 0, the text's length, and all between.

    >>> sentence_edges("Is it? 是。不是"), sentence_edges("यह है। वह था")
    ([0, 7, 9, 11], [0, 7, 12])
    """
    return [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]


def main_script(text: str) -> str | None:
    """The script of most of its letters: Latin (also of a text without letters), one of LANGUAGES,
    or None for any other. Han with kana is Kana.
    """
    if text.isascii():
        return "Latin"
    counts: Counter[str] = Counter(Latin=0)
    for run in _SCRIPT_RUN.finditer(text):
        counts[run.lastgroup] += len(run[0])
    if counts["Kana"]:
        counts["Kana"] += counts.pop("Han", 0)
    best, count = counts.most_common(1)[0]
    return best if 2 * count >= len(_LETTER.findall(text)) else None


def language_of(text: str) -> str:
    """The language of a long text as HTML's `lang` wants it, "" where it is not known: English by
    its article, others by their script.

    >>> language_of("The king of the town"), language_of("यह है"), language_of("Der König")
    ('en', 'hi', '')
    """
    script = main_script(text)
    if script != "Latin":
        return LANGUAGES.get(script or "", "")
    return "en" if 50 * len(_THE.findall(text)) >= len(text.split()) > 0 else ""

"""When two answers count as the same, and what type a span of text looks like."""

import re
import string
import unicodedata

import regex

from src.data.segmentation import UNSPACED, pieces
from src.utils.constants import ANSWER_METRICS

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ANY_PUNCTUATION = regex.compile(rf"[\p{{P}}{re.escape(string.punctuation)}]+")
# What the mixed metric compares: a grapheme where the script has no blanks between words, or is
# Hangul, whose words carry particles; elsewhere a word.
_MIXED_TOKEN = regex.compile(
    rf"(?V1)(?=[{UNSPACED}\p{{Hangul}}])\X|(?:(?![{UNSPACED}\p{{Hangul}}])\S)+"
)

_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
)
# Other languages' months are taken for such only beside a number: "mai" alone may be anything.
_OTHER_MONTH = (
    "(?:Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember"
    "|январ[ьяе]|феврал[ьяе]|март[ае]?|апрел[ьяе]|ма[йяе]|июн[ьяе]|июл[ьяе]|август[ае]?"
    "|сентябр[ьяе]|октябр[ьяе]|ноябр[ьяе]|декабр[ьяе]"
    "|जनवरी|फ़रवरी|फरवरी|मार्च|अप्रैल|मई|जून|जुलाई|अगस्त|सितंबर|सितम्बर|अक्टूबर|अक्तूबर|नवंबर|नवम्बर"
    "|दिसंबर|दिसम्बर"
    "|يناير|فبراير|مارس|أبريل|إبريل|مايو|يونيو|يوليو|أغسطس|سبتمبر|أكتوبر|نوفمبر|ديسمبر"
    "|มกราคม|กุมภาพันธ์|มีนาคม|เมษายน|พฤษภาคม|มิถุนายน|กรกฎาคม|สิงหาคม|กันยายน|ตุลาคม|พฤศจิกายน"
    "|ธันวาคม"
    "|Ιανουαρίου|Φεβρουαρίου|Μαρτίου|Απριλίου|Μαΐου|Ιουνίου|Ιουλίου|Αυγούστου|Σεπτεμβρίου"
    "|Οκτωβρίου|Νοεμβρίου|Δεκεμβρίου)"
)
_THAI_ERA = r"[พค]\.ศ\. ?"
# A year with its sign, and after it a month and a day: 2010年5月1日, 2010년 5월 1일, 平成22年.
_EAST_ASIAN_DATE = (
    r"(?:(?<!\d)\d{3,4} ?[年년]|(?<!\d)[〇零○一二三四五六七八九]{4}年"
    r"|(?:明治|大正|昭和|平成|令和)(?:\d{1,2}|元)年)"
    r"(?: ?\d{1,2} ?[月월](?: ?\d{1,2} ?[日号號일])?)?"
    r"|(?<!\d)\d{1,2} ?[月월] ?\d{1,2} ?[日号號일]"
)
_NUMBER_WORD = (
    "(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million)"
)
# Where a number or a name may begin and end. It may not be beside a letter that could make it part
# of a code (A4). It may be beside a letter of a script without capitals, as in 2010年 or 3명.
_LEFT = r"(?<![\p{Cased}\p{M}\p{N}\p{GCB=Prepend}_])"
_RIGHT = r"(?![\p{Cased}\p{M}\p{N}_])"
_CAPITALISED = rf"[\p{{Lu}}\p{{Lt}}][[\w'’\-]--[{UNSPACED}]]*"
# Tried in this order: a date holds a number, and a month is a capitalised word. Read with all
# digits as ASCII's.
_TYPES = {
    "date": regex.compile(
        rf"(?V1){_LEFT}(?:\d{{1,2}} )?{_MONTH}{_RIGHT}(?: \d{{1,2}}{_RIGHT})?"
        rf"(?:,? \d{{4}}{_RIGHT})?"
        rf"|{_LEFT}\d{{1,2}}\.? {_OTHER_MONTH}(?![\p{{L}}\p{{M}}\p{{N}}])"
        rf"(?: (?:{_THAI_ERA})?\d{{4}}{_RIGHT})?"
        rf"|(?<![\p{{L}}\p{{M}}]){_OTHER_MONTH} (?:{_THAI_ERA})?\d{{4}}{_RIGHT}"
        rf"|{_THAI_ERA}\d{{4}}{_RIGHT}"
        rf"|(?:{_EAST_ASIAN_DATE})(?!\p{{M}})"
        rf"|{_LEFT}(?:1\d|20)\d\d{_RIGHT}"
    ),
    "number": regex.compile(
        rf"(?V1){_LEFT}\d+(?:[.,٫٬]\d+)*{_RIGHT}|{_LEFT}(?i:{_NUMBER_WORD}){_RIGHT}"
    ),
    "name": regex.compile(
        rf"(?V1){_LEFT}{_CAPITALISED}(?: (?:(?:of|the|de|van|von) )*{_CAPITALISED})*"
    ),
}
# Words that owe their capital to the start of a sentence; a name does not begin with them.
_OPENER = re.compile(
    "^(?:(?:A|After|All|Also|An|And|As|At|Before|Both|But|By|During|For|From|He|Her|His|How|I|If|In|"
    "It|Its|Many|Most|No|Of|On|One|Or|Other|She|Since|So|Some|That|The|Their|Then|There|These|They|"
    "This|Those|To|Under|Until|We|What|When|Where|Which|While|Who|With|"
    "А|В|Во|Для|До|Его|Ее|Её|Если|За|И|Из|Их|К|Как|Когда|На|Но|О|Об|Он|Она|Они|Оно|От|По|После|При|"
    "С|Со|У|Эта|Эти|Это|Этот|"
    f"Από|Για|Η|Και|Με|Ο|Οι|Στη|Στην|Στις|Στο|Στον|Τα|Την|Της|Το|Τον|Του|Των|{_MONTH})(?: |$))+"
)
_OTHER_DIGIT = regex.compile(r"(?V1)[\p{Nd}--[0-9]]")


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation, drop articles, and squeeze white space, in that order.

    Punctuation is deleted, not replaced by a space, so "3-4" becomes "34"; an en dash is not
    ASCII and stays, so "3–4" does not.

    Source: evaluate-v1.1.py of SQuAD (Rajpurkar et al. 2016), normalize_answer.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def mixed_tokens(text: str) -> list[str]:
    """What the mixed metric compares: lower case, without punctuation of any script and English
    articles, cut at blanks, and into characters where a script has no blanks (and in Korean).

    Source: mlqa_evaluation_v1.py of MLQA (Lewis et al. 2020), mixed_segmentation, whose characters
    are Han alone; KorQuAD 1.0 counts characters of Hangul.

    >>> mixed_tokens("《三体》, the 3-4 Books")
    ['三', '体', '34', 'books']
    """
    return _MIXED_TOKEN.findall(_ARTICLES.sub(" ", _ANY_PUNCTUATION.sub("", text.lower())))


def answer_tokens(text: str, metric: str = "squad") -> list[str]:
    """The words, or whatever else `--answer_metric` counts, of an answer. Two answers are the same
    where these are.
    """
    if metric not in ANSWER_METRICS:
        raise ValueError(f"metric {metric!r}: expected {' or '.join(ANSWER_METRICS)}")
    return mixed_tokens(text) if metric == "mixed" else normalize_answer(text).split()


def answer_type(answer: str) -> str:
    """date, number, name or other, by its form alone.

    >>> [answer_type(a) for a in ("12 May 1804", "forty-two of 50", "Dar Bek", "a tailor")]
    ['date', 'number', 'name', 'other']
    >>> [answer_type(a) for a in ("2010年", "٣٫٥", "Тула", "über", "सीता")]
    ['date', 'number', 'name', 'other', 'other']
    """
    digits = _with_ascii_digits(answer)
    return next((kind for kind, form in _TYPES.items() if form.search(digits)), "other")


def typed_spans(context: str, kind: str) -> list[str]:
    """The spans of the context that look like this type, in order; for `other`, all its words.

    >>> typed_spans("In 1804 The Guild of Dar Bek had 50 poets.", "name")
    ['Guild of Dar Bek']
    """
    if kind == "other":
        return pieces(context)
    if kind == "number":  # the day and the year of a date are no numbers
        for first, end in reversed(_spans_of("date", context)):
            context = context[:first] + context[end:]
    spans = [context[first:end] for first, end in _spans_of(kind, context)]
    if kind == "name":
        spans = [_OPENER.sub("", span) for span in spans]
    return [span for span in spans if span]


def _spans_of(kind: str, text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _TYPES[kind].finditer(_with_ascii_digits(text))]


def _with_ascii_digits(text: str) -> str:
    """The text, as long, with every script's decimal digits as 0 to 9."""
    if text.isascii():
        return text
    return _OTHER_DIGIT.sub(lambda found: str(unicodedata.decimal(found[0], found[0])), text)

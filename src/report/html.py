"""HTML that escapes by construction: text becomes markup only through `tag`."""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
VOID = {"br", "img", "link", "meta", "source"}


class Markup(str):
    """Finished HTML. Any other string is text, and is escaped where it goes into a tag."""


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """<name attributes>content</name>; content that is no Markup is escaped, None left out.

    Attributes: a trailing underscore is dropped, others become dashes; None is left out and True
    stands alone.

    >>> tag("a", "1 < 2", tag("br"), class_="x&y", data_n=3)
    '<a class="x&amp;y" data-n="3">1 &lt; 2<br></a>'
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None:
            words.append(f'{key}="{_escaped(value)}"')
    opened = f"<{' '.join(words)}>"
    return Markup(opened if name in VOID else f"{opened}{join(content)}</{name}>")


def join(content: Iterable[object]) -> Markup:
    """Pieces of text and markup one after the other."""
    return Markup(
        "".join(x if isinstance(x, Markup) else _escaped(x) for x in content if x is not None)
    )


def document(title: str, body: Markup, more_css: str = "") -> str:
    """A whole page that fetches nothing. more_css: beside page.css."""
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(css + more_css)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', body), lang='en')}\n"


def sections(contents: Sequence[tuple[str, str, Sequence[Markup]]], nothing: str) -> Markup:
    """Links to the sections, and the sections: (anchor, heading, content) each. nothing: what an
    empty one says.
    """
    empty = [tag("p", nothing, class_="faint")]
    return join([
        tag("nav", *(tag("a", words, href=f"#{key}") for key, words, _ in contents)),
        *(tag("section", tag("h2", words), *(content or empty), id=key)
          for key, words, content in contents),
    ])


def table(
    heads: Iterable[object], rows: Iterable[Markup], words: str | None = None, **attributes
) -> Markup:
    """A table as wide as it needs. heads: of the columns; words: its caption."""
    caption = None if words is None else tag("caption", tag("div", words))
    head = tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads)))
    found = tag("table", caption, head, tag("tbody", *rows), **attributes)
    return tag("div", found, class_="wide")


def _escaped(value: object) -> str:
    """Text as HTML has it; what HTML forbids (control characters but white space, halves of
    surrogate pairs, what Unicode calls no character) is replaced by U+FFFD.
    """
    return html.escape(_FORBIDDEN.sub("\ufffd", str(value)))

"""HTML that escapes by construction: text becomes markup only through `tag`."""

import html
import re
from collections.abc import Iterable

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
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


def _escaped(value: object) -> str:
    """Text as HTML has it; what HTML forbids (control characters, halves of surrogate pairs, what
    Unicode calls no character) is replaced by U+FFFD.
    """
    return html.escape(_FORBIDDEN.sub("\ufffd", str(value)))

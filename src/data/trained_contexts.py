"""Which contexts a model and all its ancestors were trained on, so that none is called held out.

A checkpoint keeps 8 bytes of each context's hash, blanks aside: 8 KB for a thousand contexts. It
knows them even if their file is gone. A set of them is a sorted int64 tensor. A custom prompt has
no context of its own; its whole text is hashed.
"""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from src.data.squad_types import Paragraph, single_blanks


def context_hash(context: str) -> int:
    """64 bits, signed, of a context; runs of blanks and line ends count as one blank."""
    text = single_blanks(context).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], signed=True)


def contexts_of(paragraphs: Sequence[Paragraph]) -> Tensor:
    """The set of the paragraphs' contexts."""
    hashes = sorted({context_hash(text) for p in paragraphs for text in texts_of(p)})
    return torch.tensor(hashes, dtype=torch.int64)


def union(sets: Iterable[Tensor]) -> Tensor:
    """One set of several."""
    return torch.cat([torch.zeros(0, dtype=torch.int64), *sets]).unique()


def split_by_training(
    paragraphs: Sequence[Paragraph], trained_on: Tensor
) -> tuple[list[Paragraph], list[Paragraph]]:
    """(paragraphs whose context is not in the set, those whose context is), in order. A paragraph
    of custom prompts counts as seen if any of them is.
    """
    known = set(trained_on.tolist())
    unseen: list[Paragraph] = []
    seen: list[Paragraph] = []
    for paragraph in paragraphs:
        found = any(context_hash(text) in known for text in texts_of(paragraph))
        (seen if found else unseen).append(paragraph)
    return unseen, seen


def texts_of(paragraph: Paragraph) -> list[str]:
    """The context, or the custom prompts, each of which is all that its answer is read from."""
    if paragraph.template:
        return [paragraph.context]
    return [question.text for question in paragraph.questions]

"""Paragraphs as token ids: the three strings of a prompt, each encoded apart, cached on disk.

A prompt is `Context: {c}\\n`, then `Question: {q}\\nAnswer:`, then ` {a}`, then EOS, which is
not stored. c and q are right-stripped. Encoding the parts apart is what lets a context's
ids be shared by its questions, and a question's by its answers.

Custom prompts (`Paragraph.template` is False) are the user's text and nothing else: the prefix that
they share, which may be empty, then the rest of each.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex

from src.data.squad_splits import content_hash
from src.data.squad_types import Paragraph
from src.data.tokenizers.tokenizer import Tokenizer
from src.utils.files import write_atomically

CONTEXT_HEAD = "Context:"
CACHE_FORMAT = 1
_QUESTION = "\nQuestion: "
_ANSWER = "\nAnswer:"
_DENSE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")


class EncodedQuestion(NamedTuple):
    """tokens: `Question: {q}\\nAnswer:`; golds: ` {a}` each, without EOS; texts, starts:
    the golds as text and their first characters in the paragraph's context, or NO_PLACE."""

    id: str
    tokens: list[int]
    golds: list[list[int]]
    texts: tuple[str, ...]
    starts: tuple[int, ...]


class EncodedParagraph(NamedTuple):
    """context: the text as loaded; tokens: `Context: {c}\\n`; token_starts: (len(tokens),) int32,
    the character of `Context: {c}\\n` each token begins at (windows need it); template: as in
    Paragraph."""

    title: str
    context: str
    tokens: list[int]
    token_starts: np.ndarray
    questions: list[EncodedQuestion]
    template: bool = True


def context_text(context: str) -> str:
    """The first string of a prompt."""
    return f"{CONTEXT_HEAD} {context.rstrip()}\n"


def question_text(question: str) -> str:
    """The second string of a prompt."""
    return f"Question: {question.rstrip()}{_ANSWER}"


def answer_text(answer: str) -> str:
    """The third: the answer as the model writes it, before EOS."""
    return f" {answer}"


def split_prompt(text: str) -> tuple[str, str]:
    """A raw prompt as (context part, question part), to be encoded apart; their sum is `text` but
    for blanks before the two line ends. What is not of the form is all question: ("", text).

    >>> split_prompt("Context: It is blue.\\nQuestion: What?\\nAnswer:")
    ('Context: It is blue.\\n', 'Question: What?\\nAnswer:')
    >>> split_prompt("Once upon a time")
    ('', 'Once upon a time')
    """
    body = text.rstrip()
    cut = body.rfind(_QUESTION)
    if cut < 0 or not body.startswith(f"{CONTEXT_HEAD} ") or not body.endswith(_ANSWER):
        return "", text
    question = body[cut + len(_QUESTION) : -len(_ANSWER)]
    return context_text(body[len(CONTEXT_HEAD) + 1 : cut]), question_text(question)


def prompt_parts(paragraph: Paragraph) -> tuple[str, list[str]]:
    """The first string of a paragraph's prompts, and the second of each of its questions."""
    questions = [question.text for question in paragraph.questions]
    if paragraph.template:
        return context_text(paragraph.context), list(map(question_text, questions))
    return paragraph.context, [text[len(paragraph.context) :] for text in questions]


def characters_per_token(paragraphs: Sequence[EncodedParagraph]) -> float:
    """Characters a token of the contexts. Han, kana and Hangul count twice: a character of theirs
    says about as much as two letters.
    """
    texts = [paragraph.context for paragraph in paragraphs]
    characters = sum(len(text) + len(_DENSE.findall(text)) for text in texts)
    return characters / max(1, sum(len(paragraph.tokens) for paragraph in paragraphs))


def encode_prompt(tokenizer: Tokenizer, context: str, question: str) -> tuple[list[int], list[int]]:
    """(context ids, question ids) of a prompt, as in training."""
    return tokenizer.encode(context_text(context)), tokenizer.encode(question_text(question))


def encode_paragraphs(
    paragraphs: list[Paragraph], tokenizer: Tokenizer, cache_dir: str | Path | None = None
) -> list[EncodedParagraph]:
    """All ids of the paragraphs, from the cache where it holds this very text and tokenizer.

    cache_dir: a folder for one .npz file a (text, tokenizer, format); None: no cache. A damaged
    file is encoded anew; a folder that cannot be written is left alone, the cache only saves time.
    """
    if cache_dir is None:
        return _assemble(paragraphs, _encode(paragraphs, tokenizer))
    path = Path(cache_dir) / f"{_cache_key(paragraphs, tokenizer)}.npz"
    arrays = _read_cache(path, paragraphs, tokenizer.vocab_size)
    if arrays is None:
        arrays = _encode(paragraphs, tokenizer)
        _write_cache(path, arrays)
    return _assemble(paragraphs, arrays)


def _encode(paragraphs: list[Paragraph], tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Flat ids of contexts, questions and golds, with the length of each."""
    texts = {
        "contexts": (prompt_parts(p)[0] for p in paragraphs),
        "questions": (text for p in paragraphs for text in prompt_parts(p)[1]),
        "golds": (answer_text(a) for p in paragraphs for q in p.questions for a in q.answers),
    }
    arrays = {}
    for name, each in texts.items():
        # A row at a time: Python's numbers take nine times the memory.
        rows = [np.array(tokenizer.encode(text), dtype=np.int32) for text in each]
        if name == "contexts":
            arrays["starts"] = _flat(map(tokenizer.token_starts, rows))
        arrays[name] = _flat(rows)
        arrays[f"{name}_lengths"] = np.array([len(row) for row in rows], dtype=np.int32)
    return arrays


def _flat(rows: Iterable[np.ndarray]) -> np.ndarray:
    """All rows end to end, int32."""
    arrays = list(rows)
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)


def _assemble(
    paragraphs: list[Paragraph], arrays: dict[str, np.ndarray]
) -> list[EncodedParagraph]:
    contexts = _rows(arrays["contexts"], arrays["contexts_lengths"])
    ends = list(accumulate(map(len, contexts), initial=0))
    questions = iter(_rows(arrays["questions"], arrays["questions_lengths"]))
    golds = iter(_rows(arrays["golds"], arrays["golds_lengths"]))
    return [
        EncodedParagraph(
            paragraph.title,
            paragraph.context,
            contexts[i],
            arrays["starts"][ends[i] : ends[i + 1]],
            [
                EncodedQuestion(
                    question.id,
                    next(questions),
                    [next(golds) for _ in question.answers],
                    question.answers,
                    question.starts,
                )
                for question in paragraph.questions
            ],
            paragraph.template,
        )
        for i, paragraph in enumerate(paragraphs)
    ]


def _rows(flat: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    values = flat.tolist()
    return [values[a:b] for a, b in pairwise(accumulate(lengths.tolist(), initial=0))]


def _cache_key(paragraphs: list[Paragraph], tokenizer: Tokenizer) -> str:
    parts = [CACHE_FORMAT, tokenizer.identity(), content_hash(paragraphs)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read_cache(
    path: Path, paragraphs: list[Paragraph], vocab_size: int
) -> dict[str, np.ndarray] | None:
    """The arrays, or None where there are none or they cannot be these paragraphs'."""
    counts = {
        "contexts": len(paragraphs),
        "questions": sum(len(p.questions) for p in paragraphs),
        "golds": sum(len(q.answers) for p in paragraphs for q in p.questions),
    }
    try:
        with np.load(path, allow_pickle=False) as file:  # the zip's checksums are verified here
            arrays = {name: file[name] for name in file.files}
    except Exception:  # a damaged file makes zipfile and numpy raise anything
        return None
    expected = {"starts", *counts, *(f"{name}_lengths" for name in counts)}
    if set(arrays) != expected or any(a.dtype != np.int32 or a.ndim != 1 for a in arrays.values()):
        return None
    for name, count in counts.items():
        ids, lengths = arrays[name], arrays[f"{name}_lengths"]
        if len(lengths) != count or lengths.sum(dtype=np.int64) != len(ids):
            return None
        least = 0 if name == "contexts" else 1  # prompts of the user's own may have no context
        if (lengths < least).any() or (len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size):
            return None
    return arrays if len(arrays["starts"]) == len(arrays["contexts"]) else None


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, **arrays))

"""A byte-level BPE vocabulary as other projects store it, made into ranks that tiktoken can follow.

Hugging Face and GGUF files hold tokens as text in which each byte is a printable character (GPT-2's
table), and a list of merges. tiktoken holds bytes with ranks, and merges any two neighbours that
make a token. The two agree on every text if, and only if, the merges make every token out of its
own bytes. `check_order` proves this for a vocabulary, and refuses one where it does not hold.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.utils.errors import UserError

# Limits on any vocabulary: o200k_base has 199,998 tokens of up to 128 bytes.
MAX_IDS = 1 << 20
MAX_TOKEN_BYTES = 1024

# How text is cut before byte pairs are merged; no token reaches across a cut. `gpt2` is OpenAI's of
# 2019 in its possessive form. `pico` takes digits by twos (a year is two tokens) and every white
# space character alone but for one blank before a word: without look-ahead, what follows a context
# cannot change the context's ids. That is what lets context, question and answer be encoded apart.
# `smollm` takes every digit by itself and cuts what is between as `gpt2` cuts a whole text: white
# space before a digit ends one, and is one piece. `llama3` and `qwen2` are those models' own, as
# their tokenizer.json has them; they differ in the digits that are taken at once.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    # As gpt2's, but a letter's marks stay with it: without, Hindi and Thai have no token of a word.
    "marks": r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}\p{M}]++| ?\p{N}++| ?[^\s\p{L}\p{M}\p{N}]++|\s++$"
    r"|\s+(?!\S)|\s",
    "pico": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s",
    "smollm": r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?=\p{N})"
    r"|\s+(?!\S)|\s",
    "llama3": _LLAMA3,
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}


_MARK = re.compile(r"<[^<>\s]+>")


class Vocabulary(NamedTuple):
    """What text encodes to, and what ids mean.

    ranks: bytes -> id, in the order of merging; single bytes may be missing (they are dropped).
    special: text -> id of tokens that no text encodes to. eos_id: one of those. size: ids in all.
    """

    name: str
    ranks: dict[bytes, int]
    pattern: str
    special: dict[str, int]
    eos_id: int
    size: int


def byte_characters() -> dict[str, int]:
    """GPT-2's table (Radford et al. 2019): printable character -> byte. Bytes that print stand for
    themselves, the others for the characters from U+0100 on.

    >>> [byte_characters()[letter] for letter in "aĊĠé"] == list(b"a\\n \\xe9")
    True
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return table | {chr(256 + number): byte for number, byte in enumerate(others)}


def check_order(
    made_of: Mapping[bytes, tuple[bytes, bytes]], ranks: Mapping[bytes, int], source: str
) -> None:
    """UserError unless merging by rank makes every token of its own bytes.

    made_of: token -> the two that its one merge joins. Merges run in the order of ranks, so the two
    halves of a token grow side by side. The token comes out unless, at some time, the last part of
    the left half and the first part of the right make a token sooner than either grows on.
    """

    def spine(token: bytes, side: int, until: int) -> list[tuple[bytes, int]]:
        """The parts that stand at one end of a token, with the rank at which each is absorbed."""
        parts = [(token, until)]
        while token in made_of:
            until, token = ranks[token], made_of[token][side]
            parts.append((token, until))
        return parts

    for token, (left, right) in made_of.items():
        rank = ranks[token]
        for part in (left, right):
            if part in made_of and ranks[part] > rank:
                raise UserError(
                    f"{source}: the token {token[:40]!r} has a lower id than its part "
                    f"{part[:40]!r}, expected ids in the order of the merges, as tiktoken has them"
                )
        for x, x_ends in spine(left, 1, rank):
            for y, y_ends in spine(right, 0, rank):
                both = x + y
                # Of equal ranks the leftmost is merged first: x's own before this one.
                sooner = both in made_of and ranks[both] < x_ends and ranks[both] <= y_ends
                if sooner and both != token and made_of[both] == (x, y):
                    raise UserError(
                        f"{source}: its merges never make the token {token[:40]!r} ({both!r} comes "
                        "first), expected a vocabulary that tiktoken can follow"
                    )


def _to_bytes(text: str, table: Mapping[str, int], source: str) -> bytes:
    try:
        if len(text) > MAX_TOKEN_BYTES:
            raise KeyError
        return bytes(table[character] for character in text)
    except KeyError:
        raise UserError(
            f"{source}: the token {text[:40]!r} is no byte-level text, expected a byte-level BPE"
            f" of tokens up to {MAX_TOKEN_BYTES} bytes"
        ) from None


def vocabulary_of(
    tokens: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    special: Mapping[str, int],
    pattern: str,
    eos_id: int,
    source: str,
    whole_pieces: bool = False,
) -> Vocabulary:
    """Ranks from byte-level tokens and merges; UserError where tiktoken would give other ids.

    tokens: text -> id, those of `special` left out. A token of several bytes that no merge makes is
    special too, because no text encodes to it.
    whole_pieces: a piece of text that is a token becomes that token at once, so the rule above does
    not apply. This is tiktoken's own way, and `ignore_merges` in a tokenizer.json.
    """
    table = byte_characters()
    known = {text: _to_bytes(text, table, source) for text in tokens}
    made_of: dict[bytes, tuple[bytes, bytes]] = {}
    last = -1
    for left, right in merges:
        token = tokens.get(left + right)
        if token is None or not known.get(left) or not known.get(right):
            raise UserError(f"{source}: the merge of {left[:40]!r} and {right[:40]!r} is not of its"
                            " tokens")
        if token <= last:
            raise UserError(
                f"{source}: the merge that makes {(left + right)[:40]!r} (id {token}) comes after "
                f"one that makes id {last}, expected ids in the order of the merges, each once"
            )
        made_of[known[left + right]], last = (known[left], known[right]), token
    ranks, unreached, pieces = {}, dict(special), set(known.values())
    for text, token in tokens.items():
        piece = known[text]
        if len(piece) == 1 or piece in made_of:
            ranks[piece] = token
        elif whole_pieces:
            if any(piece[:i] in pieces and piece[i:] in pieces for i in range(1, len(piece))):
                raise UserError(
                    f"{source}: no merge makes the token {piece[:40]!r}, though two tokens join "
                    "to it, expected a vocabulary that tiktoken can follow"
                )
            ranks[piece] = token
        else:
            unreached[text] = token
    ids = [*ranks.values(), *unreached.values()]
    size = max(ids, default=0) + 1
    if len(set(ids)) != len(ids) or min(ids, default=0) < 0 or not ranks or size > MAX_IDS:
        raise UserError(f"{source}: {len(ids)} tokens up to id {size - 1}, expected each id once, "
                        f"and under {MAX_IDS}")
    if eos_id not in unreached.values():
        raise UserError(
            f"{source}: the end token has id {eos_id}, expected that of a special token: no text "
            "may encode to it"
        )
    check_order(made_of, ranks, source)
    name = f"{next(n for n, p in PATTERNS.items() if p == pattern)}-{size}"
    return Vocabulary(name, ranks, pattern, unreached, eos_id, size)


def _pattern_of(pre_tokenizer: Any, source: str) -> str:
    """Our pattern that cuts text as a tokenizer.json's pre_tokenizer does."""
    steps = pre_tokenizer if isinstance(pre_tokenizer, dict) else {}
    steps = steps.get("pretokenizers", [steps]) if steps.get("type") == "Sequence" else [steps]
    steps = [step if isinstance(step, dict) else {} for step in steps]
    *before, last = steps or [{}]
    kinds = [step.get("type") for step in before]
    byte_level = last.get("type") == "ByteLevel" and last.get("add_prefix_space") is False
    splits_itself = last.get("use_regex", True) is True
    if byte_level and splits_itself and not before:
        return PATTERNS["gpt2"]
    digits = kinds == ["Digits"] and before[0].get("individual_digits") is True
    if byte_level and splits_itself and digits:
        return PATTERNS["smollm"]
    if byte_level and not splits_itself and kinds == ["Split"]:
        step = before[0]
        pattern = step.get("pattern", {}).get("Regex")
        whole = step.get("behavior") == "Isolated" and not step.get("invert")
        if whole and pattern in PATTERNS.values():
            return pattern
    raise UserError(
        f"{source}: pre_tokenizer {str(pre_tokenizer)[:120]!r} given, expected ByteLevel, Digits "
        f"(individual_digits) and ByteLevel, or a Split by a pattern of {', '.join(PATTERNS)}"
    )


def _ordinary(added: Any) -> list:
    """Added tokens that ordinary text holds: transformers cuts text at them before all else. One
    in angle brackets is a mark, like a special token: here no text encodes to it.
    """
    entries = added if isinstance(added, list) else []
    texts = [t.get("content") for t in entries if isinstance(t, dict) and not t.get("special")]
    return [t for t in texts if not (isinstance(t, str) and _MARK.fullmatch(t))]


def _only_frames(post: Any) -> bool:
    """Whether a post_processor does no more than to set special tokens before and after a text.
    They are left out here: a prompt is its text alone.
    """
    if not isinstance(post, dict):
        return False
    if post.get("type") == "Sequence":
        steps = post.get("processors")
        return isinstance(steps, list) and bool(steps) and all(map(_only_frames, steps))
    return post.get("type") in ("ByteLevel", "TemplateProcessing")


def vocabulary_of_json(root: Any, eos_id: int | None, source: str) -> Vocabulary:
    """The vocabulary of a parsed tokenizer.json; UserError for what tiktoken cannot do."""
    model = root.get("model") if isinstance(root, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise UserError(f"{source}: no model with a vocab in it, expected a tokenizer.json")
    normalizer = root.get("normalizer")
    must_be_off = {
        # Nearly all text is in this form and left as it is; other text is read byte by byte.
        "normalizer": None if normalizer == {"type": "NFC"} else normalizer,
        "byte_fallback": model.get("byte_fallback"),
        "dropout": model.get("dropout"),
        "continuing_subword_prefix": model.get("continuing_subword_prefix"),
        "end_of_word_suffix": model.get("end_of_word_suffix"),
        "added_tokens that are not special": _ordinary(root.get("added_tokens")),
    }
    post = root.get("post_processor")
    if not _only_frames(post):
        must_be_off["post_processor"] = post
    for name, value in must_be_off.items():
        if value:
            raise UserError(f"{source}: {name} {str(value)[:80]!r} given, expected none: tiktoken "
                            "cannot do it")
    if model.get("type", "BPE") != "BPE":
        raise UserError(f"{source}: a {model['type']!r} model given, expected a byte-level BPE")
    try:
        added = {str(t["content"]): t["id"] for t in root.get("added_tokens") or []}
        merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
        tokens = {str(text): token for text, token in model["vocab"].items() if text not in added}
        pattern = _pattern_of(root.get("pre_tokenizer"), source)
        numbers = [*added.values(), *tokens.values()]
        if any(len(m) != 2 or not all(isinstance(p, str) for p in m) for m in merges):
            raise ValueError("a merge that is not of two tokens")
        if any(type(n) is not int for n in numbers):
            raise ValueError("an id that is no whole number")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: expected a tokenizer.json ({error!r:.80})") from None
    if eos_id is None:
        raise UserError(f"{source}: no end token is named beside it (eos_token_id), expected one")
    whole = model.get("ignore_merges") is True
    vocabulary = vocabulary_of(tokens, merges, added, pattern, eos_id, source, whole)
    absent = 256 - sum(len(token) == 1 for token in vocabulary.ranks)
    if absent and model.get("unk_token") is not None:
        raise UserError(f"{source}: unk_token {model['unk_token']!r:.40} given for {absent} bytes, "
                        "expected none: tiktoken cannot do it")
    return vocabulary


def character_counts(pieces: Iterable[bytes]) -> np.ndarray:
    """(2, pieces) int32: how many characters begin in each token's bytes, and 1 where the first of
    them continues a character. With these a text's token starts need no object a token.
    """
    inside = [[byte & 0xC0 == 0x80 for byte in piece] for piece in pieces]
    counts = [[len(row) - sum(row) for row in inside], [row[:1] == [True] for row in inside]]
    return np.array(counts, dtype=np.int32)

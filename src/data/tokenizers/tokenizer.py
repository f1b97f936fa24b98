"""Text to token ids and back: tiktoken behind one small class; nothing else imports it.

- `pico` is a byte-level BPE of 2,048 ids beside this file (tools/train_tokenizer.py made it).
- gpt2, cl100k_base and o200k_base are tiktoken's own, which it downloads and caches.
- A FILE.tiktoken holds ranks, one "base64 rank" a line (tools/train_tokenizer.py makes one).
- A pretrained model brings a `Vocabulary`.

All text is plain text, "<|endoftext|>" included: no text encodes to the id of the EOS token.
"""

import base64
import hashlib
import re
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import regex
import tiktoken

from src.data.tokenizers.bpe_file import parse_ranks, read_ranks
from src.data.tokenizers.byte_pairs import MAX_IDS, PATTERNS, Vocabulary, character_counts
from src.utils.errors import UserError

NAMED = ("gpt2", "cl100k_base", "o200k_base")
EOS = "<|endoftext|>"
PICO_FILE = Path(__file__).with_name("pico.tiktoken")

DOWNLOAD_SECONDS = 60
# tiktoken's regex engine panics (a stack overflow) in a very long run of white space, and under
# o200k_base of anything; under gpt2 a million digits, one piece, took eight minutes. So long runs
# are encoded in parts. The look-behinds try each run once, at its start. Blanks go by a power of
# two, as tokens of many blanks do: the parts of a run of one character have the whole one's ids.
_MAX_BLANKS, _MAX_WORD = 1 << 14, 4000
_LONG_RUN = re.compile(rf"(?<!\s)\s{{{_MAX_BLANKS},}}|(?<!\S)\S{{{_MAX_WORD},}}")

_PRINTABLE = [chr(code) for code in range(32, 127)]
# Every pair of ASCII characters, then what tokenizers differ in: digits, white space, scripts.
_PROBE = (
    " ".join(a + b for a in _PRINTABLE for b in _PRINTABLE)
    + " Context: The Vorane Song was written in 1823.\n"
    + "Question: Who wrote it?\nAnswer: Kelda Morven"
    + "\t\r\n  \n\n 1234567890 don't they're <|endoftext|> Zürich naïve Привет"
    + " 東京 مرحبا नमस्ते 🙂 \x00"
)


class Tokenizer:
    """A tiktoken encoding with one EOS token. Its ids are 0 to vocab_size - 1."""

    def __init__(
        self,
        name: str,
        encoding: tiktoken.Encoding,
        file_state: dict | None = None,
        vocabulary: Vocabulary | None = None,
    ):
        """file_state: the ranks and pattern to keep in checkpoints, where `name` alone cannot.
        vocabulary: the foreign one that the encoding was made of."""
        self.name = name
        self.vocab_size = vocabulary.size if vocabulary else encoding.max_token_value + 1
        self.eos_id = vocabulary.eos_id if vocabulary else encoding.eot_token
        self._encoding = encoding
        self._file_state = file_state or {}
        self._fingerprint: str | None = None
        held = vocabulary.ranks if vocabulary else ()
        self._absent = bytes(b for b in range(256) if vocabulary and bytes([b]) not in held)
        self._counts: np.ndarray | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, special text included as plain text. Lone surrogates become U+FFFD.

        Bytes without a token are dropped before pairs are merged, as `tokenizers` does.
        """
        encode = self._encoding.encode_ordinary
        if self._absent:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            data = text.encode()
            if len(data.translate(None, self._absent)) < len(data):
                encode = self._encode_without_absent
        if _LONG_RUN.search(text) is None:
            return encode(text)
        return [i for piece in _pieces(text) for i in encode(piece)]

    def _encode_without_absent(self, text: str) -> list[int]:
        """tiktoken panics at a byte that has no token. After it is dropped its neighbours may
        merge, so the text is first cut here, by the same pattern, and only then are bytes dropped.
        """
        ids: list[int] = []
        for piece in regex.findall(self._encoding._pat_str, text):
            kept = piece.encode().translate(None, self._absent)
            if kept:
                ids += self._encoding._encode_single_piece(kept)
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; bytes that are no UTF-8 (a cut character) become U+FFFD."""
        try:
            return self._encoding.decode(list(ids), errors="replace")
        except KeyError:  # an id without a token, of a vocabulary or a model with gaps
            return b"".join(map(self._bytes_of, ids)).decode(errors="replace")

    def token_starts(self, ids: Sequence[int]) -> np.ndarray:
        """The character each id begins at, int32; one inside a character counts as its."""
        if self._counts is None:
            self._counts = character_counts(map(self._bytes_of, range(self.vocab_size)))
        characters, inside = self._counts[:, np.asarray(ids, dtype=np.int32)]
        return np.maximum(np.cumsum(characters, dtype=np.int32) - characters - inside, 0)

    def definition(self) -> tuple[dict[bytes, int], str, dict[str, int]]:
        """All that decides a text's ids: ranks (bytes -> id), pattern, special tokens (-> id)."""
        encoding = self._encoding
        return encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens

    def identity(self) -> dict:
        """What must agree between two runs: name, size, and a sha256 over ids, pattern and
        vocabulary.

        The ids of a fixed probe text show how text is cut. The pattern covers texts unlike the
        probe, and the bytes of every id, in order, cover merges that the probe does not use.
        """
        if self._fingerprint is None:
            numbers = [*self.encode(_PROBE), self.eos_id, self.vocab_size]
            digest = hashlib.sha256(" ".join(map(str, numbers)).encode())
            digest.update(self.definition()[1].encode())
            for i in range(self.vocab_size):
                digest.update(b" " + self._bytes_of(i).hex().encode())
            self._fingerprint = digest.hexdigest()
        return {"name": self.name, "vocab_size": self.vocab_size, "fingerprint": self._fingerprint}

    def _bytes_of(self, token_id: int) -> bytes:
        try:
            return self._encoding.decode_single_token_bytes(token_id)
        except KeyError:  # cl100k_base leaves a few ids unused
            return b""

    def state(self) -> dict:
        """What a checkpoint keeps: the identity, and the ranks and pattern of a FILE.tiktoken."""
        return {**self.identity(), **self._file_state}

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary) -> "Tokenizer":
        """The tokenizer of a pretrained model; checkpoints keep all of its vocabulary."""
        encoding = tiktoken.Encoding(
            vocabulary.name,
            pat_str=vocabulary.pattern,
            mergeable_ranks=vocabulary.ranks,
            special_tokens=vocabulary.special,
        )
        ranks = [(base64.b64encode(t).decode(), rank) for t, rank in vocabulary.ranks.items()]
        kept = {"pattern": vocabulary.pattern, "special": dict(vocabulary.special)}
        kept["eos_id"] = vocabulary.eos_id
        return cls(vocabulary.name, encoding, {"ranks": ranks, **kept}, vocabulary)

    @classmethod
    def from_state(cls, state: dict) -> "Tokenizer":
        """The tokenizer of a checkpoint. UserError unless it is the very one that was stored."""
        missing = {"name", "vocab_size", "fingerprint"} - set(state)
        if missing:
            raise UserError(
                f"the stored tokenizer has no {sorted(missing)[0]}: expected name, vocab_size and "
                "fingerprint; the checkpoint is damaged or not of this project"
            )
        name = str(state["name"])
        stored = "ranks" in state
        tokenizer = _from_stored_ranks(name, state) if stored else load_tokenizer(name)
        found = tokenizer.identity()
        for key, value in found.items():
            if state[key] != value:
                raise UserError(
                    f"tokenizer {name}: the checkpoint has {key} {state[key]!r:.80}, this "
                    f"one has {value!r}; use the checkpoint with the tokenizer it was trained with"
                )
        return tokenizer


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of `--tokenizer`: pico, one that tiktoken knows, or a FILE.tiktoken."""
    if name == "pico":
        return _pico()
    if name in NAMED:
        return Tokenizer(name, _download(name))
    if name.endswith(".tiktoken"):
        return _from_file(Path(name))
    raise UserError(
        f"--tokenizer {name}: expected pico, {', '.join(NAMED)} or the path of a FILE.tiktoken"
    )


@cache
def _pico() -> Tokenizer:
    return Tokenizer("pico", _encoding("pico", read_ranks(PICO_FILE)[0], PATTERNS["pico"]))


def _from_file(path: Path) -> Tokenizer:
    ranks, name = read_ranks(path)
    stored = [(base64.b64encode(token).decode(), rank) for token, rank in ranks.items()]
    pattern = PATTERNS[name]
    # The name is the file's, not its path: one run on two machines has one identity.
    return Tokenizer(
        path.name, _encoding(path.name, ranks, pattern), {"ranks": stored, "pattern": pattern}
    )


def _encoding(name: str, ranks: dict[bytes, int], pattern: str) -> tiktoken.Encoding:
    """A tiktoken encoding whose EOS token is the id after the last rank."""
    eos_id = max(ranks.values()) + 1
    return tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={EOS: eos_id}
    )


def _pieces(text: str) -> Iterable[str]:
    """The text with its long runs cut; the last part of a run stays with what follows it."""
    last = 0
    for run in _LONG_RUN.finditer(text):
        step = _MAX_BLANKS if text[run.start()].isspace() else _MAX_WORD
        for cut in range(run.start() + step, run.end(), step):
            yield text[last:cut]
            last = cut
    yield text[last:]


def _from_stored_ranks(name: str, state: dict) -> Tokenizer:
    """A checkpoint's own tokenizer. Only our patterns: a stranger's could hang the regex engine."""
    source, stored = f"the stored tokenizer {name}", state["ranks"]
    pattern, special, eos_id = (state.get(key) for key in ("pattern", "special", "eos_id"))
    if pattern not in PATTERNS.values():
        raise UserError(
            f"{source} has an unknown pattern: expected that of {', '.join(PATTERNS)}"
        )
    if not isinstance(stored, list) or len(stored) > MAX_IDS:
        raise UserError(f"{source} has no list of up to {MAX_IDS} ranks: the checkpoint is damaged")
    lines = []
    for entry in stored:
        if not (
            isinstance(entry, tuple | list) and [type(item) for item in entry] == [str, int]
        ):
            raise UserError(f"{source} has a rank {str(entry)[:40]!r}: expected (base64, number)")
        lines.append(f"{entry[0]} {entry[1]}".encode(errors="replace"))
    ranks = parse_ranks(lines, source, whole=special is None)
    if special is None:
        kept = {"ranks": list(stored), "pattern": pattern}
        return Tokenizer(name, _encoding(name, ranks, str(pattern)), kept)
    ids = list(special.values()) if isinstance(special, dict) else [None]
    free = set(range(MAX_IDS)) - set(ranks.values())
    fits = all(type(i) is int and i in free for i in ids) and all(type(t) is str for t in special)
    if not ranks or not fits or len(set(ids)) < len(ids) or eos_id not in ids:
        raise UserError(f"{source} has no special tokens that fit its ranks: expected text and id")
    size = 1 + max(*ranks.values(), *ids)
    return Tokenizer.from_vocabulary(Vocabulary(name, ranks, pattern, special, eos_id, size))


def _download(name: str) -> tiktoken.Encoding:
    """tiktoken's own encoding. It downloads without a time limit, so it is given one here."""
    outcome: list[tiktoken.Encoding | Exception] = []

    def fetch() -> None:
        try:
            outcome.append(tiktoken.get_encoding(name))
        except Exception as error:  # requests', the hash check's, the cache folder's
            outcome.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if outcome and isinstance(outcome[0], tiktoken.Encoding):
        return outcome[0]
    reason = type(outcome[0]).__name__ if outcome else f"no answer in {DOWNLOAD_SECONDS} seconds"
    raise UserError(
        f"--tokenizer {name}: tiktoken could not fetch it ({reason}); connect to the network once, "
        "set TIKTOKEN_CACHE_DIR to a folder that holds it, or use --tokenizer pico"
    )

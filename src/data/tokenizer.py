"""Text to token ids and back: tiktoken behind one small class; nothing else imports it.

`pico` is a byte-level BPE of 2,048 ids shipped beside this file (tools/train_tokenizer.py made it);
gpt2, cl100k_base and o200k_base are tiktoken's own, which it downloads and caches; a FILE.tiktoken
holds ranks, one "base64 rank" a line. All text is plain text, "<|endoftext|>" included: the stop
token is an id that no text encodes to.
"""

import base64
import binascii
import hashlib
import re
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import tiktoken

from src.names import UserError

NAMED = ("gpt2", "cl100k_base", "o200k_base")
STOP = "<|endoftext|>"
PICO_FILE = Path(__file__).with_name("pico.tiktoken")

# How text is cut before byte pairs are merged; no token reaches across a cut. `gpt2` is OpenAI's of
# 2019 in its possessive form. `pico` takes digits by twos (a year is two tokens) and every white
# space character alone but for one blank before a word: without look-ahead, what follows a context
# cannot change the context's ids. That is what lets context, question and answer be encoded apart.
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "pico": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s",
}

# Limits on a ranks file or stored ranks: o200k_base has 199,998 of up to 128 bytes, 3.6 MB.
MAX_FILE_BYTES = 64 << 20
MAX_IDS = 1 << 20
MAX_TOKEN_BYTES = 1024
DOWNLOAD_SECONDS = 60
# tiktoken's regex engine panics (a stack overflow) in a very long run of white space, and under
# o200k_base of anything; under gpt2 a million digits, one piece, took eight minutes. So long runs
# are encoded in parts. The look-behinds try each run once, at its start.
_MAX_BLANKS, _MAX_WORD = 500, 4000
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
    """A tiktoken encoding with one stop token. Its ids are 0 to vocab_size - 1."""

    def __init__(self, name: str, encoding: tiktoken.Encoding, file_state: dict | None = None):
        """file_state: the ranks and pattern to keep in checkpoints, where `name` alone cannot."""
        self.name = name
        self.vocab_size = encoding.max_token_value + 1
        self.stop_id = encoding.eot_token
        self._encoding = encoding
        self._file_state = file_state or {}
        self._fingerprint: str | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, special text included as plain text. Lone surrogates become U+FFFD."""
        if _LONG_RUN.search(text) is None:
            return self._encoding.encode_ordinary(text)
        return [i for piece in _pieces(text) for i in self._encoding.encode_ordinary(piece)]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; bytes that are no UTF-8 (a cut character) become U+FFFD."""
        return self._encoding.decode(list(ids), errors="replace")

    def token_starts(self, ids: Sequence[int]) -> list[int]:
        """The character each id begins at, in decode(ids); one inside a character counts as its."""
        return self._encoding.decode_with_offsets(list(ids))[1]

    def definition(self) -> tuple[dict[bytes, int], str, dict[str, int]]:
        """All that decides a text's ids: ranks (bytes -> id), pattern, special tokens (-> id)."""
        encoding = self._encoding
        return encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens

    def identity(self) -> dict:
        """What must agree between two runs: name, size, and a sha256 over ids and vocabulary.

        The ids of a fixed probe text show how text is cut, and the bytes of every id in order show
        the merges that the probe does not happen to use.
        """
        if self._fingerprint is None:
            numbers = [*self.encode(_PROBE), self.stop_id, self.vocab_size]
            digest = hashlib.sha256(" ".join(map(str, numbers)).encode())
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
    def from_state(cls, state: dict) -> "Tokenizer":
        """The tokenizer of a checkpoint. UserError unless it is the very one that was stored."""
        missing = {"name", "vocab_size", "fingerprint"} - set(state)
        if missing:
            raise UserError(
                f"the stored tokenizer has no {sorted(missing)[0]}: expected name, vocab_size and "
                "fingerprint; the checkpoint is damaged or not of this project"
            )
        name = str(state["name"])
        if "ranks" in state:
            tokenizer = _from_stored_ranks(name, state["ranks"], state.get("pattern"))
        else:
            tokenizer = load_tokenizer(name)
        found = tokenizer.identity()
        for key, value in found.items():
            if state[key] != value:
                raise UserError(
                    f"tokenizer {name}: the checkpoint was made with {key} {state[key]!r}, this "
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
    return Tokenizer("pico", _encoding("pico", _read_ranks(PICO_FILE), PATTERNS["pico"]))


def _from_file(path: Path) -> Tokenizer:
    ranks = _read_ranks(path)
    stored = [(base64.b64encode(token).decode(), rank) for token, rank in ranks.items()]
    pattern = PATTERNS["gpt2"]
    # The name is the file's, not its path: one run on two machines has one identity.
    return Tokenizer(
        path.name, _encoding(path.name, ranks, pattern), {"ranks": stored, "pattern": pattern}
    )


def _encoding(name: str, ranks: dict[bytes, int], pattern: str) -> tiktoken.Encoding:
    """A tiktoken encoding whose stop token is the id after the last rank."""
    stop_id = max(ranks.values()) + 1
    return tiktoken.Encoding(
        name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={STOP: stop_id}
    )


def _pieces(text: str) -> Iterable[str]:
    """The text with its long runs cut; the last blank of a run stays with the word it precedes."""
    last = 0
    for run in _LONG_RUN.finditer(text):
        yield text[last : run.start()]
        blank = text[run.start()].isspace()
        last = run.end() - 1 if blank else run.end()
        step = _MAX_BLANKS if blank else _MAX_WORD
        for start in range(run.start(), last, step):
            yield text[start : min(start + step, last)]
    yield text[last:]


def _parse_line(line: bytes) -> tuple[bytes, int]:
    """One "base64 rank" line. ValueError says what is wrong with it."""
    parts = line.split()
    if len(parts) != 2:
        raise ValueError(f"{len(parts)} fields")
    try:
        token = base64.b64decode(parts[0], validate=True)
    except binascii.Error:
        raise ValueError("a token that is not base64") from None
    if not 0 < len(token) <= MAX_TOKEN_BYTES:
        raise ValueError(f"a token of {len(token)} bytes")
    if not parts[1].isdigit() or len(parts[1]) > 9 or int(parts[1]) >= MAX_IDS - 1:
        raise ValueError(f"the rank {parts[1][:20].decode(errors='replace')}")
    return token, int(parts[1])


def _parse_ranks(lines: Iterable[bytes], source: str) -> dict[bytes, int]:
    """The ranks of the lines, checked: no token and no rank twice, all 256 single bytes present."""
    ranks: dict[bytes, int] = {}
    seen: set[int] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            token, rank = _parse_line(line)
            if token in ranks or rank in seen:
                raise ValueError("a token or rank that an earlier line has")
        except ValueError as error:
            raise UserError(
                f"{source}, line {number}: {error}; expected a base64 token of 1 to "
                f"{MAX_TOKEN_BYTES} bytes and a rank under {MAX_IDS - 1}, each once"
            ) from None
        ranks[token] = rank
        seen.add(rank)
    absent = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if absent:
        raise UserError(
            f"{source}: {len(ranks)} tokens without the single byte {absent[0]}; "
            "expected all 256 bytes, so that any text can be encoded"
        )
    return ranks


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(f"{path}: {size} bytes; expected a ranks file under {MAX_FILE_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a file of tiktoken ranks") from None
    return _parse_ranks(content.splitlines(), str(path))


def _from_stored_ranks(name: str, stored: object, pattern: object) -> Tokenizer:
    """A checkpoint's own tokenizer. Only our patterns: a stranger's could hang the regex engine."""
    source = f"the stored tokenizer {name}"
    if pattern not in PATTERNS.values():
        raise UserError(f"{source} has an unknown pattern: expected the one of gpt2 or pico")
    if not isinstance(stored, list) or len(stored) > MAX_IDS:
        raise UserError(f"{source} has no list of up to {MAX_IDS} ranks: the checkpoint is damaged")
    lines = []
    for entry in stored:
        if not (
            isinstance(entry, tuple | list) and [type(item) for item in entry] == [str, int]
        ):
            raise UserError(f"{source} has a rank {str(entry)[:40]!r}: expected (base64, number)")
        lines.append(f"{entry[0]} {entry[1]}".encode(errors="replace"))
    ranks = _parse_ranks(lines, source)
    return Tokenizer(
        name, _encoding(name, ranks, str(pattern)), {"ranks": list(stored), "pattern": pattern}
    )


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

"""Files of tiktoken ranks: one "base64 rank" a line, the token's bytes and its id.

Before them there may be a line "#pattern NAME": how the text was cut that they were trained on.
"""

import base64
import binascii
import codecs
from collections.abc import Iterable
from pathlib import Path

from src.data.tokenizers.byte_pairs import MAX_IDS, MAX_TOKEN_BYTES, PATTERNS
from src.utils.errors import UserError

HEADER = b"#pattern "
MAX_FILE_BYTES = 64 << 20  # the file of o200k_base has 3.6 MB


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


def parse_ranks(lines: Iterable[bytes], source: str, whole: bool = True) -> dict[bytes, int]:
    """The ranks of the lines, checked: no token and no rank twice; whole: all 256 bytes present."""
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
    if absent and whole:
        raise UserError(
            f"{source}: {len(ranks)} tokens without the single byte {absent[0]}; "
            "expected all 256 bytes, so that any text can be encoded"
        )
    return ranks


def read_ranks(path: Path) -> tuple[dict[bytes, int], str]:
    """The ranks of a FILE.tiktoken and the name of its pattern, gpt2 where it names none.

    UserError with the line where it is no such file.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(f"{path}: {size} bytes; expected a ranks file under {MAX_FILE_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a file of tiktoken ranks") from None
    lines, name = content.removeprefix(codecs.BOM_UTF8).splitlines(), "gpt2"
    if lines and lines[0].startswith(HEADER):
        name = lines[0].removeprefix(HEADER).strip().decode(errors="replace")
        lines[0] = b""
    if name not in PATTERNS:
        raise UserError(
            f"{path}, line 1: the pattern {name[:40]!r}; expected one of {', '.join(PATTERNS)}"
        )
    return parse_ranks(lines, str(path)), name

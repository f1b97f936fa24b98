"""Data files as they exist -> plain values: JSON, JSON Lines, CSV, TSV and parquet, gzipped or not.

Only the format is this module's business; `squad_parse` reads questions out of the values. A fault
of the file is a UserError of one line that names it.
"""

import ast
import csv
import gzip
import io
import json
import os
import re
import stat
import tokenize
import zlib
from pathlib import Path
from typing import Any

from src.utils.errors import UserError

MAX_FILE_BYTES = 2 << 30
SUFFIXES = ("json", "jsonl", "ndjson", "csv", "tsv", "parquet")
_EXPECTED = "expected JSON, JSON Lines or parquet, or CSV in a file named .csv, gzipped or not"


class BadLine:
    """Stands in for a line of a JSON Lines file that is not JSON."""


def read_rows(path: Path) -> Any:
    """The value of a regular file of up to 2 GB (unpacked): of CSV, parquet and JSON Lines a list
    of rows, of JSON whatever it holds.
    """
    content = _read_bytes(path)
    if content.startswith(b"PAR1"):
        return _parquet(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; {_EXPECTED}") from None
    suffixes = Path(path).suffixes
    if ".csv" in suffixes or ".tsv" in suffixes:
        return _csv(path, text, "\t" if ".tsv" in suffixes else ",")
    return _json(path, text)


def _read_bytes(path: Path) -> bytes:
    """All bytes, unpacked where they begin as gzip does."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: no regular file; {_EXPECTED}")
        _check_size(path, status.st_size)
        content = Path(path).read_bytes()
        if not content.startswith(b"\x1f\x8b"):
            return content
        with gzip.open(io.BytesIO(content)) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: no sound gzip file ({error}); download it again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {_EXPECTED}") from None
    _check_size(path, len(content))
    return content


def _check_size(path: Path, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise UserError(f"{path}: {size} bytes; expected at most {MAX_FILE_BYTES}: split it")


def _json(path: Path, text: str) -> Any:
    """JSON, or JSON Lines: by its name, or because it goes on after a first whole value."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" or {".jsonl", ".ndjson"} & set(Path(path).suffixes):
            return [_json_line(line) for line in text.split("\n") if line.strip()]
        where = f"not JSON at line {error.lineno}, column {error.colno} ({error.msg})"
        if not text.lstrip().startswith(("{", "[")):
            raise UserError(f"{path}: {where}; {_EXPECTED}") from None
        early = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        advice = "the file ends early: download it again" if early else "mend the file there"
        raise UserError(f"{path}: {where}; {advice}") from None
    except (RecursionError, ValueError):  # nested too deep; a number of thousands of digits
        raise UserError(f"{path}: JSON that nests too deep or has absurd numbers") from None


def _json_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return BadLine()


def _csv(path: Path, text: str, delimiter: str) -> list[dict]:
    """Rows of text by column; answers as lists and objects, where they are written as such.

    Python's reader, as it leaves "1804" and "NA" the texts that they are.
    """
    csv.field_size_limit(min(MAX_FILE_BYTES, 2**31 - 1))  # more is no C long on Windows
    try:
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: no sound CSV ({error}); mend the file there") from None
    for row in rows:
        for column in ("answers", "answers.text", "answers.answer_start"):
            if column in row:
                row[column] = literal(row[column])
    return rows


class _ArgumentOfCalls(ast.NodeTransformer):
    """array(['x'], dtype=object), as `datasets` writes lists in CSV -> ['x']."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self.visit(node.args[0]) if node.args else node


def literal(text: Any) -> Any:
    """A list or object written in JSON or in Python; any other text is itself."""
    if not isinstance(text, str) or not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        tree = ast.parse(_with_commas(text.strip()), mode="eval")
        return ast.literal_eval(_ArgumentOfCalls().visit(tree))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
        return text


# Where a value may follow another without a comma; most texts have no such place.
_NO_COMMA = re.compile(r"""['"\d}\])e]\s+['"\w{\[-]""")


def _with_commas(text: str) -> str:
    """Python with a comma between any two values: NumPy, hence `datasets` in CSV, writes a column
    of lists as ['Ada' 'Bob'], which Python would read as one text, AdaBob.
    """
    if not _NO_COMMA.search(text):
        return text
    found: list[str] = []
    after_value = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NL, tokenize.NEWLINE):
            continue
        literal_token = token.type in (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)
        if after_value and (literal_token or token.string in tuple("{[-")):
            found.append(",")
        found.append(token.string)
        after_value = literal_token or token.string in tuple("}])")
    return " ".join(found)


def _parquet(path: Path, content: bytes) -> list[dict]:
    import pyarrow  # comes with datasets; half a second that other formats do without
    from pyarrow import parquet

    try:
        return parquet.read_table(io.BytesIO(content)).to_pylist()
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no sound parquet file ({reason}); download it again") from None

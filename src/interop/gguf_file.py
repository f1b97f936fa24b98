"""Read a .gguf file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): fields, tensors.

The header is read here, because gguf's own reader believes the counts that a damaged file claims.
Here every length is checked against the bytes that are there before it is used. The formats of
quantised tensors are gguf's.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.utils.errors import UserError

# GGUF's type numbers of a field -> struct's letter; 8 is text, 9 an array.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
_MOST_TENSORS, _MOST_FIELDS = 1 << 16, 1 << 12


class StoredTensor(NamedTuple):
    """Where a tensor lies. shape: as numpy has it, slowest dimension first; kind: gguf's number."""

    shape: tuple[int, ...]
    kind: int
    offset: int
    nbytes: int


class _Header:
    """A cursor over the bytes; ValueError where they end too soon."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, letter: str) -> Any:
        try:
            value = struct.unpack_from("<" + letter, self.data, self.at)[0]
        except struct.error:
            raise ValueError("it ends within its header") from None
        self.at += struct.calcsize("<" + letter)
        return value

    def text(self) -> str:
        size = self.number("Q")
        if size > len(self.data) - self.at:
            raise ValueError(f"a text of {size} bytes, more than the file holds")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise ValueError(f"a field of the unknown type {kind}")
            return self.number(_SCALARS[kind])
        kind, count = self.number("I"), self.number("Q")
        least = 8 if kind == _STRING else struct.calcsize(_SCALARS.get(kind, "d"))
        if count * least > len(self.data) - self.at:
            raise ValueError(f"a list of {count} values, more than the file holds")
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"a list of the type {kind}")
        values = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.data, self.at)
        self.at += struct.calcsize(f"<{count}{_SCALARS[kind]}")
        return list(values)


class GgufFile:
    """fields: name -> value. tensors: name -> StoredTensor. UserError unless the file is whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, StoredTensor] = {}
        with open(path, "rb") as file:
            try:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._read(_Header(self._data))
            except (ValueError, OverflowError) as error:
                reason = " ".join(str(error).split())[:150]
                raise UserError(f"{path} given, expected a whole GGUF file: {reason}") from None

    def _read(self, header: _Header) -> None:
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        header.at = 4
        version = header.number("I")
        if version not in (2, 3):
            raise ValueError(f"version {version}, expected 2 or 3")
        tensors, fields = header.number("Q"), header.number("Q")
        if tensors > _MOST_TENSORS or fields > _MOST_FIELDS:
            raise ValueError(f"{tensors} tensors and {fields} fields")
        for _ in range(fields):
            name = header.text()
            if name in self.fields:
                raise ValueError(f"the field {name[:40]} twice")
            self.fields[name] = header.value(header.number("I"))
        found = [self._tensor(header) for _ in range(tensors)]
        alignment = self.fields.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20:
            raise ValueError(f"an alignment of {str(alignment)[:40]}")
        start = -(-header.at // alignment) * alignment
        for name, tensor in found:
            if name in self.tensors:
                raise ValueError(f"the tensor {name[:40]} twice")
            if start + tensor.offset + tensor.nbytes > len(self._data):
                raise ValueError(f"the tensor {name[:40]} reaches beyond its end")
            self.tensors[name] = tensor._replace(offset=start + tensor.offset)

    def _tensor(self, header: _Header) -> tuple[str, StoredTensor]:
        from gguf.constants import GGML_QUANT_SIZES

        name, dimensions = header.text(), header.number("I")
        if not 1 <= dimensions <= 4:
            raise ValueError(f"the tensor {name[:40]} has {dimensions} dimensions")
        shape = tuple(header.number("Q") for _ in range(dimensions))[::-1]
        kind, offset = header.number("I"), header.number("Q")
        if kind not in GGML_QUANT_SIZES:
            raise ValueError(f"the tensor {name[:40]} has the unknown type {kind}")
        block, size = GGML_QUANT_SIZES[kind]
        if 0 in shape or shape[-1] % block:
            raise ValueError(f"the tensor {name[:40]} has the shape {shape}")
        return name, StoredTensor(shape, kind, offset, math.prod(shape) // block * size)

    def tensor(self, name: str) -> np.ndarray:
        """A tensor in float32, dequantised if need be."""
        from gguf import GGMLQuantizationType, dequantize

        stored = self.tensors[name]
        raw = np.frombuffer(self._data, np.uint8, stored.nbytes, stored.offset)
        kind = GGMLQuantizationType(stored.kind)
        try:
            values = dequantize(raw.reshape(*stored.shape[:-1], -1), kind)
        except NotImplementedError:
            raise UserError(
                f"{self.path} given, its tensor {name} has the type {kind.name}, expected one that "
                "the gguf package dequantises"
            ) from None
        return values.astype(np.float32, copy=False).reshape(stored.shape)

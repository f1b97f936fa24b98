"""What a transformer has read: keys and values, where they were computed, once for all who read
them.

A state is a chain of segments (a context, its question, an answer). `select` repeats or drops batch
rows by changing a row map; no key or value is copied.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Columns that a decoding buffer starts with; it doubles when full.
BUFFER_COLUMNS = 32


class Segment(NamedTuple):
    """Keys and values of tokens read in one call (or, decoding, of tokens appended one by one).

    keys, values: one (S, K, C, d) tensor a layer, S segment rows, C columns of which `used` are
    visible.
    real: (S, C) bool, True where a column holds a real token of that row.
    rows: (B,) int64, which segment row each batch row reads; None when they are the same rows.
    written: a one-element list shared by all states on a decoding buffer: how many columns are
    taken. A state whose `used` is smaller was continued by someone else and must not write over it.
    None: not a buffer.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    real: Tensor
    used: int
    rows: Tensor | None = None
    written: list[int] | None = None

    def select(self, rows: Tensor) -> "Segment":
        """Batch rows `rows` (repeats allowed); copies only a decoding buffer, whose rows differ
        anyway.
        """
        if self.written is not None:
            keys = tuple(k.index_select(0, rows) for k in self.keys)
            values = tuple(v.index_select(0, rows) for v in self.values)
            real = self.real.index_select(0, rows)
            return Segment(keys, values, real, self.used, None, [self.used])
        return self._replace(rows=rows if self.rows is None else self.rows.index_select(0, rows))


class TransformerState(NamedTuple):
    """What a transformer has read: segments, oldest first, and (B,) real tokens read so far by each
    row.
    """

    segments: tuple[Segment, ...]
    lengths: Tensor

    def select(self, rows: Tensor) -> "TransformerState":
        """The state of batch rows `rows` (B',) int64: repeats share a prefix, omissions drop it."""
        rows = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        segments = tuple(segment.select(rows) for segment in self.segments)
        return TransformerState(segments, self.lengths.index_select(0, rows))


def decoding(length: int) -> bool:
    """Tokens read one at a time without gradients are appended in place to a preallocated buffer.
    """
    return length == 1 and torch.is_inference_mode_enabled()


def split_buffer(
    segments: tuple[Segment, ...], length: int
) -> tuple[tuple[Segment, ...], Segment | None]:
    """Segments that stay as they are, and the decoding buffer that this call may append to, if
    there is one.
    """
    if not segments or not decoding(length):
        return segments, None
    last = segments[-1]
    return (segments[:-1], last) if last.written == [last.used] else (segments, None)


def make_buffer(segment: Segment, columns: int = BUFFER_COLUMNS) -> Segment:
    """The same segment with room for `columns` columns."""

    def grown(x: Tensor, dim: int) -> Tensor:
        shape = list(x.shape)
        shape[dim] = columns
        out = x.new_zeros(shape)
        out.narrow(dim, 0, segment.used).copy_(x.narrow(dim, 0, segment.used))
        return out

    return Segment(
        tuple(grown(k, 2) for k in segment.keys),
        tuple(grown(v, 2) for v in segment.values),
        grown(segment.real, 1),
        segment.used,
        None,
        [segment.used],
    )


def make_room(buffer: Segment, real: Tensor) -> Segment:
    """The buffer with one more visible column, which `real` (B, 1) says is real or not; others'
    views stay as they are.
    """
    if buffer.used == buffer.real.shape[1]:
        buffer = make_buffer(buffer, 2 * buffer.used)
    buffer.real[:, buffer.used] = real[:, 0]
    buffer.written[0] += 1
    return buffer._replace(used=buffer.used + 1)


def append(buffer: Segment, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Write one token's keys and values (B, K, 1, d) in the newest column; returns the visible
    columns.
    """
    buffer.keys[layer][:, :, buffer.used - 1] = keys[:, :, 0]
    buffer.values[layer][:, :, buffer.used - 1] = values[:, :, 0]
    return buffer.keys[layer][:, :, : buffer.used], buffer.values[layer][:, :, : buffer.used]

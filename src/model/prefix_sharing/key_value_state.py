"""What attention has read: keys and values, computed once and read in place by all.

A state is a chain of segments (a context, its question, an answer). `select` repeats or drops batch
rows by changing a row map. No key or value is copied.

Decoding reads two things: the first segment, which rows may share, and a buffer, in which each row
has columns of its own. The buffer holds the tokens of the other segments, and new tokens are
appended to it.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from src.model.cpu_kernels import attend_part
from src.model.prefix_sharing import Level, to_device
from src.model.prefix_sharing.attention import (
    Part,
    attend_parts,
    attend_shown,
    join,
    shown_of,
)
from src.model.prefix_sharing.packing import Packed, starts_of

# Free columns of a new decoding buffer. It doubles when full.
BUFFER_COLUMNS = 32


class Segment(NamedTuple):
    """Tokens read in one call: S segment rows, packed one after the other.

    keys, values: one (P, K, d) tensor a layer. start, lengths: (S,) where a row's tokens begin, and
    how many there are. rows: (B,) int64, which segment row each batch row reads.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    start: Tensor
    lengths: Tensor
    rows: Tensor

    def select(self, rows: Tensor) -> "Segment":
        """Batch rows `rows` (repeats allowed); nothing else is copied."""
        return self._replace(rows=self.rows.index_select(0, rows))

    def apart(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Keys and values of each batch row, a copy (B, C, K, d) a layer, and which of the C
        columns are real, (B, C) bool.
        """
        start, lengths = (x.index_select(0, self.rows) for x in (self.start, self.lengths))
        columns = torch.arange(int(lengths.max()) if len(lengths) else 0, device=start.device)
        real = columns < lengths[:, None]
        # index_select (not x[place]): its gradient is reproducible.
        place = torch.where(real, start[:, None] + columns, 0).flatten()

        def own(lines: Sequence[Tensor]) -> list[Tensor]:
            return [line.index_select(0, place).unflatten(0, real.shape) for line in lines]

        return own(self.keys), own(self.values), real

    def parts(self) -> list[Part]:
        """For one query a batch row: neighbouring rows that read the same tokens attend to them
        together. Rows that read none are in no part.
        """
        start, lengths = self.start.tolist(), self.lengths.tolist()
        parts, first = [], 0
        for row, same in groupby(self.rows.tolist()):
            last = first + len(list(same))
            if lengths[row]:
                tokens = slice(start[row], start[row] + lengths[row])
                parts.append(Part(slice(first, last), tokens, None, causal=False))
            first = last
        return parts


class Buffer(NamedTuple):
    """Each batch row's own keys and values, one (B, C, K, d) tensor a layer. `used` of the C
    columns are visible. Decoding reads the buffer and appends to it in place.

    real: (B, C) bool, True where a column holds a real token of that row. written: how many columns
    are taken, in a one-element list shared by all states on the buffer. If the `used` of a state is
    smaller, somebody else has continued the buffer, and the state must not write over it.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    real: Tensor
    used: int
    written: list[int]

    def select(self, rows: Tensor) -> "Buffer":
        """A copy of batch rows `rows` (repeats allowed)."""
        keys = tuple(k.index_select(0, rows) for k in self.keys)
        values = tuple(v.index_select(0, rows) for v in self.values)
        return Buffer(keys, values, self.real.index_select(0, rows), self.used, [self.used])

    def apart(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """As Segment.apart, views of the visible columns."""
        keys = [k[:, : self.used] for k in self.keys]
        values = [v[:, : self.used] for v in self.values]
        return keys, values, self.real[:, : self.used]


class KeyValueState(NamedTuple):
    """What attention has read: segments, oldest first, and (B,) real tokens read so far by each
    row.
    """

    segments: tuple[Segment | Buffer, ...]
    lengths: Tensor

    def select(self, rows: Tensor) -> "KeyValueState":
        """The state of batch rows `rows` (B',) int64: repeats share a prefix, omissions drop it."""
        rows = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        segments = tuple(segment.select(rows) for segment in self.segments)
        return KeyValueState(segments, self.lengths.index_select(0, rows))


class After(NamedTuple):
    """Attention in one block, for B rows of T new tokens. Each row attends to what it has read and
    to itself. This is the plain way, for any T and with gradients.

    size: (B, T). earlier: keys and values (B, C, K, d) of what was read, None: nothing. shown: (B,
    1, T, C + T), added to the scores; None: each token sees those up to its own.
    """

    size: tuple[int, int]
    earlier: tuple[Tensor, Tensor] | None
    shown: Tensor | None

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query (B * T, K, G, d), keys and values (B * T, K, d) to (B * T, K * G * d)."""
        query, *pair = (x.unflatten(0, self.size) for x in (query.flatten(1, 2), keys, values))
        if self.earlier is not None:
            pair = [torch.cat(both, 1) for both in zip(self.earlier, pair, strict=True)]
        read = (x.transpose(1, 2) for x in (query, *pair))
        return attend_shown(*read, self.shown).transpose(1, 2).flatten(2).flatten(0, 1)


class Appended(NamedTuple):
    """Attention in one block, for one new token a row. The token's keys and values are put in the
    newest column of a buffer. It attends to the buffer, and to a prefix that rows may share.

    own: the buffer's visible keys and values (B, used, K, d). shown: (B, 1, 1, used), added to the
    scores. shared, parts: the prefix's keys and values (P, K, d), and which rows read which.
    """

    own: tuple[Tensor, Tensor]
    shown: Tensor
    shared: tuple[Tensor, Tensor] | None
    parts: Sequence[Part]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query (B, K, G, d), keys and values (B, K, d) to (B, K * G * d)."""
        for columns, new in zip(self.own, (keys, values), strict=True):
            columns[:, -1] = new
        own = [x.transpose(1, 2) for x in self.own]
        if self.shared is None and query.device.type != "cpu":
            return attend_shown(query, *own, self.shown).flatten(1)  # a head's groups as queries
        mixed = attend_part(query, *own, self.shown)
        if self.parts:
            mixed = join(*mixed, *attend_parts(query, *self.shared, self.parts))
        return mixed[0].flatten(1)


def state_of_packed(
    levels: Sequence[Level], packed: Packed, kept: Sequence[tuple[Tensor, Tensor]]
) -> KeyValueState:
    """The state after each row of the last level of packed trees, whose keys and values (P, K, d)
    were kept for each block.
    """
    keys, values = zip(*kept, strict=True)
    segments: list[Segment] = []
    rows, lengths = torch.arange(len(levels[-1].lengths)), torch.zeros_like(levels[-1].lengths)
    device = packed.tokens.device
    for depth, level in reversed(list(enumerate(levels))):
        start, held, read = (
            to_device(x, device) for x in (starts_of(packed, depth, level), level.lengths, rows)
        )
        segments.insert(0, Segment(keys, values, start, held, read))
        lengths, rows = lengths + level.lengths[rows], level.parents[rows]
    return KeyValueState(tuple(segments), to_device(lengths, device))


def read_rows(
    state: KeyValueState, lengths: Tensor, width: int, kept: Sequence[tuple[Tensor, Tensor]]
) -> KeyValueState:
    """A state after `width` more tokens a row, `lengths` (B,) of them real, whose keys and values
    (B * width, K, d) were kept for each block.
    """
    rows = torch.arange(len(lengths), device=lengths.device)
    own = Segment(*zip(*kept, strict=True), rows * width, lengths, rows)
    return KeyValueState((*state.segments, own), state.lengths + lengths)


def decoding(length: int) -> bool:
    """Tokens read one at a time without gradients are appended in place to a preallocated buffer.
    """
    return length == 1 and torch.is_inference_mode_enabled()


def read_after(state: KeyValueState, width: int, blocks: int) -> list[After]:
    """The attention of `width` new tokens a row after a state, for each block."""
    size = (len(state.lengths), width)
    if not state.segments:
        return [After(size, None, None)] * blocks
    keys, values, before = _side_by_side(state.segments)
    column = torch.arange(width, device=before.device)
    past = (column <= column[:, None]).expand(len(before), -1, -1)
    shown = shown_of(torch.cat((before[:, None].expand(-1, width, -1), past), -1))[:, None]
    return [After(size, earlier, shown) for earlier in zip(keys, values, strict=True)]


def append_token(
    state: KeyValueState, lengths: Tensor, nothing: Tensor
) -> tuple[list[Appended], KeyValueState]:
    """The attention of one token a row after a state, for each block, and the state after it.

    lengths: (B,), 0 for a row whose token is padding. nothing: (B, 0, L, K, d), no keys in L
    blocks.
    """
    prefix, buffer = _for_decoding(state, nothing)
    buffer = _add_column(buffer, lengths > 0)
    keys, values, real = buffer.apart()
    seen = real.clone()
    seen[:, -1] = True  # a padding token sees itself, so that no row is without keys
    shown = shown_of(seen)[:, None, None]
    parts = prefix.parts() if prefix else []
    shared = zip(prefix.keys, prefix.values, strict=True) if prefix else [None] * len(keys)
    attentions = [
        Appended(own, shown, of_prefix, parts)
        for own, of_prefix in zip(zip(keys, values, strict=True), shared, strict=True)
    ]
    segments = (buffer,) if prefix is None else (prefix, buffer)
    return attentions, KeyValueState(segments, state.lengths + lengths)


def _side_by_side(
    segments: Sequence[Segment | Buffer], room: int = 0
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """All that each batch row has read, in the form of Segment.apart, and `room` more columns,
    which must be written before they are read.
    """
    keys, values, real = zip(*(segment.apart() for segment in segments), strict=True)
    more = real[0].new_zeros(len(real[0]), room)

    def joined(layers: tuple[Tensor, ...]) -> Tensor:
        rows, _, heads, size = layers[0].shape
        return torch.cat((*layers, layers[0].new_empty(rows, room, heads, size)), 1)

    columns = ([joined(layer) for layer in zip(*x, strict=True)] for x in (keys, values))
    return *columns, torch.cat((*real, more), 1)


def _for_decoding(state: KeyValueState, nothing: Tensor) -> tuple[Segment | None, Buffer]:
    """What the rows that decode a token have read: a prefix that they may share, and a buffer to
    append to. nothing: as for `append_token`.

    The buffer is the state's own, unless somebody else has continued it. Then it is a new one,
    which begins with copies of all segments except the prefix. On devices other than a CPU the
    prefix is copied too: there, one call for each context costs more than reading its keys once for
    each row.
    """
    segments = state.segments
    shares = segments and isinstance(segments[0], Segment) and nothing.device.type == "cpu"
    prefix = segments[0] if shares else None
    own = segments[prefix is not None :]
    if len(own) == 1 and isinstance(own[0], Buffer) and own[0].written == [own[0].used]:
        return prefix, own[0]
    no_columns = nothing.unbind(2)
    empty = Buffer(no_columns, no_columns, nothing.new_zeros(nothing.shape[:2]).bool(), 0, [0])
    return prefix, _buffer([empty, *own], BUFFER_COLUMNS)


def _buffer(segments: Sequence[Segment | Buffer], room: int) -> Buffer:
    """A buffer that begins with these, with room for so many columns more."""
    keys, values, real = _side_by_side(segments, room)
    used = real.shape[1] - room
    return Buffer(tuple(keys), tuple(values), real, used, [used])


def _add_column(buffer: Buffer, real: Tensor) -> Buffer:
    """The buffer with one more visible column. real: (B,), whether that column holds a real token.
    Other states' views do not change.
    """
    if buffer.used == buffer.real.shape[1]:
        buffer = _buffer([buffer], max(buffer.used, 1))
    buffer.real[:, buffer.used] = real
    buffer.written[0] += 1
    return buffer._replace(used=buffer.used + 1)

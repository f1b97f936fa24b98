"""Attention over shared prefixes: keys and values stay where they were computed, once for all who
read them.

A state is a chain of segments (a context, its question, an answer). `select` repeats or drops batch
rows by changing a row map; no key or value is copied. To attend, the children of one parent are
folded into the query axis, so that a shared prefix costs one product with many queries and not many
products with one copy each. The parts (each earlier segment, and the tokens of this call among
themselves) are joined by their log-sum-exp, which is exact: softmax over the concatenation (Milakov
& Gimelshein 2018, 1805.02867; Juravsky et al. 2024, 2402.05099).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# A row maximum of a wholly masked row is -inf, and -inf - -inf is NaN: a finite floor keeps exp()
# at 0.
LOWEST = -1e30
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


class Fold(NamedTuple):
    """Where batch rows go when the children of one segment row stand side by side.

    slot: (B,) position of a batch row among S * `children` places; None when the two orders are the
    same.
    masked: (S, 1, 1, C) bool, True where a key is padding; None when all keys are real.
    """

    children: int
    slot: Tensor | None
    masked: Tensor | None


def fold_of(segment: Segment) -> Fold:
    """The fold of one earlier segment; computed once per call and used in every layer."""
    size = segment.real.shape[0]
    real = segment.real[:, : segment.used]
    masked = None if bool(real.all()) else ~real[:, None, None, :]
    if segment.rows is None:
        return Fold(1, None, masked)
    counts = torch.bincount(segment.rows, minlength=size)
    children = int(counts.max())
    order = torch.argsort(segment.rows, stable=True)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(order), device=order.device) - first.index_select(
        0, segment.rows[order]
    )
    slot = torch.empty_like(order)
    slot[order] = segment.rows[order] * children + rank
    if len(slot) == size * children and bool((slot[1:] > slot[:-1]).all()):
        return Fold(children, None, masked)
    return Fold(children, slot, masked)


def _partial_softmax(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One part of a softmax: weighted sum of values, sum of weights, and the maximum they are
    relative to.

    The maximum is a constant of the algebra (it cancels in `_join`), so no gradient flows through
    it.
    """
    highest = scores.detach().amax(-1, keepdim=True).clamp_min(LOWEST)
    weights = torch.exp(scores - highest)
    return weights @ values, weights.sum(-1, keepdim=True), highest


def _prefix_part(
    query: Tensor, keys: Tensor, values: Tensor, fold: Fold
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend from queries (B, T, K, G, d), scaled, to an earlier segment's keys (S, K, C, d),
    folded.
    """
    batch, length, kv_heads, groups, size = query.shape
    places = keys.shape[0] * fold.children
    if fold.slot is not None:
        # index_copy and index_select (not x[rows]): their gradients are reproducible on the CPU.
        query = query.new_zeros(places, *query.shape[1:]).index_copy(0, fold.slot, query)
    query = query.view(-1, fold.children, length, kv_heads, groups, size)
    query = query.permute(0, 3, 1, 2, 4, 5).reshape(keys.shape[0], kv_heads, -1, size)
    scores = query @ keys.transpose(-1, -2)
    if fold.masked is not None:
        scores = scores.masked_fill(fold.masked, -torch.inf)
    parts = []
    for part in _partial_softmax(scores, values):
        part = part.view(keys.shape[0], kv_heads, fold.children, length, groups, -1)
        part = part.permute(0, 2, 3, 1, 4, 5).reshape(places, length, kv_heads, groups, -1)
        parts.append(part if fold.slot is None else part.index_select(0, fold.slot))
    return parts[0], parts[1], parts[2]


def _own_part(
    query: Tensor, keys: Tensor, values: Tensor, masked: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend from queries (B, T, K, G, d), scaled, to keys (B, K, C, d); masked broadcasts to (B,
    1, T, 1, C).
    """
    batch, length, kv_heads, groups, size = query.shape
    query = query.permute(0, 2, 1, 3, 4).reshape(batch, kv_heads, length * groups, size)
    scores = (query @ keys.transpose(-1, -2)).view(batch, kv_heads, length, groups, -1)
    if masked is not None:
        scores = scores.masked_fill(masked, -torch.inf)
    parts = []
    for part in _partial_softmax(scores.view(batch, kv_heads, length * groups, -1), values):
        part = part.view(batch, kv_heads, length, groups, -1)
        parts.append(part.permute(0, 2, 1, 3, 4))
    return parts[0], parts[1], parts[2]


def _join(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The softmax over all parts' keys together, from the parts; (B, T, K, G, d)."""
    highest = torch.stack([part[2] for part in parts]).amax(0)
    total, weight = 0.0, 0.0
    for summed, weights, own_highest in parts:
        scale = torch.exp(own_highest - highest)
        total = total + summed * scale
        weight = weight + weights * scale
    return total / weight


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    earlier: list[tuple[Tensor, Tensor, Fold]],
    masked: Tensor | None,
) -> Tensor:
    """Causal attention of new tokens to everything their rows have read and to themselves.

    query: (B, T, K, G, d); keys, values: (B, K, C, d), the call's own tokens, or a decoding
    buffer's.
    earlier: keys, values and fold of each earlier segment of this layer.
    masked: True where an own key must not be seen, broadcast to (B, K, T, G, C); None: every key is
    seen.
    Returns (B, T, K * G * d).
    """
    batch, length, kv_heads, groups, size = query.shape
    if not earlier and length == keys.shape[2]:
        # Right-padding is in every real token's future, so causality alone hides it.
        flat = query.reshape(batch, length, kv_heads * groups, size).transpose(1, 2)
        if groups > 1:
            keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
        out = F.scaled_dot_product_attention(flat, keys, values, is_causal=True)
        return out.transpose(1, 2).reshape(batch, length, -1)
    query = query * size**-0.5
    parts = [_prefix_part(query, k, v, fold) for k, v, fold in earlier]
    parts.append(_own_part(query, keys, values, masked))
    return _join(parts).reshape(batch, length, -1)

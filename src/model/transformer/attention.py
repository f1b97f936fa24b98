"""Attention over shared prefixes: keys and values stay where they were computed, once for all who
read them.

To attend, the children of one parent are put side by side on the query axis, so that a shared
prefix costs one product with many queries and not many products with one copy each (Juravsky et al.
2024, 2402.05099). The scores of all parts (each earlier segment, and the tokens of this call among
themselves) then share one softmax.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.transformer.state import Segment


class Fold(NamedTuple):
    """Where batch rows go when the children of one segment row stand side by side.

    slot: (B,) position of a batch row among S * `children` places; None when the two orders are the
    same.
    masked: True where a key must not be seen, such as padding; broadcast to (S, K, n, C). None: all
    are seen.
    """

    children: int
    slot: Tensor | None
    masked: Tensor | None

    def beside(self, x: Tensor, size: int) -> Tensor:
        """(B, K, n, x) to (S, K, children * n, x): what belongs to one segment row together."""
        if self.children == 1 and self.slot is None:
            return x
        if self.slot is not None:
            # index_copy and index_select (not x[rows]): their gradients are reproducible.
            x = x.new_zeros(size * self.children, *x.shape[1:]).index_copy(0, self.slot, x)
        x = x.view(size, self.children, *x.shape[1:]).transpose(1, 2)
        return x.reshape(size, x.shape[1], -1, x.shape[-1])

    def apart(self, x: Tensor) -> Tensor:
        """The way back: (S, K, children * n, x) to (B, K, n, x)."""
        if self.children == 1 and self.slot is None:
            return x
        x = x.unflatten(2, (self.children, -1)).transpose(1, 2).flatten(0, 1)
        return x if self.slot is None else x.index_select(0, self.slot)


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
    masked: True where an own key must not be seen, broadcast to (B, K, T * G, C); None: every key
    is seen.
    Returns (B, T, K * G * d).
    """
    batch, length, kv_heads, groups, size = query.shape
    if not earlier and length == keys.shape[2]:
        # Right-padding is in every real token's future, so causality alone hides it.
        flat = query.reshape(batch, length, kv_heads * groups, size).transpose(1, 2)
        return attend_shown(flat, keys, values, None).transpose(1, 2).reshape(batch, length, -1)
    parts = [*earlier, (keys, values, Fold(1, None, masked))]
    query = (query * size**-0.5).transpose(1, 2).reshape(batch, kv_heads, -1, size)
    scores = []
    for shared, _, fold in parts:
        own = fold.beside(query, len(shared)) @ shared.transpose(-1, -2)
        if fold.masked is not None:
            own = own.masked_fill(fold.masked, -torch.inf)
        scores.append(fold.apart(own))
    weights = torch.cat(scores, -1).softmax(-1).split([x.shape[-1] for x in scores], -1)
    mixed = sum(
        fold.apart(fold.beside(weight, len(shared)) @ shared)
        for weight, (_, shared, fold) in zip(weights, parts, strict=True)
    )
    return mixed.view(batch, kv_heads, length, -1).transpose(1, 2).reshape(batch, length, -1)


def attend_shown(query: Tensor, keys: Tensor, values: Tensor, shown: Tensor | None) -> Tensor:
    """Attention of queries (B, K * G, T, d) to keys and values (B, K, C, d), one call of torch's.

    shown: (B, 1, T, C), added to the scores; None: each query sees the keys up to its own.
    Returns (B, K * G, T, d).
    """
    groups = query.shape[1] // keys.shape[1]
    if groups > 1:
        keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
    if shown is None:
        return F.scaled_dot_product_attention(query, keys, values, is_causal=True)
    # Under autocast the mask has to be of the products' type.
    return F.scaled_dot_product_attention(query, keys, values, shown.to(query.dtype))

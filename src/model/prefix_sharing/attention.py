"""Attention over shared prefixes: keys and values are computed once and read in place by all.

A token sees two parts: the context that it shares with others, and what stands below the context.
All queries that share a part attend to it together (Juravsky et al. 2024, 2402.05099). Each part
gives the output of its own softmax and the logarithm of its sum. The softmax over both parts
follows from these exactly (Milakov and Gimelshein 2018, 1805.02867; Dao 2023, 2307.08691).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.cpu_kernels import attend_part, attend_part_backward


class Part(NamedTuple):
    """A run of queries in the packed sequence, and the run of keys that they see.

    shown: (n, m), added to the scores of n queries and m keys: 0 where seen, -inf elsewhere; None:
    all are seen, or, if `causal`, query i sees keys 0 to i.
    """

    queries: slice
    keys: slice
    shown: Tensor | None
    causal: bool


class Parts(NamedTuple):
    """The parts of a packed sequence: contexts, seen by all below them, and what stands below a
    context. A query is in at most one part of each list. A key is in at most one part of both lists
    together, and in none if no wanted token reads it.
    """

    above: Sequence[Part]
    below: Sequence[Part]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query (M, K, G, d), keys and values (P, K, d) to (M, K * G * d).

        In float32 under autocast too: torch's kernel is no faster in bfloat16, because the product
        that it then calls converts its factors.
        """
        query, keys, values = (
            x.to(torch.promote_types(x.dtype, torch.float32)) for x in (query, keys, values)
        )
        groups = query.shape[2]
        if groups > 1:  # a copy per query head: cheaper than scattered outputs
            keys, values = (
                x[:, :, None].expand(-1, -1, groups, -1).flatten(1, 2) for x in (keys, values)
            )
        query = query.flatten(1, 2)[:, :, None]
        return _PartsAttention.apply(query, keys, values, self).flatten(1)


def join(
    below: Tensor, below_total: Tensor, above: Tensor, above_total: Tensor
) -> tuple[Tensor, Tensor]:
    """One softmax over two parts. Returns their outputs (..., d), weighted by their sums, and the
    logarithm of the total sum (...). A logarithm of -inf marks a part that a query does not have.
    """
    # Under autocast the parts can differ in precision.
    above = above.to(below.dtype)
    weight = torch.sigmoid(above_total - below_total)[..., None].to(below.dtype)
    return below.lerp(above, weight), torch.logaddexp(above_total, below_total)


def attend_parts(
    query: Tensor, keys: Tensor, values: Tensor, parts: Sequence[Part]
) -> tuple[Tensor, Tensor]:
    """Attention of queries (M, K, G, d) to some parts of the keys and values (P, K, d).

    Returns outputs (M, K, G, d) and logarithms (M, K, G): 0 and -inf for a query that is in no
    part.
    """
    read = _heads(query), _for_groups(keys, query), _for_groups(values, query)
    outs, totals = [], []
    for part in parts:
        own = attend_part(*_of_part(part, *read), part.shown, part.causal)
        for found, of_part in zip((outs, totals), own, strict=True):
            found.append((part.queries, _heads(of_part)))
    return _in_line(outs, query, 0.0), _in_line(totals, query[..., 0], -torch.inf)


def _in_line(pieces: Sequence[tuple[slice, Tensor]], like: Tensor, fill: float) -> Tensor:
    """Pieces put in their places in a sequence like `like`; `fill` where there is none."""
    parts, end = [], 0
    for place, piece in [*sorted(pieces, key=lambda x: x[0].start), (slice(len(like), None), None)]:
        if place.start > end:
            parts.append(torch.full_like(like[end : place.start], fill))
        if piece is not None:
            parts.append(piece)
            end = place.stop
    return torch.cat(parts) if parts else torch.full_like(like, fill)


def shown_of(seen: Tensor) -> Tensor:
    """What to add to scores: 0 where a key is seen, -inf elsewhere."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -torch.inf)


def _heads(x: Tensor) -> Tensor:
    """(n, K, G, d) or (n, K, G) to (G, K, n, d) or (G, K, n): a view, groups as a batch."""
    return x.transpose(0, 2)


def _for_groups(x: Tensor, query: Tensor) -> Tensor:
    """Keys or values (P, K, d) to (G, K, P, d): a view, each group of the queries reading the same.
    """
    return x.transpose(0, 1).expand(query.shape[2], -1, -1, -1)


def _of_part(part: Part, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """What a part reads of (G, K, ..., d): its queries, keys and values."""
    n, m = part.queries, part.keys
    return query[:, :, n], keys[:, :, m], values[:, :, m]


class _PartsAttention(torch.autograd.Function):
    """Parts.attend for one query head per key head, G = 1. Each part takes one call forward and one
    backward, without padding.
    """

    @staticmethod
    def forward(ctx, query: Tensor, keys: Tensor, values: Tensor, parts: Parts) -> Tensor:
        above, below = (attend_parts(query, keys, values, level) for level in parts)
        out, total = join(*below, *above)
        ctx.save_for_backward(query, keys, values, out, total)
        ctx.parts = parts
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, keys, values, out, total = ctx.saved_tensors
        read = _heads(query), _for_groups(keys, query), _for_groups(values, query)
        found = [_heads(x) for x in (gradient, out, total)]
        to_keys, to_values, to_query = [], [], []
        for level in ctx.parts:
            pieces = []
            for part in level:
                # With output and sum of the whole softmax: the gradient of the part's share.
                back, mixed, sums = (x[:, :, part.queries] for x in found)
                of_query, of_keys, of_values = attend_part_backward(
                    back, *_of_part(part, *read), mixed, sums, part.shown, part.causal
                )
                pieces.append((part.queries, _heads(of_query)))
                to_keys.append((part.keys, of_keys[0].transpose(0, 1)))
                to_values.append((part.keys, of_values[0].transpose(0, 1)))
            to_query.append(_in_line(pieces, query, 0.0))
        lines = _in_line(to_keys, keys, 0.0), _in_line(to_values, values, 0.0)
        return to_query[0].add_(to_query[1]), *lines, None


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

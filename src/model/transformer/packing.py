"""A whole forest in one pass: its real tokens in one line, without padding, each seeing its
ancestors.

Everything that treats tokens one by one (norms, projections, SwiGLU) runs once over the line. Only
attention needs to know who belongs together: there, all tokens below one context stand in one row
with a mask that shows each of them its own node's past and the nodes above it. Siblings stand in
the row too and are masked, which costs less than the many small products that would spare them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from src.model.levels import Level


class Rows(NamedTuple):
    """Where P tokens of the line stand among R rows of `width` places.

    place: (P,) of R * width. shown: (R, 1, width, C) float, what to add to the scores of C keys: 0
    where a place sees a key, -inf elsewhere. Places without a token see each other only.
    """

    place: Tensor
    shown: Tensor
    width: int

    def spread(self, line: Tensor) -> Tensor:
        """(P, heads, d) to (R, heads, width, d), zeros where no token is.

        index_copy, whose gradient is reproducible and a plain look-up.
        """
        places = line.new_zeros(len(self.shown) * self.width, *line.shape[1:])
        places = places.index_copy(0, self.place, line)
        return places.view(len(self.shown), self.width, *line.shape[1:]).transpose(1, 2)

    def gather(self, rows: Tensor) -> Tensor:
        """(R, heads, width, d) to (P, heads * d)."""
        places = rows.transpose(1, 2).reshape(len(rows) * self.width, -1)
        return places.index_select(0, self.place)


class Packed(NamedTuple):
    """tokens, positions: (P,), level after level. keys: where they all stand. wanted: which of them
    have hidden states that are wanted, None: all; queries: where those stand.
    """

    tokens: Tensor
    positions: Tensor
    keys: Rows
    wanted: Tensor | None
    queries: Rows


def real_places(level: Level) -> Tensor:
    """Where the real tokens stand in the flattened (R * T,) tokens."""
    return columns_of(level)[0].flatten().nonzero().squeeze(1)


def in_columns(level: Level, real: Tensor, line: Tensor) -> Tensor:
    """Keys or values (P, K, d) of a level's real tokens, which stand at places `real`, as a
    segment's (R, K, T, d): zeros in the padding.
    """
    places = line.new_zeros(level.tokens.numel(), *line.shape[1:]).index_copy(0, real, line)
    return places.view(*level.tokens.shape, *line.shape[1:]).transpose(1, 2).contiguous()


def columns_of(level: Level) -> tuple[Tensor, int]:
    """Which of a level's columns hold a real token, (R, T) bool, and how many columns there are."""
    columns = torch.arange(level.tokens.shape[1], device=level.tokens.device)
    return columns < level.lengths[:, None], len(columns)


def pack(levels: Sequence[Level], wanted: str) -> Packed:
    """The levels in one line. wanted: whose hidden states, "all", "last level" or "ends", the last
    token of each row of the last level that has any.
    """
    device = levels[0].tokens.device
    sizes = [len(level.lengths) for level in levels]
    # Nodes are numbered level after level; the last is "no token". Each sees itself and its
    # ancestors.
    above = torch.eye(sum(sizes) + 1, dtype=torch.bool, device=device)
    root = torch.arange(sizes[0], device=device)
    before = torch.zeros_like(root)
    tokens, nodes, roots, positions = [], [], [], []
    first = 0
    for depth, level in enumerate(levels):
        if depth:
            own = above[first : first + len(level.lengths)]
            own |= above[first - sizes[depth - 1] : first].index_select(0, level.parents)
            root, before = root[level.parents], before[level.parents]
        real = real_places(level)
        line = real // level.tokens.shape[1]
        tokens.append(level.tokens.flatten()[real])
        nodes.append(first + line)
        roots.append(root[line])
        positions.append(before[line] + real % level.tokens.shape[1])
        before = before + level.lengths
        first += len(level.lengths)
    start = sum(map(len, tokens[:-1]))
    lengths = levels[-1].lengths
    where = {
        "all": None,
        "last level": start + torch.arange(len(tokens[-1]), device=device),
        "ends": start + lengths.cumsum(0)[lengths > 0] - 1,
    }[wanted]
    keys, queries = _rows(torch.cat(nodes), torch.cat(roots), above, sizes[0], where)
    return Packed(torch.cat(tokens), torch.cat(positions), keys, where, queries)


def _rows(
    node: Tensor, root: Tensor, above: Tensor, count: int, wanted: Tensor | None
) -> tuple[Rows, Rows]:
    """Places of all tokens, and of the `wanted` ones; above: (nodes + 1, nodes + 1) bool."""
    column, width = _columns(root, count)
    place = root * width + column
    node_at = node.new_full((count * width,), len(above) - 1).index_copy(0, place, node)
    node_at = node_at.view(count, width)
    # Level after level in the line, left to right in a level: a node's past stands left of it.
    seen = above[node_at[:, :, None], node_at[:, None, :]].tril()
    shown = torch.zeros(seen.shape, device=node.device).masked_fill(~seen, -torch.inf)
    keys = Rows(place, shown[:, None], width)
    if wanted is None:
        return keys, keys
    root = root[wanted]
    rank, width = _columns(root, count)
    place = root * width + rank
    # Each sees what it sees among all; a place without a token, what its row's first place sees.
    full = place.new_zeros(count * width).index_copy(0, place, column[wanted])
    shown = shown.gather(1, full.view(count, width, 1).expand(-1, -1, keys.width))
    return keys, Rows(place, shown[:, None], width)


def _columns(row: Tensor, count: int) -> tuple[Tensor, int]:
    """Of tokens in `count` rows: each one's rank in its row, and the widest row (at least 1)."""
    held = torch.bincount(row, minlength=count)
    order = row.argsort(stable=True)
    rank = torch.arange(len(row), device=row.device) - (held.cumsum(0) - held)[row[order]]
    column = torch.empty_like(rank).index_copy(0, order, rank)
    return column, max(1, int(held.max()))

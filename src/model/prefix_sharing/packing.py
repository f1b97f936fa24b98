"""Prefix trees in one pass: all real tokens packed into one sequence, each seeing its ancestors.

Everything that treats tokens one by one (norms, projections, SwiGLU) runs once over the packed
sequence. Only attention needs to know which tokens belong together. The sequence holds tree after
tree: a context, then branch after branch. A branch is a question and all that stands below it. So
the tokens of a context and of its branches are neighbours, and attention (`Parts`) reads them in
place. All tokens of a tree attend to the context together, and each branch attends to itself with a
mask.

`Rows` does the same with one padded row and one mask per tree. It is used where many small calls
cost more than masked scores (small trees, other devices), for `--compile`, and to check `Parts`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from src.model.prefix_sharing import Level, to_device
from src.model.prefix_sharing.attention import Part, Parts, attend_shown, shown_of

# What the calls of a part cost, as the number of one-channel scores computed in the same time: 0.1
# ms, forward and backward, at 100 GFLOP/s.
SCORES_PER_PART = 700_000


class Rows(NamedTuple):
    """Where packed queries and keys go in R padded rows of `width` and `key_width` columns.

    place, key_place: the index of each in the flattened rows. shown: (R, 1, width, key_width)
    float, added to the scores: 0 where a query sees a key, -inf elsewhere. Padding sees only
    padding.
    """

    place: Tensor
    width: int
    key_place: Tensor
    key_width: int
    shown: Tensor

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query (M, K, G, d), keys and values (P, K, d) to (M, K * G * d)."""
        rows = self._spread(query.flatten(1, 2), self.place, self.width)
        pair = (self._spread(x, self.key_place, self.key_width) for x in (keys, values))
        mixed = attend_shown(rows, *pair, self.shown).transpose(1, 2)
        return mixed.reshape(len(mixed) * self.width, -1).index_select(0, self.place)

    def _spread(self, line: Tensor, place: Tensor, width: int) -> Tensor:
        """(P, heads, d) to (R, heads, width, d), zeros where no token is.

        By index_copy: its gradient is a plain look-up, and reproducible.
        """
        places = line.new_zeros(len(self.shown) * width, *line.shape[1:])
        places = places.index_copy(0, place, line)
        return places.view(len(self.shown), width, *line.shape[1:]).transpose(1, 2)


class Packed(NamedTuple):
    """tokens, positions: (P,), tree after tree. previous: (P,), the index of the token that was
    read before each one, in its own row or at an ancestor's end; -1 for the first token of a tree.
    newest: (R,), the index of the last token that each row of the last level has read; -1: none.

    attention: of all tokens to all. wanted: (M,), the tokens whose hidden states are wanted, None:
    all. last_attention: of the wanted tokens to all.

    On the CPU, whatever the device: level, place: (P,), the level of each token, and its index
    among that level's flattened (R * T,) tokens. wanted_place: (M,), the places of the wanted ones.
    """

    tokens: Tensor
    positions: Tensor
    previous: Tensor
    newest: Tensor
    attention: Parts | Rows
    wanted: Tensor | None
    last_attention: Parts | Rows
    level: Tensor
    place: Tensor
    wanted_place: Tensor


class _Line(NamedTuple):
    """What is known of each packed token, (P,) each.

    node: its row, rows numbered level after level; tree; branch: 0 for a context, else 1 + the row
    of the second level that it stands in or below; ends: True for the last token of a row.
    previous: as in Packed.
    """

    tokens: Tensor
    positions: Tensor
    level: Tensor
    place: Tensor
    previous: Tensor
    node: Tensor
    tree: Tensor
    branch: Tensor
    ends: Tensor


def pack(
    levels: Sequence[Level],
    wanted: str = "all",
    in_rows: bool = False,
    device: torch.device | str = "cpu",
) -> Packed:
    """Pack levels, which are on the CPU, into one sequence for a device.

    wanted: the tokens whose hidden states are wanted: "all", "last level", or "last token", that
    of each row of the last level that has any. in_rows: attention by `Rows`, else `Parts`, on a CPU
    only.
    """
    assert wanted in ("all", "last level", "last token"), f"wanted is {wanted!r}"
    line, above, newest = _line(levels)
    at = None
    if wanted == "last token":
        at = ((line.level == len(levels) - 1) & line.ends).nonzero().squeeze(1)
    elif wanted == "last level" and len(levels) > 1:
        at = (line.level == len(levels) - 1).nonzero().squeeze(1)

    def attention_of(queries: Tensor | None) -> Parts | Rows:
        trees = len(levels[0].lengths)
        if in_rows:
            return _rows(line, above, trees, queries, torch.device(device))
        return _parts(line, above, trees, queries)

    everywhere = attention_of(None)
    last = everywhere if at is None else attention_of(at)
    tokens, positions, previous, newest = (
        to_device(x, device) for x in (line.tokens, line.positions, line.previous, newest)
    )
    return Packed(
        tokens, positions, previous, newest, everywhere,
        None if at is None else to_device(at, device), last,
        line.level, line.place, line.place if at is None else line.place[at],
    )


def parts_pay(levels: Sequence[Level], width: int) -> bool:
    """Whether the scores that `Parts` saves are worth more than the calls of its parts cost. width:
    that of all heads together.
    """
    if len(levels) == 1:
        return False
    contexts, held = levels[0].lengths, levels[1].lengths.clone()
    branch = torch.arange(len(held))
    for level in levels[2:]:
        branch = branch[level.parents]
        held.index_add_(0, branch, level.lengths)
    trees = contexts.index_add(0, levels[1].parents, held)
    in_rows = len(trees) * int(trees.max()) ** 2
    in_parts = int((trees * contexts).sum() + held.square().sum())
    return (in_rows - in_parts) * width > SCORES_PER_PART * (len(trees) + len(held))


def to_rows(hidden: Tensor, place: Tensor, level: Level) -> Tensor:
    """Hidden states (n, D) of tokens at these places of a level's (R * T,), as rows (R, T, D)."""
    places = hidden.new_zeros(level.tokens.numel(), hidden.shape[-1])
    places = places.index_copy(0, to_device(place, hidden.device), hidden)
    return places.view(*level.tokens.shape, -1)


def starts_of(packed: Packed, depth: int, level: Level) -> Tensor:
    """Where each row of a level begins in the packed sequence, (R,); 0 for an empty row."""
    columns = level.tokens.shape[1]
    first = ((packed.level == depth) & (packed.place % columns == 0)).nonzero().squeeze(1)
    return torch.zeros_like(level.lengths).index_copy(0, packed.place[first] // columns, first)


def _line(levels: Sequence[Level]) -> tuple[_Line, Tensor, Tensor]:
    """The tokens tree after tree. A tree has its context first, then branch after branch, and a
    branch goes level after level.

    Returns besides: which node sees which, itself and its ancestors, (nodes + 1, nodes + 1) bool,
    the last node being "no token"; and `newest` of Packed.
    """
    sizes = [len(level.lengths) for level in levels]
    above = torch.eye(sum(sizes) + 1, dtype=torch.bool)
    tree = torch.arange(sizes[0])
    branch = before = torch.zeros_like(tree)
    newest = torch.full_like(tree, -1)  # of each row: where the token it read last stands
    found = []
    first = tokens_before = 0
    for depth, level in enumerate(levels):
        if depth:
            own = above[first : first + len(level.lengths)]
            own |= above[first - sizes[depth - 1] : first].index_select(0, level.parents)
            tree, branch, before, newest = (
                x[level.parents] for x in (tree, branch, before, newest)
            )
        if depth == 1:
            branch = 1 + torch.arange(len(branch))
        columns = level.tokens.shape[1]
        real = torch.arange(columns) < level.lengths[:, None]
        place = real.flatten().nonzero().squeeze(1)
        row, column = place // columns, place % columns
        ends = column == level.lengths[row] - 1
        tokens, positions = level.tokens.flatten()[place], before[row] + column
        depths = torch.full_like(place, depth)
        here = tokens_before + torch.arange(len(place))
        previous = torch.where(column > 0, here - 1, newest[row])
        found.append(
            (tokens, positions, depths, place, previous, first + row, tree[row], branch[row], ends)
        )
        newest = newest.index_copy(0, row[ends], here[ends])
        tokens_before += len(place)
        before = before + level.lengths
        first += len(level.lengths)
    line = _Line(*map(torch.cat, zip(*found, strict=True)))
    order = (line.tree * (1 + sum(sizes)) + line.branch).argsort(stable=True)
    # Where each token went, and -1 stays -1.
    moved = torch.cat((order.argsort(), order.new_full((1,), -1)))
    line = line._replace(previous=moved[line.previous])
    return _Line(*(x[order] for x in line)), above, moved[newest]


def _parts(line: _Line, above: Tensor, trees: int, wanted: Tensor | None) -> Parts:
    """Attention of trees to their contexts and of branches to themselves, for `wanted` queries
    only.
    """
    # Contexts by their tree's number, branches by numbers beyond.
    group = torch.where(line.branch > 0, trees + line.branch, line.tree)
    keys = _spans(group)
    queries, below = (
        _spans(x if wanted is None else x[wanted]) for x in (group, line.tree)
    )
    # If all are wanted, a tree's queries begin with its context's own, which see what is before
    # them.
    contexts = [
        Part(below[tree], keys[tree], None, causal=wanted is None)
        for tree in below
        if tree in keys
    ]
    branches = []
    for number, span in queries.items():
        if number >= trees:
            node = line.node[keys[number]]
            seen = above[node[:, None], node].tril()
            if wanted is not None:
                seen = seen[wanted[span] - keys[number].start]
            branches.append(Part(span, keys[number], shown_of(seen), causal=False))
    return Parts(contexts, branches)


def _spans(numbers: Tensor) -> dict[int, slice]:
    """Where each number stands; equal ones stand together."""
    found, counts = numbers.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    return {
        number: slice(end - count, end)
        for number, count, end in zip(found.tolist(), counts.tolist(), ends.tolist(), strict=True)
    }


def _rows(
    line: _Line, above: Tensor, trees: int, wanted: Tensor | None, device: torch.device
) -> Rows:
    """One row per tree. A row of queries holds only the `wanted` ones. The masks, as large as the
    squares of rows, are made on the device.
    """
    key_column, key_width = _columns(line.tree, trees)
    if device.type == "cuda":  # its kernels copy a mask whose rows are not aligned
        key_width = -(-key_width // 8) * 8
    key_place = line.tree * key_width + key_column
    node = line.node.new_full((trees * key_width,), len(above) - 1)
    node = node.index_copy(0, key_place, line.node).view(trees, key_width)
    node, above = to_device(node, device), to_device(above, device)
    # A node's past stands left of it, and so do its ancestors.
    seen = above[node[:, :, None], node[:, None, :]].tril()
    shown = shown_of(seen)
    of_keys = to_device(key_place, device), key_width
    if wanted is None:
        return Rows(*of_keys, *of_keys, shown[:, None])
    tree = line.tree[wanted]
    column, width = _columns(tree, trees)
    place = tree * width + column
    # Each query sees what it sees among all. Padding sees what the first column of its row sees.
    full = place.new_zeros(trees * width).index_copy(0, place, key_column[wanted])
    full = to_device(full, device).view(trees, width, 1)
    shown = shown.gather(1, full.expand(-1, -1, key_width))
    return Rows(to_device(place, device), width, *of_keys, shown[:, None])


def _columns(row: Tensor, count: int) -> tuple[Tensor, int]:
    """For tokens in `count` rows, in order: the column of each in its row, and the width of the
    widest row (at least 1).
    """
    held = torch.bincount(row, minlength=count)
    first = held.cumsum(0) - held
    rank = torch.arange(len(row)) - first[row]
    return rank, max(1, int(held.max()))

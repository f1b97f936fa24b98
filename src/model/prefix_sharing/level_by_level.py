"""The methods that scoring and generation need to read prefix trees, for models that read level by
level.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.prefix_sharing import Level
from src.model.prefix_sharing.packing import Packed


class LevelByLevel:
    """The methods that scoring and generation need, by the model's `forward`. Each level is read
    after the states of its parents, and gradients reach what the parents have read. Rows of the
    last level are read in groups of similar length.
    """

    def read(self, tokens: Tensor, lengths: Tensor, state: Any = None) -> Any:
        """The state after tokens (B, T) whose hidden states nobody needs."""
        return self(tokens, lengths, state)[1]

    def read_levels(self, levels: Sequence[Level]) -> list[Tensor]:
        """Hidden states (R, T, D) of each level."""
        found, state = [], None
        for level in levels[:-1]:
            hidden, state = self(level.tokens, level.lengths, _of_parents(state, level))
            found.append(hidden)
        return [*found, self._read_last_level(levels[-1], state)]

    def read_completions(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, T, D) of the last level alone."""
        return self._read_last_level(levels[-1], self._state_after(levels[:-1]))

    def read_last(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, D) at the last token of each row of the last level, 0 for an empty row.
        """
        hidden, lengths = self.read_completions(levels), levels[-1].lengths
        rows = torch.arange(len(hidden), device=hidden.device) * hidden.shape[1]
        ends = hidden.flatten(0, 1).index_select(0, rows + (lengths - 1).clamp_min(0))
        return torch.where(lengths[:, None] > 0, ends, 0.0)

    def prefill(self, levels: Sequence[Level]) -> tuple[Tensor, Any]:
        """Hidden states (R, D) at the last token of each row of the last level, and the state after
        each row. No row may be empty.
        """
        last = levels[-1]
        before = last._replace(lengths=last.lengths - 1)
        final = last.tokens.gather(1, before.lengths[:, None])
        state = self._state_after([*levels[:-1], before])
        hidden, state = self(final, torch.ones_like(last.lengths), state)
        return hidden[:, 0], state

    def read_trees(
        self, levels: Sequence[Level], packed: Packed, keep_state: bool = False
    ) -> tuple[Tensor, Any]:
        """Hidden states (P, D) of all tokens of packed trees; and the state after each row of the
        last level if it is kept, else None. For a layer on top that reads in one pass.
        """
        if keep_state:
            found, state = [], None
            for level in levels:
                hidden, state = self(level.tokens, level.lengths, _of_parents(state, level))
                found.append(hidden)
        else:
            found, state = self.read_levels(levels), None
        sizes = [hidden.shape[0] * hidden.shape[1] for hidden in found]
        start = torch.tensor([0, *accumulate(sizes)][:-1], device=packed.place.device)
        tokens = torch.cat([hidden.flatten(0, 1) for hidden in found])
        return tokens.index_select(0, start[packed.level] + packed.place), state

    def _state_after(self, levels: Sequence[Level]) -> Any:
        """The state after each row of the last of these levels; None where there is none."""
        state = None
        for level in levels:
            state = self.read(level.tokens, level.lengths, _of_parents(state, level))
        return state

    def _read_last_level(self, level: Level, state: Any) -> Tensor:
        """Hidden states (R, T, D) of a level read after the state of the one above it.

        One rejected answer may be a whole sentence. In one batch with it, an answer of five tokens
        costs as much as forty.
        """
        width = level.tokens.shape[1]
        groups = groups_by_length(level.lengths.tolist())
        if any(hasattr(m, "unshard") for m in self.modules()):
            # --shard: every rank must call the model equally often.
            groups = [list(range(len(level.lengths)))]
        parts = []
        for rows in groups:
            chosen = torch.tensor(rows, device=level.tokens.device)
            own = Level(*(x.index_select(0, chosen) for x in level))
            tokens = own.tokens[:, : max(1, int(own.lengths.max()))]
            hidden = self(tokens, own.lengths, _of_parents(state, own))[0]
            parts.append(F.pad(hidden, (0, 0, 0, width - tokens.shape[1])))
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([row for rows in groups for row in rows], device=level.tokens.device)
        return torch.cat(parts).index_select(0, order.argsort())


def _of_parents(state: Any, level: Level) -> Any:
    """The state of each row's parent; None for the first level."""
    return None if state is None else state.select(level.parents)


def groups_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups. In a group, no row is less than half as long as the longest. It is one group
    if several would gain little.

    >>> groups_by_length([3, 40, 4, 9])
    [[1], [3], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    if 2 * sum(lengths) >= len(lengths) * max(lengths, default=0):
        return [list(range(len(lengths)))]
    groups: list[list[int]] = []
    for row in order:
        if not groups or 2 * lengths[row] < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return [sorted(rows) for rows in groups]

"""The methods that scoring and generation need to read prefix trees, for models that read level by
level.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.prefix_sharing import Level, to_device
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
            hidden, state = self(*self._after(level, state))
            found.append(hidden)
        return [*found, self._read_last_level(levels[-1], state)]

    def read_completions(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, T, D) of the last level alone."""
        return self._read_last_level(levels[-1], self._state_after(levels[:-1]))

    def read_last(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, D) at the last token of each row of the last level, 0 for an empty row.
        """
        hidden = self.read_completions(levels)
        lengths = to_device(levels[-1].lengths, hidden.device)
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
        device = self.embedding.weight.device
        one_each = torch.ones_like(last.lengths, device=device)
        hidden, state = self(to_device(final, device), one_each, state)
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
                hidden, state = self(*self._after(level, state))
                found.append(hidden)
        else:
            found, state = self.read_levels(levels), None
        sizes = [hidden.shape[0] * hidden.shape[1] for hidden in found]
        # Where `packed` is: with --shard on GPUs, FSDP has moved it from the CPU to this rank's.
        start = torch.tensor([0, *accumulate(sizes)][:-1], device=packed.level.device)
        tokens = torch.cat([hidden.flatten(0, 1) for hidden in found])
        index = to_device(start[packed.level] + packed.place, tokens.device)
        return tokens.index_select(0, index), state

    def _after(self, level: Level, state: Any) -> tuple[Tensor, Tensor, Any]:
        """What `forward` takes to read a level after the states of its parents."""
        level = level.to(self.embedding.weight.device)
        if state is not None:
            state = state.select(level.parents)
        return level.tokens, level.lengths, state

    def _state_after(self, levels: Sequence[Level]) -> Any:
        """The state after each row of the last of these levels; None where there is none."""
        state = None
        for level in levels:
            state = self.read(*self._after(level, state))
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
            own = Level(*(x[rows] for x in level))
            own = own._replace(tokens=own.tokens[:, : max(1, int(own.lengths.max()))])
            hidden = self(*self._after(own, state))[0]
            parts.append(F.pad(hidden, (0, 0, 0, width - own.tokens.shape[1])))
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([row for rows in groups for row in rows]).argsort()
        return torch.cat(parts).index_select(0, to_device(order, parts[0].device))


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

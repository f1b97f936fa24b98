"""The methods that scoring and generation need to read prefix trees, for models that read a whole
batch in one pass over its packed tokens.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from src.model.prefix_sharing import Level, to_device
from src.model.prefix_sharing.packing import Packed, pack, parts_pay, to_rows


class OnePass:
    """The methods of LevelByLevel, each with one call of `read_trees`.

    in_rows: attention by `Rows` everywhere, which is what --compile can compile once.
    """

    in_rows = False

    def read_trees(
        self, levels: Sequence[Level], packed: Packed, keep_state: bool = False
    ) -> tuple[Tensor, Any]:
        """Hidden states (M, D) of the wanted tokens of packed trees, and the state after each row
        of the last level, or None if it is not kept.
        """
        raise NotImplementedError

    def read_levels(self, levels: Sequence[Level]) -> list[Tensor]:
        """Hidden states (R, T, D) of each level, 0 in the padding."""
        packed = self._pack(levels, "all")
        hidden = self.read_trees(levels, packed)[0]
        found = []
        for depth, level in enumerate(levels):
            here = (packed.level == depth).nonzero().squeeze(1)
            own = hidden.index_select(0, to_device(here, hidden.device))
            found.append(to_rows(own, packed.place[here], level))
        return found

    def read_completions(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, T, D) of the last level alone, 0 in the padding."""
        packed = self._pack(levels, "last level")
        return to_rows(self.read_trees(levels, packed)[0], packed.wanted_place, levels[-1])

    def read_last(self, levels: Sequence[Level]) -> Tensor:
        """Hidden states (R, D) at the last token of each row of the last level, 0 for an empty row.
        """
        packed = self._pack(levels, "last token")
        return _by_row(self.read_trees(levels, packed)[0], packed, levels[-1])

    def prefill(self, levels: Sequence[Level]) -> tuple[Tensor, Any]:
        """What `read_last` gives, and the state after each row of the last level."""
        packed = self._pack(levels, "last token")
        hidden, state = self.read_trees(levels, packed, keep_state=True)
        return _by_row(hidden, packed, levels[-1]), state

    def _pack(self, levels: Sequence[Level], wanted: str) -> Packed:
        """By parts where one call per part pays, on a CPU; else in rows, with a mask."""
        device = self.embedding.weight.device
        by_parts = device.type == "cpu" and not self.in_rows and parts_pay(levels, self.width)
        return pack(levels, wanted, not by_parts, device)


def _by_row(hidden: Tensor, packed: Packed, last: Level) -> Tensor:
    """Hidden states (M, D) of last tokens, put in their rows (R, D); 0 for an empty row."""
    rows = to_device(packed.wanted_place // last.tokens.shape[1], hidden.device)
    return hidden.new_zeros(len(last.lengths), hidden.shape[-1]).index_copy(0, rows, hidden)

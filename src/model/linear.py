"""Products with weight matrices, and packed copies of them with which a CPU multiplies few rows
fast.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.cpu_kernels import packed_copy, packed_linear

# id of a weight -> it and its packed copy, for what runs inside `prepacked` in the same thread.
_NONE: Mapping[int, tuple[Tensor, Tensor]] = MappingProxyType({})
_PREPACKED = ContextVar("prepacked", default=_NONE)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) with a weight (O, I), and a bias (O,): (..., O)."""
    # A compiled pass takes no packed weights, and could not be one graph with the look-up in it.
    kept = None if torch.compiler.is_compiling() else _PREPACKED.get().get(id(weight))
    if kept is None:
        return F.linear(x, weight, bias)
    return packed_linear(x, kept[1], bias)


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to (..., O)."""
        return linear(x, self.weight, self.bias)


class TiedEmbedding(nn.Embedding):
    """An embedding that is also the head."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) to (..., V)."""
        return linear(hidden, self.weight)


@contextmanager
def prepacked(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside this context, products with the model's weights read packed copies of them, where
    there are any (`packed_copy`). Use it where weights that do not change are read many times.

    rows: of a typical product. With fewer than four, packing gains nothing in float32.
    """
    known = _PREPACKED.get()
    weights = []
    if rows >= 4 or torch.is_autocast_enabled("cpu"):
        modules = [m for m in model.modules() if isinstance(m, Linear | TiedEmbedding)]
        weights = [m.weight for m in modules if id(m.weight) not in known]
    copies = {
        id(weight): (weight, packed)
        for weight in weights
        if (packed := packed_copy(weight, rows)) is not None
    }
    token = _PREPACKED.set({**known, **copies})
    try:
        yield
    finally:
        _PREPACKED.reset(token)

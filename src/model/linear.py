"""Products with weight matrices, and copies of them in which a CPU multiplies few rows fast.

A product of the 16 rows of a decoding step runs at a third of the rate of a large one. Most of the
time goes into packing the weights, anew for each product. oneDNN, which comes with torch on most
CPUs, can read weights that were packed once. This is two to three times as fast.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# id of a weight -> it and its packed copy, for what runs inside `prepacked` in the same thread.
_NONE: Mapping[int, tuple[Tensor, Tensor]] = MappingProxyType({})
_PREPACKED = ContextVar("arranged", default=_NONE)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) with a weight (O, I), and a bias (O,): (..., O)."""
    # A compiled pass takes no packed weights, and could not be one graph with the look-up in it.
    kept = None if torch.compiler.is_compiling() else _PREPACKED.get().get(id(weight))
    if kept is None:
        return F.linear(x, weight, bias)
    # No public name of torch takes packed weights; torch.compile uses this one when it freezes.
    return torch.ops.mkldnn._linear_pointwise(x, kept[1], bias, "none", [], "")


class Linear(nn.Linear):
    """nn.Linear by `product`."""

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
    there are any: on a CPU with oneDNN, in float32. Use it when weights that do not change are read
    many times.

    rows: of a typical product. With fewer than four, packing gains nothing.
    """
    known = _PREPACKED.get()
    weights = []
    if rows >= 4 and torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu"):
        modules = [m for m in model.modules() if isinstance(m, Linear | TiedEmbedding)]
        weights = [m.weight for m in modules if id(m.weight) not in known]
    copies = {
        id(weight): (weight, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows))
        for weight in weights
        if weight.device.type == "cpu" and weight.dtype == torch.float32
    }
    token = _PREPACKED.set({**known, **copies})
    try:
        yield
    finally:
        _PREPACKED.reset(token)

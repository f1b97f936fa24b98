"""Products with weight matrices, and copies of them in which a CPU multiplies few rows fast.

A product of the 16 rows of a decoding step runs at a third of the rate of a large one: most of the
time goes into arranging the weights for it, anew for each product. oneDNN, which torch carries on
most CPUs, reads weights that were arranged once, at two to three times the rate.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# id of a weight -> it and its arranged copy, for what runs inside `arranged` in the same thread.
_NONE: Mapping[int, tuple[Tensor, Tensor]] = MappingProxyType({})
_PREPACKED = ContextVar("arranged", default=_NONE)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I) with a weight (O, I), and a bias (O,): (..., O)."""
    # A compiled pass takes no arranged weights, and could not be one graph with the look-up in it.
    kept = None if torch.compiler.is_compiling() else _PREPACKED.get().get(id(weight))
    if kept is None:
        return F.linear(x, weight, bias)
    # No public name of torch takes arranged weights; torch.compile uses this one when it freezes.
    return torch.ops.mkldnn._linear_pointwise(x, kept[1], bias, "none", [], "")


class Linear(nn.Linear):
    """nn.Linear by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to (..., O)."""
        return linear(x, self.weight, self.bias)


class TiedEmbedding(nn.Embedding):
    """An embedding that is the head, too."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) to (..., V)."""
        return linear(hidden, self.weight)


@contextmanager
def prepacked(model: nn.Module, rows: int) -> Iterator[None]:
    """Within, products with the model's weights read arranged copies of them, where there are any:
    on a CPU with oneDNN, in float32. For reading many times weights that do not change.

    rows: of a typical product; of fewer than four, arranging gains nothing.
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

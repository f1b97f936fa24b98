"""Low-rank adaptation: small matrices are trained beside frozen large ones, and added to them at
the end (LoRA; Hu et al. 2021, 2106.09685).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.linear import Linear
from src.utils.errors import UserError

# alpha / r of the paper's sect. 4.1, with alpha twice the rank.
SCALE = 2.0


class LoRALinear(Linear):
    """W x + SCALE * B A x (eq. 3): W (O, I) and its bias are frozen; A (r, I) and B (O, r) are
    trained. B is 0 at first, so the layer computes what it did without.
    """

    def __init__(self, plain: Linear, rank: int) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = plain.weight.shape
        if rank >= min(plain.weight.shape):
            raise UserError(
                f"--lora_rank {rank} given, expected less than {min(plain.weight.shape)}: the "
                f"smallest matrix is {self.out_features} x {self.in_features}"
            )
        self.weight, self.bias = plain.weight, plain.bias
        like = {"device": plain.weight.device, "dtype": plain.weight.dtype}
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features, **like))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        nn.init.normal_(self.lora_a, std=self.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to (..., O)."""
        return super().forward(x) + SCALE * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def merged(self) -> Linear:
        """One matrix that computes the same, up to rounding."""
        plain = Linear(1, 1, bias=False, device=self.weight.device)
        plain.out_features, plain.in_features = self.weight.shape
        with torch.no_grad():
            self.weight.addmm_(self.lora_b, self.lora_a, alpha=SCALE)
        plain.weight, plain.bias = self.weight, self.bias
        return plain


def add_lora(model: nn.Module, rank: int) -> None:
    """Freeze the language model of `model`, and give each of its `Linear`s a trained update of this
    rank. A head for scores or values on top is trained as ever.

    Raises UserError if the rank is no less than a side of some matrix, or there is none.
    """
    backbone = getattr(model, "backbone", model).requires_grad_(False)
    if not any(type(layer) is Linear for layer in backbone.modules()):
        raise UserError(f"--lora_rank {rank} given, expected it left out: a plain "
                        f"{type(backbone).__name__} has no matrix that it is for")
    _replace(backbone, lambda layer: LoRALinear(layer, rank) if type(layer) is Linear else layer)


def merge_lora(model: nn.Module) -> None:
    """Add every update to its matrix: the model has the layers it had before `add_lora`."""
    _replace(model, lambda layer: layer.merged() if isinstance(layer, LoRALinear) else layer)
    model.requires_grad_(True)


def _replace(model: nn.Module, change) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if (new := change(child)) is not child:
                setattr(parent, name, new)

"""Prefix trees, each shared prefix read once. A batch of trees comes as levels: contexts, questions
below them, answers below those.

Levels are on the CPU. There a model works out which token stands where, before it moves anything to
its device. Where such a size is asked of a GPU, Python waits until the GPU has done all its work.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """tokens: (R, T) right-padded; lengths: (R,); parents: (R,) rows of the level above (of the
    roots: zeros).
    """

    tokens: Tensor
    lengths: Tensor
    parents: Tensor

    def to(self, device: torch.device) -> "Level":
        """The level on a device."""
        return Level(*(to_device(x, device) for x in self))


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """x on the device; from the CPU to a GPU through pinned memory, which is not waited for."""
    if torch.device(device).type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)

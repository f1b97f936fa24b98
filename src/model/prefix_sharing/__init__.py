"""Prefix trees, each shared prefix read once. A batch of trees comes as levels: contexts, questions
below them, answers below those.
"""

from typing import NamedTuple

from torch import Tensor


class Level(NamedTuple):
    """tokens: (R, T) right-padded; lengths: (R,); parents: (R,) rows of the level above (of the
    roots: zeros).
    """

    tokens: Tensor
    lengths: Tensor
    parents: Tensor

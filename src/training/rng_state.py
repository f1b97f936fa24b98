"""The states of all random number generators, as plain values and tensors that last.pt can hold.

A stage draws from its own streams (src/data/random_streams.py) and from torch's generator. Python's
and numpy's states are kept for a reward function of the user's. With several ranks only rank 0's
states are kept, so a reward function that draws does not resume exactly on the others.
"""

import random
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """The current states, for `set_rng_state`."""
    version, words, spare = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": [version, list(words), spare],
        "numpy": [name, keys.tolist(), *rest],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue drawing from where `rng_state` was called."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, spare = state["python"]
    random.setstate((version, tuple(words), spare))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))

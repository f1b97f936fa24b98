"""Rank and world size of this process under torchrun.

Imports nothing heavy, so that mistakes are reported before torch is loaded.
"""

import os


def world_size() -> int:
    """The number of ranks, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """This process's rank, from 0; rank 0 alone writes files and prints."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def lost_rank(error: BaseException | None) -> bool:
    """Whether torch reports that another rank died or hangs, for which it has no exception class.

    torchrun then sends SIGTERM to the remaining ranks. They ignore it while they handle such an
    error: they end anyway, and print the reason first.
    """
    words = ("gloo", "nccl", "connection closed", "connection reset", "timed out")
    reported = isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)
    return reported and world_size() > 1

"""Which of torchrun's processes this is. Imports nothing heavy: mistakes are told before torch is
loaded.
"""

import os


def world_size() -> int:
    """How many ranks there are, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """This process's number, 0 and up; rank 0 writes and speaks for all."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def lost_rank(error: BaseException | None) -> bool:
    """Whether torch says that another rank went away or hangs; it has no exception of its own.

    torchrun then sends SIGTERM to the ranks that are left. While they handle such an error they
    do not obey it: they end anyway, and first say why.
    """
    words = ("gloo", "nccl", "connection closed", "connection reset", "timed out")
    told = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return told and world_size() > 1

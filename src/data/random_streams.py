"""Streams of random numbers: one for each purpose, so that no two share their numbers."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream is for. Never 0: numpy takes [seed] and [seed, 0] for the same."""

    BATCHES = 1
    WINDOWS = 2
    PAIR_WINDOWS = 3
    PAIRS = 4
    GOLDS = 5
    MINIBATCHES = 6
    PAIR_CHOICE = 7
    LABEL_NOISE = 8


def stream(purpose: Stream, seed: int, *place: int) -> np.random.Generator:
    """The generator for a purpose at a place (an epoch, a step, a paragraph). It depends on nothing
    else. Every use of a purpose names the same number of places, for the reason given above.
    """
    return np.random.default_rng([seed, purpose, *place])

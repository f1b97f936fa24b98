"""How far reward and KL go together: the curves of Gao et al. 2022 (2210.10760, eq. 1 to 3).

Optimised against a reward model, the true ("gold") reward rises, and falls again when the policy
has moved too far. Distance is d = sqrt(KL(policy || start)), KL in nats an answer; the gain R is
the gold reward less that of the start, so R(0) = 0. Two shapes fit what they measured:

    best of n               R(d) = d (a - b d)
    reinforcement learning  R(d) = d (a - b log d)

a is how fast the gain starts, b how fast it is lost. Both are linear in a and b.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    """a and b in reward per unit of d, and the share of the gains' variance that is explained."""

    a: float
    b: float
    r2: float


def fit_best_of_n(kl_nats: Sequence[float], gain: Sequence[float]) -> Fit:
    """Least squares of R(d) = d (a - b d), d = sqrt(KL).

    kl_nats: (P,) of each point, for best of n the bound `losses.best_of_n_kl_bound(n)`; gain: (P,)
    gold reward less that at KL 0. The peak is at d = a / (2 b).
    r2 is 1 - the sum of squared errors / that around the mean; NaN where the gains do not differ.
    """
    d = _distances(kl_nats)
    return _fit(np.stack([d, -d * d], 1), gain)


def fit_rl(kl_nats: Sequence[float], gain: Sequence[float]) -> Fit:
    """Least squares of R(d) = d (a - b log d), d = sqrt(KL).

    kl_nats: (P,) measured of each policy; gain: (P,) as in `fit_best_of_n`. The peak is at
    d = exp(a / b - 1). The slope is infinite at d = 0: the paper trusts the form for d that is not
    small. d log d is 0 at 0.
    """
    d = _distances(kl_nats)
    return _fit(np.stack([d, -d * np.log(np.where(d > 0, d, 1.0))], 1), gain)


def _distances(kl_nats: Sequence[float]) -> np.ndarray:
    kl = np.asarray(kl_nats, dtype=np.float64)
    if not (kl >= 0).all():
        raise ValueError(f"KL {kl.min()} nats: expected 0 or more, finite")
    return np.sqrt(kl)


def _fit(columns: np.ndarray, gain: Sequence[float]) -> Fit:
    """columns: (P, 2), what a and b are multiplied by."""
    gain = np.asarray(gain, dtype=np.float64)
    (a, b), _, rank, _ = np.linalg.lstsq(columns, gain, rcond=None)
    if rank < 2:
        raise ValueError("two unknowns: expected points at two or more distances above 0")
    errors, around = gain - columns @ (a, b), gain - gain.mean()
    spread = float(around @ around)
    r2 = 1 - float(errors @ errors) / spread if spread > 0 else float("nan")
    return Fit(float(a), float(b), r2)

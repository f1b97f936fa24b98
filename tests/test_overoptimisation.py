"""Curves of over-optimisation: by hand, by the normal equations, and against known curves."""

import math
import random

import pytest

from src.evaluation import overoptimisation
from src.losses import best_of_n_kl_bound

CASES = 1000


def test_fits_worked_by_hand():
    """Two points and two unknowns. At KL 1 and 4, d = 1 and 2: 3 = a - b and 4 = 2 a - 4 b give
    a = 4, b = 1. At d = 1 and e: 3 = a and 2 e = e (a - b) give a = 3, b = 1."""
    found = overoptimisation.fit_best_of_n([1.0, 4.0], [3.0, 4.0])
    assert found == pytest.approx((4.0, 1.0, 1.0), abs=1e-12)
    found = overoptimisation.fit_rl([1.0, math.e**2], [3.0, 2 * math.e])
    assert found == pytest.approx((3.0, 1.0, 1.0), abs=1e-12)


def test_r2_worked_by_hand():
    """d = 1 three times and 2 once: a - b has to be 1, the mean of 0, 1 and 2, and 2 a - 4 b = 0.
    Errors of squares 1, 0, 1, 0; around the mean 0.75: 2.75. R2 = 1 - 2 / 2.75."""
    found = overoptimisation.fit_best_of_n([1.0, 1.0, 1.0, 4.0], [0.0, 1.0, 2.0, 0.0])
    assert found == pytest.approx((2.0, 1.0, 1 - 2 / 2.75), abs=1e-12)


def test_the_point_of_the_start_adds_nothing():
    kl, gain = [0.5, 1.0, 3.0], [0.4, 0.6, 0.7]
    for fit in (overoptimisation.fit_best_of_n, overoptimisation.fit_rl):
        a, b, _ = fit(kl, gain)
        assert fit([0.0, *kl], [0.0, *gain])[:2] == pytest.approx((a, b), rel=1e-9)


def test_known_curves_are_found_again():
    kl = [best_of_n_kl_bound(n) for n in (2, 4, 8, 16, 64, 256)]
    gain = [math.sqrt(k) * (0.9 - 0.2 * math.sqrt(k)) for k in kl]
    assert overoptimisation.fit_best_of_n(kl, gain) == pytest.approx((0.9, 0.2, 1.0), abs=1e-9)
    kl = [0.1, 0.5, 2.0, 10.0, 50.0]
    gain = [math.sqrt(k) * (0.9 - 0.2 * math.log(math.sqrt(k))) for k in kl]
    assert overoptimisation.fit_rl(kl, gain) == pytest.approx((0.9, 0.2, 1.0), abs=1e-9)


def test_fits_equal_the_normal_equations():
    """Solved by Cramer's rule on plain floats, with R2 as the squared distance left over."""
    rng, worst = random.Random(0), 0.0
    for _ in range(CASES):
        kl = [rng.uniform(0.05, 20.0) for _ in range(rng.randint(3, 12))]
        gain = [rng.gauss(0, 1) for _ in kl]
        for fit, form in (
            (overoptimisation.fit_best_of_n, lambda d: -d * d),
            (overoptimisation.fit_rl, lambda d: -d * math.log(d)),
        ):
            x, y = [math.sqrt(k) for k in kl], [form(math.sqrt(k)) for k in kl]
            xx, xy, yy = (sum(p * q for p, q in zip(*pair, strict=True))
                          for pair in ((x, x), (x, y), (y, y)))
            xg, yg = (sum(p * q for p, q in zip(z, gain, strict=True)) for z in (x, y))
            det = xx * yy - xy * xy
            if det < 1e-2 * xx * yy:
                continue  # points so close that the equations lose digits
            a, b = (xg * yy - yg * xy) / det, (yg * xx - xg * xy) / det
            mean = sum(gain) / len(gain)
            left = sum((g - a * p - b * q) ** 2 for g, p, q in zip(gain, x, y, strict=True))
            r2 = 1 - left / sum((g - mean) ** 2 for g in gain)
            found = fit(kl, gain)
            for one, other in zip(found, (a, b, r2), strict=True):
                worst = max(worst, abs(one - other) / max(1.0, abs(other)))
    print(f"over-optimisation fits: worst difference {worst:.1e}")
    assert worst < 1e-9


def test_gains_that_do_not_differ_have_no_r2():
    assert math.isnan(overoptimisation.fit_best_of_n([1.0, 2.0], [0.5, 0.5]).r2)


@pytest.mark.parametrize("kl", [[1.0, 1.0], [0.0, 2.0], []])
def test_too_few_distances_are_refused(kl):
    for fit in (overoptimisation.fit_best_of_n, overoptimisation.fit_rl):
        with pytest.raises(ValueError, match="two or more distances"):
            fit(kl, [1.0] * len(kl))


@pytest.mark.parametrize("kl", [[-0.1, 1.0], [math.nan, 1.0]])
def test_a_kl_below_0_is_refused(kl):
    with pytest.raises(ValueError, match="expected 0 or more"):
        overoptimisation.fit_rl(kl, [1.0, 2.0])

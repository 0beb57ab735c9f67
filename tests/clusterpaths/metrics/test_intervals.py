from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from clusterpaths.metrics.intervals import bootstrap_mean, difference_interval, wilson


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [(9, 10, (0.5958, 0.9821)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (1, 2, (0.0945, 0.9055))],
)
def test_wilson_by_hand(successes: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (8, 10), (37, 1000), (202_598, 202_599)])
def test_wilson_is_that_of_scipy(successes: int, n: int) -> None:
    assert wilson(successes, n) == pytest.approx(binomtest(successes, n).proportion_ci(method="wilson"), rel=1e-13)


def test_intervals_hold_the_value_and_come_back_with_the_seed() -> None:
    values = np.repeat([0.0, 1.0], [20, 80])
    low, high = bootstrap_mean(values, 0)
    assert low < 0.8 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.04, abs=0.03)  # the normal approximation's width
    assert (low, high) == bootstrap_mean(values, 0)


def test_intervals_are_those_of_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(5).random(60)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=0).confidence_interval
    assert bootstrap_mean(values, 0) == pytest.approx(theirs, abs=0.01)  # both drawn; a fiftieth of the width is 0.003


def test_a_share_of_one_has_an_interval_with_a_width() -> None:
    assert bootstrap_mean(np.ones(10), 0) == wilson(10, 10)


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_mean(np.ones(0), 0)


def test_the_interval_of_a_difference_is_newcombe_s_example() -> None:
    """56 of 70 against 48 of 80: 0.0524 to 0.3339, Newcombe 1998, table II (a), method 10."""
    first, second = (48 / 80, *wilson(48, 80)), (56 / 70, *wilson(56, 70))
    assert difference_interval(first, second) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval(second, first) == pytest.approx((-0.3339, -0.0524), abs=5e-5)

"""Two-sample tests, judged by scipy's tests and by how often they err."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import jensenshannon

from clusterpaths.monitoring.two_sample import (
    EXCEEDANCES,
    count_groups,
    draws_needed,
    g_test,
    high_scores_test,
    holm,
    jensen_shannon_distance,
    ks_test,
    new_categories_test,
)

DRAWS = 20_000
TABLES = [
    ([30, 50, 20], [14, 20, 16]),
    ([3, 0, 1, 5], [1, 2, 1, 0]),
    ([400, 100, 0, 7], [30, 20, 1, 2]),
]


def counts(*values: list[int]) -> list[NDArray[np.int64]]:
    return [np.array(one, np.int64) for one in values]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("table", TABLES)
def test_the_statistic_is_scipys_and_the_effect_is_its_jensen_shannon_distance(table: tuple[list[int], ...]) -> None:
    reference, window = counts(*table)
    found = g_test(reference, window, 100, rng())
    expected = stats.chi2_contingency([reference, window], correction=False, lambda_="log-likelihood")
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.effect == pytest.approx(jensenshannon(reference, window, base=2))


@pytest.mark.parametrize("table", TABLES)
def test_the_p_value_is_that_of_scipys_permutation_test(table: tuple[list[int], ...]) -> None:
    reference, window = counts(*table)
    samples = [np.repeat(np.arange(len(one)), one) for one in (reference, window)]

    def statistic(first: NDArray[np.int64], second: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        both = [np.stack([(one == at).sum(axis) for at in range(len(reference))], -1) for one in (first, second)]
        return np.round(jensen_shannon_weighted(*both), 9)

    expected = stats.permutation_test(
        samples, statistic, vectorized=True, n_resamples=4000, alternative="greater", rng=rng(1), batch=500
    )
    found = g_test(reference, window, DRAWS, rng())
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.05 + 0.25 * expected.pvalue)


def jensen_shannon_weighted(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weighted with the sizes, in nats, by its definition: entropy of the mixture minus the mean entropy."""
    n, m = first.sum(-1, keepdims=True), second.sum(-1, keepdims=True)
    mixture = stats.entropy((first + second) / (n + m), axis=-1)
    parts = n[..., 0] * stats.entropy(first / n, axis=-1) + m[..., 0] * stats.entropy(second / m, axis=-1)
    divergence: NDArray[np.float64] = mixture - parts / (n + m)[..., 0]
    return divergence


@pytest.mark.parametrize("table", TABLES)
def test_g_is_a_weighted_jensen_shannon_divergence(table: tuple[list[int], ...]) -> None:
    reference, window = counts(*table)
    total = reference.sum() + window.sum()
    expected = 2 * total * jensen_shannon_weighted(reference, window)
    assert g_test(reference, window, 1, rng()).statistic == pytest.approx(expected)


@pytest.mark.parametrize("table", [([8, 2], [1, 5]), ([20, 3], [4, 4]), ([5, 5], [5, 5]), ([60, 2], [10, 1])])
def test_two_by_two_counts_are_as_in_fishers_exact_test(table: tuple[list[int], ...]) -> None:
    reference, window = counts(*table)
    exact = exact_two_by_two(reference, window)
    assert g_test(reference, window, 100_000, rng()).p_value == pytest.approx(exact, rel=0.6, abs=0.001)
    high = [np.repeat([0.0, 1.0], one) for one in (reference, window)]
    share = (reference[1] + window[1]) / (reference.sum() + window.sum())
    one_sided = stats.fisher_exact([window[::-1], reference[::-1]], alternative="greater").pvalue
    found = high_scores_test(*high, (share,), 100_000, rng())
    assert found.statistic == pytest.approx(-np.log(one_sided))
    assert found.effect == window[1] / window.sum()
    assert found.p_value == pytest.approx(one_sided, rel=0.6, abs=0.001)


def exact_two_by_two(reference: NDArray[np.int64], window: NDArray[np.int64]) -> float:
    """Every possible draw, with its hypergeometric probability; ordered by G."""
    both, m = reference + window, int(window.sum())
    drawn = np.arange(max(0, m - both[0]), min(m, both[1]) + 1)
    tables = [np.stack([m - drawn, drawn], -1), np.stack([both[0] - m + drawn, both[1] - drawn], -1)]
    values = np.round(jensen_shannon_weighted(*tables), 12)
    own = values[drawn == window[1]]
    return float(stats.hypergeom(both.sum(), both[1], m).pmf(drawn)[values >= own].sum())


def test_new_categories_are_counted_and_compared_with_chance() -> None:
    found = new_categories_test(*counts([50, 50, 0, 0], [10, 6, 3, 1]), DRAWS, rng())
    assert (found.statistic, found.effect) == (4, 0.2)
    # the window must draw all of both new categories: of 120 examples, 20 drawn, all 4 among them
    assert found.p_value == pytest.approx(stats.hypergeom(120, 4, 20).pmf(4), rel=0.7)
    usual = new_categories_test(*counts([50] + [1] * 40 + [0] * 8, [10] + [0] * 40 + [1] * 8), DRAWS, rng())
    assert usual.p_value > 0.3  # 40 of the reference's 90 examples are on paths of their own as well
    assert usual.by_chance == pytest.approx(8 / 18, abs=0.03)


def test_scores_are_compared_as_scipy_does() -> None:
    draw = rng()
    reference, window = draw.normal(size=500), draw.normal(0.4, size=60)
    found = ks_test(reference, window)
    expected = stats.ks_2samp(reference, window)
    assert (found.statistic, found.p_value) == (expected.statistic, expected.pvalue)
    same = [ks_test(draw.normal(size=300), draw.normal(size=100)) for _ in range(300)]
    assert np.mean([one.effect for one in same]) == pytest.approx(same[0].by_chance, rel=0.1)


def test_a_few_extreme_scores_are_found_that_kolmogorov_and_smirnov_miss() -> None:
    draw = rng()
    reference, window = draw.normal(size=2000), np.concatenate([draw.normal(size=95), draw.normal(6, size=5)])
    assert high_scores_test(reference, window, (0.01, 0.02, 0.1), DRAWS, rng()).p_value < 0.01
    assert ks_test(reference, window).p_value > 0.3
    assert (
        high_scores_test(reference, reference.min() - window, (0.01, 0.02, 0.1), DRAWS, rng()).p_value == 1
    )  # low ones don't count


def test_a_tenth_of_somewhat_high_scores_is_found_at_another_threshold_than_a_few_extreme_ones() -> None:
    draw, shares = rng(), (0.005, 0.02, 0.1, 0.2)
    reference = draw.normal(size=2000)
    somewhat = np.concatenate([draw.normal(size=450), draw.normal(1.7, 0.5, size=50)])
    extreme = np.concatenate([draw.normal(size=194), draw.normal(6, size=6)])
    for window, blind in ((somewhat, 0.005), (extreme, 0.2)):
        assert high_scores_test(reference, window, shares, DRAWS, rng()).p_value < 0.005
        assert high_scores_test(reference, window, (blind,), DRAWS, rng()).p_value > 0.02


@pytest.mark.parametrize("test", ["g", "new", "high", "ks"])
@pytest.mark.parametrize(("n", "m"), [(300, 40), (30, 30), (40, 300), (7, 1)])
def test_p_values_are_valid_without_a_difference(test: str, n: int, m: int) -> None:
    """P(p <= x) <= x; 2,000 pairs of samples, allowing four standard errors."""
    draw, p_values = rng(n), []
    for at in range(2000):
        scores = draw.normal(size=n), draw.normal(size=m)
        groups = count_groups(*(np.minimum(draw.geometric(0.15, size), 30) for size in (n, m)))
        p_values.append(
            {
                "g": lambda: g_test(*groups, 400, rng(at)),  # noqa: B023
                "new": lambda: new_categories_test(*groups, 400, rng(at)),  # noqa: B023
                "high": lambda: high_scores_test(*scores, (0.01, 0.05, 0.2), 400, rng(at)),  # noqa: B023
                "ks": lambda: ks_test(*scores),  # noqa: B023
            }[test]().p_value
        )
    for level in (0.01, 0.05, 0.2, 0.5):
        error = np.sqrt(level * (1 - level) / len(p_values))
        assert np.mean(np.array(p_values) <= level) <= level + 4 * error


def test_a_window_without_a_difference_needs_few_draws() -> None:
    """Besag and Clifford: p is EXCEEDANCES over the number of draws, however many are allowed."""
    found = g_test(*counts([50, 50], [5, 5]), 10**12, rng())
    assert found.p_value == pytest.approx(1)
    assert EXCEEDANCES / g_test(*counts([500, 500], [60, 40]), 10**12, rng()).p_value < 2000


def test_a_window_with_a_difference_gets_the_smallest_p_value_of_so_many_draws() -> None:
    assert g_test(*counts([500, 0], [0, 50]), 999, rng()).p_value == 1 / 1000
    assert draws_needed(0.0005, 12) == 120_000
    assert 12 / (draws_needed(0.0005, 12) + 1) < 0.0005


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # statsmodels' multipletests(…, method="holm")
        ([0.2, 0.9, 0.5], [0.6, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holms_correction(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_the_distance_of_equal_and_of_separate_distributions() -> None:
    reference, window = counts([10, 30, 0], [1, 3, 0])
    assert jensen_shannon_distance(reference, window) == pytest.approx(0, abs=1e-7)
    assert jensen_shannon_distance(*counts([5, 0], [0, 9])) == pytest.approx(1)


def test_thousands_of_categories_and_one() -> None:
    draw = rng()
    many = count_groups(draw.integers(0, 9000, 20_000), draw.integers(0, 9000, 300))
    assert g_test(*many, 2000, rng()).p_value > 0.01
    assert g_test(*counts([70], [3]), 100, rng()) == g_test(*counts([70], [3]), 100, rng(5))
    assert g_test(*counts([70], [3]), 100, rng()).p_value == 1


@pytest.mark.parametrize(
    ("reference", "window", "message"),
    [
        ([1, 2], [1], r"\(2,\) and \(1,\)"),
        ([1, -2], [1, 2], "negative"),
        ([0, 0], [1, 2], "got 0 and 3"),
        ([1, 2], [0, 0], "got 3 and 0"),
    ],
)
def test_bad_counts_are_refused(reference: list[int], window: list[int], message: str) -> None:
    for test in (g_test, new_categories_test):
        with pytest.raises(ValueError, match=message):
            test(*counts(reference, window), 100, rng())


def test_scores_of_an_empty_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 and 0"):
        ks_test(np.zeros(3), np.zeros(0))
    with pytest.raises(ValueError, match="got 0 and 2"):
        high_scores_test(np.zeros(0), np.zeros(2), (0.05,), 100, rng())

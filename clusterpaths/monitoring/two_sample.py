"""Two-sample tests: do the examples of a window come from the same distribution as those of the reference?

Belongs here: pure functions on counts and scores. Which of them are run and what follows is `verdict.py`.

All tests of counts share one mechanism. If reference and window are exchangeable, the window is a random draw without
replacement from both together, so its counts are multivariate hypergeometric. A statistic is computed of the window and of
random draws; the p-value follows from how often a draw's is at least as large. That is valid for any counts, however small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Statistic = Callable[[Counts], NDArray[np.float64]]  # of counts in the window, (d, c) -> (d,)
Contribution = Callable[[Counts, Counts], NDArray[np.float64]]  # of one category: (in the window, in both)
Effect = Callable[[Counts, Counts], NDArray[np.float64]]  # of (reference, window), (..., c) each

EXCEEDANCES = 50  # of the observed statistic: the p-value then has a standard error of 14%, and drawing stops
EXACT_SIZES = 1_000_000  # of the Kolmogorov-Smirnov test; it takes up to a second
_FIRST_DRAWS = 400
_MOST_CELLS = 1 << 22  # draws x categories at a time: 32 MB
_TOLERANCE = 1e-9  # relative; equal statistics may differ by rounding and must count as equal


@dataclass(frozen=True)
class TestResult:
    """One test: n examples in reference and window; `by_chance` is the effect's mean if they do not differ."""

    __test__ = False  # no test of pytest's

    statistic: float
    p_value: float
    effect: float
    by_chance: float
    n_reference: int
    n_window: int


def g_test(reference: Counts, window: Counts, draws: int, rng: np.random.Generator) -> TestResult:
    """The G statistic (likelihood ratio) of two samples' counts (c,); the effect is their Jensen-Shannon distance.

    G = 2 (n + m) J, where J is the Jensen-Shannon divergence in nats of both distributions, weighted with the sample sizes n
    and m (Lin, Divergence Measures Based on the Shannon Entropy, IEEE Trans. Inf. Theory 37, 1991). So this also is the
    permutation test of the Jensen-Shannon distance. Of few examples on many categories the distance is large by chance;
    compare it with `by_chance`.

    Raises:
        ValueError: see `require_counts`.
    """
    n, m = int(reference.sum()), int(window.sum())

    def contribution(drawn: Counts, both: Counts) -> NDArray[np.float64]:
        from scipy.special import xlogy  # imported at first use

        expected = both * (m / (n + m)), both * (n / (n + m))
        observed = drawn, both - drawn
        parts = (xlogy(count, count) - xlogy(count, mean) for count, mean in zip(observed, expected, strict=True))
        total: NDArray[np.float64] = 2 * sum(parts)
        return total

    return _test(reference, window, _summed(reference, window, contribution), jensen_shannon_distance, draws, rng)


def new_categories_test(reference: Counts, window: Counts, draws: int, rng: np.random.Generator) -> TestResult:
    """Examples of the window in categories (c,) that the reference has none of; the effect is their share.

    One-sided: only more of them than by chance count.

    Raises:
        ValueError: see `require_counts`.
    """

    def contribution(drawn: Counts, both: Counts) -> NDArray[np.float64]:
        return np.where(drawn == both, drawn, 0).astype(np.float64)

    def share(of_reference: Counts, of_window: Counts) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.where(of_reference == 0, of_window, 0).sum(axis=-1) / of_window.sum(axis=-1)
        return found

    return _test(reference, window, _summed(reference, window, contribution), share, draws, rng)


def high_scores_test(
    reference: NDArray[np.floating[Any]],
    window: NDArray[np.floating[Any]],
    shares: Sequence[float],
    draws: int,
    rng: np.random.Generator,
) -> TestResult:
    """Examples of the window among the highest scores of both samples together, for several shares of them at once.

    One-sided. A part of a window with high scores hardly changes a distribution, so the Kolmogorov-Smirnov test misses it. A few
    extreme ones are seen among the highest 1%, many that are only somewhat high among the highest 20%: the statistic is the
    smallest of the shares' hypergeometric tail probabilities, as -log, and its p-value is that of the minimum (Berk and Jones,
    Z. Wahrscheinlichkeitstheorie 47, 1979, and Donoho and Jin, Annals of Statistics 32, 2004, take it over all thresholds).
    The effect is the window's part of the highest scores of the deciding share, as a share of the window. Scores equal to a
    threshold are not above it.

    Args:
        reference: (n,) scores.
        window: (m,).
        shares: of both samples that count as high, each in 0..1, ascending.
        draws: at most.
        rng: of the draws.

    Raises:
        ValueError: an empty sample.
    """
    _require_samples(reference, window)
    both = np.sort(np.concatenate([reference, window]))
    places = [min(max(1, round(share * len(both))), len(both) - 1) for share in shares]
    thresholds = both[-1 - np.array(places)]  # (s,) descending
    # category 0: above all thresholds; s: above none
    of_reference, of_window = (
        np.bincount((sample[:, None] <= thresholds).sum(axis=1), minlength=len(shares) + 1).astype(np.int64)
        for sample in (reference, window)
    )
    above, m = np.cumsum(of_reference + of_window)[:-1], len(window)
    from scipy.stats import hypergeom  # takes half a second

    tables = [-hypergeom.logsf(np.arange(min(k, m) + 1) - 1, len(both), k, m) for k in above.tolist()]

    def surprise(drawn: Counts) -> NDArray[np.float64]:
        reached = np.cumsum(drawn, axis=-1)[..., :-1]
        found: NDArray[np.float64] = np.stack([table[reached[..., at]] for at, table in enumerate(tables)], axis=-1)
        return found

    deciding = int(surprise(of_window).argmax())

    def share_of_window(_: Counts, drawn: Counts) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.cumsum(drawn, axis=-1)[..., deciding] / m
        return found

    return _test(of_reference, of_window, lambda drawn: surprise(drawn).max(axis=-1), share_of_window, draws, rng)


def ks_test(reference: NDArray[np.floating[Any]], window: NDArray[np.floating[Any]]) -> TestResult:
    """The two-sample Kolmogorov-Smirnov test of scores; statistic and effect are the largest difference of shares below a score.

    Exact while the product of the sizes is at most EXACT_SIZES, else asymptotic (`scipy.stats.ks_2samp`); conservative with ties.

    Raises:
        ValueError: an empty sample.
    """
    _require_samples(reference, window)
    from scipy.stats import ks_2samp  # takes half a second

    n, m = len(reference), len(window)
    found = ks_2samp(reference, window, method="exact" if n * m <= EXACT_SIZES else "asymp")
    distance, size = float(found.statistic), n * m / (n + m)
    # the mean of Kolmogorov's distribution is sqrt(pi / 2) ln 2 = 0.87 (Marsaglia, Tsang and Wang, J. Stat. Softw. 8, 2003)
    by_chance = min(1.0, float(np.sqrt(np.pi / 2) * np.log(2) / np.sqrt(size)))
    return TestResult(distance, float(found.pvalue), distance, by_chance, n, m)


def jensen_shannon_distance(reference: Counts, window: Counts) -> NDArray[np.float64]:
    """Of the distributions of counts (..., c), no sum 0: (...) in 0..1; 0 if they are equal, 1 without a common category.

    The root of the divergence in bits, both distributions with equal weight, so that it does not depend on the sample sizes;
    a metric (Endres and Schindelin, IEEE Trans. Inf. Theory 49, 2003).
    """
    from scipy.special import xlogy  # imported at first use

    first, second = (counts / counts.sum(axis=-1, keepdims=True) for counts in (reference, window))
    middle = (first + second) / 2
    entropies = [-xlogy(shares, shares).sum(axis=-1) for shares in (middle, first, second)]
    divergence = (entropies[0] - (entropies[1] + entropies[2]) / 2) / np.log(2)
    distance: NDArray[np.float64] = np.sqrt(np.clip(divergence, 0, 1))
    return distance


def count_groups(reference: NDArray[Any], window: NDArray[Any]) -> tuple[Counts, Counts]:
    """How many examples of (n,) and of (m,) ids >= 0 are in each category that occurs in either: (c,) each."""
    _, of_example = np.unique(np.concatenate([reference, window]), return_inverse=True)
    size = int(of_example.max(initial=-1)) + 1
    n = len(reference)
    return np.bincount(of_example[:n], minlength=size), np.bincount(of_example[n:], minlength=size)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for the number of tests: rejecting those <= alpha errs with a probability of at most alpha.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6 (1979). Holds
    however the tests depend on each other, and rejects at least what Bonferroni's correction does.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return [float(value) for value in adjusted]


def draws_needed(alpha: float, tests: int) -> int:
    """Random draws after which the smallest of so many p-values can be a fifth of what Holm's first step rejects."""
    return int(np.ceil(5 * tests / alpha))


def require_counts(reference: Counts, window: Counts) -> None:
    """Raises: ValueError: not as many categories in both, counts below 0, or a sample without examples."""
    if reference.ndim != 1 or reference.shape != window.shape:
        raise ValueError(f"Counts should be (c,) in both samples, got {reference.shape} and {window.shape} instead.")
    if (reference < 0).any() or (window < 0).any():
        raise ValueError("Counts should be >= 0, got negative ones instead.")
    if not (reference.any() and window.any()):
        raise ValueError(f"Both samples should have examples, got {reference.sum()} and {window.sum()} instead.")


def _require_samples(reference: NDArray[Any], window: NDArray[Any]) -> None:
    if not (len(reference) and len(window)):
        raise ValueError(f"Both samples should have examples, got {len(reference)} and {len(window)} instead.")


def _summed(reference: Counts, window: Counts, contribution: Contribution) -> Statistic:
    """The statistic that is a sum over categories, from a table of every possible count."""
    require_counts(reference, window)
    both = reference + window
    most = np.minimum(both, int(window.sum()))  # (c,) as many a draw can have
    starts = np.concatenate([[0], np.cumsum(most + 1)[:-1]])
    category = np.repeat(np.arange(len(both)), most + 1)
    table = contribution(np.arange(len(category)) - starts[category], both[category])

    def statistic(counts: Counts) -> NDArray[np.float64]:
        total: NDArray[np.float64] = table[starts + counts].sum(axis=1)
        return total

    return statistic


def _test(
    reference: Counts,
    window: Counts,
    statistic: Statistic,
    effect: Effect,
    draws: int,
    rng: np.random.Generator,
) -> TestResult:
    """The permutation test of a statistic of the window's counts.

    The p-value is sequential (Besag and Clifford, Sequential Monte Carlo p-values, Biometrika 78, 1991): drawing stops at the
    EXCEEDANCES-th draw whose statistic is at least the observed one, after l draws, with p = EXCEEDANCES / l; else p =
    (exceedances + 1) / (draws + 1). It is valid, P(p <= x) <= x, and windows without a difference need few draws.
    """
    require_counts(reference, window)
    both, n_window = reference + window, int(window.sum())
    observed = float(statistic(window[None])[0])
    border = observed - _TOLERANCE * max(1.0, abs(observed))
    by_chance, done, exceeded = 0.0, 0, 0
    size = _FIRST_DRAWS
    # time per draw is proportional to the categories, or to the window's examples; the sum over "marginals" is limited
    method: Literal["count", "marginals"] = "marginals" if 8 * len(both) < n_window and both.sum() < 10**9 else "count"
    p_value = None
    while done < draws:
        size = max(1, min(size, _MOST_CELLS // len(both), draws - done))
        drawn = rng.multivariate_hypergeometric(both, n_window, size=size, method=method)
        if not done:
            by_chance = float(effect(both - drawn, drawn).mean())
        hits = np.flatnonzero(statistic(drawn) >= border)
        if exceeded + len(hits) >= EXCEEDANCES:
            p_value = EXCEEDANCES / (done + int(hits[EXCEEDANCES - exceeded - 1]) + 1)
            break
        done, exceeded, size = done + size, exceeded + len(hits), 4 * size
    if p_value is None:
        p_value = (exceeded + 1) / (draws + 1)
    return TestResult(observed, p_value, float(effect(reference, window)), by_chance, int(reference.sum()), n_window)

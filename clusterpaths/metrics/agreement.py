"""Agreement of two clusterings of the same examples: pure functions on integer arrays.

Belongs here: path agreement, adjusted Rand index, matching of clusters, migration between paths. Which sets are
compared is `comparison/compare.py`, which changes of the images `evaluation/perturb.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.checks import Ints
from clusterpaths.metrics.paths import PathCounts, count_paths

NO_MATCH = -1


def adjusted_rand(a: Ints, b: Ints) -> float:
    """Adjusted Rand index of two (n,) labellings: 1 for equal ones up to names, about 0 by chance, may be negative.

    Hubert and Arabie, Comparing Partitions, Journal of Classification 2 (1985).
    """
    from sklearn.metrics import adjusted_rand_score  # takes half a second, which a dry run need not wait for

    return float(adjusted_rand_score(a, b))


def shared_information(a: Ints, b: Ints) -> float:
    """Adjusted mutual information of two (n,) labellings, which may have different numbers of clusters.

    1: the same up to names, about 0: as by chance, may be negative. Vinh, Epps and Bailey, Information Theoretic Measures
    for Clusterings Comparison, JMLR 11 (2010).
    """
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(a, b))


def contingency(a: Ints, b: Ints, k_a: int, k_b: int) -> NDArray[np.int64]:
    """How many of n examples are in each cluster of `a` and each of `b`: (k_a, k_b) int64; both inputs are (n,)."""
    code = a.astype(np.int64) * k_b + b
    return np.bincount(code, minlength=k_a * k_b).astype(np.int64).reshape(k_a, k_b)


def match_clusters(a: Ints, b: Ints, k_a: int, k_b: int) -> NDArray[np.int64]:
    """The cluster of `a` that each cluster of `b` corresponds to: (k_b,) int64, NO_MATCH (-1) where there is none.

    One to one, with the largest number of agreeing examples that is possible (Kuhn, The Hungarian Method for the
    Assignment Problem, 1955). Among equally good matchings, the one with more unchanged ids. Clusters that share no example
    are not matched. Both inputs are (n,), ids 0 to k - 1.
    """
    from scipy.optimize import linear_sum_assignment

    shared = contingency(a, b, k_a, k_b)
    weight = shared * (min(k_a, k_b) + 1) + np.eye(k_a, k_b, dtype=np.int64)  # equal ids only break ties
    rows, columns = linear_sum_assignment(weight, maximize=True)
    matched = shared[rows, columns] > 0
    result = np.full(k_b, NO_MATCH, np.int64)
    result[columns[matched]] = rows[matched]
    return result


def path_agreement(a: Ints, b: Ints) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Path agreement (arXiv 2510.06541) of two (n, L) arrays of paths of the same examples.

    Returns:
        whether the complete path is the same, and the share of layers that are; both (n,). The mean of the first is the
        strict path agreement, that of the second the mild.

    Raises:
        ValueError: arrays of different shapes.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"Both should be (n, L) of the same examples, got {a.shape} and {b.shape} instead.")
    same = a == b
    return same.all(axis=1), same.mean(axis=1)


def matched_agreement(
    a: Ints, b: Ints, matches: list[NDArray[np.int64]]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Where paths agree once the clusters of `b` have the ids of `a`.

    Args:
        a: (n, L) cluster ids.
        b: (n, L) cluster ids of the same examples.
        matches: for each of L layers what `match_clusters` returns.

    Returns:
        agreement (n, L) bool, and `b` with the ids of `a` (n, L) int64, NO_MATCH where a cluster has no counterpart.
    """
    renamed = np.empty(b.shape, np.int64)
    for layer, match in enumerate(matches):
        renamed[:, layer] = match[b[:, layer]]
    return a == renamed, renamed


def most_moved(changed: Ints, distances: NDArray[np.floating[Any]], ids: Ints, count: int) -> NDArray[np.int64]:
    """Rows of the `count` examples with the most changed layers, most first; rows without a change are left out.

    Ties go to the smaller distance: an example near its centroids that moves is more informative than one at a border, which
    any new seed moves. Then to the smaller id. All inputs are (n,).
    """
    order = np.lexsort((ids, distances, -changed.astype(np.int64)))
    picked: NDArray[np.int64] = order[changed[order] > 0][:count].astype(np.int64)
    return picked


@dataclass(frozen=True)
class Migrations:
    """Examples between the most frequent paths of two sides.

    Attributes:
        first: the occupied paths of a; its first rows of `counts` are the most frequent of them.
        second: likewise of b.
        counts: (p + 1, q + 1) int64: rows are the p largest paths of a and all others, columns those of b.
    """

    first: PathCounts
    second: PathCounts
    counts: NDArray[np.int64]


def migrations(a: Ints, b: Ints, top: int) -> Migrations:
    """Count the examples that go from each of the `top` largest paths of `a` (n, L) to each of those of `b` (n, M)."""
    first, second = count_paths(a), count_paths(b)
    p, q = min(top, len(first.counts)), min(top, len(second.counts))
    return Migrations(
        first,
        second,
        contingency(np.minimum(first.of_example, p), np.minimum(second.of_example, q), p + 1, q + 1),
    )

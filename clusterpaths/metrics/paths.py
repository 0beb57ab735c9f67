"""What paths are worth, in numbers: pure functions on integer arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class PathCounts:
    """The occupied cluster paths, most frequent first; equally frequent ones in ascending order.

    Attributes:
        paths: (p, layers) int64, each occupied path once.
        counts: (p,) int64, examples on each; sums to n.
        of_example: (n,) int64, which of the p paths each example takes.
    """

    paths: NDArray[np.int64]
    counts: NDArray[np.int64]
    of_example: NDArray[np.int64]


def count_paths(clusters: Ints) -> PathCounts:
    """Count the cluster paths of n examples; `clusters` is (n, layers), ids >= 0.

    Works layer by layer on ranks, so that k ** layers may exceed 64 bits.
    """
    n, n_layers = clusters.shape
    if n == 0:
        none = np.empty(0, dtype=np.int64)
        return PathCounts(np.empty((0, n_layers), dtype=np.int64), none, none)
    code = np.zeros(n, dtype=np.int64)  # rank of the path so far; ranks keep the lexicographic order
    for column in clusters.T:
        step = column.astype(np.int64)
        code = np.unique(code * (step.max() + 1) + step, return_inverse=True)[1]
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")  # (p,)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return PathCounts(clusters[first[order]].astype(np.int64), counts[order].astype(np.int64), rank[code])


def weighted_purity(groups: Ints, classes: Ints) -> float | None:
    """Share of examples with a known class that have their group's most frequent one; None where there are none.

    With cluster paths as groups this is the weighted-path purity of arXiv 2510.06541.
    """
    known = classes >= 0
    if not known.any():
        return None
    n_groups, n_classes = int(groups[known].max()) + 1, int(classes[known].max()) + 1
    pairs, sizes = np.unique(groups[known].astype(np.int64) * n_classes + classes[known], return_counts=True)
    best = np.zeros(n_groups, dtype=np.int64)  # sparse: paths x classes may not fit in memory
    np.maximum.at(best, pairs // n_classes, sizes)
    return float(best.sum() / known.sum())


def alone(groups: Ints, classes: Ints) -> int:
    """How many examples are the only one of their group with a known class: pure whatever that class is."""
    known = groups[classes >= 0]
    return int((np.bincount(known) == 1).sum()) if len(known) else 0


def largest_class(classes: Ints) -> tuple[int, float] | None:
    """The most frequent class and its share of the examples with a known class; the lower index on a tie."""
    known = classes[classes >= 0]
    if not len(known):
        return None
    counts = np.bincount(known)
    return int(counts.argmax()), float(counts.max() / len(known))

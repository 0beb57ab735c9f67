"""Counts of classes and of crossings, and the members nearest to their centroids. Pure functions on integer arrays.

Counting paths, and purity, are `paths.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.checks import Ints


def class_counts(groups: Ints, classes: Ints, n_groups: int, n_classes: int) -> NDArray[np.int64]:
    """How many examples of each class each group holds: (n_groups, n_classes) int64.

    `groups` and `classes` are (n,); examples with a class below 0 (none known) are left out.
    """
    known = classes >= 0
    code = groups[known].astype(np.int64) * n_classes + classes[known]
    return np.bincount(code, minlength=n_groups * n_classes).astype(np.int64).reshape(n_groups, n_classes)


def crossings(left: Ints, right: Ints, k_left: int, k_right: int) -> NDArray[np.int64]:
    """How many examples go from each cluster of one layer to each of the next: (k_left, k_right) int64."""
    return class_counts(left, right, k_left, k_right)


def nearest_members(groups: Ints, distances: NDArray[np.floating], ids: Ints, n_groups: int, count: int) -> list[Ints]:
    """The `count` examples of each group with the smallest distance; ties by id, NaN last.

    All inputs are (n,). Returns n_groups arrays of row positions, nearest first; short where a group is.
    """
    order = np.lexsort((ids, distances, groups))
    starts = np.searchsorted(groups[order], np.arange(n_groups + 1))
    return [order[a : min(a + count, b)] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]

"""What paths are worth, in numbers: pure functions on integer arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def weighted_path_purity(paths: NDArray[np.integer], classes: NDArray[np.integer]) -> float | None:
    """Sum over paths of (n_p / N) times the share of the most frequent class in p.

    Kroeger and Bindschaedler (arXiv 2510.06541). Examples of class -1 (unknown) are left out.

    Args:
        paths: (n, layers) cluster ids.
        classes: (n,) labels or predictions.

    Returns:
        A share of 0 … 1, or None where no example has a class.
    """
    known = classes >= 0
    if not known.any():
        return None
    _, path = np.unique(paths[known], axis=0, return_inverse=True)
    counts = np.zeros((path.max() + 1, classes.max() + 1), np.int64)  # (paths, classes)
    np.add.at(counts, (path.ravel(), classes[known]), 1)
    return float(counts.max(axis=1).sum() / known.sum())


def largest_class_share(classes: NDArray[np.integer]) -> float | None:
    """The purity that one path for all would have: what weighted path purity is to be compared with."""
    known = classes[classes >= 0]
    return float(np.bincount(known).max() / len(known)) if len(known) else None

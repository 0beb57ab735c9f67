"""Deep k-nearest neighbours in one layer: the baseline for decision alignment, and for OOD detection."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.checks import Ints, require_equal_width
from clusterpaths.metrics.paths import majority_classes

Floats = NDArray[np.floating[Any]]

NEIGHBOURS = 10


def nearest_neighbours(
    fit: Floats, queries: Floats, k: int = NEIGHBOURS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions (m, k) of the k nearest of (n, d) examples to each of (m, d) queries, nearest first, and distances (m, k).

    All are scaled to unit length first, so distances are Euclidean ones on the sphere (Sun et al., arXiv 2204.06507).
    With fewer than k examples, all of them. A row of zeros has no direction: it is as far from every other row as an
    orthogonal one (cosine distance 1), and at 0 from another row of zeros. Equal distances come in any order.

    Raises:
        ValueError: rows of different widths, nothing to fit, or k < 1.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import: the server and report.html need only NEIGHBOURS
    from sklearn.preprocessing import normalize

    require_equal_width("fit", fit, "queries", queries)
    if k < 1 or not len(fit):
        raise ValueError(f"k and the number of rows should be >= 1, got {k} and {len(fit)} instead.")
    unit, asked = (_with_zero_rows(normalize(rows.astype(np.float64))) for rows in (fit, queries))
    # Brute force: trees are slower in hundreds of dimensions.
    distances, positions = NearestNeighbors(n_neighbors=min(k, len(fit)), algorithm="brute").fit(unit).kneighbors(asked)
    return positions, distances


def _with_zero_rows(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, d + 1): rows of zeros get a direction of their own."""
    return np.column_stack([unit, ~unit.any(axis=1)])


def neighbours_vote(positions: NDArray[np.int64], fit_classes: Ints) -> NDArray[np.int64]:
    """The deep k-NN baseline: the most frequent class among (m, k) neighbours, the lowest on a tie; (m,).

    The idea is Papernot and McDaniel's (arXiv 1803.04765), here on the last layer only. Classes must be known (>= 0).

    Raises:
        ValueError: an example without a class.
    """
    m, k = positions.shape
    if len(fit_classes) and fit_classes.min() < 0:
        raise ValueError(f"Classes should be >= 0, got {fit_classes.min()} instead. Leave out examples without one.")
    voters = np.repeat(np.arange(m), k)
    return majority_classes(voters, fit_classes[positions].ravel(), m).best

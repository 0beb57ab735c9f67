"""A layer's map by UMAP: points of a sample of rows in two dimensions, and of other rows by their neighbours in the sample.

Belongs here: the arithmetic, from coordinates along principal axes to points. `sets/points.py` has the documents. Sources: UMAP
(McInnes, Healy and Melville 2018); it starts from the first two components, as a start that has the global structure preserves
more of it than a random one (Kobak and Linderman 2021).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from clusterpaths.common.threads import ignore_warnings, one_thread

SAMPLE = 20_000  # rows that UMAP is fitted on, at most
NEIGHBOURS = 15  # of a row, itself among them: UMAP's default, as is the next
MIN_DIST = 0.1
_BLOCK = 8192  # rows that are placed in one go
_HALVINGS = 40  # of the bandwidth's interval: to a millionth of a millionth of it
_umap = threading.Lock()  # numba's threads may not be started from two threads at a time


@dataclass(frozen=True)
class Layout:
    """Where UMAP has put m distinct rows, and by that where others lie.

    Attributes:
        rows: (m, d) float32, distinct, m > neighbours.
        points: (m, 2) float32.
        neighbours: by which others are placed.
    """

    rows: NDArray[np.float32]
    points: NDArray[np.float32]
    neighbours: int = NEIGHBOURS

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.rows)

    def place(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 2) points of rows (n, d): that of the same row if it is among the fitted ones, else between its neighbours'.

        That is a mean with UMAP's weights: exp(-distance / bandwidth), with a bandwidth by which all but the nearest sum up to
        log2(neighbours). UMAP's own transform starts there, and then moves the rows of a call together; without that, a row's
        point depends on that row alone, to the bit.
        """
        found = np.empty((len(rows), 2), np.float32)
        for start in range(0, len(rows), _BLOCK):
            distances, nearest = self._tree.query(rows[start : start + _BLOCK], k=self.neighbours)
            weights = _weights(np.ascontiguousarray(distances.T))
            points = [self.points[column].astype(np.float64) for column in nearest.T]  # (b, 2) each
            total = _sum([weight[:, None] * point for weight, point in zip(weights, points, strict=True)])
            found[start : start + _BLOCK] = total / _sum(weights)[:, None]
        return found


def fit_layout(rows: NDArray[np.float32], seed: int) -> Layout | None:
    """Fit UMAP on rows (m, d); None where fewer than NEIGHBOURS + 1 are distinct, or they lie on one line.

    The same rows in any order, seed, version of umap-learn and processor give the same bits.
    """
    rows = np.unique(rows + np.float32(0), axis=0)  # -0 becomes 0
    if len(rows) <= NEIGHBOURS or np.ptp(rows[:, :2], axis=0).min() == 0:
        return None
    # one thread: sums have one order; the warnings are that TensorFlow is missing, and that `transform` will not work
    with _umap, one_thread(), ignore_warnings(ImportWarning), ignore_warnings(UserWarning):
        from umap import UMAP  # takes seconds and, with numba, 150 MB

        distances, nearest = cKDTree(rows).query(rows, k=NEIGHBOURS)  # exact, so the same everywhere
        umap = UMAP(
            n_neighbors=NEIGHBOURS,
            min_dist=MIN_DIST,
            init=rows[:, :2],
            precomputed_knn=(nearest.astype(np.int32), distances.astype(np.float32)),
            random_state=seed % 2**32,
            n_jobs=1,
        )
        points = np.asarray(umap.fit_transform(rows), np.float32)
    return Layout(rows, points)


def _weights(distances: NDArray[np.float64]) -> Sequence[NDArray[np.float64]]:
    """The weight (n,) of each of k neighbours, of their ascending distances (k, n)."""
    others = distances[1:]
    low, high = np.zeros(distances.shape[1]), others[-1].copy()  # with the largest distance they sum up to more
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_wide = _sum(np.exp(-others / middle)) > np.log2(len(distances))
        high, low = np.where(too_wide, middle, high), np.where(too_wide, low, middle)
    weights = np.exp(-distances / high)
    weights[1:, distances[0] == 0] = 0
    return list(weights)


def _sum(values: Sequence[NDArray[np.float64]] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Of arrays of one shape, one after the other: NumPy's own order depends on how many rows there are."""
    return reduce(np.add, values)

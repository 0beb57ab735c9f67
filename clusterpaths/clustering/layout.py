"""A layer's map by UMAP: points of a sample of rows in two dimensions, and of other rows by their neighbours in the sample.

Belongs here: the arithmetic, from coordinates along principal axes to points. `sets/points.py` has the documents. Sources: UMAP
(McInnes, Healy and Melville 2018); it starts from the first two components, as a start that has the global structure preserves
more of it than a random one (Kobak and Linderman 2021).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.threads import ignore_warnings, one_thread

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

SAMPLE = 20_000  # rows that UMAP is fitted on, at most
NEIGHBOURS = 15  # of a row, itself among them: UMAP's default, as is the next
MIN_DIST = 0.1
# Fitted rows between which others are placed. Of the ten nearest neighbours of 750 of 1,500 real faces, fitted on the other 750,
# the map shows with 3 .18 .14 .23 .37 (conv1, conv3, fc1, fc2), with 15 and UMAP's weights .12 .10 .18 .34, by its own transform
# .18 .17 .23 .37, and .33 .30 .35 .50 if these 750 are fitted, too; by principal components .10 .07 .13 .26.
BETWEEN = 3
_BLOCK = 8192  # rows that are placed in one go
_umap = threading.Lock()  # numba's threads may not be started from two threads at a time


@dataclass(frozen=True)
class Layout:
    """Where UMAP has put m distinct rows, and by that where others lie.

    Attributes:
        rows: (m, d) float32, distinct, m >= BETWEEN.
        points: (m, 2) float32.
    """

    rows: NDArray[np.float32]
    points: NDArray[np.float32]

    @cached_property
    def _tree(self) -> cKDTree:
        return _tree_of(self.rows)

    def place(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 2) points of rows (n, d): that of the same row if it is among the fitted ones, else between its neighbours'.

        That is the mean of the nearest rows' points, weighted by the inverse distance (Shepard 1968). UMAP's own transform starts
        from a mean, too, and then moves the rows of a call together; a row's point here depends on that row alone, to the bit.
        """
        found = np.empty((len(rows), 2), np.float32)
        for start in range(0, len(rows), _BLOCK):
            distances, nearest = self._tree.query(rows[start : start + _BLOCK], k=BETWEEN)
            same = distances[:, 0] == 0
            distances[same] = [1, *[np.inf] * (BETWEEN - 1)]
            shares = [column[:, None] for column in (distances[:, :1] / distances).T]  # at most 1, as they ascend
            points = [self.points[column].astype(np.float64) for column in nearest.T]
            # one after the other: the order of NumPy's own sums depends on how many rows there are
            total = reduce(np.add, [share * point for share, point in zip(shares, points, strict=True)])
            found[start : start + _BLOCK] = total / reduce(np.add, shares)
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

        distances, nearest = _tree_of(rows).query(rows, k=NEIGHBOURS)  # exact, so the same everywhere
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


def _tree_of(rows: NDArray[np.float32]) -> cKDTree:
    from scipy.spatial import cKDTree  # slow to import; a run without --map umap does not need it

    return cKDTree(rows)

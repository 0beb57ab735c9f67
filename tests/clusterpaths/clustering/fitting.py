"""A fit and the assignment of the very rows it was made on, for tests of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.clustering.kmeans import assign, fit
from clusterpaths.clustering.reading import Rows
from clusterpaths.common.threads import one_thread
from clusterpaths.records import Distance


@dataclass(frozen=True)
class Clustering:
    """k-means of n rows.

    Attributes:
        centroids: (k, width) float32; of unit length for cosine.
        labels: (n,) int16, the nearest centroid of each row.
        distances: (n,) float32, to it: 1 - cosine, or Euclidean.
        inertia: sum of squared distances; for cosine between unit rows and unit centroids.
        distinct: number of distinct rows in the sample, at most k.
        zero_rows: rows of length 0, which have no direction. Cosine puts them into cluster 0, at distance 1, and
            ignores them in the centroids (which are 0 only where no row of the sample has a direction).
        passes: number of streaming passes.
    """

    centroids: NDArray[np.float32]
    labels: NDArray[np.int16]
    distances: NDArray[np.float32]
    inertia: float
    distinct: int
    zero_rows: int
    passes: int

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.bincount(self.labels, minlength=len(self.centroids))


def cluster_rows(rows: Rows, k: int, distance: Distance, seed: int) -> Clustering:
    """`fit` of all rows, and their assignment."""
    with one_thread():
        found = fit(rows, k, distance, seed)
        labels, distances = np.empty(len(rows), np.int16), np.empty(len(rows), np.float32)
        inertia, zeros = assign(rows, found.centroids, distance, labels, distances)
    return Clustering(found.centroids, labels, distances, inertia, found.distinct, zeros, found.passes)

"""The numerics of k-means: fitting centroids on rows, assigning rows to them.

Belongs here: pure functions on arrays and on anything that yields blocks of rows; all state and randomness is passed in.
The first centroids are `seeding.py`. Sources: Lloyd's algorithm (1982); cosine is spherical k-means (Dhillon and Modha
2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.clustering.principal import Axes
from clusterpaths.clustering.reading import Rows, Where
from clusterpaths.clustering.seeding import ALIKE, alike, constant_part, first_centroids, places_of, scaled
from clusterpaths.common.threads import one_thread
from clusterpaths.models.products import Values
from clusterpaths.records import Distance

MAX_PASSES = 3
# Of squared lengths: what rounding may leave of a squared distance that is 0. That is the difference of float32 sums as
# large as the squared length; up to 1.3e-6 of it was measured (262,144 values per row, three of OpenBLAS's kernels).
ROUNDING = 1e-5


@dataclass(frozen=True)
class Fit:
    """Centroids of k-means.

    Attributes:
        centroids: (k, width) float32; of unit length for cosine.
        distinct: number of distinct rows that were found, at most k.
        passes: number of passes over all rows after the first centroids.
        axes: principal axes of (a sample of) the rows.
    """

    centroids: NDArray[np.float32]
    distinct: int
    passes: int
    axes: Axes


def fit(rows: Rows, k: int, distance: Distance, seed: int) -> Fit:
    """k-means of rows that are read a few times, in memory that does not grow with their number but for labels.

    The best of 10 k-means++ runs on principal components of (a sample of) the rows gives the first centroids, which are
    means of complete rows; a pass over all rows moves them once more (one step of Lloyd's algorithm). Empty clusters are
    re-initialised with the rows farthest from their centroids, followed by another pass, up to MAX_PASSES in all.

    Rows are read five times, those of at most SKETCH_WIDTH values three times; each re-initialisation adds a pass. The
    result depends on the rows in their order, the blocks, k, distance and seed, to the bit.

    The inertia of all rows of CelebA_CNN's layers is 0.989 to 1.000 of that of KMeans(n_init=10) where 2,000 real images
    are fitted, and at most 1.005 where a sample of 12,000 is (k = 5, 15 and 30, both distances: benchmarks/inertia.py).
    What is above 1 comes from the sample: 800 rows per cluster, not from a worse optimum on it.
    """
    with one_thread():
        first = first_centroids(rows, k, distance, np.random.default_rng(seed))
        centroids = first.centroids
        labels, distances = np.empty(len(rows), np.int16), np.empty(len(rows), np.float32)
        for passes in range(1, MAX_PASSES + 1):
            scaled(centroids, distance)
            means = _means(rows, centroids, distance, labels, distances)
            far, empty = _for_empty_clusters(centroids, distance, labels, distances)
            centroids = means
            if passes == MAX_PASSES or len(far) == 0:
                break
            for where, block in rows.blocks(far):
                centroids[empty[places_of(far, where)]] = scaled(block, distance)
    return Fit(scaled(centroids, distance), first.distinct, passes, first.axes)


def _means(
    rows: Rows,
    centroids: NDArray[np.float32],
    distance: Distance,
    labels: NDArray[np.int16],
    distances: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Means (k, width) of the rows nearest to each centroid, for cosine of unit rows; of none, the centroid as it is.

    Fills `labels` and `distances` (both (n,), in place; 0 for cosine's rows of zeros, which are no seeds). Equal centroids
    stay equal: rows count for the first of them.
    """
    assignment = Assignment(centroids, distance, labels, distances)
    sums, counts = np.zeros_like(centroids), np.zeros(len(centroids), np.int64)
    for where, block in rows.blocks():
        found = assignment.add(where, block)
        member = np.zeros((len(centroids), len(block)), np.float32)
        member[labels[where], np.arange(len(block))] = found.shares
        np.add(sums, member @ block, out=sums)
        counts += np.bincount(labels[where][found.shares > 0], minlength=len(centroids))
        distances[where] *= found.shares > 0
        del block
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None].astype(np.float32), centroids)
    return means[first_alike(centroids)]


def _for_empty_clusters(
    centroids: NDArray[np.float32], distance: Distance, labels: NDArray[np.int16], distances: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending positions of rows far from their centroids, and the empty clusters (at least as many) to move there."""
    empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
    rounding = ROUNDING if comparable(centroids, distance).dtype == np.float32 else ALIKE
    unsure = (rounding * np.einsum("ij,ij->i", centroids, centroids))[labels]  # (n,) squared
    least = unsure / 2 if distance == "cosine" else np.sqrt(unsure)
    return np.sort(farthest(distances, labels, len(empty), least)), empty


def farthest(
    distances: NDArray[np.float32], labels: NDArray[np.int16], count: int, least: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Up to `count` positions of rows that make good new seeds: the farthest row of each cluster, farthest first.

    Excluded are rows at (nearly) no distance, and the only row of a cluster. `least` (n,) is the distance from which a
    row's distance is more than rounding: else rounding would decide whether there is another pass.
    """
    if count == 0:
        return np.empty(0, np.int64)
    crowded = np.bincount(labels)[labels] > 1
    candidates = np.flatnonzero(crowded & (distances > 1e-4 * float(distances.max())) & (distances > least))
    order = candidates[np.argsort(-distances[candidates], kind="stable")]
    _, first_of_cluster = np.unique(labels[order], return_index=True)
    return order[np.sort(first_of_cluster)][:count]


class Assignment:
    """Each row's nearest centroid, one block of rows at a time.

    Args:
        centroids: (k, width).
        distance: between them and rows.
        labels: (n,) to be filled in place; equal centroids count as the first of them.
        distances: (n,) the same.

    Attributes:
        inertia: sum of squared distances.
        zero_rows: rows of length 0.
    """

    def __init__(
        self,
        centroids: NDArray[np.float32],
        distance: Distance,
        labels: NDArray[np.int16],
        distances: NDArray[np.float32],
    ) -> None:
        self._centroids, self._distance = comparable(centroids, distance), distance
        self._labels, self._distances = labels, distances
        self._first = first_alike(centroids)
        self.inertia, self.zero_rows = 0.0, 0

    def add(self, where: Where, block: NDArray[np.float32]) -> Nearest:
        found = nearest(block, self._centroids, self._distance)
        self._labels[where] = self._first[found.labels]
        self.inertia += float(found.squared.sum(dtype=np.float64))
        self._distances[where] = found.distances(self._distance)
        self.zero_rows += found.zeros
        return found


def assign(
    rows: Rows,
    centroids: NDArray[np.float32],
    distance: Distance,
    labels: NDArray[np.int16],
    distances: NDArray[np.float32],
) -> tuple[float, int]:
    """Fill `labels` and `distances` (both (n,), in place) with each row's nearest centroid; inertia and zero rows."""
    assigned = Assignment(centroids, distance, labels, distances)
    for where, block in rows.blocks():
        assigned.add(where, block)
    return assigned.inertia, assigned.zero_rows


def first_alike(centroids: NDArray[np.float32]) -> NDArray[np.int16]:
    """(k,) for each centroid the index of the first one equal to it up to rounding; its own index where it is unique.

    Between equal centroids rounding would decide, and equal rows could get different labels.
    """
    lengths = np.einsum("ij,ij->i", centroids, centroids)
    longer = np.maximum.outer(lengths, lengths)
    # A quick filter; its rounding error is far below 1e-4.
    near = np.add.outer(lengths, lengths) - 2 * (centroids @ centroids.T) <= 1e-4 * longer
    first = np.arange(len(centroids), dtype=np.int16)
    for j in range(1, len(centroids)):
        for i in np.flatnonzero(near[j, :j]):
            if alike(centroids[i : i + 1], centroids[j])[0]:
                first[j] = first[i]
                break
    return first


@dataclass(frozen=True)
class Nearest:
    """Nearest of k centroids for each of m rows.

    Attributes:
        labels: (m,) int16, the nearest, the first of equals; 0 for cosine's rows of length 0.
        squared: (m,) squared distance to it, in the dtype of the comparison. A row of length 0 has no direction: cosine
            puts it at 2, so at distance 1 of every centroid, as scikit-learn's cosine_distances does.
        shares: (m,) float32, the factor of a row in its cluster's sum: 1; for cosine 1 / its length, 0 for rows of zeros.
        zeros: rows of length 0.
    """

    labels: NDArray[np.int16]
    squared: Values
    shares: NDArray[np.float32]
    zeros: int

    def distances(self, distance: Distance) -> NDArray[np.float32]:
        """(m,) to the nearest centroid: 1 - cosine, as |u - c|^2 = 2 (1 - cos), or Euclidean."""
        far = self.squared / 2 if distance == "cosine" else np.sqrt(self.squared)
        return far.astype(np.float32, copy=False)


def comparable(centroids: NDArray[np.float32], distance: Distance) -> Values:
    """The centroids (k, width) in the dtype in which rows are compared with them: float32, if that is enough.

    |x|^2 - 2xc + |c|^2 is rounded relative to |x|^2. Where a constant part (a large bias) dominates the centroids, what
    distinguishes them is lost in float32. Then they are float64 and, for cosine, of unit length in float64.
    """
    if not constant_part(centroids):
        return centroids
    exact = centroids.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    return exact / np.where(lengths > 0, lengths, 1)[:, None] if distance == "cosine" else exact


def nearest(block: NDArray[np.float32], centroids: Values, distance: Distance) -> Nearest:
    """The nearest of the centroids (k, width) for each row (m, width); for cosine between unit rows and the centroids.

    Computed in the dtype of the centroids, which are `comparable`.
    """
    rows: Values = block.astype(centroids.dtype, copy=False)
    squares: Values = np.einsum("ij,ij->i", rows, rows)  # (m,)
    lengths = np.einsum("ij,ij->i", centroids, centroids)  # (k,)
    return decide(rows @ centroids.T, squares, lengths, distance)


def graded(block: NDArray[np.float32], centroids: Values, distance: Distance) -> NDArray[np.float32]:
    """(m, k) distances of rows (m, width) to each of the `comparable` centroids: one layer of a graded path."""
    rows: Values = block.astype(centroids.dtype, copy=False)
    squares: Values = np.einsum("ij,ij->i", rows, rows)
    lengths: Values = np.einsum("ij,ij->i", centroids, centroids)
    return distances_to_all(rows @ centroids.T, squares, lengths, distance)


def decide(products: Values, squares: Values, lengths: Values, distance: Distance) -> Nearest:
    """The nearest centroid of each row; all arrays are float32, or float64.

    Args:
        products: (m, k) of rows with centroids.
        squares: (m,) squared lengths of the rows.
        lengths: (k,) squared lengths of the centroids.
        distance: for cosine, rows count at unit length.
    """
    zero, dtype = squares == 0, products.dtype
    shares = np.ones(len(squares), np.float32)
    if distance == "cosine":
        products, squares, norms = _at_unit_length(products, squares)
        shares = (squares / norms).astype(np.float32, copy=False)
    gaps = lengths - 2 * products  # (m, k)
    labels = gaps.argmin(axis=1)
    squared = np.maximum(gaps[np.arange(len(gaps)), labels] + squares, 0)
    if distance == "cosine":
        labels[zero], squared[zero] = 0, 2
    return Nearest(labels.astype(np.int16), squared.astype(dtype, copy=False), shares, int(zero.sum()))


def distances_to_all(products: Values, squares: Values, lengths: Values, distance: Distance) -> NDArray[np.float32]:
    """(m, k) distances of rows to every centroid: 1 - cosine, or Euclidean; arguments as those of `decide`."""
    zero = squares == 0
    if distance == "cosine":
        products, squares, _ = _at_unit_length(products, squares)
    squared = np.maximum(lengths - 2 * products + squares[:, None], 0)
    if distance == "cosine":
        squared[zero] = 2
    return (squared / 2 if distance == "cosine" else np.sqrt(squared)).astype(np.float32, copy=False)


def _at_unit_length(products: Values, squares: Values) -> tuple[Values, Values, Values]:
    """Products and squared lengths (1, or 0) of rows scaled to unit length, and their lengths (1 for rows of zeros)."""
    zero, dtype = squares == 0, products.dtype
    norms = np.where(zero, 1, np.sqrt(squares)).astype(dtype)
    return products / norms[:, None], (~zero).astype(dtype), norms

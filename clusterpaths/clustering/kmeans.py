"""The numerics of k-means: streaming pass, assignment, re-initialisation of empty clusters.

Belongs here: pure functions on arrays and on anything that yields blocks of rows; all state and randomness is passed in.
The first centroids are `seeding.py`. Sources: mini-batch k-means as scikit-learn implements it (Sculley 2010); cosine is
spherical k-means (Dhillon and Modha 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.clustering.reading import Pass, Rows, Shape, Steps, Where, run
from clusterpaths.clustering.seeding import alike, places_of, scaled, seeding
from clusterpaths.records import Distance

MAX_PASSES = 3
# Per cluster. On CelebA's layers, a fit on 320 rows per cluster has an inertia within 0.3% of that on all rows, on 200
# within 0.7%, on 100 within 2.3% (2,000 real images, three seeds).
LEAST_FIT_ROWS = 200
# Of squared lengths: what rounding may leave of a squared distance that is 0. That is the difference of float32 sums as
# large as the squared length; up to 1.3e-6 of it was measured (262,144 values per row, three of OpenBLAS's kernels).
ROUNDING = 1e-5


@dataclass(frozen=True)
class Clustering:
    """k-means of n rows.

    Attributes:
        centroids: (k, width) float32; of unit length for cosine.
        labels: (n,) int16, the nearest centroid of each row.
        distances: (n,) float32, to it: 1 - cosine, or Euclidean.
        inertia: sum of squared distances; for cosine between unit rows and unit centroids.
        distinct: number of distinct rows in the sample, at most k.
        zero_rows: rows of length 0, which have no direction. Cosine puts them into cluster 0, at distance 0, and
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
    """`clustering` of rows that nothing else reads at the same time."""
    return run(clustering(rows, k, distance, seed), rows)


def clustering(rows: Shape, k: int, distance: Distance, seed: int) -> Steps[Clustering]:
    """Sketch-seeded streaming k-means in memory that does not grow with the number of rows.

    A uniform sample of rows is projected to at most 256 dimensions; the best of 10 k-means++ runs there gives the
    first centroids, one mini-batch pass over all rows (or over `rows.fit`, where that holds at least 200 rows per cluster)
    the final ones. Empty clusters are re-initialised with the rows farthest from their centroids, followed by another pass
    over all rows, up to MAX_PASSES in all.
    """
    centroids, weights, distinct = yield from seeding(rows, k, distance, np.random.default_rng(seed))
    labels = np.empty(len(rows), np.int16)
    distances = np.empty(len(rows), np.float32)
    enough = rows.fit is not None and len(rows.fit) >= LEAST_FIT_ROWS * k
    for passes in range(1, MAX_PASSES + 1):
        batches = MiniBatches(centroids, weights, distance)
        yield Pass(rows.fit if enough and passes == 1 else None, batches.add)
        centroids = batches.centroids()
        assigned = Assignment(centroids, distance, labels, distances)
        yield Pass(None, assigned.add)
        if passes == MAX_PASSES or not (yield from reinitialising(centroids, distance, labels, distances)):
            break
        weights = np.ones(k)
    return Clustering(centroids, labels, distances, assigned.inertia, distinct, assigned.zero_rows, passes)


def reinitialising(
    centroids: NDArray[np.float32], distance: Distance, labels: NDArray[np.int16], distances: NDArray[np.float32]
) -> Steps[int]:
    """Move centroids of empty clusters onto rows far from theirs, in place; the number of centroids moved."""
    empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
    unsure = (ROUNDING * np.einsum("ij,ij->i", centroids, centroids))[labels]  # (n,) squared
    least = unsure / 2 if distance == "cosine" else np.sqrt(unsure)
    far = np.sort(farthest(distances, labels, len(empty), least))

    def add(where: Where, block: NDArray[np.float32]) -> None:
        centroids[empty[places_of(far, where)]] = scaled(block, distance)

    if len(far):
        yield Pass(far, add)
    return len(far)


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


class MiniBatches:
    """Mini-batch k-means from given centroids, one block of rows at a time: MiniBatchKMeans.partial_fit as two products.

    Rows may have any length: for cosine, their products with the centroids and their shares in a sum are divided by
    it, not the rows themselves. Clusters are not reassigned, and nothing is drawn at random.

    Args:
        centroids: (k, width) first centroids.
        weights: (k,) number of rows that each represents. Without them the first rows would outweigh the centroids:
            with many clusters and small blocks, inertia was up to 5% higher.
        distance: for cosine, rows of zeros are skipped.
    """

    def __init__(self, centroids: NDArray[np.float32], weights: NDArray[np.float64], distance: Distance) -> None:
        # Equal centroids move together, as the first of them: else rounding would decide which one a row moves.
        first, self._place = np.unique(first_alike(centroids), return_inverse=True)
        self._means, self._counts, self._distance = centroids[first], weights[first].astype(np.float64), distance

    def add(self, where: Where, block: NDArray[np.float32]) -> None:  # noqa: ARG002 - only the order of rows matters
        found = nearest(block, self._means, self._distance)
        sums, added = sums_of(block, found, len(self._means))
        counts = self._counts + added
        moved = added > 0
        self._means[moved] *= (self._counts[moved] / counts[moved]).astype(np.float32)[:, None]
        self._means[moved] += sums[moved] / counts[moved].astype(np.float32)[:, None]
        self._counts = counts

    def centroids(self) -> NDArray[np.float32]:
        """(k, width) float32 as of now, of unit length for cosine."""
        return scaled(self._means[self._place], self._distance)


def sums_of(block: NDArray[np.float32], found: Nearest, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Of the rows nearest to each of k centroids: their sum (k, width), for cosine of unit rows, and their number (k,)."""
    member = np.zeros((k, len(block)), np.float32)
    member[found.labels, np.arange(len(block))] = found.shares
    return member @ block, np.bincount(found.labels[found.shares > 0], minlength=k)


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
        self._centroids, self._distance = centroids, distance
        self._labels, self._distances = labels, distances
        self._first = first_alike(centroids)
        self.inertia, self.zero_rows = 0.0, 0

    def add(self, where: Where, block: NDArray[np.float32]) -> Nearest:
        found = nearest(block, self._centroids, self._distance)
        self._labels[where] = self._first[found.labels]
        self.inertia += float(found.squared.sum(dtype=np.float64))
        # |u - c|^2 = 2 (1 - cos)
        self._distances[where] = found.squared / 2 if self._distance == "cosine" else np.sqrt(found.squared)
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
        squared: (m,) float32, squared distance to it; 0 for cosine's rows of length 0.
        shares: (m,) float32, the factor of a row in its cluster's sum: 1; for cosine 1 / its length, 0 for rows of zeros.
        zeros: rows of length 0.
    """

    labels: NDArray[np.int16]
    squared: NDArray[np.float32]
    shares: NDArray[np.float32]
    zeros: int


def nearest(block: NDArray[np.float32], centroids: NDArray[np.float32], distance: Distance) -> Nearest:
    """The nearest of the centroids (k, width) for each row (m, width); for cosine between unit rows and the centroids."""
    squares: NDArray[np.float32] = np.einsum("ij,ij->i", block, block)  # (m,)
    lengths = np.einsum("ij,ij->i", centroids, centroids)  # (k,)
    return decide(block @ centroids.T, squares, lengths, distance)


def decide(
    products: NDArray[np.float32], squares: NDArray[np.float32], lengths: NDArray[np.float32], distance: Distance
) -> Nearest:
    """The nearest centroid of each row.

    Args:
        products: (m, k) of rows with centroids.
        squares: (m,) squared lengths of the rows.
        lengths: (k,) squared lengths of the centroids.
        distance: for cosine, rows count at unit length.
    """
    zero = squares == 0
    shares = np.ones(len(squares), np.float32)
    if distance == "cosine":
        norms = np.where(zero, 1, np.sqrt(squares)).astype(np.float32)
        products = products / norms[:, None]
        squares = (~zero).astype(np.float32)
        shares = squares / norms
    gaps = lengths - 2 * products  # (m, k)
    labels = gaps.argmin(axis=1)
    squared = np.maximum(gaps[np.arange(len(gaps)), labels] + squares, 0)
    if distance == "cosine":
        labels[zero], squared[zero] = 0, 0
    return Nearest(labels.astype(np.int16), squared.astype(np.float32), shares, int(zero.sum()))

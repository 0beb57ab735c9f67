"""The numerics of clustering: sketch, seeds, streaming pass, assignment.

Belongs here: pure functions on arrays and on anything that yields blocks of rows; all state and randomness is passed in.
Sources: k-means++ and mini-batch k-means as scikit-learn implements them (Arthur and Vassilvitskii 2007; Sculley 2010);
random projection keeps distances (Johnson and Lindenstrauss 1984); cosine is spherical k-means (Dhillon and Modha 2001).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from clusterpaths.cache.fit_sample import SAMPLE_ROWS
from clusterpaths.common.threads import one_thread
from clusterpaths.records import Distance

Result = TypeVar("Result")
Where = slice | NDArray[np.int64]  # positions of a block's rows within all rows

SKETCH_WIDTH = 256
RESTARTS = 10
MAX_PASSES = 3
# A cluster: of CelebA's layers, a fit on 320 rows a cluster has an inertia within 0.3% of that on all, on 200 within 0.7%,
# on 100 within 2.3% (2,000 real images, three seeds).
LEAST_FIT_ROWS = 200
# Of squared lengths. Below ALIKE, two rows are the same but for rounding. ROUNDING is what rounding may leave of a squared
# distance that is 0: it is the difference of float32 sums that are as large as the squared length, and up to 1.3e-6 of it
# was seen (262,144 values a row, three of OpenBLAS's kernels).
ALIKE = 1e-10
ROUNDING = 1e-5


class Shape(Protocol):
    """What must be known of rows before any is read.

    Attributes:
        width: values a row.
        fit: (m,) ascending positions of a uniform sample that is enough to fit few clusters; None: fit on all rows.
    """

    width: int
    fit: NDArray[np.int64] | None

    def __len__(self) -> int: ...


class Rows(Shape, Protocol):
    """Rows of float32 on disk or in memory."""

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
        """Rows at these ascending positions, or all, each once: where they are and (m, width) values, free to be changed.

        In whatever order and blocks are quickest, the same ones every time.
        """


@dataclass(frozen=True)
class Pass:
    """A reading of rows that a clustering asks for before it can go on.

    Attributes:
        positions: (m,) ascending, or None for all rows.
        add: takes each block as `Rows.blocks` yields it.
    """

    positions: NDArray[np.int64] | None
    add: Callable[[Where, NDArray[np.float32]], object]


# The steps of a clustering say what they need read, and not where from: so several layers can share one reading.
Steps = Generator[Pass, None, Result]


@dataclass(frozen=True)
class Clustering:
    """k-means of n rows.

    Attributes:
        centroids: (k, width) float32; of unit length for cosine.
        labels: (n,) int16, the nearest centroid of each row.
        distances: (n,) float32, to it: 1 - cosine, or Euclidean.
        inertia: sum of squared distances; for cosine between unit rows and unit centroids.
        distinct: how many different rows the sample holds; k where there are more.
        zero_rows: rows of length 0, which have no direction; cosine puts them into cluster 0, at distance 0, and
            lets them play no part in the centroids (which are 0 only where no row of the sample has a direction).
        passes: streaming passes it took.
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


def run(steps: Steps[Result], rows: Rows) -> Result:
    """Go through the steps, reading what they ask for."""
    with one_thread():
        try:
            while True:
                asked = next(steps)
                for where, block in rows.blocks(asked.positions):
                    asked.add(where, block)
        except StopIteration as end:
            result: Result = end.value
            return result


def clustering(rows: Shape, k: int, distance: Distance, seed: int) -> Steps[Clustering]:
    """Sketch-seeded streaming k-means in memory that does not grow with the number of rows.

    A uniform sample of rows is projected to at most 256 dimensions; the best of 10 k-means++ runs there gives the
    first centroids, one mini-batch pass over all rows (or over `rows.fit`, where that holds at least 200 rows a cluster)
    the final ones. Clusters that stay empty are seeded again with the rows that lie farthest from their centroids, and
    the pass is made over all rows, while that can help.
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
        if passes == MAX_PASSES or not (yield from seeding_again(centroids, distance, labels, distances)):
            break
        weights = np.ones(k)
    return Clustering(centroids, labels, distances, assigned.inertia, distinct, assigned.zero_rows, passes)


def seeding_again(
    centroids: NDArray[np.float32], distance: Distance, labels: NDArray[np.int16], distances: NDArray[np.float32]
) -> Steps[int]:
    """Move centroids of clusters without a row onto rows that lie far off, in place; how many could be moved."""
    empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
    unsure = (ROUNDING * np.einsum("ij,ij->i", centroids, centroids))[labels]  # (n,) squared
    least = unsure / 2 if distance == "cosine" else np.sqrt(unsure)
    far = np.sort(farthest(distances, labels, len(empty), least))

    def add(where: Where, block: NDArray[np.float32]) -> None:
        centroids[empty[_places(far, where)]] = scaled(block, distance)

    if len(far):
        yield Pass(far, add)
    return len(far)


def farthest(
    distances: NDArray[np.float32], labels: NDArray[np.int16], count: int, least: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Up to `count` positions of rows that would make good new seeds: far off, each from another cluster first.

    Rows at (nearly) no distance, and rows of clusters that would lose their only one, are none. `least` (n,) is the
    distance of each row from which it is more than rounding: else rounding would say whether there is another pass.
    """
    if count == 0:
        return np.empty(0, np.int64)
    crowded = np.bincount(labels)[labels] > 1
    candidates = np.flatnonzero(crowded & (distances > 1e-4 * float(distances.max())) & (distances > least))
    order = candidates[np.argsort(-distances[candidates], kind="stable")]
    _, first_of_cluster = np.unique(labels[order], return_index=True)
    return order[np.sort(first_of_cluster)][:count]


def seeding(
    rows: Shape, k: int, distance: Distance, rng: np.random.Generator
) -> Steps[tuple[NDArray[np.float32], NDArray[np.float64], int]]:
    """First centroids (k, width) float32, how many sample rows each stands for (k,), and the sample's distinct rows.

    Where there are fewer distinct rows than k, the last centroids repeat the first ones: honest duplicates.
    """
    sample = draw_sample(rows, rng)
    sketches = yield from sketching(rows, sample, distance, rng)
    directed = np.asarray(sketches.any(axis=1))
    if distance == "euclidean" or not directed.any():
        directed = np.ones(len(sample), bool)
    distinct = count_distinct(sketches[directed], k)
    labels = np.full(len(sample), -1, np.int64)  # -1: has no direction
    labels[directed] = _best_labels(sketches[directed], distinct, int(rng.integers(2**31)))
    found = int(labels.max()) + 1
    sums = np.zeros((found, rows.width), np.float32)

    def add(where: Where, block: NDArray[np.float32]) -> None:
        own = labels[_places(sample, where)]
        member = np.equal.outer(np.arange(found), own).astype(np.float32)  # (found, m)
        np.add(sums, member @ scaled(block, distance), out=sums)

    yield Pass(sample, add)
    weights = np.bincount(labels[directed], minlength=found).astype(np.float64)
    centroids = sums / weights[:, None].astype(np.float32)
    repeated = np.arange(k) % found
    weights = np.where(np.arange(k) < found, weights[repeated], 0)  # a duplicate stands for no row
    return np.ascontiguousarray(centroids[repeated], np.float32), weights, distinct


def draw_sample(rows: Shape, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending positions of at most SAMPLE_ROWS rows; with one seed the same ones for every layer.

    Of `rows.fit`, where there is one: a uniform sample of a uniform sample.
    """
    n = len(rows) if rows.fit is None else len(rows.fit)
    drawn = np.sort(rng.choice(n, min(n, SAMPLE_ROWS), replace=False))
    return drawn if rows.fit is None else rows.fit[drawn]


def sketching(
    rows: Shape, sample: NDArray[np.int64], distance: Distance, rng: np.random.Generator
) -> Steps[NDArray[np.float32]]:
    """Rows at the positions `sample` (s,), projected at random to (s, at most SKETCH_WIDTH) float32.

    For cosine they have unit length before they are projected, and rows of zeros stay zeros. Where there are many rows
    (`rows.fit`), the projection is one of random signs, of which each value has one: a count sketch whose buckets are
    not drawn (Charikar, Chen and Farach-Colton 2002). It takes a fifth of a Gaussian one's time.

    Equal rows have equal sketches, to the bit: a matrix product alone does not see to that, as the last bits of a row
    may depend on where in a block it stands.
    """
    projection, signs = None, None
    if rows.width > SKETCH_WIDTH and rows.fit is not None:
        signs = rng.choice(np.array([-1, 1], np.float32), rows.width)
    elif rows.width > SKETCH_WIDTH:
        projection = rng.standard_normal((rows.width, SKETCH_WIDTH), np.float32) / np.float32(np.sqrt(SKETCH_WIDTH))
    sketches = np.empty((len(sample), min(rows.width, SKETCH_WIDTH)), np.float32)
    digests = np.empty(len(sample), np.uint64)

    def add(where: Where, block: NDArray[np.float32]) -> None:
        places = _places(sample, where)
        digests[places] = _digests(block)
        values = scaled(block, distance)  # (m, width)
        if signs is not None:
            values = _folded(values, signs)
        sketches[places] = values if projection is None else values @ projection

    yield Pass(sample, add)
    _, first, kind = np.unique(digests, return_index=True, return_inverse=True)
    return sketches[first[kind]]


def _digests(block: NDArray[np.float32]) -> NDArray[np.uint64]:
    """What each row (m, width) is, as 64 bits (XXH3); turns -0 into 0, in place."""
    block += 0
    rows = np.ascontiguousarray(block)
    return np.fromiter((xxhash.xxh3_64_intdigest(row.data) for row in rows), np.uint64, len(rows))


def _folded(values: NDArray[np.float32], signs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m, width) values, times their signs (width,), each added to those SKETCH_WIDTH further on; changes `values`."""
    values *= signs
    whole = values.shape[1] // SKETCH_WIDTH * SKETCH_WIDTH
    folded: NDArray[np.float32] = values[:, :whole].reshape(len(values), -1, SKETCH_WIDTH).sum(axis=1)
    folded[:, : values.shape[1] - whole] += values[:, whole:]
    return folded


def _places(sample: NDArray[np.int64], where: Where) -> NDArray[np.int64]:
    """Where a block's rows are within the sample (s,)."""
    return np.searchsorted(sample, np.arange(where.start, where.stop) if isinstance(where, slice) else where)


def count_distinct(sketches: NDArray[np.float32], most: int) -> int:
    """How many rows differ by more than rounding: from all that were counted before them; `most` ends the counting.

    By the distance between rows, for a grid has borders everywhere, and rounding alone would take a row across one. So
    multiples of a row are one for cosine, and so is an image that the model saw in two batches and rounded in two ways.
    """
    found, count = np.empty((min(most, len(sketches)), sketches.shape[1]), sketches.dtype), 0
    for row in sketches:
        if not _alike(found[:count], row).any():
            found[count] = row
            count += 1
            if count == most:
                break
    return count


def _alike(rows: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(m,) whether rows (m, d) are the same as one (d,) but for rounding."""
    gaps = rows - one
    longer = np.maximum(np.einsum("ij,ij->i", rows, rows), np.einsum("i,i", one, one))
    near: NDArray[np.bool_] = np.einsum("ij,ij->i", gaps, gaps) <= ALIKE * longer
    return near


def _best_labels(sketches: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    """Labels 0 … of the best of 10 k-means++ runs; numbered without gaps.

    The runs are those of `KMeans(k, n_init=10)`, which compares their inertia in float32: the best two of ten often are
    equal there but for the last bit, and then the kernel of a matrix product would choose, with the clusters' numbers.
    """
    draws, least = np.random.RandomState(seed), np.inf
    best = np.zeros(len(sketches), np.int64)
    for _ in range(RESTARTS):
        with warnings.catch_warnings():
            # Fewer distinct points than clusters is no surprise here: the numbering below closes the gap.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = KMeans(k, n_init=1, random_state=draws).fit(sketches)
        gaps = sketches - found.cluster_centers_[found.labels_]
        inertia = float(np.einsum("ij,ij->", gaps, gaps, dtype=np.float64))
        if inertia < least * (1 - 1e-7):  # by more than rounding: the same clusters with other numbers are no better
            best, least = found.labels_, inertia
    _, numbered = np.unique(best, return_inverse=True)
    return numbered.astype(np.int64)


class MiniBatches:
    """Mini-batch k-means from given centroids, a block of rows at a time: MiniBatchKMeans.partial_fit by two products.

    Rows may have any length: for cosine, what is divided by it is their product with the centroids, and their share
    in a sum, never the rows themselves. Clusters are not reassigned, and nothing is drawn at random.

    Args:
        centroids: (k, width) first centroids.
        weights: (k,) how many rows each stands for; else the first few rows would outweigh them, and with many
            clusters and small blocks inertia comes out up to 5% higher.
        distance: for cosine, rows without direction are passed over.
    """

    def __init__(self, centroids: NDArray[np.float32], weights: NDArray[np.float64], distance: Distance) -> None:
        # Of equal ones only the first moves, and takes the others along: else rounding would choose which follows a row.
        first, self._place = np.unique(first_alike(centroids), return_inverse=True)
        self._means, self._counts, self._distance = centroids[first], weights[first].astype(np.float64), distance

    def add(self, where: Where, block: NDArray[np.float32]) -> None:  # noqa: ARG002 - the order of rows is all it needs
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
    """Each row's nearest centroid, a block of rows at a time.

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
    """(k,) for each centroid the first one that is the same but for rounding: itself, where none is.

    Of equal centroids, rounding would choose: equal rows would get different labels.
    """
    lengths = np.einsum("ij,ij->i", centroids, centroids)
    longer = np.maximum.outer(lengths, lengths)
    # A quick first look; its rounding is far from reaching 1e-4.
    near = np.add.outer(lengths, lengths) - 2 * (centroids @ centroids.T) <= 1e-4 * longer
    first = np.arange(len(centroids), dtype=np.int16)
    for j in range(1, len(centroids)):
        for i in np.flatnonzero(near[j, :j]):
            if _alike(centroids[i : i + 1], centroids[j])[0]:
                first[j] = first[i]
                break
    return first


@dataclass(frozen=True)
class Nearest:
    """What m rows find among k centroids.

    Attributes:
        labels: (m,) int16, the nearest, the first of equals; 0 for cosine's rows of length 0.
        squared: (m,) float32, squared distance to it; 0 for cosine's rows of length 0.
        shares: (m,) float32, what a row counts for in its cluster's sum: 1, or for cosine 1 / its length, or 0.
        zeros: rows of length 0.
    """

    labels: NDArray[np.int16]
    squared: NDArray[np.float32]
    shares: NDArray[np.float32]
    zeros: int


def nearest(block: NDArray[np.float32], centroids: NDArray[np.float32], distance: Distance) -> Nearest:
    """The nearest of the centroids (k, width) for each row (m, width); for cosine between unit rows and the centroids."""
    squares: NDArray[np.float32] = np.einsum("ij,ij->i", block, block)  # (m,)
    products = block @ centroids.T  # (m, k)
    lengths = np.einsum("ij,ij->i", centroids, centroids)  # (k,)
    zero = squares == 0
    shares = np.ones(len(block), np.float32)
    if distance == "cosine":
        norms = np.where(zero, 1, np.sqrt(squares)).astype(np.float32)
        products /= norms[:, None]
        squares = (~zero).astype(np.float32)
        shares = squares / norms
    gaps = lengths - 2 * products  # (m, k)
    labels = gaps.argmin(axis=1)
    squared = np.maximum(gaps[np.arange(len(block)), labels] + squares, 0)
    if distance == "cosine":
        labels[zero], squared[zero] = 0, 0
    return Nearest(labels.astype(np.int16), squared.astype(np.float32), shares, int(zero.sum()))


def scaled(values: NDArray[np.float32], distance: Distance) -> NDArray[np.float32]:
    """For cosine, the rows at unit length, in place (rows of zeros stay); for Euclidean as they are."""
    if distance == "cosine":
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
        values /= np.where(norms > 0, norms, 1)[:, None]
    return values

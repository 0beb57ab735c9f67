"""The numerics of clustering: sketch, seeds, streaming pass, assignment.

Belongs here: pure functions on arrays and on anything that yields blocks of rows; all state and randomness is passed in.
Sources: k-means++ and mini-batch k-means as scikit-learn implements them (Arthur and Vassilvitskii 2007; Sculley 2010);
random projection keeps distances (Johnson and Lindenstrauss 1984); cosine is spherical k-means (Dhillon and Modha 2001).
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from clusterpaths.records import Distance

SAMPLE_ROWS = 2048
SKETCH_WIDTH = 256
RESTARTS = 10
MAX_PASSES = 3


class Rows(Protocol):
    """Rows of float32 on disk or in memory."""

    width: int
    block_rows: int

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All rows in order, (m, width) at a time, each block free to be changed in place."""

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(m, width) rows at ascending positions."""


@dataclass(frozen=True)
class Clustering:
    """k-means of n rows.

    Attributes:
        centroids: (k, width) float32; of unit length for cosine.
        labels: (n,) int16, the nearest centroid of each row.
        distances: (n,) float32, to it: 1 - cosine, or Euclidean.
        inertia: sum of squared distances; for cosine between unit rows and unit centroids.
        distinct: how many different rows the sample holds, at most k of interest.
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
    """Sketch-seeded streaming k-means in memory that does not grow with the number of rows.

    A uniform sample of rows is projected to at most 256 dimensions; the best of 10 k-means++ runs there gives the
    first centroids, one MiniBatchKMeans pass over all rows the final ones. Clusters that stay empty are seeded again
    with the rows that lie farthest from their centroids, and the pass is repeated, while that can help.
    """
    with one_thread():
        rng = np.random.default_rng(seed)
        centroids, weights, distinct = seed_centroids(rows, k, distance, rng)
        labels = np.empty(len(rows), np.int16)
        distances = np.empty(len(rows), np.float32)
        for passes in range(1, MAX_PASSES + 1):
            centroids = streaming_pass(rows, centroids, weights, distance)
            inertia, zero_rows = assign(rows, centroids, distance, labels, distances)
            if passes == MAX_PASSES or not seed_empty_again(rows, centroids, distance, labels, distances):
                break
            weights = np.ones(k)
    return Clustering(centroids, labels, distances, inertia, distinct, zero_rows, passes)


def seed_empty_again(
    rows: Rows,
    centroids: NDArray[np.float32],
    distance: Distance,
    labels: NDArray[np.int16],
    distances: NDArray[np.float32],
) -> int:
    """Move centroids of clusters without a row onto rows that lie far off, in place; how many could be moved."""
    empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
    far = farthest(distances, labels, len(empty))
    if len(far):
        centroids[empty[: len(far)]] = scaled(rows.take(np.sort(far)), distance)
    return len(far)


def farthest(distances: NDArray[np.float32], labels: NDArray[np.int16], count: int) -> NDArray[np.int64]:
    """Up to `count` positions of rows that would make good new seeds: far off, each from another cluster first.

    Rows at (nearly) no distance, and rows of clusters that would lose their only one, are none.
    """
    if count == 0:
        return np.empty(0, np.int64)
    crowded = np.bincount(labels)[labels] > 1
    candidates = np.flatnonzero(crowded & (distances > 1e-4 * max(float(distances.max()), 1e-30)) & (distances > 1e-6))
    order = candidates[np.argsort(-distances[candidates], kind="stable")]
    _, first_of_cluster = np.unique(labels[order], return_index=True)
    return order[np.sort(first_of_cluster)][:count]


def seed_centroids(
    rows: Rows, k: int, distance: Distance, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    """First centroids (k, width) float32, how many sample rows each stands for (k,), and the sample's distinct rows.

    Where there are fewer distinct rows than k, the last centroids repeat the first ones: honest duplicates.
    """
    sample = draw_sample(len(rows), rng)
    sketches = sketch_rows(rows, sample, distance, rng)
    if distance == "cosine" and not (directed := sketches.any(axis=1)).all() and directed.any():
        sample, sketches = sample[directed], sketches[directed]
    distinct = count_distinct(sketches)
    labels = _best_labels(sketches, min(k, distinct), int(rng.integers(2**31)))
    found = int(labels.max()) + 1
    sums = np.zeros((found, rows.width), np.float32)
    at = 0
    for piece in _pieces(rows, sample):
        member = np.equal.outer(np.arange(found), labels[at : at + len(piece)]).astype(np.float32)  # (found, m)
        sums += member @ scaled(rows.take(piece), distance)
        at += len(piece)
    weights = np.bincount(labels, minlength=found).astype(np.float64)
    centroids = sums / weights[:, None].astype(np.float32)
    repeated = np.arange(k) % found
    weights = np.where(np.arange(k) < found, weights[repeated], 0)  # a duplicate stands for no row
    return np.ascontiguousarray(centroids[repeated], np.float32), weights, distinct


def draw_sample(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending positions of at most SAMPLE_ROWS of n rows; with one seed the same ones for every layer."""
    return np.sort(rng.choice(n, min(n, SAMPLE_ROWS), replace=False))


def sketch_rows(
    rows: Rows, sample: NDArray[np.int64], distance: Distance, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Rows at the positions `sample` (s,), projected at random to at most SKETCH_WIDTH dimensions, read in pieces.

    For cosine they have unit length before they are projected, and rows of zeros stay zeros.
    """
    projection = None
    if rows.width > SKETCH_WIDTH:
        projection = rng.standard_normal((rows.width, SKETCH_WIDTH), np.float32) / np.float32(np.sqrt(SKETCH_WIDTH))
    sketches = np.empty((len(sample), min(rows.width, SKETCH_WIDTH)), np.float32)
    at = 0
    for piece in _pieces(rows, sample):
        values = scaled(rows.take(piece), distance)  # (m, width)
        sketches[at : at + len(piece)] = values if projection is None else values @ projection
        at += len(piece)
    return sketches


def _pieces(rows: Rows, sample: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(sample, -(-len(sample) // rows.block_rows))


def count_distinct(sketches: NDArray[np.float32]) -> int:
    """How many rows differ by more than rounding."""
    scale = float(np.abs(sketches).max())
    if scale == 0:
        return 1
    return len(np.unique(np.round(sketches / np.float32(scale), 4), axis=0))


def _best_labels(sketches: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    """Labels 0 … of the best of 10 k-means++ runs; numbered without gaps."""
    with warnings.catch_warnings():
        # Fewer distinct points than clusters is no surprise here: the numbering below closes the gap.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(k, n_init=RESTARTS, random_state=seed).fit_predict(sketches)
    _, numbered = np.unique(labels, return_inverse=True)
    return numbered.astype(np.int64)


def streaming_pass(
    rows: Rows, centroids: NDArray[np.float32], weights: NDArray[np.float64], distance: Distance
) -> NDArray[np.float32]:
    """One MiniBatchKMeans pass over all rows from these centroids; the new ones, of unit length for cosine.

    The first batch is the centroids themselves, each with the weight of the rows that it stands for: else the first
    few rows would outweigh them, and with many clusters and small blocks inertia comes out up to 5% higher.
    """
    model = MiniBatchKMeans(len(centroids), init=centroids, n_init=1, reassignment_ratio=0, random_state=0)
    model.partial_fit(centroids, sample_weight=weights)
    for _, block in rows.blocks():
        if len(directed := _directed(block, distance)):
            model.partial_fit(directed)
    return scaled(np.asarray(model.cluster_centers_, np.float32), distance)


def assign(
    rows: Rows,
    centroids: NDArray[np.float32],
    distance: Distance,
    labels: NDArray[np.int16],
    distances: NDArray[np.float32],
) -> tuple[float, int]:
    """Fill `labels` and `distances` (both (n,), in place) with each row's nearest centroid; inertia and zero rows."""
    inertia, zero_rows = 0.0, 0
    first = first_alike(centroids)
    for where, block in rows.blocks():
        own, squared, zeros = nearest(block, centroids, distance)
        labels[where] = first[own]
        inertia += float(squared.sum(dtype=np.float64))
        distances[where] = squared / 2 if distance == "cosine" else np.sqrt(squared)  # |u - c|^2 = 2 (1 - cos)
        zero_rows += zeros
    return inertia, zero_rows


@dataclass(frozen=True)
class LloydPart:
    """What one part of the rows, m of them, says of k centroids: enough for a step of Lloyd's when added up.

    Attributes:
        sums: (k, width) float64, of the rows nearest to each centroid; of unit rows for cosine.
        counts: (k,) int64, how many those are; for cosine without rows of zeros.
        labels: (m,) int16, nearest centroids.
        distances: (m,) float32, to them, as in `Clustering`.
        inertia: sum of squared distances.
        zero_rows: rows of length 0.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    labels: NDArray[np.int16]
    distances: NDArray[np.float32]
    inertia: float
    zero_rows: int


def lloyd_part(rows: Rows, centroids: NDArray[np.float32], distance: Distance) -> LloydPart:
    """Assign this part's rows to the centroids (k, width), and add them up, in one reading."""
    k = len(centroids)
    sums, counts = np.zeros(centroids.shape, np.float64), np.zeros(k, np.int64)
    labels, distances = np.empty(len(rows), np.int16), np.empty(len(rows), np.float32)
    inertia, zero_rows, first = 0.0, 0, first_alike(centroids)
    for where, block in rows.blocks():
        own, squared, zeros = nearest(block, centroids, distance)
        labels[where] = first[own]
        distances[where] = squared / 2 if distance == "cosine" else np.sqrt(squared)
        inertia += float(squared.sum(dtype=np.float64))
        zero_rows += zeros
        counted = labels[where][block.any(axis=1)] if distance == "cosine" else labels[where]
        counts += np.bincount(counted, minlength=k)
        member = np.equal.outer(np.arange(k), labels[where]).astype(np.float32)  # (k, m)
        sums += member @ scaled(block, distance)
    return LloydPart(sums, counts, labels, distances, inertia, zero_rows)


def lloyd_step(
    sums: NDArray[np.float64], counts: NDArray[np.int64], centroids: NDArray[np.float32], distance: Distance
) -> NDArray[np.float32]:
    """The next centroids (k, width) from the sums and counts of all parts; one without rows stays where it is."""
    means = sums / np.maximum(counts, 1)[:, None]
    moved = np.where((counts > 0)[:, None], means, centroids).astype(np.float32)
    return scaled(moved, distance)


def first_alike(centroids: NDArray[np.float32]) -> NDArray[np.int16]:
    """(k,) for each centroid the first one that is the same but for rounding: itself, where none is.

    Of equal centroids, rounding would choose: equal rows would get different labels.
    """
    lengths = np.einsum("ij,ij->i", centroids, centroids)
    longer = np.maximum.outer(lengths, lengths)
    near = np.add.outer(lengths, lengths) - 2 * (centroids @ centroids.T) <= 1e-4 * longer  # a quick first look
    first = np.arange(len(centroids), dtype=np.int16)
    for j in range(1, len(centroids)):
        for i in np.flatnonzero(near[j, :j]):
            gap = centroids[i] - centroids[j]
            if gap @ gap <= 1e-10 * longer[i, j]:
                first[j] = first[i]
                break
    return first


def nearest(
    block: NDArray[np.float32], centroids: NDArray[np.float32], distance: Distance
) -> tuple[NDArray[np.int16], NDArray[np.float32], int]:
    """Labels (m,), squared distances (m,) to the nearest centroid, and the number of rows of length 0.

    For cosine, distances are between unit rows and the (unit) centroids; rows of length 0 get label 0, distance 0.
    """
    squares = np.einsum("ij,ij->i", block, block)  # (m,)
    products = block @ centroids.T  # (m, k)
    lengths = np.einsum("ij,ij->i", centroids, centroids)  # (k,)
    zeros = int((squares == 0).sum())
    if distance == "cosine":
        norms = np.sqrt(squares)
        products /= np.where(norms > 0, norms, 1)[:, None]
        squares = np.where(norms > 0, np.float32(1), np.float32(0))
    gaps = lengths - 2 * products  # (m, k)
    labels = gaps.argmin(axis=1)
    squared = np.maximum(gaps[np.arange(len(block)), labels] + squares, 0)
    if zeros and distance == "cosine":
        labels[norms == 0] = 0
        squared[norms == 0] = 0
    return labels.astype(np.int16), squared.astype(np.float32), zeros


def scaled(values: NDArray[np.float32], distance: Distance) -> NDArray[np.float32]:
    """For cosine, the rows at unit length, in place (rows of zeros stay); for Euclidean as they are."""
    if distance == "cosine":
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
        values /= np.where(norms > 0, norms, 1)[:, None]
    return values


def _directed(values: NDArray[np.float32], distance: Distance) -> NDArray[np.float32]:
    """For cosine, the rows at unit length without those of zeros; for Euclidean as they are. May change `values`."""
    if distance == "cosine":
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
        if not norms.all():
            values, norms = values[norms > 0], norms[norms > 0]
        values /= norms[:, None]
    return values


_lock = threading.Lock()
_inside = 0
_blas_limit = contextlib.ExitStack()
# threadpoolctl >= 3.7 ignores, silently, every thread but the one that set BLAS's limit last: one thread does it all.
_keeper = ThreadPoolExecutor(1, thread_name_prefix="blas-limit")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS and OpenMP to one thread while inside.

    Sums in a fixed order are repeatable to the bit, and clusterings of several layers run side by side. OpenMP's
    limit belongs to a thread; BLAS's to the process, so it is lifted when the last of several threads leaves
    (threadpoolctl alone would lift it with the first).
    """
    global _inside, _blas_limit
    with _lock:
        if _inside == 0:
            _blas_limit = _keeper.submit(_limit_blas).result()
        _inside += 1
    try:
        with threadpool_limits(1, user_api="openmp"):
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _keeper.submit(_blas_limit.close).result()


def _limit_blas() -> contextlib.ExitStack:
    limit = contextlib.ExitStack()
    limit.enter_context(threadpool_limits(1, user_api="blas"))
    return limit

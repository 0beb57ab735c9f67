"""First centroids of k-means: a sample of rows, their sketches, and the best of ten k-means++ runs on those.

Belongs here: what happens before the streaming pass over all rows, which is `kmeans.py`. All state and randomness is
passed in. Sources: k-means++ as scikit-learn implements it (Arthur and Vassilvitskii 2007); random projection keeps
distances (Johnson and Lindenstrauss 1984).
"""

from __future__ import annotations

import warnings

import numpy as np
import xxhash
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from clusterpaths.cache.fit_sample import SAMPLE_ROWS
from clusterpaths.clustering.reading import Pass, Shape, Steps, Where
from clusterpaths.records import Distance

SKETCH_WIDTH = 256
RESTARTS = 10
ALIKE = 1e-10  # of squared lengths: below, two rows are equal up to rounding


def seeding(
    rows: Shape, k: int, distance: Distance, rng: np.random.Generator
) -> Steps[tuple[NDArray[np.float32], NDArray[np.float64], int]]:
    """First centroids (k, width) float32, the number of sample rows of each (k,), and of the sample's distinct rows.

    Where there are fewer distinct rows than k, the last centroids repeat the first ones (repeated centroids).
    """
    sample = draw_sample(rows, rng)
    sketches = yield from sketching(rows, sample, distance, rng)
    directed = np.asarray(sketches.any(axis=1))
    if distance == "euclidean" or not directed.any():
        directed = np.ones(len(sample), bool)
    distinct = count_distinct(sketches[directed], k)
    labels = np.full(len(sample), -1, np.int64)  # -1: a row of zeros, without direction
    labels[directed] = _best_labels(sketches[directed], distinct, int(rng.integers(2**31)))
    found = int(labels.max()) + 1
    sums = np.zeros((found, rows.width), np.float32)

    def add(where: Where, block: NDArray[np.float32]) -> None:
        own = labels[places_of(sample, where)]
        member = np.equal.outer(np.arange(found), own).astype(np.float32)  # (found, m)
        np.add(sums, member @ scaled(block, distance), out=sums)

    yield Pass(sample, add)
    weights = np.bincount(labels[directed], minlength=found).astype(np.float64)
    centroids = sums / weights[:, None].astype(np.float32)
    repeated = np.arange(k) % found
    weights = np.where(np.arange(k) < found, weights[repeated], 0)  # a repeated centroid has weight 0
    return np.ascontiguousarray(centroids[repeated], np.float32), weights, distinct


def draw_sample(rows: Shape, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending positions of at most SAMPLE_ROWS rows; the same seed draws the same ones for every layer.

    Drawn from `rows.fit` where it is set: a uniform sample of a uniform sample.
    """
    n = len(rows) if rows.fit is None else len(rows.fit)
    drawn = np.sort(rng.choice(n, min(n, SAMPLE_ROWS), replace=False))
    return drawn if rows.fit is None else rows.fit[drawn]


def sketching(
    rows: Shape, sample: NDArray[np.int64], distance: Distance, rng: np.random.Generator
) -> Steps[NDArray[np.float32]]:
    """Rows at the positions `sample` (s,), projected at random to (s, at most SKETCH_WIDTH) float32.

    For cosine they are scaled to unit length first; rows of zeros stay zeros. With many rows (`rows.fit`) the projection
    is a count sketch with fixed buckets: each value gets a random sign (Charikar, Chen and Farach-Colton 2002). It takes
    a fifth of the time of a Gaussian projection.

    Equal rows have bitwise equal sketches. A matrix product alone does not ensure that: the last bits of its rows may
    depend on their position in the block.
    """
    projection, signs = None, None
    if rows.width > SKETCH_WIDTH and rows.fit is not None:
        signs = rng.choice(np.array([-1, 1], np.float32), rows.width)
    elif rows.width > SKETCH_WIDTH:
        projection = rng.standard_normal((rows.width, SKETCH_WIDTH), np.float32) / np.float32(np.sqrt(SKETCH_WIDTH))
    sketches = np.empty((len(sample), min(rows.width, SKETCH_WIDTH)), np.float32)
    digests = np.empty(len(sample), np.uint64)

    def add(where: Where, block: NDArray[np.float32]) -> None:
        places = places_of(sample, where)
        digests[places] = _digests(block)
        values = scaled(block, distance)  # (m, width)
        if signs is not None:
            values = _folded(values, signs)
        sketches[places] = values if projection is None else values @ projection

    yield Pass(sample, add)
    _, first, kind = np.unique(digests, return_index=True, return_inverse=True)
    return sketches[first[kind]]


def _digests(block: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64-bit hash (XXH3) of each row (m, width); turns -0 into 0, in place."""
    block += 0
    rows = np.ascontiguousarray(block)
    return np.fromiter((xxhash.xxh3_64_intdigest(row.data) for row in rows), np.uint64, len(rows))


def _folded(values: NDArray[np.float32], signs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums (m, SKETCH_WIDTH) of (m, width) values times their signs (width,), by column modulo SKETCH_WIDTH.

    Changes `values`.
    """
    values *= signs
    full = values.shape[1] // SKETCH_WIDTH * SKETCH_WIDTH
    folded: NDArray[np.float32] = values[:, :full].reshape(len(values), -1, SKETCH_WIDTH).sum(axis=1)
    folded[:, : values.shape[1] - full] += values[:, full:]
    return folded


def places_of(sample: NDArray[np.int64], where: Where) -> NDArray[np.int64]:
    """Positions of a block's rows within the sample (s,)."""
    return np.searchsorted(sample, np.arange(where.start, where.stop) if isinstance(where, slice) else where)


def count_distinct(sketches: NDArray[np.float32], most: int) -> int:
    """Number of rows that differ by more than rounding from all counted before them; counting stops at `most`.

    Rows are compared by distance: with a grid, rounding alone could move a row into the next cell. So for cosine all
    multiples of a row count once, as does an image whose activations were rounded differently in two batches.
    """
    found, count = np.empty((min(most, len(sketches)), sketches.shape[1]), sketches.dtype), 0
    for row in sketches:
        if not alike(found[:count], row).any():
            found[count] = row
            count += 1
            if count == most:
                break
    return count


def alike(rows: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(m,) whether rows (m, d) are equal to one row (d,) up to rounding."""
    gaps = rows - one
    longer = np.maximum(np.einsum("ij,ij->i", rows, rows), np.einsum("i,i", one, one))
    near: NDArray[np.bool_] = np.einsum("ij,ij->i", gaps, gaps) <= ALIKE * longer
    return near


def _best_labels(sketches: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    """Labels 0 … of the best of 10 k-means++ runs; numbered without gaps.

    The runs are those of `KMeans(k, n_init=10)`. That compares inertias in float32, where the best two of ten often
    differ in the last bit only: the kernel of a matrix product would then decide which run, and so which numbering, wins.
    """
    draws, least = np.random.RandomState(seed), np.inf
    best = np.zeros(len(sketches), np.int64)
    for _ in range(RESTARTS):
        with warnings.catch_warnings():
            # Fewer distinct points than clusters are expected here: the numbering below closes the gap.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = KMeans(k, n_init=1, random_state=draws).fit(sketches)
        gaps = sketches - found.cluster_centers_[found.labels_]
        inertia = float(np.einsum("ij,ij->", gaps, gaps, dtype=np.float64))
        if inertia < least * (1 - 1e-7):  # by more than rounding: the same clusters in another order are no better
            best, least = found.labels_, inertia
    _, numbered = np.unique(best, return_inverse=True)
    return numbered.astype(np.int64)


def scaled(values: NDArray[np.float32], distance: Distance) -> NDArray[np.float32]:
    """For cosine, the rows at unit length, in place (rows of zeros stay); for Euclidean as they are."""
    if distance == "cosine":
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
        values /= np.where(norms > 0, norms, 1)[:, None]
    return values

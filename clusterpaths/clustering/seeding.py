"""First centroids of k-means: sketches of the rows, and the means of the best of ten k-means++ runs on those.

Belongs here: what happens before the passes over complete rows, which are `kmeans.py`. All state and randomness is
passed in. Sources: k-means++ as scikit-learn implements it (Arthur and Vassilvitskii 2007); count sketches (Charikar,
Chen and Farach-Colton 2002); principal components from a sketch (Halko, Martinsson and Tropp 2011), which are enough for
k-means (Ding and He 2004).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.fit_sample import fit_size
from clusterpaths.clustering.principal import NEGLIGIBLE, Axes, axes_along, find_directions
from clusterpaths.clustering.reading import Rows, Where
from clusterpaths.common.threads import ignore_warnings
from clusterpaths.records import Distance

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

SKETCH_WIDTH = 256
COMPONENTS = 64  # or k, if that is more
RESTARTS = 10
BREATHED = 4
BREATH = 5
BETTER = 1e-3  # of the inertia: by how much a later run is better; see `_best_labels`
GAIN = 1e-5  # of the inertia: what a breath gains at least
ALIKE = 1e-10  # of squared lengths: below, two rows are equal up to rounding
# Where the squared length of the rows' mean is so many times their mean squared distance from it, float32 products decide
# wrongly: their rounding (1e-7 to 1e-6 of squared lengths) is then a ten-thousandth to a thousandth of what they tell apart.
LARGE_OFFSET = 1e3


@dataclass(frozen=True)
class First:
    """What k-means begins with.

    Attributes:
        centroids: (k, width) float32, for cosine not of unit length.
        distinct: number of distinct rows, at most k.
        axes: principal axes of the sample.
    """

    centroids: NDArray[np.float32]
    distinct: int
    axes: Axes


def first_centroids(rows: Rows, k: int, distance: Distance, rng: np.random.Generator) -> First:
    """First centroids of k-means, and principal axes, which cost little more then.

    Rows are read four times, those of at most SKETCH_WIDTH values twice; of more than `fit_size(k)`, a sample. On 12,000
    images, clusters of 2,048 sketches have up to 2.6% more inertia than those of all after a pass over all rows (k=30), of
    4,096 up to 0.9%. Where there are fewer distinct rows than k, the last centroids repeat the first ones (repeated centroids).
    """
    sample = draw_sample(len(rows), fit_size(k), rng)
    sketches = sketch(rows, sample, distance, rng)
    directed = np.asarray(sketches.any(axis=1))
    if distance == "euclidean" or not directed.any():
        directed = np.ones(len(sample), bool)
    distinct = count_distinct(sketches[directed], k)
    if rows.width > SKETCH_WIDTH:
        components = _components(rows, sample, distance, sketches, max(COMPONENTS, k))
        sketches, squares = components.coordinates, components.squares
        directions = find_directions(sketches, components.basis)
        del components  # the basis is large
    else:
        directions, squares = find_directions(sketches), _sum_of_squares(sketches)
    if constant_part(sketches):
        sketches -= sketches.mean(axis=0, dtype=np.float64).astype(np.float32)
    labels = np.full(len(sample), -1, np.int64)  # -1: a row of zeros, without direction
    labels[directed] = _best_labels(sketches[directed], distinct, int(rng.integers(2**31)))
    found = int(labels.max()) + 1
    member = np.equal.outer(np.arange(found), labels).astype(np.float32)  # (found, s)
    sums = _combined(rows, sample, distance, member)
    centroids = sums / member.sum(axis=1)[:, None]
    axes = axes_along(directions, sums.sum(axis=0) / np.float32(len(sample)), len(sample), squares)
    return First(np.ascontiguousarray(centroids[np.arange(k) % found], np.float32), distinct, axes)


def constant_part(rows: NDArray[np.float32]) -> bool:
    """Whether what (n, d) rows have in common, such as a large bias, hides their differences from float32 products."""
    centre = rows.mean(axis=0, dtype=np.float64)
    squares = [float(np.square(row - centre).sum()) for row in rows]  # one at a time: rows may be wide
    spread = sum(squares) / max(len(rows), 1)
    return float(centre @ centre) > LARGE_OFFSET * spread


def draw_sample(n: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending positions of at most `most` of n rows, at random; the same seed draws the same ones for every layer."""
    return np.sort(rng.choice(n, min(n, most), replace=False))


def sketch(
    rows: Rows, sample: NDArray[np.int64], distance: Distance, rng: np.random.Generator, *, gaussian: bool = False
) -> NDArray[np.float32]:
    """Rows at the positions `sample` (s,), projected at random to (s, at most SKETCH_WIDTH) float32.

    For cosine they are scaled to unit length first; rows of zeros stay zeros. The projection is a count sketch with fixed
    buckets: each value gets a random sign. It takes a fifth of the time of a Gaussian projection, and no memory.

    Equal rows have bitwise equal sketches. Arithmetic alone does not ensure that: the last bits may depend on a row's
    position in the block.
    """
    signs, projection = None, None
    if rows.width > SKETCH_WIDTH and gaussian:
        projection = rng.standard_normal((rows.width, SKETCH_WIDTH), np.float32) / np.float32(np.sqrt(SKETCH_WIDTH))
    elif rows.width > SKETCH_WIDTH:
        signs = rng.choice(np.array([-1, 1], np.float32), rows.width)
    sketches = np.empty((len(sample), min(rows.width, SKETCH_WIDTH)), np.float32)
    digests = np.empty(len(sample), np.uint64)
    for where, block in _read(rows, sample):
        places = places_of(sample, where)
        digests[places] = _digests(block)
        values = scaled(block, distance)  # (m, width)
        if signs is not None:
            values = _folded(values, signs)
        sketches[places] = values if projection is None else values @ projection
        del block, values
    return _equal(sketches, digests)


@dataclass(frozen=True)
class _Components:
    """Of a sample: coordinates (s, r) of its rows in an orthonormal basis (r, width), and the sum of their squared lengths."""

    coordinates: NDArray[np.float32]
    basis: NDArray[np.float32]
    squares: float


def _components(
    rows: Rows, sample: NDArray[np.int64], distance: Distance, sketches: NDArray[np.float32], most: int
) -> _Components:
    """Coordinates (s, at most `most`) of the sample's rows along their principal components, approximately.

    The sketches' leading left singular vectors combine the rows to a basis, on which the rows are projected: a power
    iteration from the sketches. Distances in it are less noisy than those of sketches: clusters of 64 components have an
    inertia of 0.993 to 1.001 of KMeans's on complete rows, those of 256 sketched values of 1.001 to 1.019 (2,000 real
    images, k = 5, 15 and 30). The singular vectors are of float64, as the gap between two singular values is small.

    Equal rows have bitwise equal coordinates.
    """
    centred = sketches.astype(np.float64)
    least = NEGLIGIBLE * float(np.einsum("ij,ij->", centred, centred))
    centred -= centred.mean(axis=0)
    squares, directions = np.linalg.eigh(centred.T @ centred)  # by rising variance
    large = np.flatnonzero(squares > least)[-most:]
    left = centred @ (directions[:, large] / np.sqrt(squares[large]))  # (s, r)
    basis = _combined(rows, sample, distance, np.ascontiguousarray(left.T, np.float32))  # (r, width)
    lengths = np.sqrt(np.einsum("ij,ij->i", basis, basis))
    if not lengths.all():
        basis, lengths = basis[lengths > 0], lengths[lengths > 0]
    basis /= lengths[:, None]
    # Nearly orthogonal by now. The inverse square root of its Gram matrix makes it so.
    squares, directions = np.linalg.eigh((basis @ basis.T).astype(np.float64))
    independent = squares > 1e-3
    turn = (directions[:, independent] / np.sqrt(squares[independent]) @ directions[:, independent].T).astype(
        np.float32
    )
    found = np.empty((len(sample), max(len(basis), 1)), np.float32)
    digests, total = np.empty(len(sample), np.uint64), 0.0
    for where, block in _read(rows, sample):
        places = places_of(sample, where)
        digests[places] = _digests(block)
        found[places] = scaled(block, distance) @ basis.T @ turn if len(basis) else 0
        total += _sum_of_squares(block)  # which is scaled now
        del block
    orthonormal = turn.T @ basis if len(basis) else np.zeros((1, rows.width), np.float32)
    return _Components(_equal(found, digests), orthonormal, total)


def _sum_of_squares(rows: NDArray[np.float32]) -> float:
    """Of (m, width) rows, added up in float64 by row."""
    return float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64))


def _combined(
    rows: Rows, sample: NDArray[np.int64], distance: Distance, factors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sums (r, width) of the sample's rows, each times its factors (r, s); for cosine of rows of unit length."""
    sums = np.zeros((len(factors), rows.width), np.float32)
    for where, block in _read(rows, sample):
        np.add(sums, factors[:, places_of(sample, where)] @ scaled(block, distance), out=sums)
        del block
    return sums


def _read(rows: Rows, sample: NDArray[np.int64]) -> Iterator[tuple[Where, NDArray[np.float32]]]:
    return rows.blocks(None if len(sample) == len(rows) else sample)


def _equal(values: NDArray[np.float32], digests: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Values (s, d) of the first of all rows with the same digest (s,)."""
    _, first, kind = np.unique(digests, return_index=True, return_inverse=True)
    return values[first[kind]]


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
    """Labels 0 … of the best of 10 k-means++ runs and of the first BREATHED of them, improved by breathing.

    Clusters are numbered without gaps, by their first rows: rounding may decide the order in which they are found.

    The runs are those of `KMeans(k, n_init=10)`. A later one is taken where its inertia is less by a thousandth: else rounding
    of the activations decides which of many nearly equal ones wins. Of float16 and float32, 99.75% to 100% of 2,000
    real images' paths agree so (96% to 99% where the best is taken, for 0.03% of the inertia). For the same reason runs
    come before what breathing makes of them.
    """
    from sklearn.cluster import KMeans  # takes half a second, which a dry run need not wait for
    from sklearn.exceptions import ConvergenceWarning

    draws, least = np.random.RandomState(seed), np.inf
    best: KMeans | None = None
    # Fewer distinct points than clusters are expected here: the numbering below closes the gap.
    with ignore_warnings(ConvergenceWarning):
        runs = [KMeans(k, n_init=1, random_state=draws).fit(sketches) for _ in range(RESTARTS)]
        for number in range(RESTARTS + BREATHED):
            if number < RESTARTS:
                found, inertia = runs[number], _inertia(sketches, runs[number])
            else:
                found, inertia = _breathing(sketches, runs[number - RESTARTS], number)
            if inertia < least * (1 - BETTER):
                best, least = found, inertia
        # Those runs stop early: where they do depends on the last bits of the rows.
        centroids = sketches[:1] if best is None else best.cluster_centers_
        converged = KMeans(len(centroids), init=centroids, n_init=1, tol=0).fit(sketches)
    _, first, numbered = np.unique(converged.labels_, return_index=True, return_inverse=True)
    return first.argsort().argsort()[numbered].astype(np.int64)


def _breathing(sketches: NDArray[np.float32], found: KMeans, seed: int) -> tuple[KMeans, float]:
    """Breathing k-means (Fritzke 2020): add centroids in the worst clusters, converge, drop the least useful, converge.

    Repeated for as long as the inertia (returned, too) decreases; then with fewer centroids, from BREATH down to 1. It
    leaves the local optima in which k-means++ ends.
    """
    from sklearn.cluster import KMeans

    draws, inertia, k = np.random.RandomState(seed), _inertia(sketches, found), len(found.cluster_centers_)
    breath = min(BREATH, k, len(sketches) - k) if k > 1 else 0
    while breath and inertia > 0:
        centroids = found.cluster_centers_
        own, _ = _two_nearest(sketches, centroids)
        worst = _coarse(-np.bincount(found.labels_, own, k)).argsort(kind="stable")[:breath]
        offsets = draws.standard_normal((breath, sketches.shape[1])).astype(np.float32)
        beside = centroids[worst] + np.float32(0.01 * np.sqrt(own.mean())) * offsets
        larger = KMeans(k + breath, init=np.concatenate([centroids, beside]), n_init=1).fit(sketches)
        own, other = _two_nearest(sketches, larger.cluster_centers_)
        losses = np.bincount(larger.labels_, other - own, k + breath).astype(np.float64)
        useless = _least_useful(larger.cluster_centers_, losses, breath)
        tried = KMeans(k, init=np.delete(larger.cluster_centers_, useless, axis=0), n_init=1).fit(sketches)
        reached = _inertia(sketches, tried)
        if reached < inertia * (1 - GAIN):
            found, inertia = tried, reached
        else:
            breath -= 1
    return found, inertia


def _least_useful(centroids: NDArray[np.float32], losses: NDArray[np.float64], count: int) -> list[int]:
    """The `count` centroids whose rows lose least (k,) without them; of neighbours one, while there are enough others."""
    gaps = np.square(centroids[:, None] - centroids[None]).sum(axis=2)
    np.fill_diagonal(gaps, 2 * gaps.max())
    gaps = _coarse(gaps)
    order = _coarse(losses).argsort(kind="stable").tolist()
    dropped: list[int] = []
    preserved: set[int] = set()
    for one in order:
        if one not in preserved and len(dropped) < count:
            dropped.append(one)
            preserved.add(int(gaps[one].argmin()))
    return dropped + [one for one in order if one not in dropped][: count - len(dropped)]


def _coarse(values: NDArray[Any]) -> NDArray[Any]:
    """Values to 1e-4 of the largest: between those that are equal up to rounding, the first one is taken."""
    coarse: NDArray[Any] = np.round(values / max(float(np.abs(values).max()), np.finfo(np.float32).tiny), 4)
    return coarse


def _two_nearest(
    sketches: NDArray[np.float32], centroids: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared distances (s,) of rows to the nearest and to the second nearest centroid."""
    lengths = np.einsum("ij,ij->i", centroids, centroids)
    gaps = np.einsum("ij,ij->i", sketches, sketches)[:, None] + lengths - 2 * (sketches @ centroids.T)
    two = np.partition(np.maximum(gaps, 0), 1, axis=1).astype(np.float64)
    return two[:, 0], two[:, 1]


def _inertia(sketches: NDArray[np.float32], found: KMeans) -> float:
    gaps = sketches - found.cluster_centers_[found.labels_]
    return float(np.einsum("ij,ij->", gaps, gaps, dtype=np.float64))


def scaled(values: NDArray[np.float32], distance: Distance) -> NDArray[np.float32]:
    """For cosine, the rows at unit length, in place (rows of zeros stay); for Euclidean as they are."""
    if distance == "cosine":
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
        values /= np.where(norms > 0, norms, 1)[:, None]
    return values

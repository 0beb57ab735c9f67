from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from threadpoolctl import threadpool_info

from clusterpaths.cache.fit_sample import fit_size
from clusterpaths.clustering.kmeans import _means, assign, comparable, farthest, first_alike, fit, graded, nearest
from clusterpaths.clustering.reading import Subset, Where
from clusterpaths.clustering.seeding import (
    _best_labels,
    _components,
    count_distinct,
    draw_sample,
    sketch,
)
from clusterpaths.common.threads import one_thread
from clusterpaths.records import Distance
from tests.clusterpaths.clustering.fitting import Clustering, cluster_rows

DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")


class ArrayRows:
    """Rows in memory; blocks are copies, as those from disk are."""

    def __init__(
        self,
        values: NDArray[np.floating] | list[list[float]],
        block_rows: int = 64,
    ) -> None:
        self.values = np.array(values, np.float32)
        self.width = self.values.shape[1]
        self.block_rows = block_rows

    def __len__(self) -> int:
        return len(self.values)

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
        if positions is not None:
            assert (np.diff(positions) > 0).all()
        for start in range(0, len(self) if positions is None else len(positions), self.block_rows):
            where: Where = slice(start, min(start + self.block_rows, len(self)))
            if positions is not None:
                where = positions[start : start + self.block_rows]
            yield where, self.values[where].copy()


def blobs(count: int, k: int, width: int, spread: float = 0.3, seed: int = 0) -> NDArray[np.float32]:
    """Well apart for both distances: k random directions of length 1 to 3, noise around each."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((k, width)) * rng.uniform(1, 3, (k, 1))
    rows = centres[rng.integers(k, size=count)] + spread * rng.standard_normal((count, width))
    return rows.astype(np.float32)


def unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def agree(found: NDArray[np.int16], expected: list[int]) -> bool:
    """Whether labels are the same up to permutation."""
    pairs = set(zip(found.tolist(), expected, strict=True))
    return len(pairs) == len(set(expected)) == len({label for label, _ in pairs})


def recomputed_inertia(rows: NDArray[np.floating], found: Clustering, distance: Distance) -> float:
    x = unit(rows) if distance == "cosine" else rows.astype(float)
    gaps = ((x[:, None, :] - found.centroids[None].astype(float)) ** 2).sum(axis=2)
    return float(gaps.min(axis=1).sum())


def test_four_points_by_hand_euclidean() -> None:
    found = cluster_rows(ArrayRows([[0, 0], [0, 2], [10, 0], [10, 2]]), 2, "euclidean", 0)
    assert agree(found.labels, [0, 0, 1, 1])
    np.testing.assert_allclose(sorted(found.centroids.tolist()), [[0, 1], [10, 1]], atol=1e-6)
    np.testing.assert_allclose(found.distances, [1, 1, 1, 1], atol=1e-5)
    assert found.inertia == pytest.approx(4)
    assert found.sizes.tolist() == [2, 2]
    assert (found.centroids.dtype, found.labels.dtype, found.distances.dtype) == (np.float32, np.int16, np.float32)


def test_four_points_by_hand_cosine() -> None:
    """Directions 0 and 90 degrees, and 180 and 270 degrees; lengths play no part: centroids at 45 and 225 degrees."""
    found = cluster_rows(ArrayRows([[1, 0.2], [0.2, 1], [-100, -20], [-0.02, -0.1]]), 2, "cosine", 0)
    assert agree(found.labels, [0, 0, 1, 1])
    root = np.sqrt(0.5)
    np.testing.assert_allclose(sorted(found.centroids.tolist()), [[-root, -root], [root, root]], atol=1e-6)
    cosine = 1.2 * root / np.sqrt(1.04)
    np.testing.assert_allclose(found.distances, [1 - cosine] * 4, atol=1e-6)
    assert found.inertia == pytest.approx(4 * 2 * (1 - cosine), rel=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_blocks_of_any_size_give_the_clusters_of_one_block(distance: Distance) -> None:
    rows = blobs(500, 4, 12)
    whole = cluster_rows(ArrayRows(rows, 500), 4, distance, 0)
    for block_rows in (1, 7, 64, 499):
        streamed = cluster_rows(ArrayRows(rows, block_rows), 4, distance, 0)
        assert agree(streamed.labels, whole.labels.tolist())
        np.testing.assert_allclose(streamed.inertia, whole.inertia, rtol=0.01)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("width", [3, 40, 400])
def test_wide_rows_are_sketched_and_found_alike(distance: Distance, width: int) -> None:
    rows = blobs(300, 5, width, spread=0.05)
    found = cluster_rows(ArrayRows(rows, 32), 5, distance, 0)
    x = unit(rows) if distance == "cosine" else rows
    reference = KMeans(5, n_init=10, random_state=0).fit(x)
    assert agree(found.labels, reference.labels_.tolist())
    assert found.inertia == pytest.approx(reference.inertia_, rel=0.01)
    assert found.inertia == pytest.approx(recomputed_inertia(rows, found, distance), rel=1e-3)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_inertia_is_within_a_hundredth_of_kmeans_also_beyond_the_sample(distance: Distance, seed: int) -> None:
    rows = blobs(6000, 8, 16, seed=seed)
    found = cluster_rows(ArrayRows(rows, 500), 8, distance, seed)
    reference = KMeans(8, n_init=10, random_state=0).fit(unit(rows) if distance == "cosine" else rows)
    best = reference.inertia_
    if distance == "cosine":  # its means have not unit length: compare both with unit centroids
        best = float(2 * len(rows) - 2 * (unit(rows) @ unit(reference.cluster_centers_).T).max(axis=1).sum())
    assert found.inertia <= 1.01 * best


@pytest.mark.parametrize("distance", DISTANCES)
def test_one_cluster_is_the_mean(distance: Distance) -> None:
    rows = blobs(200, 3, 5)
    found = cluster_rows(ArrayRows(rows), 1, distance, 0)
    mean = unit(unit(rows).mean(axis=0, keepdims=True)) if distance == "cosine" else rows.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(found.centroids, mean, atol=1e-5)
    assert found.sizes.tolist() == [200]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("block_rows", [3, 64])
def test_as_many_clusters_as_rows_give_each_row_its_own(distance: Distance, block_rows: int) -> None:
    rows = np.random.default_rng(0).standard_normal((9, 6))
    found = cluster_rows(ArrayRows(rows, block_rows), 9, distance, 0)
    assert sorted(found.labels.tolist()) == list(range(9))
    assert found.inertia == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("distance", DISTANCES)
def test_more_clusters_than_rows_in_a_block_work(distance: Distance) -> None:
    """Rows of a layer of large images come a few at a time."""
    found = cluster_rows(ArrayRows(blobs(200, 30, 20, spread=0.01), 4), 30, distance, 0)
    assert (found.sizes > 0).all()
    assert len(found.centroids) == 30


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("width", [3, 7, 100, 1000])
@pytest.mark.parametrize("different", [1, 3])
def test_fewer_distinct_rows_than_clusters_leave_empty_ones_and_never_part_equals(
    distance: Distance, width: int, different: int
) -> None:
    rng = np.random.default_rng(width)
    kinds = rng.integers(different, size=203)
    rows = rng.standard_normal((different, width))[kinds]
    found = cluster_rows(ArrayRows(rows, 64), 7, distance, 0)
    assert found.centroids.shape == (7, width)
    assert len(found.sizes) == 7
    assert (found.sizes > 0).sum() == found.distinct == different
    assert agree(found.labels, kinds.tolist())
    assert np.isfinite(found.centroids).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_dead_layer_is_one_cluster_and_the_rest_are_empty(distance: Distance) -> None:
    found = cluster_rows(ArrayRows(np.zeros((50, 20))), 4, distance, 0)
    assert found.sizes.tolist() == [50, 0, 0, 0]
    far = 1 if distance == "cosine" else 0  # without a direction, a row is at cosine distance 1 of everything
    assert (found.zero_rows, found.distinct, found.inertia) == (50, 1, 2 * 50 * far)
    np.testing.assert_array_equal(found.distances, far)
    assert not found.centroids.any()


def with_dead_rows() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Three directions, and every tenth row zero."""
    rows = np.abs(blobs(400, 3, 20, seed=4))
    dead = np.arange(400) % 10 == 5
    rows[dead] = 0
    return rows, dead


@pytest.mark.parametrize("k", [1, 3, 6])
def test_rows_without_direction_go_to_cluster_0_and_move_no_centroid(k: int) -> None:
    rows, dead = with_dead_rows()
    found = cluster_rows(ArrayRows(rows), k, "cosine", 0)
    assert found.zero_rows == 40
    assert not found.labels[dead].any()
    assert (found.distances[dead] == 1).all()
    np.testing.assert_allclose(found.distances[dead], cosine_distances(rows[dead], found.centroids)[:, 0])
    assert found.distances[~dead].max() < 1
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)
    living = cluster_rows(ArrayRows(rows[~dead]), k, "cosine", 0)
    assert found.inertia - 2 * 40 == pytest.approx(living.inertia, rel=0.01)


def test_few_living_rows_among_dead_ones_are_clustered() -> None:
    rows = np.zeros((100, 4))
    rows[17, 0], rows[61, 1], rows[62, 1] = 5, 1, 2
    found = cluster_rows(ArrayRows(rows, 10), 5, "cosine", 0)
    assert found.labels[61] == found.labels[62] != found.labels[17]
    assert found.zero_rows == 97
    assert found.inertia == pytest.approx(2 * 97, abs=1e-4)


def test_rows_without_direction_are_the_last_exemplars_of_their_cluster_and_seed_none() -> None:
    rows, dead = with_dead_rows()
    found = cluster_rows(ArrayRows(rows), 3, "cosine", 0)
    first = np.flatnonzero(found.labels == 0)
    assert dead[first[np.argsort(found.distances[first], kind="stable")[-40:]]].all()
    repeated = np.repeat(found.centroids[:1], 3, axis=0)  # two of three clusters are empty
    labels, distances = np.empty(400, np.int16), np.empty(400, np.float32)
    _means(ArrayRows(rows), repeated, "cosine", labels, distances)
    assert not distances[dead].any()


def large_offset(count: int = 300) -> NDArray[np.float32]:
    """Activations behind a bias of 3,000: three groups that differ by about 1."""
    return blobs(count, 3, 16, spread=0.1, seed=5) + np.float32(3000)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_large_constant_part_decides_nothing(distance: Distance) -> None:
    """As scikit-learn in float64: |x|^2 is 1.4e8 here, of which float32 loses 8, and squared distances are about 1."""
    rows = large_offset()
    found = cluster_rows(ArrayRows(rows), 3, distance, 0)
    metric = cosine_distances if distance == "cosine" else euclidean_distances
    expected = metric(rows.astype(np.float64), found.centroids.astype(np.float64))
    np.testing.assert_array_equal(found.labels, expected.argmin(axis=1))
    np.testing.assert_allclose(found.distances, expected.min(axis=1), rtol=1e-3)
    groups = KMeans(3, n_init=10, random_state=0).fit_predict(
        unit(rows) * 3000 if distance == "cosine" else rows - 3000
    )
    assert agree(found.labels, groups.tolist())


def test_a_large_constant_part_makes_no_worse_clusters() -> None:
    rng = np.random.default_rng(3)
    rows = (rng.standard_normal((2000, 16)) * np.linspace(2, 0.3, 16)).astype(np.float32) + np.float32(30_000)
    found, plain = (cluster_rows(ArrayRows(values), 15, "euclidean", 0) for values in (rows, rows - 30_000))
    assert found.inertia == pytest.approx(plain.inertia, rel=3e-3)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rows", [with_dead_rows()[0], large_offset()], ids=["with zeros", "large offset"])
def test_a_graded_path_is_the_distances_to_all_centroids(rows: NDArray[np.float32], distance: Distance) -> None:
    centroids = rows[:4] if distance == "euclidean" else unit(rows[:4]).astype(np.float32)
    metric = cosine_distances if distance == "cosine" else euclidean_distances
    expected = metric(rows.astype(np.float64), centroids.astype(np.float64))
    found = graded(rows, comparable(centroids, distance), distance)
    np.testing.assert_allclose(found[4:], expected[4:], rtol=1e-3, atol=1e-6 * expected.max())


def test_ordinary_layers_are_compared_in_float32() -> None:
    rows = np.abs(blobs(50, 5, 16))
    assert comparable(rows, "cosine") is rows
    assert comparable(np.zeros((3, 4), np.float32), "euclidean").dtype == np.float32
    assert comparable(rows + 3000, "euclidean").dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(comparable(rows + 3000, "cosine"), axis=1), 1, rtol=1e-15)


def test_zero_rows_are_rows_like_others_for_euclidean() -> None:
    found = cluster_rows(ArrayRows([[0, 0], [0, 0.1], [5, 5], [5, 5.1]]), 2, "euclidean", 0)
    assert agree(found.labels, [0, 0, 1, 1])
    assert found.zero_rows == 1


@pytest.mark.parametrize("distance", DISTANCES)
def test_tiny_cluster_that_the_sample_misses_is_seeded_again(distance: Distance) -> None:
    """Three kinds of rows, one of them a single row of 5,000: a sample without it knows two kinds only."""
    rows = np.zeros((5000, 4))
    rows[::2, 0], rows[1::2, 1] = 1, 1
    seed = next(
        seed for seed in itertools.count() if 4321 not in draw_sample(5000, fit_size(3), np.random.default_rng(seed))
    )
    rows[4321] = [0, 0, 3, 0]
    found = cluster_rows(ArrayRows(rows, 512), 3, distance, seed)
    assert found.distinct == 2
    assert sorted(found.sizes.tolist()) == [1, 2499, 2500]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("width", [10, 700])
def test_same_seed_gives_the_same_bits_also_in_threads_side_by_side(distance: Distance, width: int) -> None:
    rows = blobs(3000, 6, width, spread=2.0)

    def run(seed: int = 3) -> bytes:
        found = cluster_rows(ArrayRows(rows, 300), 12, distance, seed)
        return found.centroids.tobytes() + found.labels.tobytes() + found.distances.tobytes()

    first = run()
    assert run() == first
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(run, [3, 3])) == {first}
    assert run(4) != first


def test_nearest_unit_centroid_to_the_raw_row_is_the_label() -> None:
    """So that readers who know nothing of cosine lose nothing."""
    rows = np.abs(blobs(2000, 7, 30, spread=1.0)) * np.random.default_rng(1).uniform(0.01, 100, (2000, 1))
    found = cluster_rows(ArrayRows(rows), 7, "cosine", 0)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)
    gaps = ((rows.astype(float)[:, None, :] - found.centroids[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(gaps.argmin(axis=1), found.labels)


def test_nearest_by_hand() -> None:
    block = np.array([[3, 0], [0, 5], [0, 0]], np.float32)
    centroids = np.array([[0.6, 0.8], [1, 0]], np.float32)
    found = nearest(block.copy(), centroids, "cosine")
    assert (found.labels.tolist(), found.zeros) == ([1, 0, 0], 1)
    np.testing.assert_allclose(found.squared, [0, 2 * (1 - 0.8), 2], atol=1e-6)
    np.testing.assert_allclose(found.shares, [1 / 3, 1 / 5, 0], atol=1e-6)
    found = nearest(block.copy(), centroids, "euclidean")
    assert (found.labels.tolist(), found.zeros) == ([1, 0, 0], 1)  # the zero row: both lie at 1, the first counts
    assert found.shares.tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.squared, [4, 0.36 + 4.2**2, 1], atol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_pass_moves_centroids_where_scikit_learn_moves_them(distance: Distance) -> None:
    rows = blobs(600, 6, 20, spread=2.0)
    rows[::50] = 0
    first = rows[1:7].copy()
    if distance == "cosine":
        first = unit(first).astype(np.float32)
    directed = unit(rows[rows.any(axis=1)]) if distance == "cosine" else rows
    labels = ((directed[:, None] - first[None]) ** 2).sum(axis=2).argmin(axis=1)
    expected = np.stack([directed[labels == c].mean(axis=0) for c in range(6)])
    theirs = KMeans(6, init=first, n_init=1, max_iter=1).fit(directed.astype(np.float32))
    np.testing.assert_allclose(theirs.cluster_centers_, expected, rtol=1e-4, atol=1e-5)
    for block_rows in (7, 60, 600):
        found, far = np.empty(600, np.int16), np.empty(600, np.float32)
        means = _means(ArrayRows(rows, block_rows), first.copy(), distance, found, far)
        np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_pass_leaves_a_centroid_without_rows_and_moves_equal_ones_together(distance: Distance) -> None:
    rows = np.array([[1, 0], [0.8, 0.6]], np.float32)
    centroids = np.array([[1, 0], [-1, 0], [1, 0]], np.float32)
    labels, distances = np.empty(2, np.int16), np.empty(2, np.float32)
    means = _means(ArrayRows(rows), centroids, distance, labels, distances)
    np.testing.assert_allclose(means, [[0.9, 0.3], [-1, 0], [0.9, 0.3]], atol=1e-6)
    assert labels.tolist() == [0, 0]


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("width", [257, 512, 1000])
def test_sketches_keep_distances(width: int, gaussian: bool) -> None:
    rows = np.random.default_rng(0).standard_normal((60, width)).astype(np.float32)
    sketches = sketch(ArrayRows(rows, 16), np.arange(60), "euclidean", np.random.default_rng(1), gaussian=gaussian)
    assert sketches.shape == (60, 256)
    gaps = [((x[:, None] - x[None]) ** 2).sum(axis=2)[np.triu_indices(60, 1)] for x in (rows, sketches)]
    ratio = gaps[1] / gaps[0]
    assert abs(ratio.mean() - 1) < (0.05 if gaussian else 0.02)
    assert np.abs(ratio - 1).max() < 0.6  # 256 dimensions: a standard deviation of about 0.09


@pytest.mark.parametrize("distance", DISTANCES)
def test_components_keep_distances_between_rows_of_few_dimensions(distance: Distance) -> None:
    """Rows far from 0, in a subspace of 20 of 3,000 dimensions: what a projection at random would disturb by 9%."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((100, 20)) @ rng.standard_normal((20, 3000)) + 3).astype(np.float32)
    every, block_rows = np.arange(100), ArrayRows(rows, 16)
    sketches = sketch(block_rows, every, distance, np.random.default_rng(1))
    found = _components(block_rows, every, distance, sketches, 64).coordinates
    assert found.shape[1] <= 64
    x = unit(rows) if distance == "cosine" else rows.astype(float)
    gaps = [np.square(y[:, None] - y[None]).sum(axis=2)[np.triu_indices(100, 1)] for y in (x, found)]
    np.testing.assert_allclose(gaps[1], gaps[0], rtol=1e-3)


@pytest.mark.parametrize(("width", "readings"), [(12, 3), (300, 5)])
@pytest.mark.parametrize("distance", DISTANCES)
def test_rows_are_read_five_times_narrow_ones_three_times(distance: Distance, width: int, readings: int) -> None:
    """Of more rows than are sketched, all are read once."""
    asked: list[int | None] = []

    class Watched(ArrayRows):
        def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
            asked.append(None if positions is None else len(positions))
            return super().blocks(positions)

    rows = blobs(5000, 4, width)
    assert fit(Watched(rows[:4096], 256), 4, distance, 0).passes == 1
    assert asked == [None] * readings
    asked.clear()
    found = fit(Watched(rows, 256), 4, distance, 0)
    assert asked == [4096] * (readings - 1) + [None]
    labels, distances = np.empty(5000, np.int16), np.empty(5000, np.float32)
    inertia, _ = assign(ArrayRows(rows), found.centroids, distance, labels, distances)
    assert inertia <= 1.01 * cluster_rows(ArrayRows(rows[:4096]), 4, distance, 0).inertia * 5000 / 4096


def test_breathing_leaves_local_optima_that_ten_starts_end_in() -> None:
    """25 clusters: even the best of ten runs of k-means++ puts two centroids into some and one between others."""
    rng = np.random.default_rng(0)
    centres = 10 * np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=2).reshape(25, 2)
    rows = (centres[rng.integers(25, size=1000)] + 0.5 * rng.standard_normal((1000, 2))).astype(np.float32)
    for seed in range(3):
        labels = _best_labels(rows, 25, seed)
        means = np.stack([rows[labels == c].mean(axis=0) for c in range(25)])
        assert np.square(rows - means[labels]).sum() < 0.6 * len(rows)  # 0.5 at the blobs' centres


def test_a_subset_has_the_rows_of_its_positions_in_their_order() -> None:
    rows = ArrayRows(np.arange(20).reshape(10, 2), 3)
    positions = np.array([1, 4, 5, 9])
    subset = Subset(rows, positions)
    assert (len(subset), subset.width) == (4, 2)
    for asked in (None, np.array([0, 2]), np.array([3])):
        found = np.full((4, 2), -1, np.float32)
        for where, block in subset.blocks(asked):
            found[where] = block
        wanted = np.arange(4) if asked is None else asked
        np.testing.assert_array_equal(found[wanted], rows.values[positions[wanted]])
        assert (found[np.setdiff1d(np.arange(4), wanted)] == -1).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_subset_is_fitted_as_its_rows_are(distance: Distance) -> None:
    rows = blobs(600, 4, 300)
    positions = np.flatnonzero(np.arange(600) % 3)
    own, alone = (
        fit(Subset(ArrayRows(rows), positions), 4, distance, 0),
        fit(ArrayRows(rows[positions]), 4, distance, 0),
    )
    np.testing.assert_allclose(own.centroids, alone.centroids, atol=1e-4)


def test_assign_fills_every_row_once() -> None:
    rows = ArrayRows([[0, 0], [4, 3], [1, 0]], 2)
    labels, distances = np.full(3, -1, np.int16), np.full(3, np.nan, np.float32)
    centroids = np.array([[0, 0], [4, 0]], np.float32)
    inertia, zeros = assign(rows, centroids, "euclidean", labels, distances)
    assert (labels.tolist(), distances.tolist(), inertia, zeros) == ([0, 1, 0], [0, 3, 1], 10, 1)


def test_first_alike_is_the_first_of_equal_centroids() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 50)).astype(np.float32)
    rounded = a * np.float32(1 + 2e-7)
    near = a + np.float32(1e-3)
    assert first_alike(np.stack([a, b, rounded, near, b])).tolist() == [0, 1, 0, 3, 1]
    assert first_alike(np.zeros((3, 4), np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("distances", "labels", "count", "least", "expected"),
    [
        ([1, 9, 8, 2], [0, 0, 0, 0], 2, 0, [1]),  # one a cluster
        ([1, 9, 8, 2], [0, 0, 1, 1], 2, 0, [1, 2]),
        ([1, 9, 8, 2], [0, 0, 1, 1], 1, 0, [1]),
        ([9, 1, 2], [0, 1, 1], 2, 0, [2]),  # a cluster's only row stays there
        ([0, 0, 0], [0, 0, 0], 2, 0, []),  # nothing to gain
        ([5, 5e-5, 0], [0, 1, 1], 2, 0, []),
        ([1, 9, 8, 2], [0, 0, 1, 1], 2, 8.5, [1]),  # the other may be rounding
        ([3, 4], [0, 0], 0, 0, []),
    ],
)
def test_good_new_seeds_are_far_rows_of_crowded_clusters(
    distances: list[float], labels: list[int], count: int, least: float, expected: list[int]
) -> None:
    far = np.array(distances, np.float32)
    found = farthest(far, np.array(labels, np.int16), count, np.full_like(far, least))
    assert found.tolist() == expected


def test_distinct_rows_are_counted_up_to_rounding() -> None:
    rows = np.array([[1, 2], [1, 2], [1 + 1e-6, 2], [1, 2.1]], np.float32)
    assert count_distinct(rows, 10) == 2
    assert count_distinct(rows, 1) == 1  # more are of no interest
    assert count_distinct(np.zeros((4, 3), np.float32), 10) == 1


def test_threads_are_given_back_when_the_last_one_leaves() -> None:
    def threads(_: int = 0) -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    def inside(_: int) -> list[int]:
        with one_thread():
            return threads()

    before = threads()
    with one_thread():
        assert set(threads()) == {1}
        with one_thread():
            pass
        assert set(threads()) == {1}
    assert threads() == before
    for _ in range(3):  # each time a thread of its own
        with ThreadPoolExecutor(1) as pool:
            assert set(pool.submit(inside, 0).result()) == {1}
        assert threads() == before

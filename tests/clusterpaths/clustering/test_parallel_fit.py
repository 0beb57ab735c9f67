from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering import parallel_fit
from clusterpaths.clustering.cluster import ClusteringRecord, cluster_layer, read_clustering
from clusterpaths.clustering.identity import SetIdentity, identify
from clusterpaths.clustering.kmeans import Clustering, nearest
from clusterpaths.clustering.parallel_fit import (
    LayerFit,
    advance_fit,
    begin_fit,
    fit_part,
    fits_in_parts,
    lloyd_part,
    lloyd_step,
)
from clusterpaths.clustering.reading import run
from clusterpaths.clustering.seeding import scaled, seeding
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.records import Distance
from tests.clusterpaths.clustering.test_kmeans import DISTANCES, ArrayRows, blobs, unit
from tests.clusterpaths.conftest import Extracted, run_extraction

Configure = Callable[..., RunConfig]


def lloyd_in_parts(
    values: NDArray[np.float32], centroids: NDArray[np.float32], distance: Distance, steps: int, part_rows: int
) -> NDArray[np.float32]:
    for _ in range(steps):
        parts = [
            lloyd_part(ArrayRows(values[start : start + part_rows]), centroids, distance)
            for start in range(0, len(values), part_rows)
        ]
        sums, counts = np.sum([part.sums for part in parts], axis=0), np.sum([part.counts for part in parts], axis=0)
        centroids = lloyd_step(sums, counts, centroids, distance)
    return centroids


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_parts_added_up_are_lloyd_on_the_whole(steps: int) -> None:
    values = blobs(1000, 6, 20, spread=1.2)  # overlapping: it takes more than three steps to settle
    start = values[:6].copy()
    whole = KMeans(6, init=start, n_init=1, max_iter=steps, tol=0, algorithm="lloyd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one step is no convergence, and none is asked for
        whole.fit(values)
    centroids = lloyd_in_parts(values, start, "euclidean", steps, part_rows=130)
    np.testing.assert_allclose(centroids, whole.cluster_centers_, rtol=1e-4, atol=1e-5)
    labels = nearest(values, centroids, "euclidean").labels
    if steps == 40:
        np.testing.assert_array_equal(labels, whole.labels_)
        assert len(set(labels.tolist())) == 6


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_number_of_parts_makes_no_difference(distance: Distance) -> None:
    values = blobs(700, 5, 12, spread=0.8)
    start = values[:5].copy() if distance == "euclidean" else unit(values[:5]).astype(np.float32)
    one = lloyd_in_parts(values, start, distance, 5, part_rows=700)
    many = lloyd_in_parts(values, start, distance, 5, part_rows=64)
    np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-6)


def test_a_part_by_hand() -> None:
    part = lloyd_part(ArrayRows([[0, 0], [2, 0], [9, 0], [0, 1]]), np.array([[0, 0], [10, 0]], np.float32), "euclidean")
    assert part.sums.tolist() == [[2, 1], [9, 0]]
    assert part.counts.tolist() == [3, 1]
    assert part.labels.tolist() == [0, 0, 1, 0]
    assert part.distances.tolist() == [0, 2, 1, 1]
    assert (part.inertia, part.zero_rows) == (6.0, 1)  # zeros are a place like any other, but are told of


def test_a_part_by_hand_for_cosine_leaves_rows_of_zeros_out() -> None:
    part = lloyd_part(ArrayRows([[0, 0], [5, 0], [0, 3]]), np.array([[1, 0], [0, 1]], np.float32), "cosine")
    assert part.sums.tolist() == [[1, 0], [0, 1]]
    assert part.counts.tolist() == [1, 1]
    assert part.labels.tolist() == [0, 0, 1]
    assert (part.inertia, part.zero_rows) == (0.0, 1)


def test_a_centroid_without_rows_stays() -> None:
    step = lloyd_step(
        np.array([[6.0, 0], [0, 0]]), np.array([2, 0]), np.array([[1, 1], [7, 8]], np.float32), "euclidean"
    )
    assert step.tolist() == [[3, 0], [7, 8]]


def test_n_alone_chooses(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run_extraction(configure()).record
    assert not fits_in_parts(record)
    monkeypatch.setattr(parallel_fit, "PARALLEL_FROM", 41)
    assert not fits_in_parts(record)
    monkeypatch.setattr(parallel_fit, "PARALLEL_FROM", 40)
    assert fits_in_parts(record)


def fitted(done: Extracted, identity: SetIdentity, layer: str) -> tuple[Clustering, ClusteringRecord]:
    fit = begin_fit(done.record, identity, layer)
    passes = 0
    while not fit.done:
        for part in reversed(range(fit.parts)):  # in no particular order
            fit_part(done.record, identity, fit, part)
        fit, passes = advance_fit(done.record, identity, fit), passes + 1
    record = cluster_layer(done.record, identity, layer)
    assert record.found  # what was fitted in parts is what the stage after it takes
    clustering = read_clustering(done.storage, record.file)
    assert clustering is not None
    assert clustering.passes == passes
    assert not fit.storage.path.exists()
    return clustering, record


@pytest.mark.parametrize("distance", DISTANCES)
def test_from_the_cache_it_settles_where_lloyd_does_from_the_same_seeds(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, distance: Distance
) -> None:
    monkeypatch.setattr(parallel_fit, "PART_ROWS", 11)
    monkeypatch.setattr(parallel_fit, "TOLERANCE", 0)
    config = configure(distance=distance, cache_dtype="float32")
    done = run_extraction(config)
    identity = identify(config, done.model, done.record)
    clustering, _ = fitted(done, identity, "conv2")

    rows = LayerRows(done.storage, "conv2", done.ids)
    seeds, _, _ = run(seeding(rows, 3, distance, np.random.default_rng(identity.seed)), rows)
    values = rows.take(np.arange(40))
    expected = lloyd_in_parts(values, scaled(seeds, distance), distance, 40, part_rows=40)
    np.testing.assert_allclose(clustering.centroids, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(clustering.labels, nearest(values, expected, distance).labels)
    assert len(set(clustering.labels.tolist())) == 3


def test_shard_size_and_format_make_no_difference_to_the_bit(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel_fit, "PART_ROWS", 16)
    found = []
    for name, shard_size, cache_format in (("A", 16, "npy"), ("B", 7, "npy"), ("C", 40, "zarr")):
        config = configure(name=name, shard_size=shard_size, cache_format=cache_format)
        done = run_extraction(config)
        found.append(fitted(done, identify(config, done.model, done.record), "fc1")[0])
    for other in found[1:]:
        assert other.centroids.tobytes() == found[0].centroids.tobytes()
        assert other.labels.tobytes() == found[0].labels.tobytes()


@pytest.fixture
def begun(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> tuple[Extracted, SetIdentity, LayerFit]:
    """Three parts of 14, 14 and 12 rows over shards of 16: shards 0 and 1 lie across two parts."""
    monkeypatch.setattr(parallel_fit, "PART_ROWS", 14)
    config = configure()
    done = run_extraction(config)
    identity = identify(config, done.model, done.record)
    return done, identity, begin_fit(done.record, identity, "fc1")


def test_parts_that_are_done_are_kept_and_others_centroids_are_not_taken(
    begun: tuple[Extracted, SetIdentity, LayerFit],
) -> None:
    done, identity, fit = begun
    fit_part(done.record, identity, fit, 0)
    path = fit.storage.path / "part-0-0.npz"
    before = path.stat().st_mtime_ns, path.read_bytes()
    again = begin_fit(done.record, identity, "fc1")  # as after an interruption
    fit_part(done.record, identity, again, 0)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    centroids = fit.storage.path / "centroids-0.npy"
    np.save(centroids, np.load(centroids) + 1)
    fit_part(done.record, identity, again, 0)
    assert path.read_bytes() != before[1]


def test_a_part_that_is_gone_is_told(begun: tuple[Extracted, SetIdentity, LayerFit]) -> None:
    done, identity, fit = begun
    fit_part(done.record, identity, fit, 0)
    fit_part(done.record, identity, fit, 2)
    with pytest.raises(CacheError, match=r"part-0-1\.npz is missing or corrupted"):
        advance_fit(done.record, identity, fit)


@pytest.mark.parametrize(("position", "part", "shard"), [(15, 0, 0), (17, 1, 1), (31, 1, 1), (35, 2, 2)])
def test_damage_is_found_also_in_shards_that_lie_across_parts(
    begun: tuple[Extracted, SetIdentity, LayerFit], position: int, part: int, shard: int
) -> None:
    done, identity, fit = begun
    file = done.directory / "fc1" / f"{done.ids[position]}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptedShardError) as caught:
        fit_part(done.record, identity, fit, part)
    assert caught.value.shard == shard

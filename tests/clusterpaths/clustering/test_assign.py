from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_argmin
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances

from clusterpaths.cache.manifest import ShardRecord, forget_shard, format_ids, require_manifest
from clusterpaths.clustering.assign import (
    Assigner,
    FitRecord,
    Labels,
    assigned,
    assigner_of,
    digest_of,
    labels_file,
    read_labels,
    release_assigners,
    write_labels,
)
from clusterpaths.clustering.fit import fit_layer, forget_fits
from clusterpaths.clustering.identity import SetIdentity, identify, identify_fits
from clusterpaths.clustering.trace import TraceRecord, trace_paths
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.extraction.again import assign_shard
from clusterpaths.models.products import Products
from clusterpaths.records import Distance
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import LAYERS, NUMBERS, Extracted, cluster, read_rows, run_extraction, write_celeba

Configure = Callable[..., RunConfig]
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")


def assign(rows: NDArray[np.floating], centroids: NDArray[np.float32], distance: Distance, pieces: int = 1) -> Labels:
    assigner = Assigner(centroids, distance)
    return assigner.assign([assigner.products(np.ascontiguousarray(part)) for part in np.array_split(rows, pieces)])


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("width", "k"), [(2, 3), (10, 5), (64, 17), (1000, 30), (4096, 5)])
def test_labels_are_scikit_learns_in_float64_except_near_ties(
    distance: Distance, dtype: str, width: int, k: int
) -> None:
    rng = np.random.default_rng([width, k])
    rows = rng.gamma(0.5, 1.0, (500, width)).astype(dtype)
    centroids = rng.gamma(0.5, 1.0, (k, width)).astype(np.float32)
    if distance == "cosine":
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    found = assign(rows, centroids, distance)
    exact = rows.astype(np.float64)
    if distance == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    squared = ((exact[:, None] - centroids.astype(np.float64)) ** 2).sum(axis=2)
    nearest, runner_up = np.sort(squared, axis=1)[:, :2].T
    clear = runner_up - nearest > 1e-5 * (1 + nearest)
    assert clear.mean() > 0.95
    expected = pairwise_distances_argmin(exact, centroids.astype(np.float64))
    np.testing.assert_array_equal(found.labels[clear], expected[clear])
    far = nearest / 2 if distance == "cosine" else np.sqrt(nearest)
    np.testing.assert_allclose(found.distances[clear], far[clear], rtol=1e-3, atol=2e-4)
    assert (found.labels.dtype, found.distances.dtype, found.zeros.dtype) == (np.int16, np.float32, np.bool_)


@pytest.mark.parametrize("distance", DISTANCES)
def test_four_rows_by_hand(distance: Distance) -> None:
    rows = np.array([[3, 0], [0, 2], [0.9, 0.1], [0, 0]], np.float32)
    found = assign(rows, np.array([[1, 0], [0, 1]], np.float32), distance)
    assert found.labels.tolist() == [0, 1, 0, 0]
    assert found.zeros.tolist() == [False, False, False, True]
    by_hand = {"cosine": [0, 0, 1 - 0.9 / np.sqrt(0.82), 1], "euclidean": [2, 1, np.sqrt(0.02), 1]}
    np.testing.assert_allclose(found.distances, by_hand[distance], atol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_large_constant_part_decides_nothing(distance: Distance) -> None:
    """A bias of 3,000 and differences of about 1, in the products that ONNX Runtime computes."""
    rows = (np.random.default_rng(0).standard_normal((60, 24)) + 3000).astype(np.float32)
    found = assign(rows, rows[:5], distance)
    metric = cosine_distances if distance == "cosine" else euclidean_distances
    expected = metric(rows.astype(np.float64), rows[:5].astype(np.float64))
    np.testing.assert_array_equal(found.labels, expected.argmin(axis=1))
    np.testing.assert_allclose(found.distances[5:], expected.min(axis=1)[5:], rtol=1e-3)


def test_a_row_of_zeros_is_in_the_first_cluster_of_cosine_and_the_nearest_of_euclidean() -> None:
    centroids = np.array([[1, 0], [0.1, 0.1]], np.float32)
    zeros = np.zeros((2, 2), np.float32)
    for distance, label, far in (("cosine", 0, 1.0), ("euclidean", 1, np.sqrt(0.02))):
        found = assign(zeros, centroids, distance)  # type: ignore[arg-type]
        assert (found.labels.tolist(), found.zeros.tolist()) == ([label] * 2, [True] * 2)
        np.testing.assert_allclose(found.distances, far, rtol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("factor", [1.0, 1 + 1e-7])
def test_equal_centroids_count_as_the_first_of_them(distance: Distance, factor: float) -> None:
    """Also where they are equal up to rounding, which would decide otherwise."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((3, 50)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    centroids = np.concatenate([base, base[[2, 0]] * np.float32(factor), base[1:2]])
    rows = rng.standard_normal((200, 50)).astype(np.float32)
    found = assign(rows, centroids, distance)
    assert set(found.labels.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(found.labels, assign(rows, base, distance).labels)


@pytest.mark.parametrize("distance", DISTANCES)
def test_one_cluster_has_every_row(distance: Distance) -> None:
    rows = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    found = assign(rows, np.eye(1, 7, dtype=np.float32), distance)
    assert found.labels.tolist() == [0] * 9
    assert (found.distances >= 0).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_pieces_give_what_all_rows_at_once_give_and_no_rows_give_none(distance: Distance) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100, 33)).astype(np.float16)
    centroids = rng.standard_normal((4, 33)).astype(np.float32)
    whole = assign(rows, centroids, distance)
    for pieces in (2, 7, 100):
        some = assign(rows, centroids, distance, pieces)
        for one, other in zip(vars(some).values(), vars(whole).values(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(Assigner(centroids, distance).assign([]).labels) == 0


@dataclass(frozen=True)
class Filed:
    """One shard's labels in a file."""

    folder: Path
    fit: FitRecord
    record: ShardRecord
    labels: Labels

    def read(self, **changes: object) -> Labels | None:
        return read_labels(self.folder / self.fit.directory, self.fit.model_copy(update=changes), self.record)

    def assigned(self) -> set[int]:
        return assigned(open_storage(self.folder), self.fit, [self.record])


@pytest.fixture
def filed(tmp_path: Path) -> Filed:
    fit = FitRecord(
        layer="conv1", directory="clusterings/conv1-0", digest="d", distance="cosine", distinct=3, passes=1,
        num_fitted=9, axes="a",
    )  # fmt: skip
    record = ShardRecord(index=7, ids="0-2", start=0, rows=3, checksums={"conv1": "1", "fc1": "2"})
    labels = Labels(
        np.array([2, 0, 1], np.int16),
        np.array([0, 0.5, 1], np.float32),
        np.array([True, False, False]),
        np.array([[0, 0.25], [-3, 4], [1e-9, 7e30]], np.float32),
    )
    write_labels(open_storage(tmp_path), fit, record, labels)
    return Filed(tmp_path, fit, record, labels)


def test_labels_come_back_as_they_were_written(filed: Filed) -> None:
    found = filed.read()
    assert found is not None
    for one, other in zip(vars(found).values(), vars(filed.labels).values(), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    assert filed.assigned() == {7}
    assert [path.name for path in (filed.folder / filed.fit.directory).iterdir()] == [labels_file(7)]


def test_labels_of_other_centroids_or_other_bytes_are_not_taken(filed: Filed) -> None:
    assert filed.read(digest="e") is None
    assert filed.read(axes="b") is None
    for change in (
        {"rows": 2},
        {"checksums": {"conv1": "3", "fc1": "2"}},
        {"checksums": {"conv1": "1", "pixels": "4"}},
    ):
        other = replace(filed, record=filed.record.model_copy(update=change))
        assert other.read() is None, change
        assert other.assigned() == set()
    # other layers' bytes, and where the rows lie, play no part
    same = filed.record.model_copy(update={"checksums": {"conv1": "1", "fc1": "9"}, "start": 640})
    assert replace(filed, record=same).read() is not None
    elsewhere = replace(filed, record=filed.record.model_copy(update={"index": 8}))
    assert (elsewhere.read(), elsewhere.assigned()) == (None, set())


def test_labels_of_a_cache_of_images_are_of_its_pixels(filed: Filed) -> None:
    record = filed.record.model_copy(update={"checksums": {"pixels": "p"}})
    write_labels(open_storage(filed.folder), filed.fit, record, filed.labels)
    assert replace(filed, record=record).read() is not None
    assert replace(filed, record=record.model_copy(update={"checksums": {"pixels": "q"}})).read() is None


@pytest.mark.parametrize("harm", ["gone", "empty", "short", "text", "flipped", "coordinates", "another"])
def test_a_corrupted_file_of_labels_is_as_if_it_were_not_there(filed: Filed, harm: str) -> None:
    path = filed.folder / filed.fit.directory / labels_file(7)
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "another":
        with path.open("wb") as file:
            np.savez(file, labels=filed.labels.labels)
    else:
        array = b"coordinates.npy" if harm == "coordinates" else b"labels.npy"
        content[content.index(b"NUMPY", content.index(array)) + 1 + 128] ^= 1
        contents = {"empty": b"", "short": content[:100], "text": b"no archive"}
        path.write_bytes(contents.get(harm, bytes(content)))
    assert filed.read() is None
    assert filed.assigned() == set()


@pytest.fixture
def done(configure: Configure) -> Extracted:
    return run_extraction(configure(cache_format="zarr", shard_size=13))


def test_an_assigner_is_of_the_recorded_centroids(done: Extracted) -> None:
    _, fits, _ = cluster(done)
    release_assigners()
    file = done.directory / fits[0].file
    centroids = assigner_of(done.storage, fits[0]).centroids
    assert digest_of(centroids) == fits[0].digest
    np.save(file, centroids * 2)
    assert assigner_of(done.storage, fits[0]).centroids is centroids  # of this process, until they are released
    release_assigners()
    with pytest.raises(CacheError, match="are missing or are not those of this run"):
        assigner_of(done.storage, fits[0])
    file.unlink()
    with pytest.raises(CacheError, match="are missing or are not those of this run"):
        assigner_of(done.storage, fits[0])


def test_a_fit_is_found_again_and_a_corrupted_one_is_made_again(done: Extracted) -> None:
    identity = identify_fits(done.config, done.model, done.record)
    first = fit_layer(done.record, identity, "fc1")
    assert not first.found
    assert fit_layer(done.record, identity, "fc1") == first.model_copy(update={"found": True})
    file, record = done.directory / first.file, done.directory / first.directory / "fit.json"
    sound = file.read_bytes()
    for path, content in [(file, sound[:-1]), (file, sound[:-1] + b"x"), (record, b"{}"), (record, b""), (file, b"")]:
        path.write_bytes(content)
        again = fit_layer(done.record, identity, "fc1")
        assert (again.found, again.digest) == (False, first.digest)
        assert file.read_bytes() == sound
    forget_fits(done.storage)
    assert not fit_layer(done.record, identity, "fc1").found


def test_other_settings_have_directories_of_their_own(configure: Configure, done: Extracted) -> None:
    directories = set()
    for options in ({}, {"k": 4}, {"seed": 1}, {"distance": "euclidean"}, {"k": "4,fc1=3"}):
        identity = identify_fits(configure(**options), done.model, done.record)
        directories.add(fit_layer(done.record, identity, "fc1").directory)
    assert len(directories) == 4  # other layers' k plays no part
    assert all(name.startswith("clusterings/fc1-") for name in directories)


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_every_example_has_the_nearest_centroid_of_its_own_activations(
    configure: Configure, cache_format: str, distance: Distance
) -> None:
    done = run_extraction(configure(cache_format=cache_format, shard_size=13, distance=distance, cache_dtype="float32"))
    identity, fits, traced = cluster(done)
    table = pq.read_table(traced.file)
    assert table["id"].to_pylist() == done.ids.tolist()
    for fit in fits:
        centroids = assigner_of(done.storage, fit).centroids.astype(np.float64)
        exact = read_rows(done, fit.layer).astype(np.float64)
        if distance == "cosine":
            exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        squared = ((exact[:, None] - centroids) ** 2).sum(axis=2)
        np.testing.assert_array_equal(table[fit.layer].to_numpy(), squared.argmin(axis=1))
        summary = traced.clusters[fit.layer]
        assert summary.sizes == tuple(np.bincount(squared.argmin(axis=1), minlength=3))
        assert summary.inertia == pytest.approx(squared.min(axis=1).sum(), rel=1e-3)
        far = table[f"distance.{fit.layer}"].to_numpy().astype(np.float64)
        parts = 2 * far if distance == "cosine" else far**2
        assert summary.inertia == float(parts.sum())
    assert identity.num_examples == 40


def traced_with(configure: Configure, shard_size: int, **options: object) -> tuple[SetIdentity, TraceRecord]:
    """Each image in a batch of its own, so that its activations are the same in every shard."""
    given = {"shard_size": shard_size, "batch_size": 1, "name": f"s{shard_size}"} | options
    identity, _, traced = cluster(run_extraction(configure(**given)))
    return identity, traced


@pytest.mark.parametrize("distance", DISTANCES)
def test_labels_distances_and_inertia_do_not_depend_on_the_shards(configure: Configure, distance: Distance) -> None:
    first, one = traced_with(configure, 40, distance=distance)
    for size in (1, 7, 16):
        identity, other = traced_with(configure, size, distance=distance)
        assert identity == first
        assert other.clusters == one.clusters  # inertia to the bit
        assert pq.read_table(other.file).equals(pq.read_table(one.file))


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_some_examples_of_a_shard_have_the_labels_that_they_have_among_all(
    configure: Configure, cache_format: str
) -> None:
    done = run_extraction(configure(cache_format=cache_format))
    _, fits, traced = cluster(done)
    whole = pq.read_table(traced.file)
    some = np.array([0, 3, 15, 16, 17, 38])
    part = done.record.model_copy(update={"ids": format_ids(done.ids[some]), "num_examples": len(some)})
    found = trace_paths(part, identify(identify_fits(done.config, done.model, done.record), part), fits)
    table = pq.read_table(found.file)
    assert table.equals(whole.take(some))
    assert found.file != traced.file
    for layer in LAYERS:
        labels = whole[layer].to_numpy()[some]
        assert found.clusters[layer].sizes == tuple(np.bincount(labels, minlength=3))


def test_examples_that_came_later_lie_in_later_shards_and_are_in_order_of_id(
    configure: Configure, tmp_path: Path
) -> None:
    data = write_celeba(tmp_path / "faces", NUMBERS[::2])
    run_extraction(configure(data_root=data, batch_size=1))
    write_celeba(data, NUMBERS)
    grown = cluster(run_extraction(configure(data_root=data, batch_size=1)))[2]
    fresh = cluster(run_extraction(configure(data_root=data, batch_size=1, name="fresh")))[2]
    one, other = pq.read_table(grown.file), pq.read_table(fresh.file)
    assert one["id"].to_pylist() == [number - 1 for number in NUMBERS]
    assert one.equals(other)


def test_a_shard_that_is_not_assigned_or_was_extracted_again_is_told(done: Extracted) -> None:
    identity, fits, _ = cluster(done)
    file = done.directory / fits[1].directory / labels_file(2)
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(CacheError, match=r"Shard 2 of .* is not assigned in conv2\. Run the flow again"):
        trace_paths(done.record, identity, fits)
    file.write_bytes(content)
    trace_paths(done.record, identity, fits)
    forget_shard(done.storage, 2)
    with pytest.raises(CacheError, match="does not have all of these 40 examples"):
        trace_paths(done.record, identity, fits)


def test_an_example_that_is_not_there_is_told(done: Extracted) -> None:
    identity, fits, _ = cluster(done)
    more = done.record.model_copy(update={"ids": f"{done.record.ids} 7000", "num_examples": 41})
    with pytest.raises(CacheError, match="does not have all of these 41 examples"):
        trace_paths(more, identity, fits)


@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
def test_flipped_bytes_are_found_by_assignment_and_leave_no_labels(configure: Configure, cache_format: str) -> None:
    done = run_extraction(configure(cache_format=cache_format))
    _, fits, _ = cluster(done)
    shard = require_manifest(done.storage).shards[1]
    for fit in fits:
        (done.directory / fit.directory / labels_file(1)).unlink()
    layer = done.directory / "fc1"
    path = layer / f"{shard.row_ids()[-1]}.npy" if cache_format == "npy" else layer / "c" / "1" / "0"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(CorruptedShardError, match=r"layer fc1 in shard 1") as caught:
        assign_shard(done.job, shard, fits)
    assert caught.value.shard == 1
    assert [assigned(done.storage, fit, [shard]) for fit in fits] == [set()] * 3


def test_zero_rows_and_empty_clusters_are_noted(configure: Configure, tmp_path: Path) -> None:
    """Black images; conv1's biases are 0."""
    data = write_celeba(tmp_path / "faces", colour=lambda number: (0,) * 3 if number < 10 else (200, number % 2, 9))
    _, _, traced = cluster(run_extraction(configure(data_root=data, batch_size=1)))
    black = sum(number < 10 for number in NUMBERS)
    note = traced.clusters["conv1"].note
    assert f"{black:,} examples have no activation at all (all 0)" in note
    assert traced.clusters["conv1"].empty == tuple(i for i, n in enumerate(traced.clusters["conv1"].sizes) if n == 0)
    data = write_celeba(tmp_path / "black", colour=lambda _: (0, 0, 0))
    _, _, traced = cluster(run_extraction(configure(data_root=data, name="black")))
    assert traced.clusters["conv1"].note.startswith("dead layer: every activation is 0; 2 of 3 clusters are empty")
    assert (traced.clusters["conv1"].sizes, traced.clusters["conv1"].inertia) == ((40, 0, 0), 80.0)


def test_records_travel_as_json(done: Extracted) -> None:
    _, fits, traced = cluster(done)
    for record in (*fits, traced):
        assert type(record).model_validate_json(record.model_dump_json()) == record
    assert json.loads(fits[0].model_dump_json())["layer"] == "conv1"
    shutil.rmtree(done.directory / "clusterings")


def test_products_need_no_centroids_to_be_concatenated() -> None:
    """A layer without centroids is not assigned; its squares alone are no labels."""
    assigner = Assigner(np.eye(2, dtype=np.float32), "euclidean")
    with pytest.raises((ValueError, IndexError)):
        assigner.assign([Products(np.ones(3, np.float32), None)])

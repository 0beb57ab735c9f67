"""One suite for all stores, then what is particular to each."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from clusterpaths.cache.manifest import FailedExample, LayerRecord, ShardRecord, format_ids
from clusterpaths.cache.stores import ActivationStore, open_store, size_on_disk
from clusterpaths.errors import DiskError
from clusterpaths.records import CacheFormat
from clusterpaths.storage import open_storage

FORMATS: tuple[CacheFormat, ...] = ("npy", "zarr")
LAYERS: Mapping[str, LayerRecord] = {
    "conv1": LayerRecord(tensor="a", shape=(2, 3, 4), dtype="float16"),
    "fc1": LayerRecord(tensor="b", shape=(7,), dtype="float32"),
}


def values_of(layer: str, ids: np.ndarray) -> np.ndarray:
    """Values that say to which example and place they belong."""
    record = LAYERS[layer]
    places = np.arange(int(np.prod(record.shape))).reshape(record.shape) / 32
    return (ids.reshape(-1, *[1] * len(record.shape)) + places).astype(record.dtype)


def fill(store: ActivationStore, ids: np.ndarray, row: int) -> None:
    for layer in LAYERS:
        store.write(layer, ids, row, values_of(layer, ids))


def shard_of(ids: np.ndarray, start: int, index: int = 0, **more: Any) -> ShardRecord:
    return ShardRecord(index=index, ids=format_ids(ids), start=start, **{"rows": len(ids)} | more)


IDS = np.array([0, 1, 4, 9, 10, 11])


@pytest.fixture(params=FORMATS)
def cache_format(request: pytest.FixtureRequest) -> CacheFormat:
    return request.param


@pytest.fixture
def store(tmp_path: Path, cache_format: CacheFormat) -> ActivationStore:
    store = open_store(open_storage(tmp_path), cache_format, LAYERS)
    store.reserve(128)
    return store


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_written_is_read_in_stored_dtype_and_order(
    store: ActivationStore, tmp_path: Path, cache_format: CacheFormat, layer: str
) -> None:
    fill(store, IDS, 64)
    again = open_store(open_storage(tmp_path), cache_format, LAYERS)
    for reader in (store, again):
        read = reader.read(layer, IDS, 64 + np.arange(len(IDS)))
        assert read.dtype == LAYERS[layer].dtype
        np.testing.assert_array_equal(read, values_of(layer, IDS).reshape(len(IDS), -1))
        np.testing.assert_array_equal(reader.read(layer, IDS[2:4], np.array([66, 67])), read[2:4])


def test_zeros_are_data(store: ActivationStore) -> None:
    for layer, record in LAYERS.items():
        store.write(layer, IDS, 0, np.zeros((6, *record.shape), record.dtype))
    assert store.complete([shard_of(IDS, 0)]) == {0}
    assert not store.read("conv1", IDS, np.arange(len(IDS))).any()


def test_written_again_is_what_is_read(store: ActivationStore) -> None:
    store.write("fc1", IDS, 0, values_of("fc1", IDS) * 0)
    fill(store, IDS, 0)
    np.testing.assert_array_equal(store.read("fc1", IDS, np.arange(len(IDS))), values_of("fc1", IDS))


def test_growing_keeps_what_is_there(store: ActivationStore) -> None:
    fill(store, IDS, 0)
    store.reserve(64 * 5)
    fill(store, IDS + 100, 64 * 4)
    store.reserve(64)  # never shrinks
    np.testing.assert_array_equal(store.read("conv1", IDS, np.arange(len(IDS))), values_of("conv1", IDS).reshape(6, -1))
    np.testing.assert_array_equal(
        store.read("conv1", IDS + 100, 256 + np.arange(6)), values_of("conv1", IDS + 100).reshape(6, -1)
    )


def test_whole_are_only_shards_all_of_whose_files_are_there(store: ActivationStore) -> None:
    first, second = shard_of(IDS, 0), shard_of(IDS + 50, 64, index=1)
    fill(store, IDS, 0)
    assert store.complete([first, second]) == {0}
    fill(store, IDS + 50, 64)
    assert store.complete([first, second]) == {0, 1}


def test_a_shard_without_a_single_row_is_whole(store: ActivationStore) -> None:
    failed = tuple(FailedExample(id=int(i), file="x", reason="missing") for i in IDS)
    assert store.complete([shard_of(IDS, 64, rows=0, failed=failed)]) == {0}


def test_failed_examples_need_no_file(store: ActivationStore) -> None:
    fill(store, IDS[1:], 0)
    assert store.complete([shard_of(IDS, 0, rows=5, failed=(FailedExample(id=0, file="x", reason="missing"),))]) == {0}


def files_of_rows(directory: Path, layer: str, cache_format: CacheFormat) -> list[Path]:
    folder = directory / layer / ("c" if cache_format == "zarr" else "")
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("harm", ["gone", "empty", "short"])
def test_missing_or_short_file_is_noticed_and_only_its_shard(
    store: ActivationStore, tmp_path: Path, cache_format: CacheFormat, layer: str, harm: str
) -> None:
    fill(store, np.arange(64), 0)
    before = set(files_of_rows(tmp_path, layer, cache_format))
    fill(store, np.arange(64, 70), 64)
    (path, *_) = sorted(set(files_of_rows(tmp_path, layer, cache_format)) - before)
    if harm == "gone":
        path.unlink()
    else:
        os.truncate(path, 0 if harm == "empty" else path.stat().st_size - 1)
    assert store.complete([shard_of(np.arange(64), 0), shard_of(np.arange(64, 70), 64, index=1)]) == {0}


def test_removed_folder_makes_nothing_whole(store: ActivationStore, tmp_path: Path) -> None:
    fill(store, IDS, 0)
    store.remove()
    assert list(tmp_path.iterdir()) == []
    assert store.complete([shard_of(IDS, 0)]) == set()
    store.remove()  # of nothing is no error


def test_reserving_over_anothers_left_overs_makes_it_fit(tmp_path: Path, cache_format: CacheFormat) -> None:
    other = {name: LayerRecord(tensor="x", shape=(5, 5), dtype="float32") for name in LAYERS}
    open_store(open_storage(tmp_path), "zarr", other).reserve(64)
    store = open_store(open_storage(tmp_path), cache_format, LAYERS)
    store.reserve(64)
    fill(store, IDS, 0)
    assert store.read("conv1", IDS, np.arange(len(IDS))).dtype == np.float16
    np.testing.assert_array_equal(store.read("conv1", IDS, np.arange(len(IDS))), values_of("conv1", IDS).reshape(6, -1))


@pytest.mark.parametrize("count", [1, 64, 65, 200])
def test_files_on_disk_are_no_more_than_foretold(store: ActivationStore, tmp_path: Path, count: int) -> None:
    cache_format: CacheFormat = "zarr" if (tmp_path / "fc1" / "zarr.json").exists() else "npy"
    store.reserve(256)
    for start in range(0, count, 64):
        fill(store, np.arange(start, min(start + 64, count)), start)
    found = [path for layer in LAYERS for path in (tmp_path / layer).rglob("*") if path.is_file()]
    assert len(found) == size_on_disk(cache_format, LAYERS, count)[0]


def test_bytes_of_npy_are_counted_in_blocks_by_hand() -> None:
    # conv1: 128 + 24 * 2 bytes and fc1: 128 + 7 * 4 bytes take one block of 4096 each
    assert size_on_disk("npy", LAYERS, 10) == (20, 10 * 2 * 4096)
    # zarr: 45% of 48 + 28 bytes an example; a chunk of 64 a file, and zarr.json
    assert size_on_disk("zarr", LAYERS, 65) == (6, int(65 * 76 * 0.45))


def test_npy_files_open_with_numpy_in_the_models_shape(tmp_path: Path) -> None:
    store = open_store(open_storage(tmp_path), "npy", LAYERS)
    store.reserve(0)
    fill(store, IDS, 0)
    assert sorted(path.name for path in (tmp_path / "conv1").iterdir()) == sorted(f"{i}.npy" for i in IDS)
    for layer, record in LAYERS.items():
        loaded = np.load(tmp_path / layer / "9.npy")
        assert (loaded.shape, loaded.dtype) == (record.shape, record.dtype)
        np.testing.assert_array_equal(loaded, values_of(layer, np.array([9]))[0])


def test_zarr_arrays_open_with_zarr_in_the_models_shape(tmp_path: Path) -> None:
    store = open_store(open_storage(tmp_path), "zarr", LAYERS)
    store.reserve(128)
    fill(store, IDS, 64)
    array = zarr.open_array(tmp_path / "conv1", mode="r")
    assert (array.shape, array.chunks, array.dtype) == ((128, 2, 3, 4), (64, 2, 3, 4), np.float16)
    np.testing.assert_array_equal(array[64:70], values_of("conv1", IDS))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_in_words(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch, cache_format: CacheFormat, error: int
) -> None:
    def full(*args: Any, **kwargs: Any) -> int:
        raise OSError(error, os.strerror(error))

    if cache_format == "npy":
        monkeypatch.setattr(os, "writev", full)
    else:
        monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(DiskError, match=r"The disk is full: writing .*run the same command again"):
        fill(store, IDS, 0)


def test_short_write_of_a_full_disk_is_not_taken_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(open_storage(tmp_path), "npy", LAYERS)
    store.reserve(0)
    monkeypatch.setattr(os, "writev", lambda fd, parts: os.write(fd, parts[0]))
    with pytest.raises(DiskError, match="The disk is full"):
        fill(store, IDS, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_told_in_words(tmp_path: Path, cache_format: CacheFormat) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DiskError, match="cannot be written"):
            open_store(open_storage(tmp_path), cache_format, LAYERS).reserve(64)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"zarr_format": 3}', '{"zarr_format": 3, "node_type": "array"}', "\xff"]
)
def test_an_array_whose_metadata_are_corrupted_counts_as_missing_and_is_made_again(
    tmp_path: Path, content: str
) -> None:
    store = open_store(open_storage(tmp_path), "zarr", LAYERS)
    store.reserve(128)
    fill(store, IDS, 0)
    (tmp_path / "fc1" / "zarr.json").write_text(content, "latin-1")
    again = open_store(open_storage(tmp_path), "zarr", LAYERS)
    assert again.complete([shard_of(IDS, 0)]) == set()
    again.reserve(128)
    fill(again, IDS, 0)
    np.testing.assert_array_equal(again.read("fc1", IDS, np.arange(6)), values_of("fc1", IDS).reshape(6, -1))
    assert again.complete([shard_of(IDS, 0)]) == {0}

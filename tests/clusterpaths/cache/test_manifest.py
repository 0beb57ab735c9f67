from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.cache.manifest import (
    CacheIdentity,
    FailedExample,
    LayerRecord,
    Manifest,
    ShardRecord,
    as_planned,
    format_ids,
    parse_ids,
    read_manifest,
    require_manifest,
    require_same,
    update_shards,
    write_manifest,
)
from clusterpaths.errors import CacheError
from clusterpaths.records import ModelIdentity, Preprocessing
from clusterpaths.storage import Storage, open_storage


def identity(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": ModelIdentity(file="a.onnx", sha256="a" * 64),
        "layers": {"conv1": LayerRecord(tensor="relu", shape=(4, 16, 16), dtype="float16")},
        "dataset": "celeba",
        "preprocessing": Preprocessing(name="unit", size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1)),
        "dtype": "float16",
        "format": "npy",
    }
    return base | changes


def manifest_of(shards: int) -> Manifest:
    return Manifest(
        **identity(),
        shards=tuple(ShardRecord(index=i, ids=f"{4 * i}-{4 * i + 3}", start=64 * i) for i in range(shards)),
    )


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([], ""),
        ([0], "0"),
        ([0, 1, 2, 3, 4, 9, 11, 12], "0-4 9 11-12"),
        ([5, 7, 9], "5 7 9"),
        ([202598, 202599], "202598-202599"),
        (list(range(1000)), "0-999"),
    ],
)
def test_ids_are_written_as_ranges_and_come_back(ids: list[int], text: str) -> None:
    assert format_ids(np.array(ids, np.int64)) == text
    assert parse_ids(text).tolist() == ids
    assert parse_ids(text).dtype == np.int64


def test_any_ascending_ids_survive_the_round_trip() -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        ids = np.flatnonzero(rng.random(500) < share)
        np.testing.assert_array_equal(parse_ids(format_ids(ids)), ids)


def test_rows_of_a_shard_are_its_planned_ids_without_the_failed() -> None:
    failed = tuple(FailedExample(id=i, file=f"{i}.jpg", reason="missing") for i in (2, 7))
    shard = ShardRecord(index=0, ids="1-3 7-8", start=0, rows=3, failed=failed, checksums={"conv1": "0"})
    assert shard.row_ids().tolist() == [1, 3, 8]
    assert as_planned(shard) == ShardRecord(index=0, ids="1-3 7-8", start=0)


DIFFERENT = [
    (
        {"model": ModelIdentity(file="b.onnx", sha256="b" * 64)},
        [r"model: stored a.onnx \(sha256 a{12}\), required b.onnx"],
    ),
    ({"dataset": "faces"}, ["data set: stored celeba, required faces"]),
    (
        {"preprocessing": Preprocessing(name="x", size=(8, 16), mean=(1, 0, 0), std=(1, 1, 2), scale=1)},
        [
            r"size: stored \(16, 16\), required \(8, 16\)",
            "preprocessing mean",
            "preprocessing std",
            "preprocessing scale",
        ],
    ),
    (
        {"layers": {"conv1": LayerRecord(tensor="r", shape=(4, 8, 8), dtype="float16")}},
        [r"layer conv1: stored relu \(4, 16, 16\), required r \(4, 8, 8\)"],
    ),
    (
        {"layers": {"fc1": LayerRecord(tensor="relu_2", shape=(10,), dtype="float16")}},
        ["layers: stored conv1, required also fc1"],
    ),
    ({"format": "zarr"}, ["cache format: stored npy, required zarr"]),
    ({"dtype": "float32"}, ["cache dtype: stored float16, required float32"]),
]


def refused(tmp_path: Path, changes: dict[str, Any], asked: bool = True) -> str:
    with pytest.raises(CacheError) as caught:
        require_same(
            Manifest(**identity()),
            CacheIdentity(**identity(**changes)),
            open_storage(tmp_path),
            format_asked=asked,
            dtype_asked=asked,
        )
    return str(caught.value)


@pytest.mark.parametrize(("changes", "messages"), DIFFERENT)
def test_each_difference_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], messages: list[str]) -> None:
    text = refused(tmp_path, changes)
    assert all(re.search(message, text) for message in messages), text
    assert str(tmp_path) in text
    assert "Use another --name to preserve both, or --refresh" in text


def test_all_differences_are_listed_at_once(tmp_path: Path) -> None:
    together = {key: value for changes, _ in DIFFERENT for key, value in changes.items()}
    text = refused(tmp_path, together)
    for part in ("model:", "data set:", "size:", "mean:", "std:", "scale:", "required also fc1", "format:", "dtype:"):
        assert part in text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": ModelIdentity(file="renamed.onnx", sha256="a" * 64)},
        {"preprocessing": Preprocessing(name="custom", size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))},
        {"layers": {}},  # a subset of what is stored
        {"layers": {"conv1": LayerRecord(tensor="relu", shape=(4, 16, 16), dtype="float32")}},  # kept wider
        {"format": "zarr", "dtype": "float32"},  # defaults that nobody asked for
    ],
)
def test_names_and_defaults_are_no_differences(tmp_path: Path, changes: dict[str, Any]) -> None:
    require_same(
        Manifest(**identity()),
        CacheIdentity(**identity(**changes)),
        open_storage(tmp_path),
        format_asked=False,
        dtype_asked=False,
    )


def test_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_manifest(open_storage(tmp_path)) is None
    write_manifest(open_storage(tmp_path), manifest_of(3))
    assert read_manifest(open_storage(tmp_path)) == manifest_of(3)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("text", ["", "{}", "<html>", '{"version": 1, "more": 2}'])
def test_manifest_that_is_not_understood_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CacheError, match=r"cannot be parsed: .* Use another --name, or --refresh"):
        read_manifest(open_storage(tmp_path))


def test_manifest_that_must_be_there_and_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is missing"):
        require_manifest(open_storage(tmp_path))
    with pytest.raises(CacheError, match="is missing"):
        update_shards(open_storage(tmp_path), ShardRecord(index=0, ids="0", start=0))


def _record(directory: Storage, index: int) -> None:
    shard = require_manifest(directory).shards[index]
    update_shards(directory, shard.model_copy(update={"rows": index, "checksums": {"conv1": str(index)}}))


def test_shards_recorded_by_many_threads_are_all_kept(tmp_path: Path) -> None:
    write_manifest(open_storage(tmp_path), manifest_of(40))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(_record, [open_storage(tmp_path)] * 40, range(40)))
    assert [shard.rows for shard in require_manifest(open_storage(tmp_path)).shards] == list(range(40))


def test_shards_recorded_by_two_processes_are_all_kept(tmp_path: Path) -> None:
    write_manifest(open_storage(tmp_path), manifest_of(30))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_record, [open_storage(tmp_path)] * 30, range(30)))
    assert [shard.rows for shard in require_manifest(open_storage(tmp_path)).shards] == list(range(30))

from __future__ import annotations

import json
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
    change_manifest,
    consolidate,
    forget_shard,
    format_ids,
    parse_ids,
    read_manifest,
    record_shard,
    require_manifest,
    require_same,
    write_manifest,
)
from clusterpaths.errors import CacheError
from clusterpaths.records import ModelIdentity, Preprocessing
from clusterpaths.storage import Storage, open_storage
from clusterpaths.storage.directory import Directory


def identity(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": ModelIdentity(file="a.onnx", sha256="a" * 64),
        "layers": {"conv1": LayerRecord(tensor="relu", shape=(4, 16, 16), dtype="float16")},
        "dataset": "celeba",
        "preprocessing": Preprocessing(name="unit", size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1)),
        "dtype": "float16",
        "format": "npy",
        "scores": "logits",
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
    ({"scores": "logits_2"}, ["class scores: stored of the output logits, required logits_2"]),
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
        change_manifest(open_storage(tmp_path), lambda manifest: manifest)
    record_shard(open_storage(tmp_path), manifest_of(1).identity, ShardRecord(index=0, ids="0-3", start=0, rows=4))
    with pytest.raises(CacheError, match="is missing"):
        consolidate(open_storage(tmp_path))


@pytest.mark.parametrize(("stored", "required"), [("logits", "none"), (None, "logits"), ("logits", "logits")])
def test_class_scores_that_are_not_needed_or_not_recorded_are_no_difference(
    stored: str | None, required: str, tmp_path: Path
) -> None:
    of_cache, of_run = Manifest(**identity(scores=stored)), CacheIdentity(**identity(scores=required))
    require_same(of_cache, of_run, open_storage(tmp_path), format_asked=True, dtype_asked=True)


def test_a_manifest_written_before_shards_had_files_of_their_own_is_read(tmp_path: Path) -> None:
    """With its shards inside, and the record of the model that ran."""
    content = json.loads(recorded(manifest_of(3), 1).model_dump_json())
    content["runner"] = {
        "path": "/old/a.onnx", "sha256": "a" * 64, "external": {}, "input": "input", "batch": None, "size": [16, 16],
        "logits": None, "num_classes": 0, "taps": [], "preprocessing": None,
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    manifest = require_manifest(open_storage(tmp_path))
    assert manifest.version == 1
    assert [shard.rows for shard in manifest.shards] == [None, 4, None]
    require_same(manifest, CacheIdentity(**identity()), open_storage(tmp_path), format_asked=True, dtype_asked=True)
    record_shard(open_storage(tmp_path), manifest.identity, complete(manifest.shards[0]))
    assert [shard.rows for shard in consolidate(open_storage(tmp_path)).shards] == [4, 4, None]


def complete(shard: ShardRecord, checksum: str = "0") -> ShardRecord:
    return shard.model_copy(update={"rows": 4, "checksums": {"conv1": checksum}})


def recorded(manifest: Manifest, *indexes: int) -> Manifest:
    shards = (complete(shard) if shard.index in indexes else shard for shard in manifest.shards)
    return manifest.model_copy(update={"shards": tuple(shards)})


def _record(directory: Storage, index: int) -> None:
    manifest = require_manifest(directory)
    shard = manifest.shards[index]
    record_shard(
        directory, manifest.identity, shard.model_copy(update={"rows": index, "checksums": {"conv1": str(index)}})
    )


def test_shards_recorded_by_many_threads_are_all_there(tmp_path: Path) -> None:
    write_manifest(open_storage(tmp_path), manifest_of(40))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(_record, [open_storage(tmp_path)] * 40, range(40)))
    assert [shard.rows for shard in require_manifest(open_storage(tmp_path)).shards] == list(range(40))
    assert [shard.rows for shard in consolidate(open_storage(tmp_path)).shards] == list(range(40))


def test_shards_recorded_by_two_processes_are_all_there(tmp_path: Path) -> None:
    write_manifest(open_storage(tmp_path), manifest_of(30))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_record, [open_storage(tmp_path)] * 30, range(30)))
    assert [shard.rows for shard in require_manifest(open_storage(tmp_path)).shards] == list(range(30))


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes read and written through the storage of a directory."""
    found = {"read": 0, "written": 0, "files": 0}
    write, read, tree = Directory.write_bytes, Directory.read_version, Directory.local_tree

    def counted_write(storage: Directory, name: str, data: bytes) -> None:
        found["written"] += len(data)
        found["files"] += 1
        write(storage, name, data)

    def counted_read(storage: Directory, name: str) -> tuple[bytes | None, str]:
        content, version = read(storage, name)
        found["read"] += len(content or b"")
        return content, version

    def no_tree(storage: Directory, name: str = "") -> Path:
        found["read"] += 1
        return tree(storage, name)

    monkeypatch.setattr(Directory, "write_bytes", counted_write)
    monkeypatch.setattr(Directory, "read_version", counted_read)
    monkeypatch.setattr(Directory, "local_tree", no_tree)
    return found


@pytest.mark.parametrize("shards", [10, 2000])
def test_recording_one_shard_costs_the_same_however_many_there_are(
    tmp_path: Path, traffic: dict[str, int], shards: int
) -> None:
    directory, manifest = open_storage(tmp_path), manifest_of(shards)
    write_manifest(directory, manifest)
    before = (tmp_path / "manifest.json").read_bytes()
    traffic.update(read=0, written=0, files=0)
    record_shard(directory, manifest.identity, complete(manifest.shards[3]))
    assert traffic == {"read": 0, "written": (tmp_path / "shards" / "00003.json").stat().st_size, "files": 1}
    assert traffic["written"] == 135  # of 10 shards as of 2,000
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["00003.json", "manifest.json", "shards"]


STALE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"ids": "12-14"}),
    ({}, {"start": 128}),
    ({}, {"index": 17}),
    ({"model": ModelIdentity(file="a.onnx", sha256="b" * 64)}, {}),
    ({"layers": {"conv1": LayerRecord(tensor="relu", shape=(4, 16, 16), dtype="float32")}}, {}),
    ({"layers": {}}, {}),
    ({"dataset": "faces"}, {}),
    ({"preprocessing": Preprocessing(name="x", size=(16, 16), mean=(1, 0, 0), std=(1, 1, 1))}, {}),
    ({"format": "zarr"}, {}),
]


@pytest.mark.parametrize(("of_cache", "of_shard"), STALE)
def test_a_record_of_another_plan_or_cache_is_ignored(
    tmp_path: Path, of_cache: dict[str, Any], of_shard: dict[str, Any]
) -> None:
    directory, manifest = open_storage(tmp_path), manifest_of(5)
    write_manifest(directory, manifest)
    stale = complete(manifest.shards[3]).model_copy(update=of_shard)
    record_shard(directory, CacheIdentity(**identity(**of_cache)), stale)
    record_shard(directory, manifest.identity, complete(manifest.shards[1]))
    assert require_manifest(directory) == recorded(manifest, 1)
    assert consolidate(directory) == recorded(manifest, 1)
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    "change", [{"providers": ("CUDAExecutionProvider",)}, {"model": ModelIdentity(file="b.onnx", sha256="a" * 64)}]
)
def test_a_renamed_model_and_another_device_leave_records_valid(tmp_path: Path, change: dict[str, Any]) -> None:
    directory, manifest = open_storage(tmp_path), manifest_of(2)
    write_manifest(directory, manifest)
    record_shard(directory, CacheIdentity(**identity(**change)), complete(manifest.shards[0]))
    assert require_manifest(directory) == recorded(manifest, 0)


def test_a_record_that_cannot_be_parsed_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    directory, manifest = open_storage(tmp_path), manifest_of(3)
    write_manifest(directory, manifest)
    for index in range(3):
        record_shard(directory, manifest.identity, complete(manifest.shards[index]))
    (tmp_path / "shards" / "00001.json").write_text('{"cache": ')
    (tmp_path / "shards" / ".00002.json.1a2b.partial").write_text("half")
    assert require_manifest(directory) == recorded(manifest, 0, 2)


def test_a_later_record_replaces_an_earlier_one_and_the_manifests(tmp_path: Path) -> None:
    directory, manifest = open_storage(tmp_path), recorded(manifest_of(2), 0)
    write_manifest(directory, manifest)
    for checksum in ("1", "2"):
        record_shard(directory, manifest.identity, complete(manifest.shards[0], checksum))
    assert require_manifest(directory).shards[0].checksums == {"conv1": "2"}


def test_consolidation_takes_all_in_and_removes_the_files(tmp_path: Path, traffic: dict[str, int]) -> None:
    directory, manifest = open_storage(tmp_path), manifest_of(50)
    write_manifest(directory, manifest)
    for index in range(0, 50, 2):
        _record(directory, index)
    expected = require_manifest(directory)
    assert consolidate(directory) == expected
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["manifest.json"]
    assert require_manifest(directory) == expected
    before, traffic["files"] = (tmp_path / "manifest.json").stat().st_mtime_ns, 0
    assert consolidate(directory) == expected  # nothing to take in: nothing is written
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == before


def test_a_forgotten_shard_is_planned_again_and_others_stay(tmp_path: Path) -> None:
    directory, manifest = open_storage(tmp_path), recorded(manifest_of(4), 0)
    write_manifest(directory, manifest)
    for index in (1, 2):
        record_shard(directory, manifest.identity, complete(manifest.shards[index]))
    for index in (0, 1):  # in the manifest, in a file of its own
        forget_shard(directory, index)
    assert require_manifest(directory) == recorded(manifest_of(4), 2)
    assert consolidate(directory) == recorded(manifest_of(4), 2)


@pytest.mark.parametrize("ids", [[], [3], [0, 1, 2], [5, 6, 9], [2, 4, 100], [100, 200]])
def test_planned_ids_are_looked_up_among_others(ids: list[int]) -> None:
    shard = ShardRecord(index=0, ids="0-4 9 11-12", start=0)
    expected = [one in ids for one in (0, 1, 2, 3, 4, 9, 11, 12)]
    assert shard.planned_among(np.array(ids, np.int64)).tolist() == expected
    assert not len(ShardRecord(index=0, ids="", start=0).planned_among(np.array(ids, np.int64)))

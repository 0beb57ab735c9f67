"""Runs that are killed with SIGKILL, and two runs at once: one whole result, the same bytes as ever."""

from __future__ import annotations

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError
from clusterpaths.sets.find import list_sets
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import Recording
from tests.runs import (
    SAMPLE_MODEL,
    Run,
    assert_same_documents,
    kill_when,
    run_pipeline,
    start_pipeline,
    wait_until,
)

COUNT, SHARD, BATCH = 200, 20, 10
SHARDS = COUNT // SHARD


@pytest.fixture(scope="module", params=["npy", "zarr", "none"])  # a run stopped while it writes: all; else one does
def cache_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(photos: Path, cache_format: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_pipeline(asked(photos, tmp_path_factory.mktemp("undisturbed"), cache_format))


def asked(photos: Path, root: Path, cache_format: str, **more: Any) -> RunConfig:
    return RunConfig(
        model=SAMPLE_MODEL, dataset="folder", data_root=photos, cache_root=root, name="T", subset=COUNT,
        cache_format=cache_format, shard_size=SHARD, batch_size=BATCH, evaluate=False, check_preprocessing=False, **more,
    )  # fmt: skip


def made_shards(cache: Path) -> list[int]:
    manifest = read_manifest(open_storage(cache))
    return [shard.index for shard in manifest.shards if shard.rows is not None] if manifest else []


def files_of(cache: Path, shards: list[int], cache_format: str) -> dict[Path, int]:
    """Files of these shards, with the time each was last written."""
    manifest = read_manifest(open_storage(cache))
    assert manifest is not None
    found = []
    for shard in (manifest.shards[index] for index in shards):
        if cache_format == "none":
            found.append(cache / "pixels" / f"{shard.index:05d}.rgb")
            continue
        for layer in manifest.layers:
            if cache_format == "npy":
                found += [cache / layer / f"{i}.npy" for i in shard.row_ids()]
            else:
                found += [cache / layer / "c" / str(shard.start // 64 + i) for i in range(-(-(shard.rows or 0) // 64))]
    files = [path for entry in found for path in ([entry] if entry.is_file() else entry.rglob("*")) if path.is_file()]
    assert len(files) >= len(found)
    return {path: path.stat().st_mtime_ns for path in files}


def activations(cache: Path) -> dict[str, bytes]:
    layers = ("conv1", "conv2", "conv3", "fc1", "fc2", "pixels")
    return {
        str(p.relative_to(cache)): p.read_bytes() for name in layers for p in (cache / name).rglob("*") if p.is_file()
    }


def test_killed_while_extracting_the_run_goes_on_and_ends_as_if_it_never_was(
    undisturbed: Run, photos: Path, cache_format: str, tmp_path: Path
) -> None:
    cache, output = tmp_path / "T", tmp_path / "output.txt"
    process = start_pipeline(asked(photos, tmp_path, cache_format), output=output, environment=dict(os.environ))
    kill_when(process, lambda: len(made_shards(cache)) >= 2, output)
    made = made_shards(cache)
    assert 2 <= len(made) < SHARDS
    recorded = files_of(cache, made, cache_format)

    recording = Recording()
    run = run_pipeline(asked(photos, tmp_path, cache_format), recording)
    assert {args[1].index for args in recording.submitted["extract_shard"]} == set(range(SHARDS)) - set(made)
    assert run.batches == (SHARDS - len(made)) * SHARD // BATCH
    assert {path: path.stat().st_mtime_ns for path in recorded} == recorded
    assert activations(cache) == activations(undisturbed.cache)
    assert_same_documents(undisturbed.folder, run.folder)
    assert list_sets(cache) == ["set_01"]
    assert [path.name for path in cache.rglob("*partial*")] == []


@pytest.mark.parametrize("cache_format", ["zarr"], indirect=True)
def test_killed_while_clustering_the_model_is_not_run_again_and_the_result_is_the_same(
    undisturbed: Run, photos: Path, cache_format: str, tmp_path: Path
) -> None:
    cache, output = tmp_path / "T", tmp_path / "output.txt"
    shutil.copytree(undisturbed.cache, cache)
    shutil.rmtree(cache / "set_01")
    process = start_pipeline(asked(photos, tmp_path, cache_format), output=output, environment=dict(os.environ))
    kill_when(process, lambda: any((cache / "clusterings").glob("*/0*.npz")), output)
    assert list_sets(cache) == []
    assert len(list((cache / "clusterings").glob("*/fit.json"))) == 5
    assert 1 <= len(list((cache / "clusterings").glob("*/0*.npz"))) < 5 * SHARDS

    run = run_pipeline(asked(photos, tmp_path, cache_format))
    assert run.batches == 0
    assert_same_documents(undisturbed.folder, run.folder)
    assert not (cache / "clusterings").exists()


@pytest.mark.parametrize("cache_format", ["zarr"], indirect=True)
def test_of_two_runs_at_once_one_waits_or_says_who_is_there(
    undisturbed: Run, photos: Path, cache_format: str, tmp_path: Path
) -> None:
    cache, output = tmp_path / "T", tmp_path / "output.txt"
    first = start_pipeline(asked(photos, tmp_path, cache_format), output=output, environment=dict(os.environ))
    wait_until(first, lambda: len(made_shards(cache)) >= 1, output)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it cannot end before the others have looked
    try:
        with pytest.raises(CacheError) as refused:
            run_pipeline(asked(photos, tmp_path, cache_format, wait=0))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(run_pipeline, asked(photos, tmp_path, cache_format, wait=120))
            os.killpg(first.pid, signal.SIGCONT)
            second = waiting.result(120)
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert first.wait(60) == 0, output.read_text()
    assert f"{cache} is in use by process {first.pid} on " in str(refused.value)
    assert "--wait" in str(refused.value)
    assert any(
        f"{cache} is in use by process {first.pid} on " in line and "waiting up to 120 s" in line for line in second.log
    )
    assert second.path == cache / "set_01"
    assert second.batches == 0
    assert list_sets(cache) == ["set_01"]
    assert_same_documents(undisturbed.folder, second.folder)

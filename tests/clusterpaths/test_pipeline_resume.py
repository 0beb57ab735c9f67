"""Runs that are killed with SIGKILL, and two runs at once: one complete set, the same bytes as ever."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.cache import fit_sample
from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError
from clusterpaths.sets.find import list_sets
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import Recording
from tests.killing import FIT_ROWS, NOWHERE, OF_SAMPLE, REMOVED, SHARD, run_killed, start
from tests.runs import SAMPLE_MODEL, Run, assert_same_documents, run_pipeline, wait_until

COUNT, BATCH = 200, 10
SHARDS = COUNT // SHARD
LAYERS = ("conv3", "fc1", "fc2")
K, OTHER_K = 5, 4


@pytest.fixture(scope="module", autouse=True)
def _small_samples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_sample, "FIT_ROWS", FIT_ROWS)
        patch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 8)
        yield


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """A run that nothing disturbed, of each format, and the next with another k; not to be written to."""
    made: dict[str, tuple[Run, Run]] = {}

    def of(cache_format: str, k: int = K) -> Run:
        if cache_format not in made:
            root = tmp_path_factory.mktemp(cache_format)
            first = run_pipeline(asked(photos, root / "first", cache_format))
            shutil.copytree(first.cache, root / "second" / "T")
            made[cache_format] = first, run_pipeline(asked(photos, root / "second", cache_format, k=OTHER_K))
        return made[cache_format][k == OTHER_K]

    return of


def asked(photos: Path, root: Path, cache_format: str, **more: Any) -> RunConfig:
    given: dict[str, Any] = {
        "model": SAMPLE_MODEL, "dataset": "folder", "data_root": photos, "cache_root": root, "name": "T", "subset": COUNT,
        "layers": LAYERS, "k": K, "cache_format": cache_format, "shard_size": SHARD, "batch_size": BATCH,
        "evaluate": False, "check_preprocessing": False, "workers": 1,
    }  # fmt: skip
    return RunConfig(**given | more)


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
    return {
        str(p.relative_to(cache)): p.read_bytes()
        for name in (*LAYERS, "pixels")
        for p in (cache / name).rglob("*")
        if p.is_file()
    }


# Where a run is killed, and what is done then: shards that are extracted, fits that are found, shards assigned from the cache
KILLED = [
    ("in the sample", ("none",), SHARDS - 1, 0, OF_SAMPLE),
    ("between sample and fit", ("none",), SHARDS - OF_SAMPLE, 0, OF_SAMPLE),
    ("between two fits", ("zarr",), SHARDS - OF_SAMPLE, 2, OF_SAMPLE),
    ("between centroids and their record", ("npy",), SHARDS - OF_SAMPLE, 1, OF_SAMPLE),
    ("between fits and shards", ("zarr",), SHARDS - OF_SAMPLE, 3, OF_SAMPLE),
    ("between two batches", ("npy", "zarr", "none"), SHARDS - 4, 3, OF_SAMPLE),
    ("before a shard's rows are complete", ("zarr",), SHARDS - 4, 3, OF_SAMPLE),
    ("between rows and labels", ("npy", "none"), SHARDS - 4, 3, OF_SAMPLE),
    ("between two layers' labels", ("none",), SHARDS - 4, 3, OF_SAMPLE),
    ("between labels and record", ("zarr", "none"), SHARDS - 4, 3, OF_SAMPLE),
    ("between two shards from the cache", ("zarr",), 0, 3, OF_SAMPLE - 1),
    ("between shards and trace", ("npy",), 0, 3, 0),
    ("before publish", ("none",), 0, 3, 0),
]


@pytest.mark.parametrize(
    ("place", "cache_format", "extracted", "found", "assigned"),
    [(place, one, *expected) for place, formats, *expected in KILLED for one in formats],
)
def test_killed_anywhere_a_run_goes_on_and_ends_as_if_it_never_was(
    undisturbed: Callable[..., Run], photos: Path, tmp_path: Path, place: str, cache_format: str, extracted: int,
    found: int, assigned: int,
) -> None:  # fmt: skip
    cache, config = tmp_path / "T", asked(photos, tmp_path, cache_format)
    run_killed(config, place, tmp_path / "output.txt")
    made = made_shards(cache)
    assert len(made) == SHARDS - extracted
    assert list_sets(cache) == []
    recorded = files_of(cache, made, cache_format)

    recording = Recording()
    run = run_pipeline(config, recording)
    shards = [shard.index for _, shard, *_ in recording.submitted.get("extract_shard", [])]
    assert sorted(shards) == sorted(set(range(SHARDS)) - set(made))
    assert run.batches == extracted * SHARD // BATCH
    [(_, _, fits)] = recording.given["trace_paths"]
    assert sum(fit.found for fit in fits) == found
    assert len(recording.submitted.get("assign_shard", [])) == assigned
    assert {path: path.stat().st_mtime_ns for path in recorded} == recorded
    before = undisturbed(cache_format)
    assert activations(cache) == activations(before.cache)
    assert_same_documents(before.folder, run.folder)
    assert_left_as_after_any_run(cache, ["set_01"])


@pytest.mark.parametrize(
    ("place", "cache_format", "shards"),  # that the model runs on afterwards
    [
        ("between two shards from the cache", "zarr", 0),
        ("between two fits", "none", SHARDS - OF_SAMPLE),
        ("between two shards without activations", "none", SHARDS - OF_SAMPLE - 2),
        ("between shards and trace", "none", 0),
    ],
)
def test_killed_while_clustering_what_is_cached_the_model_does_not_run_but_for_the_cache_of_images(
    undisturbed: Callable[..., Run], photos: Path, tmp_path: Path, place: str, cache_format: str, shards: int
) -> None:
    """There once on every image, in both runs together."""
    before, config = undisturbed(cache_format), asked(photos, tmp_path, cache_format, k=OTHER_K)
    cache = Path(shutil.copytree(before.cache, tmp_path / "T"))
    run_killed(config, place, tmp_path / "output.txt")
    assert list_sets(cache) == ["set_01"]
    run = run_pipeline(config)
    assert run.batches == shards * SHARD // BATCH
    assert_same_documents(undisturbed(cache_format, OTHER_K).folder, run.folder)
    assert_left_as_after_any_run(cache, ["set_01", "set_02"])


@pytest.mark.parametrize("place", ["between the set and metadata.json", *REMOVED])
def test_killed_after_its_set_is_there_the_set_is_found_and_nothing_stays_behind(
    undisturbed: Callable[..., Run], photos: Path, tmp_path: Path, place: str
) -> None:
    cache, config = tmp_path / "T", asked(photos, tmp_path, "none")
    run_killed(config, place, tmp_path / "output.txt")
    assert list_sets(cache) == ["set_01"]
    shutil.copytree(cache, tmp_path / "other" / "T")
    run = run_pipeline(config)
    assert run.batches == 0
    assert_same_documents(undisturbed("none").folder, run.folder)
    assert (cache / "metadata.json").read_bytes()
    assert_left_as_after_any_run(cache, ["set_01"])

    other = run_pipeline(asked(photos, tmp_path / "other", "none", k=OTHER_K))
    assert_same_documents(undisturbed("none", OTHER_K).folder, other.folder)
    assert_left_as_after_any_run(other.cache, ["set_01", "set_02"])


def test_killed_after_its_set_is_there_the_next_run_describes_it_even_if_it_finds_another(
    undisturbed: Callable[..., Run], photos: Path, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(undisturbed("zarr").cache, tmp_path / "T"))
    run_killed(asked(photos, tmp_path, "zarr", k=OTHER_K), "between the set and metadata.json", tmp_path / "output.txt")
    assert json.loads((cache / "metadata.json").read_text())["set"] == "set_01"
    run = run_pipeline(asked(photos, tmp_path, "zarr"))
    assert run.folder.name == "set_01"
    assert json.loads((cache / "metadata.json").read_text())["set"] == "set_02"
    assert_left_as_after_any_run(cache, ["set_01", "set_02"])


def assert_left_as_after_any_run(cache: Path, sets: list[str]) -> None:
    assert list_sets(cache) == sets
    assert [path.name for path in cache.rglob("*partial*")] == []
    assert [name for name in ("clusterings", "sample", "shards") if (cache / name).exists()] == []


def test_of_two_runs_at_once_one_waits_or_says_who_is_there(
    undisturbed: Callable[..., Run], photos: Path, tmp_path: Path
) -> None:
    cache, output = tmp_path / "T", tmp_path / "output.txt"
    first = start(asked(photos, tmp_path, "zarr"), NOWHERE, output)
    wait_until(first, lambda: len(made_shards(cache)) >= 1, output)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it cannot end before the others have looked
    try:
        with pytest.raises(CacheError) as refused:
            run_pipeline(asked(photos, tmp_path, "zarr", wait=0))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(run_pipeline, asked(photos, tmp_path, "zarr", wait=120))
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
    assert_same_documents(undisturbed("zarr").folder, second.folder)

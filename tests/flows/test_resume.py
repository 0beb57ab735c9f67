"""Runs that are killed with SIGKILL, and two runs at once: one whole result, the same bytes as ever."""

from __future__ import annotations

import os
import random
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clusterpaths.cache.manifest import read_manifest
from clusterpaths.errors import CacheError
from clusterpaths.sets.find import list_sets
from clusterpaths.storage import open_storage
from tests.runs import (
    SAMPLE_MODEL,
    Run,
    assert_same_documents,
    kill_when,
    run_celeba,
    shell_environment,
    start_celeba,
    succeed,
    wait_until,
)

SHARDS = 9  # of 100 images
pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def many(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 images, each different: drawn faces turned, with noise in a corner."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("many") / "img_align_celeba"
    folder.mkdir()
    noise = random.Random(5)
    for number in range(1, 100 * SHARDS + 1):
        with Image.open(faces / "img_align_celeba" / f"{1 + number % 300:06d}.jpg") as face:
            turned = face.rotate(number // 300 * 9)
        turned.paste(Image.frombytes("RGB", (40, 40), noise.randbytes(4800)), (number % 130, number % 170))
        turned.save(folder / f"{number * 3:06d}.jpg", quality=80)
    return folder.parent


@pytest.fixture(scope="module", params=["npy", "zarr", "none"])  # a run stopped while it writes: all; else one does
def cache_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(prefect_server: None, many: Path, cache_format: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("undisturbed")
    return succeed(model=SAMPLE_MODEL, data_root=many, cache_root=root, cache_format=cache_format, shard_size=100)


def options(many: Path, root: Path, cache_format: str) -> list[str]:
    given = {"model": SAMPLE_MODEL, "data-root": many, "cache-root": root, "cache-format": cache_format}
    return [*(word for key, value in given.items() for word in (f"--{key}", str(value))), "--shard-size", "100"]


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
    undisturbed: Run, many: Path, cache_format: str, tmp_path: Path
) -> None:
    cache, output = tmp_path / "CelebA", tmp_path / "output.txt"
    process = start_celeba(*options(many, tmp_path, cache_format), output=output, environment=shell_environment())
    kill_when(process, lambda: len(made_shards(cache)) >= 2, output)
    made = made_shards(cache)
    assert 2 <= len(made) < SHARDS
    recorded = files_of(cache, made, cache_format)

    run = succeed(
        model=SAMPLE_MODEL, data_root=many, cache_root=tmp_path, cache_format=cache_format, shard_size=100, workers=2
    )
    assert run.path is not None
    assert undisturbed.path is not None
    extracted = [task.name for task in run.task_runs() if task.name.startswith("extract shard")]
    assert len(extracted) == SHARDS - len(made)
    if cache_format != "none":  # there the model runs to cluster, too
        assert run.batches == (SHARDS - len(made)) * 4  # 100 examples in batches of 32
    assert {path: path.stat().st_mtime_ns for path in recorded} == recorded
    assert activations(cache) == activations(undisturbed.path.parent)
    assert_same_documents(undisturbed.path, run.path)
    assert list_sets(cache) == ["set_01"]
    assert [path.name for path in cache.rglob("*partial*")] == []


@pytest.mark.parametrize("cache_format", ["zarr"], indirect=True)
def test_killed_while_clustering_the_model_is_not_run_again_and_the_result_is_the_same(
    undisturbed: Run, many: Path, cache_format: str, tmp_path: Path
) -> None:
    assert undisturbed.path is not None
    cache, output = tmp_path / "CelebA", tmp_path / "output.txt"
    shutil.copytree(undisturbed.path.parent, cache)
    shutil.rmtree(cache / "set_01")
    process = start_celeba(*options(many, tmp_path, cache_format), output=output, environment=shell_environment())
    kill_when(process, lambda: any((cache / "clusterings").glob("*.npz")), output)
    assert list_sets(cache) == []
    done = {path.name for path in (cache / "clusterings").glob("*.npz")}
    kept = {name: (cache / "clusterings" / name).stat().st_mtime_ns for name in done}
    assert 1 <= len(kept) <= 5

    run = succeed(model=SAMPLE_MODEL, data_root=many, cache_root=tmp_path, shard_size=100)
    assert run.path is not None
    assert run.batches == 0
    assert_same_documents(undisturbed.path, run.path)
    assert not (cache / "clusterings").exists()


@pytest.mark.parametrize("cache_format", ["zarr"], indirect=True)
def test_of_two_runs_at_once_one_waits_or_says_who_is_there(
    many: Path, cache_format: str, tmp_path: Path, undisturbed: Run
) -> None:
    cache, output = tmp_path / "CelebA", tmp_path / "output.txt"
    given = {"model": SAMPLE_MODEL, "data_root": many, "cache_root": tmp_path, "shard_size": 100}
    first = start_celeba(*options(many, tmp_path, cache_format), output=output, environment=shell_environment())
    wait_until(first, lambda: len(made_shards(cache)) >= 1, output)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it cannot end before the others have looked
    try:
        refused = run_celeba(**given, wait=0)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(run_celeba, **given, wait=120)
            os.killpg(first.pid, signal.SIGCONT)
            second = waiting.result(120)
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert first.wait(60) == 0, output.read_text()
    assert refused.state.is_failed()
    assert isinstance(refused.state.result(raise_on_failure=False), CacheError)
    assert f"{cache} is in use by process {first.pid} on " in refused.state.message
    assert "--wait" in refused.state.message
    assert any(
        f"{cache} is in use by process {first.pid} on " in line and "waiting up to 120 s" in line for line in second.log
    )
    assert second.path == cache / "set_01"
    assert second.batches == 0
    assert list_sets(cache) == ["set_01"]
    assert undisturbed.path is not None
    assert_same_documents(undisturbed.path, second.path)

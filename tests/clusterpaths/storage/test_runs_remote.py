"""Runs with a cache in object storage: the same results as on disk, whatever happens to the server or to the run.

With Prefect, and on Dask workers that share nothing but the store: tests/flows/test_s3.py.
"""

from __future__ import annotations

import pytest

pytest.importorskip("obstore", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs moto's server")

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clusterpaths.cache.manifest import Manifest, read_manifest
from clusterpaths.clustering import identity
from clusterpaths.config import RunConfig
from clusterpaths.errors import StorageError
from clusterpaths.extraction import plan
from clusterpaths.records import SetRecord
from clusterpaths.sets.find import list_sets
from clusterpaths.sets.published import open_set
from clusterpaths.storage import lease, objects, open_storage
from tests.clusterpaths.conftest import LAYERS
from tests.runs import DOCUMENTS, Run, assert_same_documents, kill_when, run_pipeline, start_pipeline
from tests.storage import BUCKET, Storage, running_storage

SHARDS = 10  # of 4 images
MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def asked(cnn: Path, faces: Path) -> MakeConfig:
    """asked(prefix) -> a run on 40 images whose cache is there; options by keyword."""

    def make(prefix: str, **options: Any) -> RunConfig:
        given: dict[str, Any] = {
            "model": cnn, "data_root": faces, "cache_root": f"s3://{BUCKET}/{prefix}", "preprocessing": "unit", "k": 3,
            "shard_size": 4, "evaluate": False, "check_preprocessing": False,
        }  # fmt: skip
        return RunConfig(**given | options)

    return make


@pytest.fixture(scope="module")
def on_disk(asked: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_pipeline(asked("", cache_root=tmp_path_factory.mktemp("disk"), cache_format="zarr"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    folder = tmp_path_factory.mktemp("storage")
    with running_storage(folder, folder / "mirror") as storage:
        yield storage


def stored_manifest(server: Storage, prefix: str) -> Manifest | None:
    """Past the library and the proxy."""
    found = server.objects(f"{prefix}/CelebA/manifest.json")
    return Manifest.model_validate_json(next(iter(found.values()))) if found else None


def made(server: Storage, prefix: str) -> int:
    """Shards that are recorded in the manifest, or in an object of their own that it has not taken in."""
    manifest = stored_manifest(server, prefix)
    if not manifest:
        return 0
    done = {shard.index for shard in manifest.shards if shard.rows is not None}
    own = server.objects(f"{prefix}/CelebA/shards/")
    return len(done | {json.loads(content)["shard"]["index"] for content in own.values()})


def assert_as_on_disk(on_disk: Run, server: Storage, prefix: str) -> None:
    """What the server has is what the disk has: the set byte for byte, the records but for places and times."""
    objects = {key.removeprefix(f"{prefix}/CelebA/"): content for key, content in server.objects(f"{prefix}/").items()}
    differing = [name for name in DOCUMENTS if objects[f"set_01/{name}"] != (on_disk.folder / name).read_bytes()]
    assert differing == []
    assert stored_manifest(server, prefix) == read_manifest(open_storage(on_disk.cache))  # with every shard's checksums
    records = [
        SetRecord.model_validate_json(content)
        for content in ((on_disk.folder / "set.json").read_bytes(), objects["set_01/set.json"])
    ]
    meanings = [
        record.meaning.model_copy(update={"class_names_source": ""}) for record in records
    ]  # by a check, or not
    assert meanings[0] == meanings[1]
    apart = {"config": {}, "stages": (), "created": "", "outputs": None}
    assert records[0].model_copy(update=apart) == records[1].model_copy(update=apart)
    assert records[1].config["cache_root"] == f"s3://{BUCKET}/{prefix}"
    assert "clusterings" not in {name.partition("/")[0] for name in objects}


def once(ready: Callable[[], bool], act: Callable[[], object], ended: threading.Event) -> threading.Thread:
    """A started thread that acts as soon as `ready` holds."""

    def watch() -> None:
        while not ready():
            if ended.wait(0.01):
                return
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_whole_run_is_as_on_disk_and_is_found_again_by_another_machine(
    on_disk: Run, server: Storage, asked: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_pipeline(asked("whole", evaluate=True, check_preprocessing=True))
    assert run.path == open_storage(f"s3://{BUCKET}/whole/CelebA/set_01").path
    assert_same_documents(on_disk.folder, run.folder)
    assert_as_on_disk(on_disk, server, "whole")
    stored = server.objects("whole/CelebA/")
    assert {"metadata.json", "set_01/metrics.json", "set_01/report.html"} <= {
        name.removeprefix("whole/CelebA/") for name in stored
    }
    mirrored = {path.relative_to(run.cache).as_posix() for path in run.cache.rglob("*") if path.is_file()}
    assert [name for name in mirrored if "/c/" in name] == []  # no activations on this machine
    assert len([name for name in stored if "/c/" in name]) == len(LAYERS) * SHARDS

    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "another machine"))
    again = run_pipeline(asked("whole", evaluate=True))
    assert again.batches == 0
    assert again.path == open_storage(f"s3://{BUCKET}/whole/CelebA/set_01").path
    assert again.path != run.path
    assert_same_documents(on_disk.folder, again.folder)
    assert server.objects("whole/CelebA/set_01/set.json") == {
        name: content for name, content in stored.items() if name.endswith("set_01/set.json")
    }


def test_a_set_without_maps_gets_them_from_another_machine(
    on_disk: Run, server: Storage, asked: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_pipeline(asked("unmapped"))
    for name in ("maps.parquet", "axes.npz"):
        server.client().delete_object(Bucket=BUCKET, Key=f"unmapped/CelebA/set_01/{name}")
    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "another machine"))
    again = run_pipeline(asked("unmapped"))
    assert again.batches == 0
    assert any("Added the maps of" in line for line in again.log)
    assert_as_on_disk(on_disk, server, "unmapped")


@pytest.mark.skipif(find_spec("umap") is None, reason="needs the extra umap")
def test_points_by_umap_come_and_go_from_another_machine(
    on_disk: Run, server: Storage, asked: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_pipeline(asked("points"))
    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "another machine"))
    assert run_pipeline(asked("points", map="umap")).batches == 0
    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "a third machine"))
    published = open_set(f"s3://{BUCKET}/points/CelebA/set_01")
    assert published.require_maps().records["fc1"].method == "umap"
    assert np.isfinite(published.require_maps().points("fc1")).all()
    run_pipeline(asked("points", map="pca"))
    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "another machine"))
    assert published.require_maps().records["fc1"].method == "pca"
    assert_as_on_disk(on_disk, server, "points")


def test_killed_in_the_middle_another_machine_goes_on_from_what_is_stored(
    on_disk: Run, server: Storage, asked: MakeConfig, tmp_path: Path
) -> None:
    output, config = tmp_path / "output.txt", asked("killed")
    environment = os.environ | {"CLUSTERPATHS_MIRROR": str(tmp_path / "mirror")}
    process = start_pipeline(config.model_copy(update={"workers": 1}), output=output, environment=environment)
    kill_when(process, lambda: made(server, "killed") >= 2, output)
    done = made(server, "killed")
    assert 2 <= done < SHARDS
    assert list_sets(f"s3://{BUCKET}/killed/CelebA") == []

    run = run_pipeline(config)
    assert run.batches == SHARDS - done
    assert any(f"was held by process {process.pid} on" in line and "taken over" in line for line in run.log), run.log
    assert_as_on_disk(on_disk, server, "killed")


def test_the_server_is_away_for_20_s_in_the_middle(on_disk: Run, server: Storage, asked: MakeConfig) -> None:
    counts: list[int] = []

    def outage() -> None:
        server.proxy.cut()
        counts.append(made(server, "outage"))
        time.sleep(20)
        counts.append(made(server, "outage"))
        server.proxy.mend()

    ended = threading.Event()
    watcher = once(lambda: made(server, "outage") >= 3, outage, ended)
    try:
        run = run_pipeline(asked("outage"))
    finally:
        ended.set()
        watcher.join()
    assert 3 <= counts[0] < SHARDS
    assert counts[1] - counts[0] <= 1  # what was on its way when the line was cut
    away = [line for line in run.log if "object storage" in line and "does not answer" in line]
    back = [line for line in run.log if "object storage" in line and "answers again after" in line]
    assert (len(away), len(back)) == (1, 1), run.log
    assert away[0].startswith(f"WARNING The object storage of s3://{BUCKET} at 127.0.0.1:{server.proxy.port} does not")
    assert run.batches == SHARDS  # nothing was made twice
    assert_as_on_disk(on_disk, server, "outage")


def test_the_server_stays_away_one_paragraph_and_later_the_run_goes_on(
    on_disk: Run, server: Storage, asked: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PATIENCE", 3.0)
    monkeypatch.setattr(lease, "LEASE", 6.0)
    monkeypatch.setattr(lease, "RENEW", 2.0)
    monkeypatch.setattr(lease, "_RELEASE_TIMEOUT", 0.5)
    ended = threading.Event()
    watcher = once(lambda: made(server, "gone") >= 3, server.proxy.cut, ended)
    try:
        with pytest.raises(StorageError) as stopped:
            run_pipeline(asked("gone"))
    finally:
        ended.set()
        watcher.join()
        server.proxy.mend()
    error = str(stopped.value)
    assert f"The object storage of s3://{BUCKET} at 127.0.0.1:{server.proxy.port} does not answer" in error
    assert "run the same command again: it continues where it stopped" in error
    assert "\n" not in error
    done = made(server, "gone")
    assert 3 <= done < SHARDS

    run = run_pipeline(asked("gone"))
    assert run.batches == SHARDS - done
    assert_as_on_disk(on_disk, server, "gone")


def test_a_chunk_whose_bytes_were_changed_or_lost_is_made_again(
    on_disk: Run, server: Storage, asked: MakeConfig
) -> None:
    run_pipeline(asked("damaged", seed=1))
    stored = server.objects("damaged/CelebA/")
    first = "damaged/CelebA/conv1/c/5/0/0/0"
    for changed, content in {
        "fc1/c/3/0": stored["damaged/CelebA/fc1/c/4/0"],  # another shard's
        "conv1/c/5/0/0/0": stored[first][: len(stored[first]) // 2],
    }.items():
        server.client().put_object(Bucket=BUCKET, Key=f"damaged/CelebA/{changed}", Body=content)
    server.client().delete_object(Bucket=BUCKET, Key="damaged/CelebA/conv2/c/7/0/0/0")
    for key in server.objects("damaged/CelebA/set_01/"):
        server.client().delete_object(Bucket=BUCKET, Key=key)
    run = run_pipeline(asked("damaged"))
    assert run.batches == 3  # the lost one by the plan, the changed ones once they are read
    for told in ("The activations of layer fc1 in shard 3 of", "The activations of layer conv1 in shard 5 of"):
        assert any(told in line and "extracted again" in line for line in run.log), told
    assert_as_on_disk(on_disk, server, "damaged")


def test_two_runs_at_once_make_one_set(on_disk: Run, server: Storage, asked: MakeConfig) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_pipeline, asked("both"))
        while made(server, "both") < 1:
            time.sleep(0.01)
        second = run_pipeline(asked("both", wait=120))
        assert first.result(120).folder == second.folder
    assert any(f"s3://{BUCKET}/both/CelebA is in use by process" in line for line in second.log)
    assert {name.split("/")[2] for name in server.objects("both/CelebA/set_")} == {"set_01"}
    assert_as_on_disk(on_disk, server, "both")


def test_a_fit_on_all_examples_is_the_same(
    server: Storage, asked: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the sample is some of them."""
    for module in (identity, plan):
        monkeypatch.setattr(module, "fit_size", lambda _k: 12)
    for fit in ("all", "sample"):
        remote = run_pipeline(asked(fit, layers="conv2,fc1", fit=fit))
        local = run_pipeline(asked("", layers="conv2,fc1", fit=fit, cache_root=tmp_path / fit, cache_format="zarr"))
        assert_same_documents(local.folder, remote.folder)
        assert server.objects(f"{fit}/CelebA/clusterings/") == {}
        assert server.objects(f"{fit}/CelebA/shards/") == {}

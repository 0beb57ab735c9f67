"""A cache in object storage: the same results as on disk, whatever happens to the server, the run or the workers."""

from __future__ import annotations

import pytest

pytest.importorskip("obstore", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs moto's server")

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clusterpaths.cache.manifest import Manifest, read_manifest
from clusterpaths.clustering import parallel_fit
from clusterpaths.errors import StorageError
from clusterpaths.records import SetRecord
from clusterpaths.sets.find import list_sets
from clusterpaths.storage import lease, objects, open_storage
from tests.runs import (
    DOCUMENTS,
    SAMPLE_MODEL,
    Run,
    assert_same_documents,
    kill_when,
    run_celeba,
    shell_environment,
    start_celeba,
    succeed,
)
from tests.storage import BUCKET, SECRET, TOKEN, Storage, running_storage

SHARD = 30  # of 300 images
pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def on_disk(prefect_server: None, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("disk")
    return succeed(model=SAMPLE_MODEL, data_root=faces.parent, cache_root=root, cache_format="zarr", shard_size=SHARD)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    folder = tmp_path_factory.mktemp("storage")
    with running_storage(folder, folder / "mirror") as storage:
        yield storage


def asked(faces: Path, prefix: str) -> dict[str, Any]:
    return {
        "model": SAMPLE_MODEL, "data_root": faces.parent, "cache_root": f"s3://{BUCKET}/{prefix}", "shard_size": SHARD,
    }  # fmt: skip


def stored_manifest(server: Storage, prefix: str) -> Manifest | None:
    """Past the library and the proxy."""
    found = server.objects(f"{prefix}/CelebA/manifest.json")
    return Manifest.model_validate_json(next(iter(found.values()))) if found else None


def made(server: Storage, prefix: str) -> int:
    manifest = stored_manifest(server, prefix)
    return sum(shard.rows is not None for shard in manifest.shards) if manifest else 0


def assert_as_on_disk(on_disk: Run, server: Storage, prefix: str) -> None:
    """What the server has is what the disk has: the set byte for byte, the records but for places and times."""
    assert on_disk.path is not None
    objects = {key.removeprefix(f"{prefix}/CelebA/"): content for key, content in server.objects(f"{prefix}/").items()}
    differing = [name for name in DOCUMENTS if objects[f"set_01/{name}"] != (on_disk.path / name).read_bytes()]
    assert differing == []
    assert stored_manifest(server, prefix) == read_manifest(
        open_storage(on_disk.path.parent)
    )  # with every shard's checksums
    records = [
        SetRecord.model_validate_json(content)
        for content in ((on_disk.path / "set.json").read_bytes(), objects["set_01/set.json"])
    ]
    apart = {"config": {}, "stages": (), "created": ""}
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
    on_disk: Run, server: Storage, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = succeed(**asked(faces, "whole"), evaluate=True, check_preprocessing=True)
    assert run.path == open_storage(f"s3://{BUCKET}/whole/CelebA/set_01").path
    assert on_disk.path is not None
    assert_same_documents(on_disk.path, run.path)
    assert_as_on_disk(on_disk, server, "whole")
    stored = server.objects("whole/CelebA/")
    assert {"metadata.json", "set_01/metrics.json", "set_01/report.html"} <= {
        name.removeprefix("whole/CelebA/") for name in stored
    }
    mirrored = {path.relative_to(run.path.parent).as_posix() for path in run.path.parent.rglob("*") if path.is_file()}
    assert [name for name in mirrored if "/c/" in name] == []  # no activations on this machine
    assert len([name for name in stored if "/c/" in name]) == 5 * 10

    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "another machine"))
    again = succeed(**asked(faces, "whole"), evaluate=True)
    assert again.batches == 0
    assert again.path == open_storage(f"s3://{BUCKET}/whole/CelebA/set_01").path
    assert again.path != run.path
    assert_same_documents(on_disk.path, again.path)
    assert server.objects("whole/CelebA/set_01/set.json") == {
        name: content for name, content in stored.items() if name.endswith("set_01/set.json")
    }


def test_killed_in_the_middle_another_machine_goes_on_from_what_is_stored(
    on_disk: Run, server: Storage, faces: Path, tmp_path: Path
) -> None:
    output, given = tmp_path / "output.txt", asked(faces, "killed")
    options = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    environment = shell_environment(CLUSTERPATHS_MIRROR=str(tmp_path / "mirror"))
    process = start_celeba(*options, "--workers", "1", output=output, environment=environment)
    kill_when(process, lambda: made(server, "killed") >= 2, output)
    done = made(server, "killed")
    assert 2 <= done < 10
    assert list_sets(f"s3://{BUCKET}/killed/CelebA") == []

    run = succeed(**given)
    assert run.batches == 10 - done
    assert any(f"was held by process {process.pid} on" in line and "taken over" in line for line in run.log)
    assert_as_on_disk(on_disk, server, "killed")


def test_the_server_is_away_for_20_s_in_the_middle(on_disk: Run, server: Storage, faces: Path) -> None:
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
        run = succeed(**asked(faces, "outage"))
    finally:
        ended.set()
        watcher.join()
    assert 3 <= counts[0] < 10
    assert counts[1] - counts[0] <= 1  # what was on its way when the line was cut
    away = [line for line in run.log if "object storage" in line and "does not answer" in line]
    back = [line for line in run.log if "object storage" in line and "answers again after" in line]
    assert (len(away), len(back)) == (1, 1), run.log
    assert away[0].startswith(f"WARNING The object storage of s3://{BUCKET} at 127.0.0.1:{server.proxy.port} does not")
    assert run.batches == 10  # nothing was made twice
    assert_as_on_disk(on_disk, server, "outage")


def test_the_server_stays_away_one_paragraph_and_later_the_run_goes_on(
    on_disk: Run, server: Storage, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PATIENCE", 3.0)
    monkeypatch.setattr(lease, "LEASE", 6.0)
    monkeypatch.setattr(lease, "RENEW", 2.0)
    monkeypatch.setattr(lease, "_RELEASE_TIMEOUT", 0.5)
    ended = threading.Event()
    watcher = once(lambda: made(server, "gone") >= 3, server.proxy.cut, ended)
    try:
        stopped = run_celeba(**asked(faces, "gone"))
    finally:
        ended.set()
        watcher.join()
        server.proxy.mend()
    assert stopped.state.is_failed()
    error = stopped.state.result(raise_on_failure=False)
    assert isinstance(error, StorageError)
    assert f"The object storage of s3://{BUCKET} at 127.0.0.1:{server.proxy.port} does not answer" in str(error)
    assert "run the same command again: it continues where it stopped" in str(error)
    assert "\n" not in str(error)
    done = made(server, "gone")
    assert 3 <= done < 10

    run = succeed(**asked(faces, "gone"))
    assert run.batches == 10 - done
    assert_as_on_disk(on_disk, server, "gone")


def test_a_chunk_whose_bytes_were_changed_or_lost_is_made_again(on_disk: Run, server: Storage, faces: Path) -> None:
    succeed(**asked(faces, "damaged"), seed=1)
    stored = server.objects("damaged/CelebA/")
    for changed, content in {
        "fc1/c/3/0": stored["damaged/CelebA/fc1/c/4/0"],  # another shard's
        "fc2/c/5/0": stored["damaged/CelebA/fc2/c/5/0"][:1000],
    }.items():
        server.client().put_object(Bucket=BUCKET, Key=f"damaged/CelebA/{changed}", Body=content)
    server.client().delete_object(Bucket=BUCKET, Key="damaged/CelebA/conv2/c/7/0/0/0")
    for key in server.objects("damaged/CelebA/set_01/"):
        server.client().delete_object(Bucket=BUCKET, Key=key)
    run = succeed(**asked(faces, "damaged"))
    assert run.batches == 3  # the lost one by the plan, the changed ones once they are read
    for told in ("The activations of layer fc1 in shard 3 of", "The activations of layer fc2 in shard 5 of"):
        assert any(told in line and "extracted again" in line for line in run.log), told
    assert_as_on_disk(on_disk, server, "damaged")


def test_two_runs_at_once_make_one_set(on_disk: Run, server: Storage, faces: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_celeba, **asked(faces, "both"))
        while made(server, "both") < 1:
            time.sleep(0.01)
        second = start = run_celeba(**asked(faces, "both"), wait=120)
        assert first.result(120).state.is_completed()
    assert start.state.is_completed(), second.state.message
    assert any(f"s3://{BUCKET}/both/CelebA is in use by process" in line for line in second.log)
    assert {name.split("/")[2] for name in server.objects("both/CelebA/set_")} == {"set_01"}
    assert_as_on_disk(on_disk, server, "both")


def test_sets_in_object_storage_are_clustered_again_compared_and_exported(
    server: Storage, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from clusterpaths.commands.explain import main as explain
    from clusterpaths.commands.export import main as export
    from clusterpaths.comparison.compare import CompareConfig
    from flows.compare import compare
    from flows.recluster import recluster

    root = f"s3://{BUCKET}/more"
    succeed(**asked(faces, "more"))
    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "another machine"))
    again = recluster(name="CelebA", k=4, cache_root=root)
    assert again == open_storage(f"{root}/CelebA/set_02").path
    keys = set(server.objects("more/CelebA/set_02/"))
    assert {f"comparison_with_CelebA_set_01.{kind}" for kind in ("json", "html")} <= {Path(key).name for key in keys}
    monkeypatch.setenv("CLUSTERPATHS_MIRROR", str(tmp_path / "a third"))
    page = compare(
        CompareConfig.model_validate({"first": "CelebA/set_02", "second": "CelebA/set_01", "cache_root": root})
    )
    assert page.is_file()
    assert "more/CelebA/set_01/comparison_with_CelebA_set_02.html" in server.objects("more/CelebA/set_01/")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        export(["CelebA/set_02", "--cache-root", root])
    assert (tmp_path / "CelebA_set_02_paths.onnx").is_file()
    with pytest.raises(SystemExit, match="0"):
        explain([str(faces / "img_align_celeba" / "000001.jpg"), "--set", "CelebA/set_02", "--cache-root", root])
    assert (tmp_path / "explanation_000001.html").is_file()
    assert "Wrote" in capsys.readouterr().out


def test_a_fit_in_parts_is_the_same(
    server: Storage, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel_fit, "PARALLEL_FROM", 300)  # all of these are very many
    monkeypatch.setattr(parallel_fit, "PART_ROWS", 128)
    given = asked(faces, "parts") | {"layers": ("conv3", "fc1")}
    remote = succeed(**given)
    local = succeed(**given | {"cache_root": tmp_path})
    assert remote.path is not None
    assert local.path is not None
    assert_same_documents(local.path, remote.path)
    assert {f"fit fc1 pass 0 part {part}" for part in range(3)} <= {task.name for task in remote.task_runs()}
    assert server.objects("parts/CelebA/clusterings/") == {}


def test_no_secret_is_written_anywhere(server: Storage, faces: Path, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    log = tmp_path / "log.jsonl"
    output, given = tmp_path / "output.txt", asked(faces, "secret") | {"subset": 60}
    options = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    mirror = tmp_path / "mirror"
    environment = shell_environment(
        CLUSTERPATHS_MIRROR=str(mirror), CLUSTERPATHS_LOG_FILE=str(log), PREFECT_LOGGING_LEVEL="DEBUG"
    )
    good = start_celeba(*options, output=output, environment=environment)
    assert good.wait(120) == 0, output.read_text()
    bad = start_celeba(
        *options, "--refresh", output=tmp_path / "bad.txt",
        environment=environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert bad.wait(120) == 2, (tmp_path / "bad.txt").read_text()
    assert "does not answer" in (tmp_path / "bad.txt").read_text()
    texts = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    texts |= server.objects()
    with get_client(sync_client=True) as client:
        for asked_for in ("/logs/filter", "/flow_runs/filter", "/task_runs/filter", "/artifacts/filter"):
            texts[asked_for] = client.request("POST", asked_for, json={"limit": 200}).content  # type: ignore[arg-type]
    assert len([name for name in texts if name.endswith("manifest.json")]) >= 1
    assert b"secret" in texts["/flow_runs/filter"]  # the cache root: what is searched is not empty
    found = [name for name, text in texts.items() for secret in (SECRET, TOKEN) if secret.encode() in text]
    assert found == []


def test_workers_that_share_nothing_but_the_store_give_the_same(
    on_disk: Run, server: Storage, faces: Path, tmp_path: Path
) -> None:
    pytest.importorskip("prefect_dask", reason="needs the extra [dask]")
    from tests.flows.test_dask import Cluster

    class Apart(Cluster):
        """Each process has a home, and so a mirror, of its own."""

        def _start(self, name: str, *options: str) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HOME", str(self.folder / name))
                patch.delenv("XDG_CACHE_HOME", raising=False)
                super()._start(name, *options)

    folder = tmp_path / "cluster"
    folder.mkdir()
    cluster = Apart(folder)
    try:
        run = run_celeba(**asked(faces, "workers"), engine="dask", dask_address=cluster.address)
        output = cluster.output()
    finally:
        cluster.stop()
    assert run.state.is_completed(), f"{run.state.message}\n{output}"
    assert run.batches == 0  # the model ran in other processes than this one
    assert_as_on_disk(on_disk, server, "workers")
    parts = [
        {path.name for path in (folder / name / ".cache" / "clusterpaths").rglob("examples/0*.parquet")}
        for name in ("one", "two")
    ]
    assert parts[0] | parts[1] == {f"{shard:05d}.parquet" for shard in range(10)}
    assert min(map(len, parts)) >= 1  # both made some, and neither has the other's
    assert parts[0] & parts[1] == set()
    assert [secret for secret in (SECRET, TOKEN) if secret in output] == []

"""The engine dask: the same paths from Dask workers as from threads, also when one of them is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect_dask", reason="needs the extra [dask]")

from clusterpaths.cache import fit_sample
from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.errors import ConfigError, ExtractionError
from clusterpaths.storage import open_storage
from tasks import runner as runner_module
from tests.runs import (
    DOCUMENTS,
    PROJECT,
    SAMPLE_MODEL,
    assert_same_documents,
    published,
    run_celeba,
    run_pipeline,
    shell_environment,
    succeed,
)
from tests.storage import BUCKET, SECRET, TOKEN, Storage, running_storage

COUNT, SHARD = 160, 10
needs_server = pytest.mark.usefixtures("prefect_server")


class Cluster:
    """A scheduler and two workers, each a process of its own with a home, and so a mirror and a Prefect home, of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, dict[str, subprocess.Popen[bytes]]()
        file = folder / "scheduler.json"
        address = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
        self._start("scheduler", *address, "--scheduler-file", str(file))
        self._until(file.is_file)
        self.address = json.loads(file.read_text())["address"]
        for name in ("one", "two"):
            self._start(name, self.address, "--name", name, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        from distributed import Client

        with Client(self.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)

    def _start(self, name: str, *options: str) -> None:
        own = self.folder / name
        own.mkdir()
        left_out = ("PREFECT", "CLUSTERPATHS", "XDG_CACHE_HOME")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
        command = "scheduler" if name == "scheduler" else "worker"
        with (own / "output.txt").open("wb") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", command, *options],
                cwd=own, env=kept | {"PREFECT_HOME": str(own), "TMPDIR": str(own), "HOME": str(own)},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def output(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.glob("*/output.txt"))

    def kill(self, name: str) -> None:
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait(30)

    def stop(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                self.kill(name)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage | None]:
    """An object store for the workers; None where its packages are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("obstore", "moto")):
        yield None
        return
    folder = tmp_path_factory.mktemp("storage")
    with running_storage(folder, folder / "mirror") as storage:
        yield storage


@pytest.fixture(scope="module")
def cluster(storage: Storage | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all tests: the last of them kills a worker."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield started
    finally:
        started.stop()


def asked(faces: Path, root: Path | str, **more: Any) -> dict[str, Any]:
    """160 faces in 16 shards, three layers, float32."""
    return {
        "model": SAMPLE_MODEL, "data_root": faces.parent, "cache_root": root, "layers": "conv3,fc1,fc2", "subset": COUNT,
        "shard_size": SHARD, "cache_dtype": "float32",
    } | more  # fmt: skip


def in_process(**options: Any) -> Path:
    """The set of a run in threads of this process, without Prefect."""
    return run_pipeline(RunConfig(**options, evaluate=False, check_preprocessing=False)).folder


@pytest.fixture(scope="module")
def by_threads(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_process(**asked(faces, tmp_path_factory.mktemp("threads")))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are fitted on 40 examples; which ones is planned in this process."""
    monkeypatch.setattr(fit_sample, "FIT_ROWS", 40)
    monkeypatch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 8)


def made(cache: Path) -> int:
    manifest = read_manifest(open_storage(cache))
    return sum(shard.rows is not None for shard in manifest.shards) if manifest else 0


@needs_server
def test_an_error_of_a_worker_is_the_same_error_here(cluster: Cluster, faces: Path, tmp_path: Path) -> None:
    images = tmp_path / "data" / "celeba"
    shutil.copytree(faces, images)
    for number in range(1, 6):
        (images / "img_align_celeba" / f"{number:06d}.jpg").write_bytes(b"no picture")
    run = run_celeba(**asked(images, tmp_path, subset=20, max_failures=0), engine="dask", dask_address=cluster.address)
    assert run.state.is_failed()
    with pytest.raises(ExtractionError, match="images cannot be read, and at most 0 may fail"):
        run.state.result()


@needs_server
@pytest.mark.filterwarnings("ignore:Port 8787 is already in use")  # by another Dask of this machine: another is taken
def test_a_cluster_of_its_own_gives_the_same_paths_without_activations_on_disk(
    by_threads: Path, faces: Path, tmp_path: Path
) -> None:
    given = asked(faces, tmp_path, cache_format="none", cache_dtype=None, shard_size=64)
    run = succeed(**given, engine="dask", workers=2)
    assert run.batches == 0
    assert published(run).num_examples == COUNT
    assert_same_documents(by_threads, run.folder)


@needs_server
def test_a_shell_shows_warnings_of_workers_at_once_and_at_the_end(faces: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(faces.parent, tmp_path / "data"))
    (spoilt, *_) = sorted(data.rglob("*.jpg"))
    spoilt.write_bytes(b"no image")
    options = ["--model", SAMPLE_MODEL, "--data-root", data, "--cache-root", tmp_path / "cache", "--subset", 20]
    few = ["--layers", "fc2", "--k", "2", "--max-failures", "0.5", "--no-evaluate", "--no-check-preprocessing"]
    command = [sys.executable, str(PROJECT / "flows" / "celeba.py"), *map(str, [*options, *few])]
    done = subprocess.run(
        [*command, "--engine", "dask", "--workers", "1"],
        env=shell_environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in done.stderr.splitlines() if spoilt.name in line]
    assert len(warnings) == 2, done.stderr
    assert warnings[0] == warnings[1]
    assert warnings[0].startswith("warning: Left out example ")
    assert "WARNING" not in done.stdout + done.stderr


@needs_server
def test_others_than_the_sample_are_extracted_and_assigned_by_workers_and_damage_is_repaired(
    cluster: Cluster, faces: Path, tmp_path: Path, few: None
) -> None:
    """Any worker assigns to the fits of any other; the second run does so from the cache."""
    threads = {seed: in_process(**asked(faces, tmp_path / "threads", shard_size=50, seed=seed)) for seed in (0, 1)}
    dask = {"engine": "dask", "dask_address": cluster.address}
    first = succeed(**asked(faces, tmp_path / "dask", **dask))
    assert_same_documents(threads[0], first.folder)
    names = [task.name for task in first.task_runs()]
    assert [f"extract shard {i}/4" in names for i in range(1, 5)] == [True] * 4  # 40 examples, 10 a shard
    assert [f"assign shard {i}/{COUNT // SHARD}" in names for i in (1, COUNT // SHARD)] == [True] * 2

    manifest = read_manifest(open_storage(first.cache))
    assert manifest is not None
    damaged = first.cache / "fc1" / f"{manifest.shards[7].row_ids()[3]}.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    second = succeed(**asked(faces, tmp_path / "dask", seed=1, **dask))
    assert_same_documents(threads[1], second.folder)
    stages = [task.name for task in second.task_runs()]
    assert [name for name in stages if name.startswith("extract")] == []
    assert stages.count("assign shard 1/1") == 1  # the damaged one, extracted and assigned again, and no other
    assert any(line.startswith("WARNING") and "shard 7" in line and "checksum" in line for line in second.log)


@needs_server
def test_workers_that_live_on_see_images_that_were_added_since_their_last_run(
    cluster: Cluster, faces: Path, tmp_path: Path
) -> None:
    images = tmp_path / "data" / "celeba"
    shutil.copytree(faces, images)
    later = sorted((images / "img_align_celeba").iterdir())[40:]
    for path in later:
        path.rename(tmp_path / path.name)
    given = asked(images, tmp_path / "dask", layers="fc1,fc2", subset=None, engine="dask", dask_address=cluster.address)
    assert published(succeed(**given)).num_examples == 40
    for path in later[:40]:
        (tmp_path / path.name).rename(path)
    grown = succeed(**given)
    assert published(grown).num_examples == 80
    assert grown.batches == 0  # the model ran in the workers
    fresh = in_process(**asked(images, tmp_path / "fresh", layers="fc1,fc2", subset=None))
    assert_same_documents(fresh, grown.folder)


@needs_server
def test_workers_that_share_nothing_but_the_store_give_the_same(
    by_threads: Path, storage: Storage | None, cluster: Cluster, faces: Path
) -> None:
    if storage is None:
        pytest.skip("needs the extra [s3] and moto's server")
    run = run_celeba(**asked(faces, f"s3://{BUCKET}/workers"), engine="dask", dask_address=cluster.address)
    output = cluster.output()
    assert run.state.is_completed(), f"{run.state.message}\n{output}"
    assert run.batches == 0  # the model ran in other processes than this one
    stored = storage.objects("workers/CelebA/set_01/")
    for name in DOCUMENTS:
        assert stored[f"workers/CelebA/set_01/{name}"] == (by_threads / name).read_bytes(), name
    mirrors = [cluster.folder / name / ".cache" / "clusterpaths" for name in ("one", "two")]
    parts = [{path.name for path in mirror.rglob("examples/0*.parquet")} for mirror in mirrors]
    assert parts[0] | parts[1] == {f"{shard:05d}.parquet" for shard in range(COUNT // SHARD)}
    assert min(map(len, parts)) >= 1  # both made some, and neither has the other's
    assert parts[0] & parts[1] == set()
    assert [secret for secret in (SECRET, TOKEN) if secret in output] == []


@needs_server
def test_two_workers_of_their_own_one_killed_in_the_middle_give_the_same_paths(
    by_threads: Path, cluster: Cluster, faces: Path, tmp_path: Path
) -> None:
    killed_at: list[int] = []

    def kill_in_the_middle() -> None:
        while (done := made(tmp_path / "CelebA")) < 4 and not ended.wait(0.005):
            pass
        killed_at.append(done)
        cluster.kill("one")

    ended = threading.Event()
    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    try:
        run = run_celeba(**asked(faces, tmp_path), engine="dask", dask_address=cluster.address)
    finally:
        ended.set()
        killer.join()
    assert run.state.is_completed(), f"{run.state.message}\n{cluster.output()}"
    assert 4 <= killed_at[0] < COUNT // SHARD
    assert run.batches == 0  # the model ran in other processes than this one
    assert_same_documents(by_threads, run.folder)
    assert any("1 of 2 Dask workers were lost" in line for line in run.log), run.log
    states = {task.name: task.state.name for task in run.task_runs()}
    assert {name for name, state in states.items() if state != "Completed"} == set()
    assert len([name for name in states if name.startswith("extract shard")]) == COUNT // SHARD


@needs_server
def test_an_address_that_does_not_answer_is_told_in_one_paragraph(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "WORKERS_WITHIN", 1.0)
    run = run_celeba(
        model=SAMPLE_MODEL, data_root=faces.parent, cache_root=tmp_path, subset=5,
        engine="dask", dask_address="tcp://127.0.0.1:9",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"tcp://127\.0\.0\.1:9 does not answer"):
        run.state.result()


def test_without_the_extra_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with (
        pytest.raises(ConfigError, match=r'prefect-dask, which is not installed.*pip install -e "[^"]+\[dask\]"'),
        runner_module.PrefectRunner(RunConfig(engine="dask")),
    ):
        pass


def test_threads_need_no_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with runner_module.PrefectRunner(RunConfig(workers=3)) as runner:
        assert runner.workers == 3


def test_an_address_without_the_engine_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="--dask-address goes with --engine dask"):
        RunConfig(dask_address="tcp://127.0.0.1:8786")

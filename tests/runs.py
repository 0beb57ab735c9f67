"""What tests of whole runs share: a run of the pipeline or of a flow, in this process or its own, and what it left.

Belongs here: starting runs and reading back. No expectation.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from clusterpaths import pipeline
from clusterpaths.cache.manifest import read_manifest
from clusterpaths.commands.shell import RUN_LOGGERS, run_log
from clusterpaths.config import RunConfig
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.preprocessing.prepare import normalise
from clusterpaths.running.runner import Runner
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage

PROJECT = Path(__file__).resolve().parent.parent
SAMPLE_MODEL = PROJECT / "ONNX_models" / "SampleFaces_CNN.onnx"
DOCUMENTS = ("centroids.json", "paths.json", "centroids.npz", "paths.parquet", "axes.npz", "maps.parquet")
SHAPES = {"conv1": (16, 64, 64), "conv2": (32, 32, 32), "conv3": (64, 16, 16), "fc1": (128,), "fc2": (64,)}


@dataclass
class Run:
    """A finished run in this process."""

    state: Any = None  # a flow's; of the library's pipeline there is none
    path: Path | None = None
    batches: int = 0  # how often the model was run on images
    log: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The set's."""
        assert self.path is not None
        return self.path

    @property
    def cache(self) -> Path:
        """What the set is in."""
        return self.folder.parent

    @property
    def flow_run_id(self) -> Any:
        return self.state.state_details.flow_run_id

    def task_runs(self) -> list[Any]:
        """As the server has them, once it has taken in the last of their events."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        deadline = time.monotonic() + 20
        with get_client(sync_client=True) as client:
            while True:
                runs = client.read_task_runs(
                    flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[self.flow_run_id])), limit=200
                )
                if (runs and all(run.state and run.state.is_final() for run in runs)) or time.monotonic() > deadline:
                    return runs
                time.sleep(0.2)


def run_pipeline(config: RunConfig, runner: Runner | None = None) -> Run:
    """Run the library's pipeline, without Prefect; raises what it raises."""
    run = Run()
    with counting(run), listening(run.log, RUN_LOGGERS):
        outcome = pipeline.run(config, runner)
    run.path = outcome.published.path if outcome.published else None
    return run


def run_celeba(**options: Any) -> Run:
    """Run the flow in this process; never raises for a run that fails, its state says so.

    Without the stages that try the model on images of their own, unless they are asked for: batches are counted.
    """
    from flows.celeba import celeba

    run = Run()
    options = {"evaluate": False, "check_preprocessing": False} | options
    with counting(run), listening(run.log):
        run.state = celeba(RunConfig(**options), return_state=True)
    if run.state.is_completed():
        run.path = run.state.result()
    return run


_counted: list[Run] = []  # runs at once, in threads, count the batches of each other
_counting = threading.Lock()


@contextmanager
def counting(run: Run) -> Iterator[None]:
    """Count how often a model is run on images."""
    with _counting:
        if not _counted:
            _count_batches.start()
        _counted.append(run)
    try:
        yield
    finally:
        with _counting:
            _counted.remove(run)
            if not _counted:
                _count_batches.stop()


def _counted_run(session: TapSession, images: NDArray[np.float32]) -> Outputs:
    if not (images == 0.5).all():  # a blank one shows that the model runs; it is none of the data
        with _counting:
            for run in _counted:
                run.batches += 1
    return _run(session, images)


_run = TapSession._run
_count_batches = mock.patch.object(TapSession, "_run", _counted_run)
FLOWS = ("prefect.flow_runs", "prefect.task_runs")


@contextmanager
def listening(lines: list[str], names: tuple[str, ...] = FLOWS) -> Iterator[None]:
    """Collect what flow and task runs log, or the library's pipeline."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage()}")

    with run_log(Collect(), names):
        yield


def succeed(**options: Any) -> Run:
    """As `run_celeba`, for a run that is expected to leave a set."""
    run = run_celeba(**options)
    assert run.state.is_completed(), run.state.message
    return run


def published(run: Run) -> Any:
    """The set's record."""
    return open_set(run.folder).record


def paths_of(folder: Path) -> dict[str, list[int]]:
    result: dict[str, list[int]] = json.loads((folder / "paths.json").read_text())
    return result


def assert_same_documents(one: Path, other: Path) -> None:
    """Byte for byte."""
    differing = [name for name in DOCUMENTS if (one / name).read_bytes() != (other / name).read_bytes()]
    assert differing == []


def assert_contract(folder: Path, examples: int, layers: dict[str, int], k: int) -> None:
    """centroids.json, paths.json and metadata.json in the shapes that dashboards read; layers: name -> width."""
    centroids = json.loads((folder / "centroids.json").read_text())
    assert {layer: np.shape(rows) for layer, rows in centroids.items()} == {n: (k, w) for n, w in layers.items()}
    paths = paths_of(folder)
    assert len(paths) == examples
    assert all(len(path) == len(layers) and min(path) >= 0 and max(path) < k for path in paths.values())
    assert all(type(cluster) is int for path in paths.values() for cluster in path)
    metadata = json.loads((folder.parent / "metadata.json").read_text())
    assert metadata["num_examples"] == examples
    assert metadata["layers"] == list(centroids) == list(layers)
    assert metadata["k"] == k


def written(cache: Path) -> dict[Path, int]:
    """Activation files of the recorded shards of an npy cache, with the time each was last written."""
    manifest = read_manifest(open_storage(cache))
    assert manifest is not None
    ids = [i for shard in manifest.shards if shard.rows is not None for i in shard.row_ids()]
    files = [cache / layer / f"{i}.npy" for layer in manifest.layers for i in ids]
    return {file: file.stat().st_mtime_ns for file in files}


def rows_of(cache: Path, layer: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Ids (n,) ascending and activations (n, width) as they lie there, read without the library's reader.

    Without activations: what the model gives for the images that lie there, in runs as they were.
    """
    manifest = read_manifest(open_storage(cache))
    assert manifest is not None
    shards = [shard for shard in manifest.shards if shard.rows is not None]
    ids = np.concatenate([shard.row_ids() for shard in shards])
    if manifest.format == "npy":
        rows = np.stack([np.load(cache / layer / f"{i}.npy").ravel() for i in ids])
    elif manifest.format == "none":
        record, prepared = open_set(max(cache.glob("set_*"))).record, manifest.preprocessing
        model = check_model(Path(record.config["model"]), record.layers, prepared.size)
        session = TapSession(instrument_model(model, prepared.size))
        pieces = []
        for shard in shards:
            assert shard.batch is not None
            pixels = np.fromfile(cache / "pixels" / f"{shard.index:05d}.rgb", np.uint8).reshape(-1, *prepared.size, 3)
            runs = [pixels[a : a + shard.batch] for a in range(0, len(pixels), shard.batch)]
            pieces += [session.run(normalise(run, prepared)).layers[layer].reshape(len(run), -1) for run in runs]
        rows = np.concatenate(pieces)
    else:
        import zarr

        array = zarr.open_array(cache / layer, mode="r")
        rows = np.concatenate([np.asarray(array[s.start : s.start + s.rows]).reshape(s.rows, -1) for s in shards])
    order = np.argsort(ids)
    return ids[order], rows[order]


def nearest(rows: NDArray[Any], centroids: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) index of the nearest centroid in Euclidean distance, in float64, in pieces."""
    exact = np.asarray(centroids, np.float64)
    lengths = (exact**2).sum(axis=1)
    pieces = [lengths - 2 * rows[a : a + 100].astype(np.float64) @ exact.T for a in range(0, len(rows), 100)]
    return np.concatenate(pieces).argmin(axis=1)


def hard_link_images(source: Path, target: Path, names: list[str]) -> None:
    """A data folder of these images of another one."""
    folder = target / "img_align_celeba"
    folder.mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / name, folder / name)


def shell_environment(**more: str) -> dict[str, str]:
    """For a run in a process of its own that reports to this session's server: it starts in half the time."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    assert url, "use the fixture prefect_server"
    return os.environ | {"PREFECT_API_URL": url, "PYTHONUNBUFFERED": "1"} | more


def start_celeba(*options: str, output: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the flow in a process group of its own, what it says goes to `output`."""
    command = [sys.executable, str(PROJECT / "flows" / "celeba.py"), *options]
    with output.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=output.parent, start_new_session=True
        )


def start_pipeline(config: RunConfig, *, output: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """As `start_celeba`, the library's pipeline, without Prefect."""
    code = (
        "import sys; from clusterpaths.config import RunConfig; from clusterpaths.pipeline import run; "
        "run(RunConfig.model_validate_json(sys.argv[1]))"
    )
    given = config.model_dump_json(include=config.model_fields_set)
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", code, given], stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=PROJECT,
            start_new_session=True,
        )  # fmt: skip


def kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool], output: Path) -> None:
    """SIGKILL the whole group as soon as `ready` holds; fails if the run ends before."""
    wait_until(process, ready, output)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL


def wait_until(process: subprocess.Popen[bytes], ready: Callable[[], bool], output: Path) -> None:
    deadline = time.monotonic() + 90
    while not ready():
        assert process.poll() is None, f"the run ended too early:\n{output.read_text()}"
        assert time.monotonic() < deadline, f"not ready in time:\n{output.read_text()}"
        time.sleep(0.005)

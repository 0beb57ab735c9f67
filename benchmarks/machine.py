"""Shared by the parts of the suite: a description of the machine, images and model to measure with, and meters.

Belongs here: what is measured the same way everywhere, and nothing of what is measured. The images are CelebA's own where
CLUSTERPATHS_SHARED is a directory with celeba/ and models/; elsewhere faces are drawn, and the sample's model is run.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx
import psutil

from clusterpaths.datasets.drawn_faces.draw import write_faces

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
ORIGINALS = 2000  # distinct images; more are these again, as further files
PACKAGES = ("prefect", "onnxruntime", "numpy", "scikit-learn", "zarr", "zarrs", "pillow", "pyarrow", "pydantic")


def describe_machine() -> dict[str, Any]:
    """Machine, memory, load and versions, for the head of every result."""
    return {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": os.getloadavg()[0],  # of the minute before: what else ran
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def head(result: Mapping[str, Any]) -> str:
    """The machine in one line of Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"{result['machine']}, {result['memory_gb']} GB; load before the start {result['load_average']:.1f}; "
        f"Python {result['python']}; {versions}; {result['data']}"
    )


def cpu_name() -> str:
    """The processor's name, as Linux reports it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


@dataclass(frozen=True)
class Material:
    """A model and images to measure with.

    Attributes:
        model: the ONNX file that the flow runs.
        tapped: the same model with the outputs relu … relu_4 (conv1, conv2, conv3, fc1, fc2), for the baseline.
        originals: the distinct images, in `work`.
        attributes: CelebA's attributes of the originals, list_attr_celeba.txt.
        data: a description of the images.
        work: a directory on one file system, so that images can be hard links.
    """

    model: Path
    tapped: Path
    originals: tuple[Path, ...]
    attributes: Path
    data: str
    work: Path

    def images(self, count: int, annotated: bool = False) -> Path:
        """A data root with `count` images in CelebA's layout: the originals repeated as hard links.

        With their attributes if `annotated`: then a run evaluates all that it can.

        Raises:
            OSError: the file system does not support hard links, or not so many of one file.
        """
        root = self.work / f"data-{count}{'-annotated' * annotated}"
        folder = root / "celeba" / "img_align_celeba"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index + 1:06d}.jpg").hardlink_to(self.originals[index % len(self.originals)])
            if annotated:
                _, names, *lines = self.attributes.read_text().splitlines()
                known = dict(line.split(maxsplit=1) for line in lines)  # of some of the originals
                repeated = [known.get(file.name) for file in self.originals]
                rows = [f"{i + 1:06d}.jpg {values}" for i in range(count) if (values := repeated[i % len(repeated)])]
                target = root / "celeba" / "list_attr_celeba.txt"
                target.write_text("\n".join([str(len(rows)), names, *rows]) + "\n")
        return root


def prepare(work: Path, most: int) -> Material:
    """Real images and the real model where CLUSTERPATHS_SHARED is set, else drawn faces and the sample's model.

    `most` is the largest number of images that will be asked for: no more faces are drawn than that.
    """
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        count = min(most, ORIGINALS)
        drawn = write_faces(work / "drawn", count)
        sample = PROJECT / "ONNX_models" / "SampleFaces_CNN.onnx"
        tapped = tap_activations(sample, work / "tapped.onnx")
        files = tuple(sorted((drawn / "img_align_celeba").glob("*.jpg")))
        return Material(sample, tapped, files, drawn / "list_attr_celeba.txt", f"{count:,} drawn faces", work)
    folder = work / "originals"
    shutil.copytree(Path(shared) / "celeba" / "img_align_celeba", folder)  # hard links need the same file system
    files = tuple(sorted(folder.glob("*.jpg")))
    model = Path(shared) / "models" / "CelebA_CNN_instrumented.onnx"
    attributes = Path(shared) / "celeba" / "list_attr_celeba.txt"
    return Material(
        model, model, files, attributes, f"{len(files):,} real CelebA images, repeated where more are needed", work
    )


def tap_activations(model: Path, target: Path) -> Path:
    """Write the model with its Relus' results as outputs called relu, relu_1 …, as CelebA's instrumented one has them."""
    proto = onnx.load(str(model))
    results = [node.output[0] for node in proto.graph.node if node.op_type == "Relu"]
    for index, result in enumerate(results):
        name = f"relu_{index}" if index else "relu"
        for node in proto.graph.node:
            node.input[:] = [name if value == result else value for value in node.input]
            node.output[:] = [name if value == result else value for value in node.output]
        proto.graph.output.append(onnx.ValueInfoProto(name=name))  # ONNX Runtime infers the type
    onnx.save(proto, str(target))
    return target


@dataclass
class Meter:
    """Time spent inside `with meter:`, over all times it was entered.

    Attributes:
        wall: elapsed seconds.
        cpu: CPU seconds of this process, over all its threads.
        cores: busy seconds of each core, with any process.
    """

    wall: float = 0.0
    cpu: float = 0.0
    cores: list[float] = field(default_factory=lambda: [0.0] * len(busy_seconds()))

    def __enter__(self) -> Meter:
        self._cores = busy_seconds()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall += time.perf_counter() - self._wall
        self.cpu += time.process_time() - self._cpu
        self.cores = [a + b - c for a, b, c in zip(self.cores, busy_seconds(), self._cores, strict=True)]

    def result(self, stage: str, images: int, note: str = "") -> dict[str, Any]:
        """As JSON: milliseconds per image, and the share of time in which cores were busy."""
        return {
            "stage": stage,
            "ms": 1000 * self.wall / images,
            "cpu_ms": 1000 * self.cpu / images,
            "busy": self.cpu / self.wall,
            "cores": [min(max(seconds / self.wall, 0.0), 1.0) for seconds in self.cores],  # in ticks of 10 ms
            "note": note,
        }


def busy_seconds() -> list[float]:
    """Seconds that each core has worked since the machine started."""
    return [
        sum(core) - core.idle - core.iowait - core.guest - core.guest_nice for core in psutil.cpu_times(percpu=True)
    ]


def watch(command: list[str], environment: Mapping[str, str], errors: Path) -> dict[str, float]:
    """Run a command; seconds, CPU seconds, and peak memory in MB of the process itself and of its tree.

    The process's peak is the kernel's own, read while it runs: the one that wait4 reports begins with that of the process that
    started it. Of the tree the proportional set size is summed, five times a second: a page that two processes share counts
    once. Its stderr is written to the file `errors`; the benchmark ends if the command fails.
    """
    peak = tree = 0.0
    with errors.open("w+b") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=log)
        root = psutil.Process(process.pid)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            peak, tree = max(peak, peak_memory(process.pid)), max(tree, tree_memory(root))
            time.sleep(0.02 if time.perf_counter() - started < 1 else 0.2)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"error: {' '.join(command)} ended with {process.returncode}:\n{log.read().decode()}")
    cpu = usage.ru_utime + usage.ru_stime  # with children that it has waited for
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak, "peak_tree_mb": tree}


def peak_memory(pid: int) -> float:
    """The largest resident set size of a process so far in MB; 0 where it has just ended or has not started its program."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    return next((1.024 * int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM:")), 0.0)


def tree_memory(root: psutil.Process) -> float:
    """Proportional set size of a process and all below it in MB; of those that have just ended, 0."""
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    return sum(map(memory_of, family))


def memory_of(process: psutil.Process) -> float:
    """Proportional set size in MB; 0 where the process has just ended."""
    try:
        return float(process.memory_full_info().pss) / 1e6
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0.0


def size_of(folder: Path) -> int:
    """Bytes of all files in a directory, recursively."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def cache_size(directory: Path) -> int:
    """Bytes of a cache: everything in a results' directory except its sets and clusterings."""
    entries = [entry for entry in directory.iterdir() if not entry.name.startswith(("set_", "clusterings"))]
    return sum(size_of(entry) if entry.is_dir() else entry.stat().st_size for entry in entries)


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def environment_of(work: Path) -> dict[str, str]:
    """For runs of the flow: a separate Prefect home, and a running server only where PREFECT_API_URL is set."""
    return os.environ | {
        "PREFECT_HOME": str(work / "prefect"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # other work on the machine must not end a benchmark
    }


def flow_command(
    material: Material, root: Path, out: Path, cache_format: str, *more: str, stage_times: Path | None = None
) -> list[str]:
    """The command of the flow over a data root, results in out/R.

    With `stage_times`, the same run by timed_flow.py, which writes the seconds of all stages there.
    """
    options = {"--model": material.model, "--data-root": root, "--cache-root": out, "--name": "R"}
    options |= {"--cache-format": cache_format}
    timed = [str(PROJECT / "benchmarks" / "timed_flow.py"), str(stage_times)]
    program = timed if stage_times else [str(PROJECT / "flows" / "celeba.py")]
    return [sys.executable, *program, *(str(word) for pair in options.items() for word in pair), *more]

"""Time of the path model relative to the classifier, and whether its paths equal those of the pipeline.

Both run in one process, alternating, on the same images, in ONNX Runtime with the given number of threads. Needs
CLUSTERPATHS_SHARED (a directory with celeba/ and models/).

    python benchmarks/path_model.py             five layers, and the last three, by cosine and Euclidean distance
    python benchmarks/path_model.py --quick     a check that it works: 40 images, a few rounds
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from clusterpaths.config import RunConfig
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.export.note import PATH
from clusterpaths.export.path_model import export_path_model, load_whole
from clusterpaths.models.check import check_model
from clusterpaths.pipeline import run
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import Distance
from clusterpaths.sets.published import open_set

HERE = Path(__file__).resolve().parent
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")
K = 5
LAYERS: dict[str, tuple[str, ...]] = {
    "conv1 to fc2": ("conv1", "conv2", "conv3", "fc1", "fc2"),
    "conv3 to fc2": ("conv3", "fc1", "fc2"),
}
BATCHES = (1, 32)
IMAGES_A_TURN = 64  # so that a turn is long beside the clock's resolution


def main(rounds: int = 60, threads: tuple[int, ...] = (1, 2), quick: bool = False) -> None:
    """Measure, print a Markdown table, and write benchmarks/results/path_model.json.

    Parameters
    ----------
    rounds
        turns of each model; medians are reported
    threads
        numbers of threads to measure with
    quick
        40 images and three rounds; nothing is written
    """
    if quick:
        rounds = 3
    shared = os.environ.get("CLUSTERPATHS_SHARED")
    if not shared:
        sys.exit("error: CLUSTERPATHS_SHARED is not set. It should name a folder that holds celeba/ and models/.")
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        result = measure(Path(shared), Path(folder), rounds, threads, 40 if quick else None)
    print(table(result))
    if not quick:
        target = HERE / "results" / "path_model.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=2) + "\n")


def measure(shared: Path, work: Path, rounds: int, threads: tuple[int, ...], subset: int | None) -> dict[str, Any]:
    """Export a path model for each choice of layers and distance; compare its paths, then time it."""
    model = shared / "models" / "CelebA_CNN.onnx"
    models = {"classifier alone": load_whole(check_model(model)).SerializeToString()}
    unequal, images = {}, np.empty(0, np.float32)
    for name, layers in LAYERS.items():
        for distance in DISTANCES:
            run = publish(shared, model, work, layers, distance, subset)
            if not images.size:
                images = read_images(shared, run)
            case = f"{name}, {distance}"
            models[case] = Path(export_path_model(open_set(run), model, work / "paths.onnx").path).read_bytes()
            clusters = open_set(run).clusters
            unequal[case] = {
                batch: int((follow(models[case], images, batch) != clusters).any(axis=1).sum()) for batch in BATCHES
            }
    timings = [
        {"threads": count, "batch": batch, "models": compare(models, images, batch, count, rounds)}
        for count in threads
        for batch in BATCHES
    ]
    return {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {cpu_name()}",
        "versions": {name: version(name) for name in ("onnxruntime", "onnx", "numpy")},
        "python": platform.python_version(),
        "images": len(images),
        "k": K,
        "images_with_another_path": unequal,
        "timings": timings,
    }


def publish(
    shared: Path, model_path: Path, work: Path, layers: tuple[str, ...], distance: Distance, subset: int | None
) -> Path:
    """The directory of a set of these layers, made by all stages, as the flow runs them."""
    config = RunConfig(
        evaluate=False,
        model=model_path,
        data_root=shared,
        cache_root=work / "cache",
        name="path-model",
        layers=layers,
        distance=distance,
        k=K,
        subset=subset,
        preprocessing="imagenet",
    )
    published = run(config).published
    assert published
    return published.path


def read_images(shared: Path, set_dir: Path) -> NDArray[np.float32]:
    """The set's images as the model takes them, (n, 3, height, width)."""
    record, dataset = open_set(set_dir).record, open_celeba(shared)
    files = open_set(set_dir).files.to_pylist()
    pixels = np.stack([fit(dataset.read_image(file), record.preprocessing) for file in files])
    return normalise(pixels, record.preprocessing)


def open_session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def follow(model: bytes, images: NDArray[np.float32], batch: int) -> NDArray[np.int64]:
    """(n, layers): each image's path."""
    session = open_session(model, 0)
    return np.concatenate(
        [session.run([PATH], {"input": images[at : at + batch]})[0] for at in range(0, len(images), batch)]
    )


def compare(
    models: dict[str, bytes], images: NDArray[np.float32], batch: int, threads: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Median ms a batch of each model, and the median over rounds of its time as a share of the first model's."""
    turns = {name: turn(open_session(model, threads), images, batch) for name, model in models.items()}
    for take in turns.values():
        take()  # the first run allocates
    times: dict[str, list[float]] = {name: [] for name in models}
    for index in range(rounds):
        for name in list(models) if index % 2 else reversed(models):  # in turns: what else runs falls on all alike
            times[name].append(turns[name]())
    base = np.array(next(iter(times.values())))
    return {
        name: {"ms": 1000 * statistics.median(values), "share": float(np.median(np.array(values) / base))}
        for name, values in times.items()
    }


def turn(session: onnxruntime.InferenceSession, images: NDArray[np.float32], batch: int) -> Callable[[], float]:
    """A function that gives the mean seconds of a batch over at least one."""
    starts = range(0, max(min(IMAGES_A_TURN, len(images)) // batch, 1) * batch, batch)

    def take() -> float:
        started = time.perf_counter()
        for at in starts:
            session.run(None, {"input": images[at : at + batch]})
        return (time.perf_counter() - started) / len(starts)

    return take


def cpu_name() -> str:
    """The processor's name, as Linux reports it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    columns = [f"batch {each['batch']}, {each['threads']} thread(s)" for each in result["timings"]]
    lines = [
        f"{result['machine']}; Python {result['python']}; k={result['k']}, {result['images']:,} images",
        "",
        f"| ms a batch (of the classifier's) | {' | '.join(columns)} | other paths |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in result["timings"][0]["models"]:
        cells = [each["models"][name] for each in result["timings"]]
        times = " | ".join(f"{cell['ms']:.2f} ({cell['share']:.2f})" for cell in cells)
        unequal = result["images_with_another_path"].get(name)
        lines.append(f"| {name} | {times} | {sum(unequal.values()) if unequal else ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cyclopts.run(main)

"""A larger model: ResNet-18 at 224x224 with six layers to zarr, compared with what the model alone takes for the same images.

The model has torchvision's architecture and seeded random weights. "The model alone" is the model without taps on images that
are in memory, in batches of 32, in two threads with a session of one thread each.
"""

from __future__ import annotations

import queue
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from celeba import PLAIN, slopes
from machine import PROJECT, Material, environment_of, median, watch
from models import export, plain_session, resnet18

from clusterpaths.sets.published import open_set

SIZES = (4608, 6656)  # beyond the sample that is fitted, which does not grow with them
BATCH, WORKERS = 32, 2
ALONE, RUN = "the model alone", "zarr"
MOST = 1.25


def measure(material: Material, sizes: Sequence[int] = SIZES, repeats: int = 3) -> dict[str, Any]:
    """Seconds of complete runs without evaluation and of the model alone in each turn; ms per image, and the ratio."""
    model = export(resnet18(), material.work / "resnet18.onnx")
    sessions = [plain_session(model, {}) for _ in range(WORKERS)]
    runs: list[dict[str, Any]] = []
    for turn in range(repeats):
        for count in sizes:
            runs.append({"way": ALONE, "turn": turn, "images": count, "seconds": run_model(sessions, count)})
            runs.append({"way": RUN, "turn": turn, "images": count, **measure_run(material, model, count)})
            took = " and ".join(f"{run['seconds']:.1f} s" for run in runs[-2:])
            print(f"turn {turn + 1}, {count:,} images, the model alone and a run: {took}", file=sys.stderr)
    return {
        "layers": runs[-1]["layers"],
        "runs": runs,
        "ms_per_image": {way: median(slopes(runs, way)) for way in (ALONE, RUN)},
        "ratio": median(a / b for a, b in zip(slopes(runs, RUN), slopes(runs, ALONE), strict=True)),
        "peak_mb": max(run["peak_mb"] for run in runs if run["way"] == RUN),
    }


def run_model(sessions: list[onnxruntime.InferenceSession], count: int) -> float:
    """Seconds of `count` images, a thread for each session."""
    idle: queue.SimpleQueue[onnxruntime.InferenceSession] = queue.SimpleQueue()
    images = np.random.default_rng(0).standard_normal((BATCH, 3, 224, 224)).astype(np.float32)
    for session in sessions:
        session.run(None, {"image": images[:1]})  # the first run allocates
        idle.put(session)

    def run_batch(start: int) -> None:
        session = idle.get()
        session.run(None, {"image": images[: count - start]})
        idle.put(session)

    with ThreadPoolExecutor(len(sessions)) as pool:
        started = time.perf_counter()
        list(pool.map(run_batch, range(0, count, BATCH)))
        return time.perf_counter() - started


def measure_run(material: Material, model: Path, count: int) -> dict[str, Any]:
    """One run of flows/images.py as a separate process; its results are removed."""
    photos, out = material.images(count) / "celeba" / "img_align_celeba", material.work / "out"
    options = {"--model": model, "--data-root": photos, "--cache-root": out, "--name": "R", "--layers": "auto"}
    options |= {"--cache-format": "zarr", "--cache-dtype": "float16"}
    program = str(PROJECT / "flows" / "images.py")
    command = [sys.executable, program, *(str(word) for pair in options.items() for word in pair), *PLAIN]
    run: dict[str, Any] = watch(command, environment_of(material.work), material.work / "errors.txt")
    record = open_set(out / "R" / "set_01").record
    stages = {stage.stage: stage.seconds for stage in record.stages}
    shutil.rmtree(out)
    return {**run, "layers": list(record.layers), "stages": stages}


def targets(result: dict[str, Any]) -> list[tuple[str, float, float | None, str]]:
    """What, at most, measured, its format."""
    return [("ResNet-18, zarr: time per image, relative to the model alone", MOST, result["ratio"], ".2f")]


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    sizes = sorted({run["images"] for run in result["runs"]})
    lines = [
        f"Layers {', '.join(result['layers'])}; ratio {result['ratio']:.2f}; peak memory {result['peak_mb']:.0f} MB.",
        "",
        f"| | ms per image | {' | '.join(f's at {count:,}' for count in sizes)} |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for way, ms in result["ms_per_image"].items():
        at = {n: [r["seconds"] for r in result["runs"] if (r["way"], r["images"]) == (way, n)] for n in sizes}
        seconds = " | ".join(f"{median(values):.1f}" for values in at.values())
        lines.append(f"| {way} | {ms:.1f} | {seconds} |")
    return "\n".join(lines)

"""Complete runs, as the flow makes them by default: the evaluation's share of the time, and all of CelebA's size in one run.

The images have CelebA's attributes, so that the preprocessing is checked and the evaluation has labels. The runs are
timed_flow.py's, which reports the seconds of all stages.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from machine import Material, environment_of, flow_command, median, watch

IMAGES = 20_000
FORMATS = ("zarr", "none")
EXTRACTION = ("extract", "assign")  # stages
SHARE = 0.2  # of the extraction's seconds
CELEBA = 202_599
SECONDS, PEAK_MB = 180, 800


def measure_evaluation(
    material: Material, images: int = IMAGES, formats: Sequence[str] = FORMATS, repeats: int = 3
) -> dict[str, Any]:
    """Complete runs of each format, and the evaluation's seconds as a share of the extraction's within a run.

    The sample is extracted in the stage `extract`, all other images in `assign`, where all are assigned, too.
    """
    runs = [{"way": name, **measure_run(material, images, name)} for _ in range(repeats) for name in formats]
    shares = {
        name: median(
            run["stages"]["evaluate"] / sum(run["stages"][stage] for stage in EXTRACTION)
            for run in runs
            if run["way"] == name
        )
        for name in formats
    }
    return {"images": images, "runs": runs, "share": shares}


def measure_celeba_full(material: Material, images: int = CELEBA) -> dict[str, Any]:
    """One complete run without a cache of activations."""
    return {"images": images, "runs": [{"way": "none", **measure_run(material, images, "none")}]}


def measure_run(material: Material, count: int, cache_format: str) -> dict[str, Any]:
    """Seconds, memory and the seconds of all stages; its results are removed."""
    root, out, times = material.images(count, annotated=True), material.work / "out", material.work / "stages.json"
    command = flow_command(material, root, out, cache_format, stage_times=times)
    run: dict[str, Any] = watch(command, environment_of(material.work), material.work / "errors.txt")
    shutil.rmtree(out)
    stages = json.loads(times.read_text())
    told = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
    print(f"{count:,} images, {cache_format}, complete: {run['seconds']:.1f} s ({told})", file=sys.stderr)
    return {**run, "stages": stages}


def evaluation_targets(result: dict[str, Any]) -> list[tuple[str, float, float | None, str]]:
    """What, at most, measured, its format."""
    rows = []
    for name, share in result["share"].items():
        rows.append((f"{name}: seconds of the evaluation, relative to the extraction", SHARE, share, ".2f"))
        peak = max(run["peak_mb"] for run in result["runs"] if run["way"] == name)
        rows.append((f"{name}, complete run: peak memory, MB", PEAK_MB, peak, ".0f"))
    return rows


def celeba_full_targets(result: dict[str, Any]) -> list[tuple[str, float, float | None, str]]:
    """What, at most, measured, its format."""
    run, what = result["runs"][0], f"none, complete run over {result['images']:,} images"
    return [
        (f"{what}: seconds", SECONDS, run["seconds"], ".0f"),
        (f"{what}: peak memory, MB", PEAK_MB, run["peak_mb"], ".0f"),
    ]


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: each run, with the seconds of its stages."""
    stages = list(dict.fromkeys(stage for run in result["runs"] for stage in run["stages"]))
    columns = ["cache", "seconds", *stages, "peak MB, process", "with its server"]
    lines = [f"{result['images']:,} images.", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for run in result["runs"]:
        each = [f"{run['stages'][stage]:.1f}" if stage in run["stages"] else "–" for stage in stages]
        cells = [run["way"], f"{run['seconds']:.1f}", *each, f"{run['peak_mb']:.0f}", f"{run['peak_tree_mb']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

"""Another number of clusters on a cache that is there: the time per image of a second run, compared with the baseline's.

The first run extracts to zarr and publishes a set with k=5. The second run has --k 7: it runs the model on no image, fits on
the cached sample, and assigns every image from the cache.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

from celeba import BASELINE, BASELINE_SIZES, PLAIN, measure_run, slopes
from machine import Material, environment_of, flow_command, median, watch

from clusterpaths.sets.published import open_set

SIZES = (6000, 20_000)
FIRST, SECOND = "k=5", "k=7"
MOST = 0.15  # of the baseline's time per image


def measure(
    material: Material, sizes: Sequence[int] = SIZES, repeats: int = 3, baseline_sizes: Sequence[int] = BASELINE_SIZES
) -> dict[str, Any]:
    """Seconds of the first and the second run and of the baseline in each turn, and ms per image."""
    runs: list[dict[str, Any]] = []
    for turn in range(repeats):
        for count in baseline_sizes:
            runs.append({"way": BASELINE, "turn": turn, "images": count, **measure_run(material, count, BASELINE)})
        for count in sizes:
            runs += [{"turn": turn, "images": count, **run} for run in measure_both(material, count)]
        took = ", ".join(
            f"{run['images']:,} {run['way']} {run['seconds']:.1f} s" for run in runs if run["turn"] == turn
        )
        print(f"turn {turn + 1}: {took}", file=sys.stderr)
    ours, baseline = slopes(runs, SECOND), slopes(runs, BASELINE)
    return {
        "runs": runs,
        "ms_per_image": {way: median(slopes(runs, way)) for way in (BASELINE, FIRST, SECOND)},
        "share": median(a / b for a, b in zip(ours, baseline, strict=True)),
    }


def measure_both(material: Material, count: int) -> list[dict[str, Any]]:
    """The first and the second run over the same images; their results are removed."""
    root, out = material.images(count), material.work / "out"
    environment, errors = environment_of(material.work), material.work / "errors.txt"
    runs = []
    for number, way in enumerate((FIRST, SECOND), start=1):
        command = flow_command(material, root, out, "zarr", "--k", way.removeprefix("k="), *PLAIN)
        run: dict[str, Any] = watch(command, environment, errors)
        stages = open_set(out / "R" / f"set_{number:02d}").record.stages
        run["stages"] = {stage.stage: stage.seconds for stage in stages}
        run["details"] = {stage.stage: stage.detail for stage in stages}  # how many examples were extracted
        runs.append({"way": way, **run})
    shutil.rmtree(out)
    return runs


def targets(result: dict[str, Any]) -> list[tuple[str, float, float | None, str]]:
    """What, at most, measured, its format."""
    return [("zarr, another k: time per image, relative to the baseline", MOST, result["share"], ".2f")]


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    sizes = sorted({run["images"] for run in result["runs"]})
    lines = [
        f"| zarr | ms per image | {' | '.join(f's at {count:,}' for count in sizes)} |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for way, ms in result["ms_per_image"].items():
        cells = []
        for count in sizes:
            seconds = [run["seconds"] for run in result["runs"] if (run["way"], run["images"]) == (way, count)]
            cells.append(f"{median(seconds):.1f}" if seconds else "–")
        name = f"{way}, from the cache" if way == SECOND else way
        lines.append(f"| {name} | {ms:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)

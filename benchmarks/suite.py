"""All measurements of speed and size, in one command: JSON, a Markdown page, and docs/speed.svg.

Parts: end_to_end (the flow and the plain baseline), stages (each by itself, and overlapping as in a run), startup, inertia
(compared with KMeans(n_init=10)), and resnet50 (the cost per image of a large model). README.md in this directory explains
each number and how long it takes.

    python benchmarks/suite.py                                       everything: one to two hours on 2 cores
    python benchmarks/suite.py --parts end_to_end --sizes 500,2000   some parts, into the same files
    python benchmarks/suite.py --quick --out FOLDER                  240 images, once: a check that it works
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import celeba
import cyclopts
import inertia
import speed_plot
import stages
import startup
from celeba import BASELINE, FORMATS, LEVEL_FROM, SAME, Sizes, Words, level
from machine import PROJECT, RESULTS, Material, describe_machine, head, median, prepare
from models import export

from clusterpaths.records import CacheFormat

PARTS = ("end_to_end", "stages", "startup", "inertia", "resnet50")
TITLES = {
    "end_to_end": "End to end",
    "stages": "Stages",
    "startup": "Start-up",
    "inertia": "Inertia",
    "resnet50": "ResNet-50",
}
SHARES = {"zarr": 0.33, "npy": 0.4, "none": 0.22}  # of the baseline's time per image, at most
PEAK_MB, ZARR_KB = 800, 110
FIXED = {f"--subset {startup.SUBSET}, temporary server": 8, f"--subset {startup.SUBSET}, server up": 4}  # seconds
INERTIA = 1.005
INERTIA_IMAGES = (2000, 12_000)


def main(
    parts: Words = PARTS,
    sizes: Sizes = celeba.SIZES,
    formats: Words = FORMATS,
    repeats: int = 3,
    baseline_most: int = 5000,
    stage_images: int = 12_000,
    out: Path | None = None,
    quick: bool = False,
) -> None:
    """Measure, print and write suite.json and suite.md, and the plot.

    Parameters
    ----------
    parts
        some of end_to_end,stages,startup,inertia,resnet50; the others stay as suite.json has them
    sizes
        numbers of images of the end-to-end runs, such as 500,2000
    formats
        cache formats of the flow
    repeats
        repetitions of end-to-end runs and of start-up; medians are reported
    baseline_most
        largest number of images for the baseline: it writes half a megabyte per image
    stage_images
        images of the part stages; more than centroids are fitted on
    out
        directory of the results and the plot [benchmarks/results, and docs for the plot]
    quick
        a check that it works: at most 240 images, every part once; needs --out
    """
    if unknown := [part for part in parts if part not in PARTS]:
        sys.exit(f"error: --parts names {', '.join(unknown)}. Expected some of {', '.join(PARTS)}.")
    if unknown := [name for name in formats if name not in get_args(CacheFormat)]:
        sys.exit(f"error: --formats names {', '.join(unknown)}. Expected some of {', '.join(get_args(CacheFormat))}.")
    if len(set(sizes)) < 2:
        sys.exit(
            f"error: --sizes names {len(set(sizes))} numbers of images. A slope needs two or more, such as 500,2000."
        )
    if quick:
        if out is None:
            sys.exit("error: --quick gives no meaningful numbers. Give a directory for them with --out.")
        sizes, repeats, stage_images = (60, 240), 1, 240
    folder = out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "suite.json"
    result: dict[str, Any] = json.loads(target.read_text()) if target.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as temporary:
        material = prepare(Path(temporary), max(*sizes, stage_images))
        for part in parts:  # written after each part, so that a later failure loses nothing
            described = {"data": material.data, **describe_machine()}
            if part == "end_to_end":
                measured: Any = celeba.measure(material, sizes, formats, repeats, baseline_most, whole=not quick)
            elif part == "stages":
                measured = stages.measure(material, stage_images, formats)
            elif part == "startup":
                measured = startup.measure(material, 0 if quick else repeats)
            elif part == "resnet50":
                measured = measure_resnet50(material, min(stage_images, 20 if quick else 100))
            else:
                measured = inertia.measure(
                    material, [stage_images] if quick else INERTIA_IMAGES, starts=1 if quick else 10
                )
            result[part] = {**described, "result": measured}
            result = json.loads(json.dumps(result))  # as a later call finds it: keys of JSON are text
            target.write_text(json.dumps(result, indent=1) + "\n")
    text = page(result)
    (folder / "suite.md").write_text(text)
    picture = (out or PROJECT / "docs") / "speed.svg"
    picture.write_text(speed_plot.plot(*(result[part]["result"] if part in result else None for part in PARTS[:2])))
    print(text)


def measure_resnet50(material: Material, images: int) -> dict[str, Any]:
    """A large model, with seeded random weights: torchvision's ResNet-50 at 224x224, layers as `--layers auto` has them."""
    import torch
    import torchvision

    torch.manual_seed(0)
    path = export(torchvision.models.resnet50(weights=None), material.work / "resnet50.onnx")
    return stages.measure_model(material, path, images, ("zarr", "none"))


def page(result: dict[str, Any]) -> str:
    """All parts that were measured as Markdown, the targets first."""
    tables = {"stages": stages.table, "startup": startup.table, "inertia": inertia.table, "resnet50": stages.table}
    lines = ["# Speed and size", "", "Written by `python benchmarks/suite.py`.", "", *targets(result)]
    for part in (part for part in PARTS if part in result):
        measured = result[part]["result"]
        table = celeba.table(by_number(measured)) if part == "end_to_end" else tables[part](measured)
        lines += ["", f"## {TITLES[part]}", head(result[part]), "", table]
    return "\n".join(lines) + "\n"


def by_number(end_to_end: dict[str, Any]) -> dict[str, Any]:
    """The result as `celeba.measure` gave it: numbers of images, which JSON has made text, are numbers again."""
    ways = {
        way: {
            key: {int(count): number for count, number in value.items()} if isinstance(value, dict) else value
            for key, value in each.items()
        }
        for way, each in end_to_end["ways"].items()
    }
    return {**end_to_end, "ways": ways}


def targets(result: dict[str, Any]) -> list[str]:
    """The targets and the measured values."""
    rows: list[tuple[str, float, float | None, str]] = []
    if "end_to_end" in result:
        ways = by_number(result["end_to_end"]["result"])["ways"]
        for way, each in ways.items():
            if way in SHARES:
                rows.append((f"{way}: time per image, relative to the baseline", SHARES[way], each["share"], ".2f"))
            if way != BASELINE:
                rows.append((f"{way}: peak memory, MB", PEAK_MB, max(each["peak_mb"].values()), ".0f"))
                largest = max(each["ms_each"])
                if largest <= LEVEL_FROM:
                    continue
                rows.append(
                    (
                        f"{way}: peak memory at {largest:,} relative to {LEVEL_FROM:,}",
                        SAME,
                        level(each["peak_mb"]),
                        ".2f",
                    )
                )
                rows.append(
                    (
                        f"{way}: time per image at {largest:,} relative to {LEVEL_FROM:,}",
                        SAME,
                        level(each["ms_each"]),
                        ".2f",
                    )
                )
        if "zarr" in ways:
            rows.append(("zarr: cache, KB per image", ZARR_KB, ways["zarr"]["cache_bytes_per_image"] / 1000, ".0f"))
    if "startup" in result:
        seconds = result["startup"]["result"]["seconds"]
        rows += [(f"{way}: seconds", most, median(seconds[way]), ".1f") for way, most in FIXED.items()]
    if "inertia" in result:
        worst = max(entry["ratio"] for entry in result["inertia"]["result"])
        rows.append(("inertia of the worst layer, relative to KMeans(n_init=10)", INERTIA, worst, ".4f"))
    lines = ["## Targets", "| what | at most | measured | |", "|---|---|---|---|"]
    for what, most, measured, form in rows:
        value = "not measured" if measured is None else f"{measured:{form}}"
        verdict = "" if measured is None else "met" if measured <= most else "**missed**"
        lines.append(f"| {what} | {most} | {value} | {verdict} |")
    return lines


if __name__ == "__main__":
    cyclopts.run(main)

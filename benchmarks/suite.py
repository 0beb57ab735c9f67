"""All measurements of speed and size, in one command: JSON, a Markdown page, and docs/speed.svg.

Parts: end_to_end (the flow and three references), another_k, resnet18, evaluation and celeba_full (complete runs), tapping,
startup, inertia (compared with KMeans(n_init=10)), stages (each by itself, and as in a run), and resnet50 (the cost per image
of a large model). README.md in this directory explains each number and how long it takes.

    python benchmarks/suite.py                                       everything: an hour and a half on 2 cores
    python benchmarks/suite.py --parts tapping,another_k             some parts, into the same files
    python benchmarks/suite.py --quick --out FOLDER                  120 images, once: a check that it works
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import another_k
import celeba
import complete
import cyclopts
import inertia
import resnet18
import speed_plot
import stages
import startup
import tapping
from celeba import BARE, BASELINE, BASELINE_SIZES, FORMATS, REFERENCES, Sizes, Words, growth
from machine import PROJECT, RESULTS, Material, describe_machine, head, median, prepare
from models import export

from clusterpaths.records import CacheFormat

TITLES = {
    "end_to_end": "End to end",
    "another_k": "Another k",
    "resnet18": "ResNet-18",
    "evaluation": "Evaluation",
    "celeba_full": "All of CelebA's size",
    "tapping": "Tapping",
    "startup": "Start-up",
    "inertia": "Inertia",
    "stages": "Stages",
    "resnet50": "ResNet-50",
}
PARTS = tuple(TITLES)
SHARES = {"none": 0.13, "npy": 0.33, "zarr": 0.33}  # of the baseline's time per image, at most
TIMES_BARE = {"none": 1.25, "npy": 1.8, "zarr": 1.8}  # of the bare work's time per image, at most
PEAK_MB, ZARR_KB = 800, 110
SAME = 1.1  # memory may not grow with the number of images
FIXED = {f"--subset {startup.SUBSET}, temporary server": 8, f"--subset {startup.SUBSET}, server up": 4}  # seconds
INERTIA = 1.005
INERTIA_IMAGES = (2000, 12_000)
QUICK = (40, 120)  # images of a check that it works
BY_COUNT = ("seconds", "cpu_seconds", "peak_mb", "peak_tree_mb")  # keyed by the number of images
Rows = list[tuple[str, float, float | None, str]]  # what, at most, measured, its format


def main(
    parts: Words = PARTS,
    sizes: Sizes = celeba.SIZES,
    formats: Words = FORMATS,
    repeats: int = 3,
    baseline_sizes: Sizes = BASELINE_SIZES,
    stage_images: int = 12_000,
    out: Path | None = None,
    quick: bool = False,
) -> None:
    """Measure, print and write suite.json and suite.md, and the plot.

    Parameters
    ----------
    parts
        some of end_to_end,another_k,resnet18,evaluation,celeba_full,tapping,startup,inertia,stages,resnet50; the others stay as
        suite.json has them
    sizes
        numbers of images of the end-to-end runs, such as 500,2000
    formats
        cache formats of the flow
    repeats
        repetitions of each part whose runs are paired, and of start-up; medians are reported
    baseline_sizes
        numbers of images for the two baselines: they write half a megabyte per image
    stage_images
        images of the part stages; more than centroids are fitted on
    out
        directory of the results and the plot [benchmarks/results, and docs for the plot]
    quick
        a check that it works: at most 120 images, every part once; needs --out
    """
    if unknown := [part for part in parts if part not in PARTS]:
        sys.exit(f"error: --parts names {', '.join(unknown)}. Expected some of {', '.join(PARTS)}.")
    if unknown := [name for name in formats if name not in get_args(CacheFormat)]:
        sys.exit(f"error: --formats names {', '.join(unknown)}. Expected some of {', '.join(get_args(CacheFormat))}.")
    for option, numbers in (("--sizes", sizes), ("--baseline-sizes", baseline_sizes)):
        if len(set(numbers)) < 2:
            sys.exit(
                f"error: {option} names {len(set(numbers))} numbers of images. "
                "A slope needs two or more, such as 500,2000."
            )
    if quick:
        if out is None:
            sys.exit("error: --quick gives no meaningful numbers. Give a directory for them with --out.")
        sizes, baseline_sizes, repeats, stage_images = QUICK, QUICK, 1, max(QUICK)
    folder = out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "suite.json"
    result: dict[str, Any] = json.loads(target.read_text()) if target.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as temporary:
        material = prepare(Path(temporary), max(*sizes, *baseline_sizes, stage_images))
        measures: dict[str, Callable[[], Any]] = {
            "end_to_end": lambda: celeba.measure(material, sizes, formats, repeats, baseline_sizes),
            "another_k": lambda: another_k.measure(
                material, QUICK if quick else another_k.SIZES, repeats, baseline_sizes
            ),
            "resnet18": lambda: resnet18.measure(material, (8, 16) if quick else resnet18.SIZES, repeats),
            "evaluation": lambda: complete.measure_evaluation(
                material, max(QUICK) if quick else complete.IMAGES, complete.FORMATS[: 1 if quick else None], repeats
            ),
            "celeba_full": lambda: complete.measure_celeba_full(material, max(QUICK) if quick else complete.CELEBA),
            "tapping": lambda: tapping.measure(material, *((1, 1) if quick else ())),
            "startup": lambda: startup.measure(material, 0 if quick else repeats),
            "inertia": lambda: inertia.measure(
                material, [stage_images] if quick else INERTIA_IMAGES, starts=1 if quick else 10
            ),
            "stages": lambda: stages.measure(material, stage_images, formats),
            "resnet50": lambda: measure_resnet50(material, min(stage_images, 20 if quick else 100)),
        }
        for part in parts:  # written after each part, so that a later failure loses nothing
            described = {"data": material.data, **describe_machine()}
            result[part] = {**described, "result": measures[part]()}
            result = json.loads(json.dumps(result))  # as a later call finds it: keys of JSON are text
            target.write_text(json.dumps(result, indent=1) + "\n")
    text = page(result)
    (folder / "suite.md").write_text(text)
    picture = (out or PROJECT / "docs") / "speed.svg"
    drawn = (result[part]["result"] if part in result else None for part in ("end_to_end", "stages"))
    picture.write_text(speed_plot.plot(*drawn))
    print(text)


def measure_resnet50(material: Material, images: int) -> dict[str, Any]:
    """A large model, with seeded random weights: torchvision's ResNet-50 at 224x224, layers as `--layers auto` has them."""
    import torch
    import torchvision

    torch.manual_seed(0)
    path = export(torchvision.models.resnet50(weights=None), material.work / "resnet50.onnx")
    return stages.measure_model(material, path, images, ("zarr", "none"))


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "end_to_end": lambda measured: celeba.table(by_number(measured)),
    "another_k": another_k.table,
    "resnet18": resnet18.table,
    "evaluation": complete.table,
    "celeba_full": complete.table,
    "tapping": tapping.table,
    "startup": startup.table,
    "inertia": inertia.table,  # type: ignore[dict-item]  # of a list
    "stages": stages.table,
    "resnet50": stages.table,
}


def page(result: dict[str, Any]) -> str:
    """All parts that were measured as Markdown, the targets first."""
    lines = ["# Speed and size", "", "Written by `python benchmarks/suite.py`.", "", *targets(result)]
    for part in (part for part in PARTS if part in result):
        lines += ["", f"## {TITLES[part]}", head(result[part]), "", TABLES[part](result[part]["result"])]
    return "\n".join(lines) + "\n"


def by_number(end_to_end: dict[str, Any]) -> dict[str, Any]:
    """The result as `celeba.measure` gave it: numbers of images, which JSON has made text, are numbers again."""
    ways = {
        way: {
            key: {int(count): number for count, number in value.items()} if key in BY_COUNT else value
            for key, value in each.items()
        }
        for way, each in end_to_end["ways"].items()
    }
    return {**end_to_end, "ways": ways}


def targets(result: dict[str, Any]) -> list[str]:
    """The targets and the measured values."""
    of_part: dict[str, Callable[[Any], Rows]] = {
        "end_to_end": end_to_end_targets,
        "another_k": another_k.targets,
        "resnet18": resnet18.targets,
        "evaluation": complete.evaluation_targets,
        "celeba_full": complete.celeba_full_targets,
        "tapping": tapping.targets,
        "startup": lambda measured: [
            (f"{way}: seconds", most, median(measured["seconds"][way]), ".1f") for way, most in FIXED.items()
        ],
        "inertia": lambda measured: [
            (
                "inertia of the worst layer, relative to KMeans(n_init=10)",
                INERTIA,
                max(entry["ratio"] for entry in measured),
                ".4f",
            )
        ],
    }
    lines = ["## Targets", "| what | at most | measured | |", "|---|---|---|---|"]
    for part, rows_of in of_part.items():
        for what, most, measured, form in rows_of(result[part]["result"]) if part in result else []:
            value = "not measured" if measured is None else f"{measured:{form}}"
            verdict = "" if measured is None else "met" if measured <= most else "**missed**"
            lines.append(f"| {what} | {most} | {value} | {verdict} |")
    return lines


def end_to_end_targets(measured: dict[str, Any]) -> Rows:
    """Of each format: time compared with the bare work and with the baseline, memory, and bytes."""
    rows: Rows = []
    ways = by_number(measured)["ways"]
    for way in (way for way in ways if way not in REFERENCES):
        relative_to, peak = ways[way]["relative_to"], ways[way]["peak_mb"]
        rows += [
            (f"{way}: time per image, times the bare work", TIMES_BARE[way], relative_to[BARE], ".2f"),
            (f"{way}: time per image, relative to the baseline", SHARES[way], relative_to[BASELINE], ".2f"),
            (f"{way}: peak memory, MB", PEAK_MB, max(peak.values()), ".0f"),
            (f"{way}: peak memory at {max(peak):,} relative to {min(peak):,}", SAME, growth(peak), ".2f"),
        ]
    if "zarr" in ways:
        rows.append(("zarr: cache, KB per image", ZARR_KB, ways["zarr"]["cache_bytes_per_image"] / 1000, ".0f"))
    return rows


if __name__ == "__main__":
    cyclopts.run(main)

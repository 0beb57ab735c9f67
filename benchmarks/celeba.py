"""End to end: time, memory and bytes per image of the flow and of three references, in paired runs.

References: a plain one-image-at-a-time baseline, a DataLoader as a skilled user would write it, and the bare work, which stores
nothing. Every run is a separate process, in alternating order, on the same files. The cost per image is the slope over the
numbers of images, so that start-up is excluded. suite.py runs this among other parts; by itself it gives the same numbers.

    python benchmarks/celeba.py --sizes 500,2000 --baseline-sizes 500,2000 --formats zarr
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import cyclopts
import numpy as np
from machine import (
    PROJECT,
    RESULTS,
    Material,
    cache_size,
    describe_machine,
    environment_of,
    flow_command,
    head,
    median,
    prepare,
    size_of,
    watch,
)

from clusterpaths.records import CacheFormat
from clusterpaths.sets.published import open_set

BASELINE, DATALOADER, BARE = "baseline", "dataloader", "bare"
REFERENCES = {BASELINE: "baseline.py", DATALOADER: "dataloader.py", BARE: "bare.py"}
SIZES = (6000, 50_000)
BASELINE_SIZES = (2000, 6000)
FORMATS: tuple[str, ...] = get_args(CacheFormat)
PLAIN = ("--no-evaluate", "--no-check-preprocessing")  # what the references do not do either


def listed(_type: Any, tokens: Sequence[cyclopts.Token]) -> Any:
    """Read 500,2000 as (500, 2000), and npy,zarr as ("npy", "zarr")."""
    words = [word for token in tokens for word in token.value.split(",") if word]
    return tuple(int(word) if word.isdigit() else word for word in words)


Sizes = Annotated[tuple[int, ...], cyclopts.Parameter(n_tokens=1, converter=listed)]
Words = Annotated[tuple[str, ...], cyclopts.Parameter(n_tokens=1, converter=listed)]


def main(
    sizes: Sizes = SIZES,
    formats: Words = FORMATS,
    repeats: int = 3,
    baseline_sizes: Sizes = BASELINE_SIZES,
    out: Path = RESULTS,
) -> None:
    """Measure, print a Markdown table, and write celeba.json.

    Parameters
    ----------
    sizes
        numbers of images of the flow and of the bare work, such as 500,2000
    formats
        cache formats of the flow
    repeats
        turns; medians are reported
    baseline_sizes
        numbers of images of the two baselines, which write half a megabyte per image
    out
        directory of the results
    """
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        material = prepare(Path(folder), max(*sizes, *baseline_sizes))
        result = {"data": material.data, **describe_machine()}
        result["end_to_end"] = measure(material, sizes, formats, repeats, baseline_sizes)
    print("\n\n".join([head(result), table(result["end_to_end"])]))
    out.mkdir(parents=True, exist_ok=True)
    (out / "celeba.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(
    material: Material,
    sizes: Sequence[int],
    formats: Sequence[str],
    repeats: int,
    baseline_sizes: Sequence[int] = BASELINE_SIZES,
) -> dict[str, Any]:
    """All runs of the references and of each format, and their summary."""
    ways = [*REFERENCES, *formats]
    sizes_of = {way: baseline_sizes if way in (BASELINE, DATALOADER) else sizes for way in ways}
    turns: list[dict[str, Any]] = []
    if repeats > 1:  # the very first run creates Prefect's database, and is not counted
        measure_run(material, min(sizes), formats[0])
    for turn in range(repeats):
        for count in sorted({*sizes, *baseline_sizes}):
            for way in ways if turn % 2 else reversed(ways):  # alternating, so that other load affects all alike
                if count not in sizes_of[way]:
                    continue
                turns.append({"way": way, "turn": turn, "images": count, **measure_run(material, count, way)})
                print(f"turn {turn + 1}, {count:,} images, {way}: {turns[-1]['seconds']:.1f} s", file=sys.stderr)
    every = sorted({*sizes, *baseline_sizes})
    return {"sizes": every, "runs": turns, "ways": {way: summary(turns, way) for way in ways}}


def measure_run(material: Material, count: int, way: str) -> dict[str, Any]:
    """One run in a separate process, of a reference or of the flow with a cache format; its results are removed."""
    root, out = material.images(count), material.work / "out"
    if way in REFERENCES:
        program, images = PROJECT / "benchmarks" / REFERENCES[way], root / "celeba" / "img_align_celeba"
        command = [sys.executable, str(program), str(material.tapped), str(images)]
        command += [] if way == BARE else [str(out)]
    else:
        command = flow_command(material, root, out, way, *PLAIN)
    outcome: dict[str, Any] = watch(command, environment_of(material.work), material.work / "errors.txt")
    if way in REFERENCES:
        outcome["cache_bytes"] = size_of(out)
    else:
        outcome["cache_bytes"] = cache_size(out / "R")
        outcome["stages"] = {stage.stage: stage.seconds for stage in open_set(out / "R" / "set_01").record.stages}
    shutil.rmtree(out, ignore_errors=way == BARE)
    return outcome


def summary(runs: list[dict[str, Any]], way: str) -> dict[str, Any]:
    """Of one way: ms per image from the slope of each turn, its ratio to the references', and medians."""
    ours = slopes(runs, way)
    own = [run for run in runs if run["way"] == way]
    sizes = sorted({run["images"] for run in own})
    at = {count: [run for run in own if run["images"] == count] for count in sizes}
    seconds = {count: median(run["seconds"] for run in at[count]) for count in sizes}
    return {
        "ms_per_image": median(ours),
        "relative_to": {
            reference: median(a / b for a, b in zip(ours, slopes(runs, reference), strict=True))
            for reference in REFERENCES
        },
        "fixed_seconds": seconds[sizes[0]] - sizes[0] * median(ours) / 1000,
        "seconds": seconds,
        "cpu_seconds": {count: median(run["cpu_seconds"] for run in at[count]) for count in sizes},
        "peak_mb": {count: max(run["peak_mb"] for run in at[count]) for count in sizes},
        "peak_tree_mb": {count: max(run["peak_tree_mb"] for run in at[count]) for count in sizes},
        "cache_bytes_per_image": at[sizes[-1]][0]["cache_bytes"] / sizes[-1],
    }


def slopes(runs: list[dict[str, Any]], way: str) -> list[float]:
    """ms per image of each repetition: slope of the least-squares line of seconds over the number of images."""
    found = []
    for turn in sorted({run["turn"] for run in runs}):
        own = [run for run in runs if (run["way"], run["turn"]) == (way, turn)]
        counts = np.array([run["images"] for run in own], float)
        seconds = np.array([run["seconds"] for run in own])
        found.append(float(1000 * np.polyfit(counts, seconds, 1)[0]))
    return found


def growth(values: dict[int, float]) -> float:
    """The value at the largest number of images, as a multiple of that at the smallest."""
    return values[max(values)] / values[min(values)]


def table(result: dict[str, Any]) -> str:
    """The summary as Markdown."""
    sizes = result["sizes"]
    lines = [
        "| | ms per image | times the bare work | of the baseline | of the DataLoader | besides images, s "
        f"| {' | '.join(f's at {count:,}' for count in sizes)} "
        "| peak MB, process: minimum to maximum | with its server | cache, KB per image |",
        "|---" * (len(sizes) + 9) + "|",
    ]
    for way, each in result["ways"].items():
        ratios = " | ".join(f"{each['relative_to'][reference]:.2f}" for reference in (BARE, BASELINE, DATALOADER))
        seconds = [f"{each['seconds'][count]:.1f}" if count in each["seconds"] else "–" for count in sizes]
        memory = [each[key].values() for key in ("peak_mb", "peak_tree_mb")]
        peaks = " | ".join(f"{min(values):.0f} to {max(values):.0f}" for values in memory)
        lines.append(
            f"| {way} | {each['ms_per_image']:.2f} | {ratios} | {each['fixed_seconds']:.1f} | {' | '.join(seconds)} "
            f"| {peaks} | {each['cache_bytes_per_image'] / 1000:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cyclopts.run(main)

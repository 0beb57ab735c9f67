"""End to end: time, memory and bytes per image of the flow and of a one-image-at-a-time baseline, in paired runs.

Every run is a separate process, in alternating order, on the same files. The cost per image is the slope over the numbers of
images, so that start-up is excluded. suite.py runs this among other parts; by itself it gives the same numbers.

    python benchmarks/celeba.py --sizes 500,2000 --formats zarr
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

BASELINE = "baseline"
SIZES = (500, 2000, 5000, 20_000, 50_000)
FORMATS: tuple[str, ...] = get_args(CacheFormat)
PLAIN = ("--no-evaluate", "--no-check-preprocessing")  # what the baseline does not do either
WHOLE = "zarr, whole"  # with all that a run does by default
LEVEL_FROM = 5000  # from here on neither time nor memory may grow with the number of images
SAME = 1.1


def listed(_type: Any, tokens: Sequence[cyclopts.Token]) -> Any:
    """Read 500,2000 as (500, 2000), and npy,zarr as ("npy", "zarr")."""
    words = [word for token in tokens for word in token.value.split(",") if word]
    return tuple(int(word) if word.isdigit() else word for word in words)


Sizes = Annotated[tuple[int, ...], cyclopts.Parameter(n_tokens=1, converter=listed)]
Words = Annotated[tuple[str, ...], cyclopts.Parameter(n_tokens=1, converter=listed)]


def main(
    sizes: Sizes = SIZES, formats: Words = FORMATS, repeats: int = 3, baseline_most: int = 5000, out: Path = RESULTS
) -> None:
    """Measure, print a Markdown table, and write celeba.json.

    Parameters
    ----------
    sizes
        numbers of images, such as 500,2000
    formats
        cache formats of our flow
    repeats
        turns; medians are reported
    baseline_most
        the baseline is run up to so many images: it writes half a megabyte an image
    out
        directory of the results
    """
    with tempfile.TemporaryDirectory(prefix="clusterpaths-benchmark-") as folder:
        material = prepare(Path(folder), max(sizes))
        result = {"data": material.data, **describe_machine()}
        result["end_to_end"] = measure(material, sizes, formats, repeats, baseline_most)
    print("\n\n".join([head(result), table(result["end_to_end"])]))
    out.mkdir(parents=True, exist_ok=True)
    (out / "celeba.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(
    material: Material,
    sizes: Sequence[int],
    formats: Sequence[str],
    repeats: int,
    baseline_most: int,
    whole: bool = True,
) -> dict[str, Any]:
    """All runs of the baseline, of each format and, with `whole`, of a complete run; and their summary."""
    ways: dict[str, tuple[str, Sequence[str]] | None] = {BASELINE: None, **{name: (name, PLAIN) for name in formats}}
    if whole:
        ways[WHOLE] = ("zarr", ())
    turns: list[dict[str, Any]] = []
    if repeats > 1:  # the very first run creates Prefect's database, and is not counted
        measure_run(material, min(sizes), ways[formats[0]])
    for turn in range(repeats):
        for count in sizes:
            for way in list(ways) if turn % 2 else reversed(ways):  # alternating, so that other load affects all alike
                if way in (BASELINE, WHOLE) and count > max(baseline_most, sorted(sizes)[min(1, len(sizes) - 1)]):
                    continue
                turns.append({"way": way, "turn": turn, "images": count, **measure_run(material, count, ways[way])})
                print(f"turn {turn + 1}, {count:,} images, {way}: {turns[-1]['seconds']:.1f} s", file=sys.stderr)
    return {"sizes": list(sizes), "runs": turns, "ways": {way: summary(turns, way) for way in ways}}


def measure_run(material: Material, count: int, way: tuple[str, Sequence[str]] | None) -> dict[str, Any]:
    """One run in a separate process (None: the baseline); its results are measured and removed."""
    root, out = material.images(count), material.work / "out"
    if way is None:
        program, images = PROJECT / "benchmarks" / "baseline.py", root / "celeba" / "img_align_celeba"
        command = [sys.executable, str(program), str(material.tapped), str(images), str(out)]
    else:
        command = flow_command(material, root, out, way[0], *way[1])
    outcome: dict[str, Any] = watch(command, environment_of(material.work), material.work / "errors.txt")
    if way is None:
        outcome["cache_bytes"] = size_of(out)
    else:
        outcome["cache_bytes"] = cache_size(out / "R")
        outcome["stages"] = {stage.stage: stage.seconds for stage in open_set(out / "R" / "set_01").record.stages}
    shutil.rmtree(out)
    return outcome


def summary(runs: list[dict[str, Any]], way: str) -> dict[str, Any]:
    """Of one way: ms per image from the slope of each repetition, its ratio to the baseline's, and medians."""
    ours, baseline = slopes(runs, way), slopes(runs, BASELINE)
    shared = {run["images"] for run in runs if run["way"] == BASELINE}
    paired = slopes([run for run in runs if run["images"] in shared], way)
    own = [run for run in runs if run["way"] == way]
    sizes = sorted({run["images"] for run in own})
    at = {count: [run for run in own if run["images"] == count] for count in sizes}
    seconds = {count: median(run["seconds"] for run in at[count]) for count in sizes}
    fixed = seconds[sizes[0]] - sizes[0] * median(ours) / 1000
    return {
        "ms_per_image": median(ours),
        "share": median(a / b for a, b in zip(ours, baseline, strict=True)),
        "share_same_sizes": median(a / b for a, b in zip(paired, baseline, strict=True)),
        "fixed_seconds": fixed,
        "seconds": seconds,
        "ms_each": {count: 1000 * (seconds[count] - fixed) / count for count in sizes},
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


def level(values: dict[int, float]) -> float | None:
    """The value at the largest number of images as a share of that at LEVEL_FROM; None where it was not measured."""
    return values[max(values)] / values[LEVEL_FROM] if LEVEL_FROM in values and max(values) > LEVEL_FROM else None


def table(result: dict[str, Any]) -> str:
    """The summary as Markdown."""
    sizes = result["sizes"]
    lines = [
        f"| | ms per image | relative to the baseline | fixed, s | {' | '.join(f's at {count:,}' for count in sizes)} "
        "| peak MB, process: minimum to maximum | with its server | cache, KB per image |",
        "|---" * (len(sizes) + 7) + "|",
    ]
    for way, each in result["ways"].items():
        seconds = [f"{each['seconds'][count]:.1f}" if count in each["seconds"] else "–" for count in sizes]
        memory = [each[key].values() for key in ("peak_mb", "peak_tree_mb")]
        peaks = " | ".join(f"{min(values):.0f} to {max(values):.0f}" for values in memory)
        lines.append(
            f"| {way} | {each['ms_per_image']:.2f} | {each['share']:.2f} | {each['fixed_seconds']:.1f} | {' | '.join(seconds)} "
            f"| {peaks} | {each['cache_bytes_per_image'] / 1000:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cyclopts.run(main)

"""docs/scale.md: what 200 thousand, 10 million and 1 billion images take, from what suite.py has measured.

Belongs here: the arithmetic from a measured cost an image to bytes, core-hours and time on W workers, and the simulation of
the schedule of shards. No number on the page is typed in: where a part was not measured, the page says so.

    python benchmarks/scale.py          from benchmarks/results/suite.json
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from machine import PROJECT, RESULTS, head

COUNTS = (200_000, 10_000_000, 1_000_000_000)
WORKERS = (1, 2, 16, 128, 1024)
SHARD = 512  # examples, as `--shard-size` has it
MOST_TASKS = 200_000  # a longer schedule is a shorter one with shards that are so much larger
MODELS = {"stages": "CelebA's CNN", "resnet50": "ResNet-50"}


def main(results: Path = RESULTS, page: Path = PROJECT / "docs" / "scale.md") -> None:
    """Write the page.

    Parameters
    ----------
    results
        folder of suite.json
    page
        where the page goes
    """
    measured = results / "suite.json"
    page.write_text(document(json.loads(measured.read_text()) if measured.is_file() else {}))


def schedule(tasks: int, seconds: Sequence[float], workers: int, seed: int = 0) -> float:
    """Seconds until all of `tasks` shards are done by `workers`, each shard taking one of the measured `seconds` by chance.

    Whoever is free takes the next shard. The spread of the measured times is what makes stragglers; a worker that dies
    is not simulated (its shard is one more).
    """
    rng = np.random.default_rng(seed)
    free = [0.0] * min(workers, tasks)
    for took in rng.choice(np.asarray(seconds), tasks).tolist():
        heapq.heapreplace(free, free[0] + took)
    return max(free)


def extraction_seconds(count: int, seconds: Sequence[float], workers: int, slowdown: float = 1.0) -> float:
    """Of `count` images in shards of SHARD; `slowdown` is what workers that share a machine cost each other."""
    tasks = max(-(-count // SHARD), 1)
    simulated = min(tasks, MOST_TASKS)
    return schedule(simulated, seconds, workers) * tasks / simulated * slowdown


def shard_seconds(whole: dict[str, Any], images: int) -> list[float]:
    """Seconds of a shard of SHARD images, from those that were measured: a last, smaller one is left out."""
    sizes = [min(SHARD, images - start) for start in range(0, images, SHARD)]
    scaled = [took * SHARD / size for took, size in zip(whole["shard_seconds"], sizes, strict=True)]
    full = [took for took, size in zip(scaled, sizes, strict=True) if size == SHARD]
    return full or scaled


def stage_ms(whole: dict[str, Any], stage: str) -> float:
    """ms an image of a stage."""
    return next(float(row["ms"]) for row in whole["stages"] if row["stage"] == stage)


def rows_of(part: dict[str, Any], title: str) -> list[str]:
    """A line of the table for each format and number of images."""
    lines = []
    for name, single in part["one_worker"].items():
        both = part["whole"][name]
        spread = shard_seconds(single, part["images"])
        speedup = stage_ms(single, "extract") / stage_ms(both, "extract")
        layers = len(single["inertia"])
        bounded = single["bounded_seconds"]
        clustering_ms = stage_ms(single, "cluster") - 1000 * bounded / part["images"]
        per_image = stage_ms(single, "extract") + clustering_ms
        for count in COUNTS:
            size = human(count * single["cache_bytes_per_image"])
            hours = count * per_image / 3_600_000
            times = []
            for workers in WORKERS:
                clustering = (count * clustering_ms / 1000 + bounded) / min(workers, layers)  # a layer is one stream
                times.append(duration(extraction_seconds(count, spread, workers) + clustering))
            most, least = stage_ms(single, "extract") / 128, clustering_ms / layers
            narrow = "extraction" if most > least else "clustering"
            lines.append(
                f"| {title} | {name} | {count:,} | {size} | {hours:,.1f} | {' | '.join(times)} | {narrow} | {speedup:.2f} |"
            )
    return lines


def human(size: float) -> str:
    """Bytes for people."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB")
    power = next((power for power in range(len(units)) if size < 1000 ** (power + 1)), len(units) - 1)
    return f"{size / 1000**power:,.1f} {units[power]}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.1f} {unit}"
    return f"{seconds / 86_400:,.1f} days"


def document(result: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# A plan in numbers",
        "",
        "What a run takes from 200 thousand to 1 billion images. `python benchmarks/scale.py` writes this page from what",
        "`python benchmarks/suite.py` has measured; no number here is typed in.",
        "",
        "## How it is worked out",
        "- **Bytes**: the cache's bytes an image as measured, times N. With `--cache-format none` they are the resized images'.",
        "- **Core-hours**: ms an image of extraction and clustering by one worker, times N; centroids are fitted on a bounded",
        "  sample of images and are no cost an image.",
        f"- **Time on W workers**: extraction is simulated as shards of {SHARD} images, of which a free worker takes the next;",
        "  a shard takes one of the measured times by chance, so that slow ones at the end count. Clustering is one stream a",
        "  layer and so uses at most as many workers as there are layers. Workers are taken to be on machines of their own:",
        "  what two of them on one machine gain is the last column.",
        "- **Narrow**: what takes longer with 128 workers.",
        "- Not in it: reading images over a network, waiting for a queue, workers that die (a shard each, made again), and a",
        "  fit in which the workers share one layer.",
        "",
        "- **none**: its layers are clustered together by one worker, which shares the runs of the model; the times here divide",
        "  them among workers as if each had runs of its own, and are too short by that beyond one worker.",
        "- ResNet-50's clustering is measured on so few images that the fit on a sample is in it as if it grew with N: too long.",
        "",
        "## Which to choose",
        "- A small CNN, hundreds of thousands of images, one machine: `--cache-format none`, the quickest.",
        "- A large model costs more to run again than its activations to read: `--cache-format zarr`.",
        "- Many machines: `--engine dask` for extraction, with `--cache-root s3://…` or a shared disk, and larger shards.",
        "- From a million images on every layer is fitted in parts by all workers; clustering is no longer one stream a layer.",
        "",
        "## What it comes to",
    ]
    measured = {part: result[part] for part in MODELS if part in result}
    if not measured:
        lines.append(
            "Not measured yet: `python benchmarks/suite.py --parts stages,resnet50`, then `python benchmarks/scale.py`."
        )
    else:
        heads = " | ".join(f"{workers:,} worker{'s' if workers > 1 else ''}" for workers in WORKERS)
        lines.append(
            f"| model | cache | images | bytes | core-hours | {heads} | narrow with 128 | 2 workers on one machine, times |"
        )
        lines.append("|---" * (7 + len(WORKERS)) + "|")
        for part, entry in measured.items():
            lines += rows_of(entry["result"], MODELS[part])
        lines += [
            "",
            *(
                f"{MODELS[part]}: {head(entry)}; {entry['result']['images']:,} images."
                for part, entry in measured.items()
            ),
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cyclopts.run(main)

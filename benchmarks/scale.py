"""docs/scale.md: the cost of 200 thousand, 10 million and 1 billion images, estimated from the measurements of suite.py.

Belongs here: the arithmetic from a measured cost per image to bytes, core-hours and time on W workers, and the simulation of
the schedule of shards. Every number on the page is computed; a part that was not measured is marked as such.

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
        directory of suite.json
    page
        the page to write
    """
    measured = results / "suite.json"
    page.write_text(document(json.loads(measured.read_text()) if measured.is_file() else {}))


def schedule(tasks: int, seconds: Sequence[float], workers: int, seed: int = 0) -> float:
    """Seconds until `workers` have completed `tasks` shards, each taking one of the measured `seconds` at random.

    An idle worker takes the next shard. Stragglers come from the spread of the measured times; dying workers are not
    simulated (each costs one more shard).
    """
    rng = np.random.default_rng(seed)
    free = [0.0] * min(workers, tasks)
    for took in rng.choice(np.asarray(seconds), tasks).tolist():
        heapq.heapreplace(free, free[0] + took)
    return max(free)


def extraction_seconds(count: int, seconds: Sequence[float], workers: int, slowdown: float = 1.0) -> float:
    """Of `count` images in shards of SHARD; `slowdown` is the effect of sharing a machine."""
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
    """Milliseconds per image of a stage."""
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
                clustering = (count * clustering_ms / 1000 + bounded) / min(workers, layers)  # one task per layer
                times.append(duration(extraction_seconds(count, spread, workers) + clustering))
            most, least = stage_ms(single, "extract") / 128, clustering_ms / layers
            narrow = "extraction" if most > least else "clustering"
            lines.append(
                f"| {title} | {name} | {count:,} | {size} | {hours:,.1f} | {' | '.join(times)} | {narrow} | {speedup:.2f} |"
            )
    return lines


def human(size: float) -> str:
    """Bytes in readable units."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB")
    power = next((power for power in range(len(units)) if size < 1000 ** (power + 1)), len(units) - 1)
    return f"{size / 1000**power:,.1f} {units[power]}"


def duration(seconds: float) -> str:
    """Seconds in readable units."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.1f} {unit}"
    return f"{seconds / 86_400:,.1f} days"


def document(result: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# Cost at scale",
        "",
        "Estimated cost of a run with 200 thousand to 1 billion images. `python benchmarks/scale.py` writes this page from the",
        "measurements of `python benchmarks/suite.py`; every number is computed.",
        "",
        "## Method",
        "- **Bytes**: measured cache bytes per image, times N. With `--cache-format none` these are the resized images.",
        "- **Core-hours**: ms per image of extraction and clustering with one worker, times N; centroids are fitted on a bounded",
        "  sample, whose cost does not grow with N.",
        f"- **Time on W workers**: extraction is simulated as shards of {SHARD} images, assigned to workers as they become idle;",
        "  the time of a shard is drawn from the measured ones, so that stragglers are included. Clustering is one task per",
        "  layer and therefore uses at most as many workers as there are layers. Workers are assumed to be on separate machines;",
        "  the last column is the speedup of two workers on one machine.",
        "- **Bottleneck**: the stage that takes longer with 128 workers.",
        "- Not included: reading images over a network, queueing, workers that die (each costs one shard), and fitting one",
        "  layer with several workers.",
        "- **none**: one worker clusters all layers, which share the model runs. The times here divide them among workers as if",
        "  each ran the model itself, and are therefore too short for more than one worker.",
        "- The clustering of ResNet-50 is measured on so few images that the fit on a sample counts as if it grew with N, so",
        "  its times are too long.",
        "",
        "## Which to choose",
        "- A small CNN, hundreds of thousands of images, one machine: `--cache-format none`, the fastest.",
        "- A large model is more expensive to run again than its activations are to read: `--cache-format zarr`.",
        "- Many machines: `--engine dask` for extraction, with `--cache-root s3://…` or a shared disk, and larger shards.",
        "- From a million images on, all workers fit each layer in parts; clustering is then no longer one task per layer.",
        "",
        "## Estimates",
    ]
    measured = {part: result[part] for part in MODELS if part in result}
    if not measured:
        lines.append(
            "Not measured yet: `python benchmarks/suite.py --parts stages,resnet50`, then `python benchmarks/scale.py`."
        )
    else:
        heads = " | ".join(f"{workers:,} worker{'s' if workers > 1 else ''}" for workers in WORKERS)
        lines.append(
            f"| model | cache | images | bytes | core-hours | {heads} | bottleneck with 128 | speedup of 2 on one machine |"
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

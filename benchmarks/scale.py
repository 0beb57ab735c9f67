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
from scale_records import table

from clusterpaths.cache.fit_sample import fit_size

COUNTS = (200_000, 10_000_000, 1_000_000_000)
WORKERS = (1, 2, 16, 128, 1024)
K = 5  # clusters per layer, as `--k` has it
SHARD = 1024  # examples, as `--shard-size` has it
MOST_TASKS = 200_000  # a longer schedule is a shorter one with shards that are so much larger
ALONE = ("trace", "publish")  # stages of one worker whose time grows with the number of images
PARTS = ("shards", "fit", "trace and publish")
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
    records = results / "scale_records.json"
    found = json.loads(records.read_text()) if records.is_file() else None
    page.write_text(document(json.loads(measured.read_text()) if measured.is_file() else {}, found))


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


def extraction_seconds(count: int, seconds: Sequence[float], workers: int) -> float:
    """Of `count` images in shards of SHARD."""
    tasks = max(-(-count // SHARD), 1)
    simulated = min(tasks, MOST_TASKS)
    return schedule(simulated, seconds, workers) * tasks / simulated


def shard_seconds(single: dict[str, Any]) -> list[float]:
    """Seconds of a shard of SHARD images, from the fused ones that were measured: smaller last ones are left out."""
    largest = max(size for size, _ in single["shards"])
    return [took * SHARD / size for size, took in single["shards"] if size == largest]


def shard_ms(single: dict[str, Any], workers: int = 1) -> float:
    """Milliseconds per image of the fused shards, where all workers are busy."""
    sizes, seconds = zip(*single["shards"], strict=True)
    return 1000 * sum(seconds) / sum(sizes) / workers


def stage_ms(whole: dict[str, Any], *stages: str) -> float:
    """Milliseconds per image of stages together."""
    return sum(float(row["ms"]) for row in whole["stages"] if row["stage"] in stages)


def fit_seconds(single: dict[str, Any], sample: int) -> float:
    """Seconds of all layers' fits on the sample of a run of many images, in proportion where fewer were fitted on."""
    return float(single["fit_seconds"]) * max(fit_size(K) / sample, 1)


def run_seconds(
    count: int, single: dict[str, Any], sample: int, alone_ms: float, workers: int
) -> tuple[float, float, float]:
    """Seconds of the shards, of the fits, and of what one worker does alone, for `count` images on `workers` workers.

    `single` is what was measured with one worker, where layers were fitted on `sample` images. Every image is extracted and
    assigned in one task per shard; each layer is fitted on a sample in one task, however many images there are; one worker
    traces and publishes, in `alone_ms` per image.
    """
    shards = extraction_seconds(count, shard_seconds(single), workers)
    fits = fit_seconds(single, sample) / min(workers, len(single["inertia"]))
    return shards, fits, count * alone_ms / 1000


def rows_of(part: dict[str, Any], title: str, alone_ms: float) -> list[str]:
    """A line of the table for each format and number of images."""
    lines = []
    for name, single in part["one_worker"].items():
        one_ms, sample = shard_ms(single), part["sample"]
        speedup = one_ms / shard_ms(part["whole"][name], part["workers"])
        for count in COUNTS:
            size = human(count * single["cache_bytes_per_image"])
            hours = (count * (one_ms + alone_ms) / 1000 + fit_seconds(single, sample)) / 3600
            seconds = {each: run_seconds(count, single, sample, alone_ms, each) for each in WORKERS}
            times = [duration(sum(parts)) for parts in seconds.values()]
            narrow = PARTS[int(np.argmax(seconds[128]))]
            lines.append(
                f"| {title} | {name} | {count:,} | {size} | {hours:,.1f} | {' | '.join(times)} | {narrow} | {speedup:.2f} |"
            )
    return lines


def in_one_pass(entry: dict[str, Any]) -> bool:
    """Whether a part was measured since images are assigned in the pass that extracts them."""
    return all("shards" in single for single in entry["result"]["one_worker"].values())


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


def document(result: dict[str, Any], records: dict[str, Any] | None = None) -> str:
    """The page in Markdown."""
    lines = [
        "# Cost at scale",
        "",
        "Estimated cost of a run with 200 thousand to 1 billion images. `python benchmarks/scale.py` writes this page from the",
        "measurements of `python benchmarks/suite.py`; every number is computed.",
        "",
        "## Method",
        "- **Bytes**: measured cache bytes per image, times N. With `--cache-format none` these are the resized images.",
        "- **Core-hours**: ms per image with one worker, times N, and the fits. One task per shard decodes, runs the model,",
        "  writes the cache and assigns every layer; nothing is read back.",
        f"- **Time on W workers**: shards of {SHARD} images are assigned to workers as they become idle; the time of a shard",
        "  is drawn from the measured ones, so that stragglers are included. Before that, every layer is fitted on a sample in",
        "  one task, which takes the same time for any N and uses at most as many workers as there are layers. Afterwards one",
        "  worker traces the paths and publishes the set, in proportion to N. Workers are assumed to be on separate machines;",
        "  the last column is the speedup of two workers on one machine.",
        f"- **Fits**: on {fit_size(K):,} images. Where fewer were measured, the time is taken in proportion.",
        "- **Bottleneck**: the part that takes longest with 128 workers.",
        "- Not included: reading images over a network, queueing, and workers that die (each costs one shard).",
        "- Tracing and publishing are measured with CelebA's CNN only; they do not depend on the model.",
        "",
        "## Which to choose",
        "- One machine, and no other k planned: `--cache-format none`, the fastest.",
        "- Another k, distance or seed later: `--cache-format zarr`; then the model is not run again.",
        "- Many machines: `--engine dask`, with `--cache-root s3://…` or a shared disk, and larger shards.",
        "",
        "## Estimates",
    ]
    measured = {part: result[part] for part in MODELS if part in result and in_one_pass(result[part])}
    if "stages" not in measured:
        lines.append(
            "Not measured yet: `python benchmarks/suite.py --parts stages,resnet50`, then `python benchmarks/scale.py`."
        )
    else:
        alone_ms = max(stage_ms(whole, *ALONE) for whole in measured["stages"]["result"]["whole"].values())
        heads = " | ".join(f"{workers:,} worker{'s' if workers > 1 else ''}" for workers in WORKERS)
        lines.append(
            f"| model | cache | images | bytes | core-hours | {heads} | bottleneck with 128 | speedup of 2 on one machine |"
        )
        lines.append("|---" * (7 + len(WORKERS)) + "|")
        for part, entry in measured.items():
            lines += rows_of(entry["result"], MODELS[part], alone_ms)
        lines += [
            "",
            *(
                f"{MODELS[part]}: {head(entry)}; {entry['result']['images']:,} images."
                for part, entry in measured.items()
            ),
        ]
    if records:
        lines += [
            "",
            "## Records of many shards",
            "`python benchmarks/scale_records.py`, without images: CPU seconds of one process, shards of 1,024 images. Shards",
            "are recorded in files of their own until a run ends; opening a cache after a run that was killed reads those, too.",
            "",
            table(records),
            "",
            f"{records['machine']}, {records['memory_gb']} GB; load before the start {records['load_average']:.1f}; Python "
            f"{records['python']}.",
            "",
            "The records of a billion images fit into one process. The table of examples does not: planning a run took",
            "0.38 GB for a million and 1.3 GB for four million, so that a billion would take more than 300 GB in the process",
            "that plans. Divide the images of such a run among several results directories. Planning takes 0.03 ms of CPU time",
            "per shard.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cyclopts.run(main)

"""The records of up to a million shards, without images: what docs/scale.md takes as negligible.

python benchmarks/scale_records.py --shards 1000 10000 100000 1000000      results/scale_records.json, and a table
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cyclopts
from machine import PROJECT, RESULTS, describe_machine, peak_memory

from clusterpaths.cache.manifest import (
    LayerRecord,
    Manifest,
    ShardRecord,
    consolidate,
    read_manifest,
    record_shard,
    write_manifest,
)
from clusterpaths.records import ModelIdentity, Preprocessing
from clusterpaths.storage import open_storage

EACH = 1024  # examples of a shard
SINCE = 10_000  # shards that are recorded after the manifest, as a run that was killed leaves them
LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")
PREPROCESSING = Preprocessing(name="unit", size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1), resize="bilinear")


def main(
    shards: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000),
    *,
    one: bool = False,
    quick: bool = False,
    work: Path | None = None,
) -> None:
    """Measure in a process for each number, and print the table.

    Parameters
    ----------
    shards
        numbers of shards
    one
        measure the only number in this process, and print JSON
    quick
        write no results
    work
        directory on the disk to measure [a temporary one]
    """
    if one:
        with tempfile.TemporaryDirectory(dir=work) as directory:
            print(json.dumps(measure(Path(directory), shards[0])))
        return
    place = ["--work", str(work)] if work else []
    found = []
    for number in shards:
        command = [sys.executable, __file__, "--shards", str(number), "--one", *place]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
        if ended.returncode:
            sys.exit(ended.stderr)
        found.append(json.loads(ended.stdout))
    machine = describe_machine()
    if not quick:
        (RESULTS / "scale_records.json").write_text(json.dumps({**machine, "found": found}, indent=1) + "\n")
    print(table({**machine, "found": found}))


def table(result: dict[str, Any]) -> str:
    """As Markdown."""
    found = result["found"]
    lines = [
        "| CPU seconds | " + " | ".join(f"{one['shards']:,} shards" for one in found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    for name in found[0]:
        if name != "shards":
            cells = (f"{one[name]:,.3g}" if one[name] < 100 else f"{one[name]:,.0f}" for one in found)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(directory: Path, number: int) -> dict[str, Any]:
    """Write, read, resume and list the records of a cache."""
    result: dict[str, Any] = {"shards": number}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        result[name] = time.process_time() - start

    storage, since = open_storage(str(directory)), min(SINCE, number)
    identity: dict[str, Any] = {
        "model": ModelIdentity(file="m.onnx", sha256="0" * 64), "dataset": "folder", "preprocessing": PREPROCESSING,
        "layers": {name: LayerRecord(tensor=name, shape=(128,), dtype="float16") for name in LAYERS}, "dtype": "float16",
        "format": "zarr",
    }  # fmt: skip
    planned = [ShardRecord(index=i, ids=f"{i * EACH}-{(i + 1) * EACH - 1}", start=i * EACH) for i in range(number)]
    done = {"rows": EACH, "checksums": dict.fromkeys(LAYERS, "0123456789abcdef")}
    shards = [one.model_copy(update=done) if one.index >= since else one for one in planned]
    with timed("write the manifest"):
        write_manifest(storage, Manifest(**identity, shards=tuple(shards)))
    result["its size, MB"] = (directory / "manifest.json").stat().st_size / 1e6
    del shards
    with timed("open it"):
        manifest = read_manifest(storage)
    assert manifest is not None
    start = time.process_time()
    for one in planned[:since]:
        record_shard(storage, manifest.identity, one.model_copy(update=done))
    result["record a shard, ms"] = 1000 * (time.process_time() - start) / since
    del manifest
    with timed(f"open it with up to {SINCE:,} shards recorded since (resume)"):
        manifest = read_manifest(storage)
    assert manifest is not None
    assert all(one.rows for one in manifest.shards)
    del manifest
    with timed("take these in (end of a run)"):
        manifest = consolidate(storage)
    with timed("list the ids of all shards, one shard at a time"):
        assert sum(len(one.row_ids()) for one in manifest.shards) == number * EACH
    result["peak memory, MB"] = peak_memory(os.getpid())
    shutil.rmtree(directory / "shards", ignore_errors=True)
    return result


if __name__ == "__main__":
    cyclopts.run(main)

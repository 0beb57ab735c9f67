"""The library's pipeline in a process that kills itself at a named place: `python -m tests.killing PLACE CONFIG`.

Belongs here: the places. What is expected of the next run: tests/clusterpaths/test_pipeline_resume.py.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from clusterpaths.cache import fit_sample
from clusterpaths.config import RunConfig
from clusterpaths.storage.directory import Directory
from tests.runs import PROJECT

FIT_ROWS, SHARD = 60, 20
OF_SAMPLE = FIT_ROWS // SHARD
NOWHERE = "nowhere"


class Place(NamedTuple):
    """Before the nth call of a function; with one worker, these are the same in every run."""

    module: str
    function: str
    nth: int = 1


STAGES = "clusterpaths.running.stages"
EXTRACT = "clusterpaths.extraction.extract"
REMOVED = ("while the sample is removed", "while the sample is removed, its manifest last")
# Of 200 examples, 60 are fitted on: shards of 20 are 0 to 2 and, fused, 3 to 9; two batches each; three layers.
PLACES = {
    "in the sample": Place(STAGES, "extract_shard", 2),
    "between sample and fit": Place(STAGES, "fit_layer"),
    "between two fits": Place(STAGES, "fit_layer", 3),
    "between centroids and their record": Place("clusterpaths.clustering.fit", "FitRecord.model_dump_json", 2),
    "between fits and shards": Place(STAGES, "extract_shard", 4),
    "between two batches": Place(EXTRACT, "ShardLabels.add", 10),
    "before a shard's rows are complete": Place(EXTRACT, "ShardWriter.finish", 5),
    "between rows and labels": Place(EXTRACT, "ShardLabels.write", 5),
    "between two layers' labels": Place("clusterpaths.extraction.writer", "write_labels", 6),
    "between labels and record": Place(EXTRACT, "record_shard", 5),
    "between two shards from the cache": Place(STAGES, "assign_shard", 2),
    "between two shards without activations": Place(STAGES, "assign_shard", OF_SAMPLE + 3),
    "between shards and trace": Place(STAGES, "trace_paths"),
    "before publish": Place(STAGES, "publish_set"),
    "between the set and metadata.json": Place("clusterpaths.sets.publish", "describe_newest"),
}


def start(config: RunConfig, place: str, output: Path) -> subprocess.Popen[bytes]:
    """Start a process that runs a configuration and kills itself there, in a group of its own."""
    given = config.model_dump_json(include=config.model_fields_set)
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.killing", place, given], stdout=file, stderr=subprocess.STDOUT, cwd=PROJECT,
            start_new_session=True,
        )  # fmt: skip


def run_killed(config: RunConfig, place: str, output: Path) -> None:
    """As `start`, to its end; fails if it ended otherwise."""
    assert start(config, place, output).wait(90) == -signal.SIGKILL, output.read_text()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _remove_half_the_sample(place: str) -> None:
    """What a removal leaves that is killed in the middle, in either order of files."""

    def removed(self: Directory, name: str = "") -> None:
        if (self.path / name).name != "sample" or not self.path.is_dir():
            return before(self, name)
        files = sorted((path for path in self.path.rglob("*") if path.is_file()), key=lambda path: path.name)
        manifest_last = sorted(files, key=lambda path: path.name.endswith(".json"))
        for path in (manifest_last if place.endswith("last") else manifest_last[::-1])[: len(files) // 2]:
            path.unlink()
        return _die()

    before, Directory.remove_tree = Directory.remove_tree, removed  # type: ignore[method-assign]


def _kill_at(place: Place) -> None:
    owner: Any = importlib.import_module(place.module)
    *outer, name = place.function.split(".")
    for attribute in outer:
        owner = getattr(owner, attribute)
    function, calls = getattr(owner, name), [0]

    def counted(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == place.nth:
            _die()
        return function(*args, **named)

    counted.__name__ = name
    setattr(owner, name, counted)


def main(place: str, given: str) -> None:
    from clusterpaths.pipeline import run

    fit_sample.FIT_ROWS, fit_sample.FIT_ROWS_PER_CLUSTER = FIT_ROWS, 8
    if place in REMOVED:
        _remove_half_the_sample(place)
    elif place != NOWHERE:
        _kill_at(PLACES[place])
    run(RunConfig.model_validate_json(given))


if __name__ == "__main__":
    main(*sys.argv[1:])

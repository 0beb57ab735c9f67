"""flows/celeba.py, which also writes the seconds of every stage as JSON: a set's record ends before the evaluation.

python benchmarks/timed_flow.py FILE [options of flows/celeba.py]
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from prefect import flow

from clusterpaths.config import RunConfig
from flows.cli import read_options
from flows.shell import run_flow


@flow(name="celeba")
def celeba(config: RunConfig) -> None:
    """As flows/celeba.py."""
    from flows.pipeline import cluster_paths

    stages = cluster_paths(config).stages
    Path(sys.argv[1]).write_text(json.dumps({stage.stage: stage.seconds for stage in stages}))


def _load() -> Callable[[RunConfig], None]:
    importlib.import_module("flows.pipeline")  # as the flow itself does, while a server starts

    return celeba


if __name__ == "__main__":
    if (read := read_options("celeba", RunConfig, sys.argv[2:])) is not None:
        config, verbose = read
        run_flow(_load, {"config": config}, verbose=verbose)

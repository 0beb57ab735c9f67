"""flows/celeba.py, which also writes the seconds of every stage as JSON: a set's record ends before the evaluation.

python benchmarks/timed_flow.py FILE [options of flows/celeba.py]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prefect import flow

from clusterpaths.config import RunConfig
from flows.shell import run


@flow(name="celeba")
def celeba(config: RunConfig) -> None:
    """As flows/celeba.py."""
    from flows.pipeline import cluster_paths

    stages = cluster_paths(config).stages
    Path(sys.argv[1]).write_text(json.dumps({stage.stage: stage.seconds for stage in stages}))


if __name__ == "__main__":
    run(celeba, RunConfig, sys.argv[2:], stages="flows.pipeline")

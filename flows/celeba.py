"""Cluster paths of CelebA: `python flows/celeba.py`, quickest with `--sample` or `--subset 5`.

Read on in clusterpaths/pipeline.py: its `run(config)` calls the stages in order. flows/pipeline.py runs them as Prefect
tasks.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from clusterpaths.config import RunConfig
from flows.running import run, run_name


@flow(name="celeba", flow_run_name=run_name)
def celeba(config: RunConfig) -> Path | None:
    """Cluster paths of CelebA or of the embedded sample: the route of each image through a model's layers."""
    from flows.pipeline import cluster_paths, path_of  # half of the import time, not needed for --help

    return path_of(cluster_paths(config))


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run(celeba, RunConfig, argv, stages="flows.pipeline")


if __name__ == "__main__":
    main()

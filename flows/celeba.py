"""Cluster paths of CelebA: `python flows/celeba.py`, quickest with `--sample` or `--subset 5`.

Read on in clusterpaths/pipeline.py: its `run(config)` calls the stages in order. flows/pipeline.py runs them as Prefect
tasks.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, as the command line is checked before Prefect is imported
    from flows.cli import run_script

    run_script("celeba")

from pathlib import Path

from prefect import flow

from clusterpaths.config import RunConfig
from flows.pipeline import cluster_paths, path_of
from flows.shell import run_name


@flow(name="celeba", flow_run_name=run_name)
def celeba(config: RunConfig) -> Path | None:
    """Cluster paths of CelebA or of the embedded sample: the route of each image through a model's layers."""
    return path_of(cluster_paths(config))

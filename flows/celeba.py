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
from clusterpaths.gate.policy import GateSettings
from flows.gate import cluster_and_decide
from flows.pipeline import cluster_paths, path_of
from flows.shell import run_name


@flow(name="celeba", flow_run_name=run_name)
def celeba(config: RunConfig, gate: GateSettings | None = None, registered: str = "") -> Path | None:
    """Cluster paths of CelebA or of the embedded sample: the route of each image through a model's layers.

    Args:
        config: of the run.
        gate: decide by a policy whether the model may take the place of the accepted one; its settings are then the reference's
        registered: the version in a model registry that the model's file is of, which gets the decision: models:/NAME/VERSION
    """
    return path_of(cluster_and_decide(config, gate, registered) if gate else cluster_paths(config))

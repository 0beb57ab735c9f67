"""Cluster paths of any images through any model: `clusterpaths images resnet18.onnx photos`.

The same stages as flows/celeba.py, without CelebA's defaults. `clusterpaths inspect MODEL` lists the layers of a model,
docs/datasets.md the data sets.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, as the command line is checked before Prefect is imported
    from flows.cli import run_script

    run_script("images")

from pathlib import Path

from prefect import flow

from clusterpaths.gate.policy import GateSettings
from flows.gate import cluster_and_decide
from flows.options import ImagesConfig
from flows.pipeline import cluster_paths, path_of
from flows.shell import run_name


@flow(name="images", flow_run_name=run_name)
def images(config: ImagesConfig, gate: GateSettings | None = None, registered: str = "") -> Path | None:
    """Cluster paths of any images: the route of each through a model's layers.

    Args:
        config: of the run.
        gate: decide by a policy whether the model may take the place of the accepted one; its settings are then the reference's
        registered: the version in a model registry that the model's file is of, which gets the decision: models:/NAME/VERSION
    """
    return path_of(cluster_and_decide(config, gate, registered) if gate else cluster_paths(config))

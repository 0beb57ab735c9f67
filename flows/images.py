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

from flows.options import ImagesConfig
from flows.pipeline import cluster_paths, path_of
from flows.shell import run_name


@flow(name="images", flow_run_name=run_name)
def images(config: ImagesConfig) -> Path | None:
    """Cluster paths of any images: the route of each through a model's layers."""
    return path_of(cluster_paths(config))

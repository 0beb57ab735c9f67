"""Cluster paths of any images through any model: `python flows/images.py --model resnet18.onnx --data-root photos`.

The same stages as flows/celeba.py, without CelebA's defaults. `clusterpaths inspect MODEL` lists the layers of a model,
docs/datasets.md the data sets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from prefect import flow
from pydantic import Field

from clusterpaths.config import RunConfig
from flows.shell import run, run_name


class ImagesConfig(RunConfig):
    """Cluster paths of a directory of images, or of another data set, through one ONNX model."""

    dataset: str = Field("folder", description=RunConfig.model_fields["dataset"].description)
    model: Path | None = Field(None, description="ONNX image classifier (required but for --dataset faces)")
    sample: Annotated[bool, Parameter(show=False)] = Field(False, description="the embedded sample")
    sample_size: Annotated[int, Parameter(show=False)] = Field(2000, ge=1, description="how many faces --sample draws")


@flow(name="images", flow_run_name=run_name)
def images(config: ImagesConfig) -> Path | None:
    """Cluster paths of any images: the route of each through a model's layers."""
    from flows.pipeline import cluster_paths, path_of  # half of the import time, not needed for --help

    return path_of(cluster_paths(config))


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run(images, ImagesConfig, argv, stages="flows.pipeline")


if __name__ == "__main__":
    main()

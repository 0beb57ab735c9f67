"""Cluster activations that are there: `clusterpaths activations DIR --name MINE`.

Not a flow: there is no model to run, and no shard to extract. The stages after extraction are the pipeline's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from clusterpaths.activations.config import ActivationsConfig
from clusterpaths.activations.find import require_source
from clusterpaths.commands.run import run_plainly, show
from clusterpaths.running.inputs import describe

if TYPE_CHECKING:
    from clusterpaths.running.report import Report


class ActivationsRun(ActivationsConfig):
    """Cluster paths of activations that another program wrote: .npy, .npz, safetensors, HDF5, zarr, read where they are."""

    source: Path = Field(description="a directory with the activations of each layer, or a file of arrays")


def activations(config: ActivationsRun, *, verbose: bool) -> None:
    """Publish the set of activations, and show it."""
    source = config.source.expanduser()
    require_source(source)
    described = config.run_config(source.absolute().stem).model_copy(update={"layers": config.layers})

    def run(report: Report) -> None:
        from clusterpaths.activations.run import run_activations  # takes seconds, --help does not

        run_activations(source, config, report=report)

    show(describe(described, f"the activations in {source}"), run, verbose=verbose)


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_plainly("activations", ActivationsRun, argv, lambda config, verbose: activations(config, verbose=verbose))


if __name__ == "__main__":
    main()

"""Cluster activations that are there: `clusterpaths activations DIR --name MINE`.

Not a flow: there is no model to run, and no shard to extract. The stages after extraction are the pipeline's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts

from clusterpaths.activations.config import ActivationsConfig
from clusterpaths.commands.shell import run_command, run_log_on_stderr


def activations(
    source: Annotated[
        Path, cyclopts.Parameter(help="a directory with the activations of each layer, or a file of arrays")
    ],
    /,
    *,
    config: Annotated[ActivationsConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """Cluster paths of activations that another program wrote: .npy, .npz, safetensors, HDF5, zarr, read where they are."""
    from clusterpaths.activations.run import run_activations  # takes seconds, --help does not

    with run_log_on_stderr():
        outcome = run_activations(source, config or ActivationsConfig())
    published = outcome.published
    assert published is not None  # nothing is only planned
    sys.stdout.write(
        f"{'Published' if outcome.new else 'Found'} {published.folder}: {published.num_examples:,} examples, "
        f"{len(published.layers)} layers ({', '.join(published.layers)}), {len(published.paths.counts):,} paths\n"
        f"Report: {outcome.report}\n"
        f"Explore: clusterpaths serve --cache-root {published.folder.parent.parent}\n"
    )


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    app = cyclopts.App(
        name="activations",
        help=activations.__doc__,
        version_flags=[],
        default_parameter=cyclopts.Parameter(negative=()),
    )
    app.default(activations)
    run_command(app, argv)


if __name__ == "__main__":
    main()

"""Cluster paths of the embedded sample, without Prefect and without any download: `clusterpaths sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from pydantic import Field

from clusterpaths.commands.run import HIDDEN, PlainConfig, described, publish
from clusterpaths.commands.shell import run_command
from clusterpaths.config import RunConfig


class SampleRun(PlainConfig):
    """Options of `clusterpaths sample`."""

    sample: Annotated[bool, HIDDEN] = Field(True, description=RunConfig.model_fields["sample"].description)
    dataset: Annotated[str, HIDDEN] = described("dataset")
    data_root: Annotated[Path | None, HIDDEN] = described("data_root")
    labels: Annotated[Path | None, HIDDEN] = described("labels")


def sample(*, config: Annotated[SampleRun | None, Parameter(name="*")] = None) -> None:
    """Cluster paths of drawn faces through the model that the library brings: needs no model and no download."""
    publish(config or SampleRun())


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    app = cyclopts.App(name="sample", help=sample.__doc__, version_flags=[], default_parameter=Parameter(negative=()))
    app.default(sample)
    run_command(app, argv)


if __name__ == "__main__":
    main()

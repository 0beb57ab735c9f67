"""Cluster paths of the embedded sample, without Prefect and without any download: `clusterpaths sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from clusterpaths.commands.run import HIDDEN, PlainConfig, described, publish, run_plainly
from clusterpaths.config import RunConfig


class SampleRun(PlainConfig):
    """Cluster paths of drawn faces through the model that the library brings: needs no model and no download."""

    sample: Annotated[bool, HIDDEN] = Field(True, description=RunConfig.model_fields["sample"].description)
    dataset: Annotated[str, HIDDEN] = described("dataset")
    data_root: Annotated[Path | None, HIDDEN] = described("data_root")
    labels: Annotated[Path | None, HIDDEN] = described("labels")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_plainly("sample", SampleRun, argv, lambda config, verbose: publish(config, verbose=verbose))


if __name__ == "__main__":
    main()

"""Inspect a model file: `clusterpaths inspect MODEL`.

What it takes and puts out, and the layers that may be looked into, with those that a run takes. No flow: it takes seconds.
The file is not called inspect.py: beside the flows it would stand in the way of Python's own module of that name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from pydantic import Field

from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.config import Names, Size
from clusterpaths.models.inspect import inspect_model
from clusterpaths.records import OutputKind, Record


class InspectConfig(Record):
    """Options of `clusterpaths inspect`."""

    layers: Names | None = Field(
        None,
        description="auto, auto:N, names, patterns such as conv* or layer?.1, tensor names, with commas between "
        "[the model's added outputs, else auto: at most 6]",
    )
    logits: str | None = Field(None, description="the output with class scores, or none [found automatically]")
    output_kind: OutputKind | None = Field(
        None,
        description="what that output holds: logits, probabilities, multi-label … [from the graph's last operators]",
    )
    size: Size | None = Field(None, description="HEIGHTxWIDTH where the model takes any [from its files, else 224x224]")
    as_json: Annotated[bool, cyclopts.Parameter(name="--json", negative=())] = Field(
        False, description="print the record as JSON, all layers in it"
    )
    all_layers: Annotated[bool, cyclopts.Parameter(name="--all", negative=())] = Field(
        False, description="also list the conv and fc layers in and around blocks"
    )


def inspect(
    model: Annotated[Path, cyclopts.Parameter(help="the ONNX file")],
    *,
    config: Annotated[InspectConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """Print a model's input and outputs, and the layers that a run would extract."""
    config = config or InspectConfig()
    found = inspect_model(model.expanduser(), config.layers, config.logits, config.size, output_kind=config.output_kind)
    sys.stdout.write(
        found.model_dump_json(indent=2) + "\n" if config.as_json else found.text(all_layers=config.all_layers)
    )


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("inspect", inspect, "MODEL")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

"""Announce a model file to the Prefect server, as the watcher of the model directory does.

    python deployments/announce.py ONNX_models/CelebA_CNN.onnx

This is not a flow: it emits the event that triggers deployments. For a training pipeline, or without a watcher.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts

from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.errors import ModelError
from clusterpaths.watching.announced import STATE_FILE, AnnouncedModels
from clusterpaths.watching.arrivals import Arrival, examine
from tasks.announcing import ARRIVED, announce


def announce_model(
    path: Annotated[Path, cyclopts.Parameter(help="ONNX file")],
    *,
    again: Annotated[bool, cyclopts.Parameter(help="even if it was announced before", negative=())] = False,
) -> None:
    """Announce a model file to the Prefect server, which starts the deployments that are triggered by new models."""
    outcome = examine(path.expanduser().absolute(), patient=False)
    if not isinstance(outcome, Arrival):
        raise ModelError(outcome.reason)
    known = AnnouncedModels(Path(outcome.path).parent / STATE_FILE)
    if announce([outcome], known, again=again):
        message = f"Announced {outcome.path} as {ARRIVED}: name {outcome.name}, sha256 {outcome.sha256}."
    else:
        message = f"{outcome.path} was announced before (sha256 {outcome.sha256}); --again announces it once more."
    sys.stdout.write(message + "\n")


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("announce", announce_model, "PATH")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell: exit code 0, or 2 with one paragraph."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

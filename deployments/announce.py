"""Announce a model file to the Prefect server, as the watcher of the model folder does.

python deployments/announce.py ONNX_models/CelebA_CNN.onnx

No flow: it starts those that wait for a model. For a training pipeline, or where no watcher runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts

from clusterpaths.commands.shell import run_command
from clusterpaths.errors import ModelError
from clusterpaths.watching.announced import STATE_FILE, AnnouncedModels
from clusterpaths.watching.arrivals import Arrival, examine
from tasks.announcing import ARRIVED, announce


def announce_model(
    path: Annotated[Path, cyclopts.Parameter(help="ONNX file")],
    *,
    again: Annotated[bool, cyclopts.Parameter(help="also where it was announced before", negative=())] = False,
) -> None:
    """Announce a model file to the Prefect server; deployments that wait for a new model start."""
    outcome = examine(path.expanduser().absolute(), patient=False)
    if not isinstance(outcome, Arrival):
        raise ModelError(outcome.reason)
    known = AnnouncedModels(Path(outcome.path).parent / STATE_FILE)
    if announce([outcome], known, again=again):
        said = f"Announced {outcome.path} as {ARRIVED}: name {outcome.name}, sha256 {outcome.sha256}."
    else:
        said = f"{outcome.path} was announced before (sha256 {outcome.sha256}); --again announces it once more."
    sys.stdout.write(said + "\n")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell: exit code 0, or 2 with one paragraph."""
    app = cyclopts.App(name="announce", help=announce_model.__doc__, version_flags=[])
    app.default(announce_model)
    run_command(app, argv)


if __name__ == "__main__":
    main()

"""The command line: `clusterpaths celeba …` is `python flows/celeba.py …`, and so for every flow.

Belongs here: options, and what is checked before a flow is imported, as importing Prefect takes a second and starting its
server several. Commands that are not flows are in clusterpaths/commands and start without Prefect.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from typing import Annotated, NoReturn

import cyclopts
from pydantic import BaseModel, ValidationError

from clusterpaths.commands import completion
from clusterpaths.commands import main as library
from clusterpaths.commands.options import read_options
from clusterpaths.commands.run import announce, publish
from clusterpaths.commands.shell import USER_ERROR, fail, one_paragraph, require_working_directory, run_command
from clusterpaths.common import roots
from clusterpaths.config import RunConfig
from clusterpaths.errors import ClusterPathsError
from clusterpaths.running.inputs import describe, require_inputs
from flows.environment import invalid_settings, require_environment
from flows.options import ReclusterConfig

COMMANDS = {
    "celeba": "cluster paths of CelebA, or of the embedded sample with --sample",
    "images": "cluster paths of any images through any model: a directory, arrays, torchvision's data sets",
    "recluster": "cluster again with new images or other settings, and compare with the last set",
    "announce": "announce a model file to the Prefect server, which starts the waiting deployments",
    "compare": "what changed from one set to another, of one model or of two",
    "train": "train a small hair-colour classifier and write it as an ONNX file",
} | library.COMMANDS

MODULES = library.MODULES | {"announce": "deployments.announce"}
FLOWS = {  # the options of each, importable without Prefect
    "celeba": "clusterpaths.config:RunConfig",
    "images": "flows.options:ImagesConfig",
    "recluster": "flows.options:ReclusterConfig",
    "compare": "clusterpaths.comparison.compare:CompareConfig",
    "train": "clusterpaths.training.train:TrainConfig",
}
SCRIPTS = FLOWS | {"monitor": "clusterpaths.monitoring.config:MonitorConfig"}  # whose command runs without Prefect

app = cyclopts.App(
    name="clusterpaths",
    help="Which route each image takes through the layers of a model.",
    version=lambda: f"clusterpaths {importlib.metadata.version('clusterpaths')}",
    version_flags=["--version"],
)


def _command(name: str, text: str) -> None:
    # The command's own parser reads the rest, including --help; its module is imported only then.
    def command(*rest: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True, show=False)]) -> None:
        if name in FLOWS:
            _run(name, list(rest))
        elif name == "completion":
            completion.main(library.parsers(COMMANDS, MODULES, library.OPTIONS | FLOWS), list(rest))
        else:
            importlib.import_module(MODULES[name]).main(list(rest))

    app.command(command, name=name, help=text, help_flags=[], version_flags=[])


for _name, _text in COMMANDS.items():
    _command(_name, _text)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console command."""
    run_command(app, argv)


def run_script(name: str) -> NoReturn:
    """Run a flow with the arguments of this process, and end it."""
    with one_paragraph("Stopped."):
        _run(name, sys.argv[1:])
    raise SystemExit(0)


def _run(name: str, argv: list[str]) -> None:
    """Run a flow: exit code 0, 2 (a user's mistake) or 1.

    Options, files and the environment are checked first, in this order: a mistake costs no import of Prefect.
    """
    try:
        require_working_directory()
        read = read_options(name, library.load(SCRIPTS[name]), argv)
        if read is None:  # --help
            return
        config, verbose = read
        _require_inputs(config)
        if isinstance(config, RunConfig) and config.plan:
            publish(config, verbose=verbose)  # without Prefect: there is no run that its server could show
            return
        require_environment()
        if not verbose:
            _announce(name, config)
    except ClusterPathsError as error:
        fail(str(error), USER_ERROR)

    try:
        from flows.shell import run_flow  # imports Prefect, which reads its settings then
    except ValidationError as error:
        fail(invalid_settings(error), USER_ERROR)

    fields = {field: getattr(config, field) for field in type(config).model_fields}
    run_flow(
        lambda: getattr(importlib.import_module(f"flows.{name}"), name),
        fields if name == "recluster" else {"config": config},
        verbose=verbose,
        stages=name not in ("compare", "train", "monitor"),
    )


def _require_inputs(config: BaseModel) -> None:
    """Check what a flow reads, as far as that takes less time than Prefect."""
    if isinstance(config, RunConfig):
        require_inputs(config)
    elif isinstance(config, ReclusterConfig):
        require_inputs(config.run_config())
    elif "first" in type(config).model_fields:
        from clusterpaths.comparison.compare import CompareConfig  # was imported for these options, and for no others
        from clusterpaths.sets.find import find_named

        assert isinstance(config, CompareConfig)
        for given in (config.first, config.second):
            find_named(config.cache_root or roots.cache_root(), given)


def _announce(name: str, config: BaseModel) -> None:
    """Print what the flow will do, before Prefect is imported."""
    of_run = config.run_config() if isinstance(config, ReclusterConfig) else config
    announce(describe(of_run) if isinstance(of_run, RunConfig) else (f"clusterpaths {name}: {COMMANDS[name]}",))

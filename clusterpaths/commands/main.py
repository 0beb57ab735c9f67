"""The command line: `clusterpaths NAME …`, each command a module of its own, imported only when it is called.

Belongs here: the names of the library's commands, and the entry point. In a checkout, the flows' commands are there too:
flows/cli.py adds them to these. An installed wheel has neither flows nor Prefect.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version
from typing import Annotated

import cyclopts

from clusterpaths.commands.shell import USER_ERROR, fail
from clusterpaths.common.roots import checkout

COMMANDS = {
    "run": "cluster paths of images through any ONNX model, without Prefect",
    "sample": "cluster paths of drawn faces through the included model: no download",
    "activations": "cluster paths of activations that are there: arrays of any program, read in place",
    "inspect": "inputs, outputs and clustered layers of a model",
    "export": "write a set's path model: one ONNX file that outputs class scores, cluster path and OOD score",
    "explain": "explain the prediction for one image, as text and as a page",
    "serve": "serve the explorer and the HTTP API",
}
MODULES = {name: f"clusterpaths.commands.{name}" for name in COMMANDS}
FLOWS = ("celeba", "images", "recluster", "compare", "train", "announce")  # commands that need the checkout
HELP = "Which route each image takes through the layers of a model."


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console command."""
    words = sys.argv[1:] if argv is None else argv
    if checkout():
        importlib.import_module("flows.cli").main(words)
        return
    if words and words[0] in FLOWS:
        fail(
            f"`clusterpaths {words[0]}` is a Prefect flow: flows are in a checkout of the project, not in the installed "
            "library. Use `clusterpaths run MODEL IMAGES`, which needs no Prefect, or `clusterpaths run --dataset celeba`; "
            'or clone the project and install it there with `pip install -e ".[prefect]"`.',
            USER_ERROR,
        )
    library()(words)


def library() -> cyclopts.App:
    """The library's commands."""
    app = cyclopts.App(name="clusterpaths", help=HELP, version=version("clusterpaths"))
    for name, text in COMMANDS.items():
        _add(app, name, text)
    return app


def _add(app: cyclopts.App, name: str, text: str) -> None:
    # The command's own parser reads the rest, including --help; its module is imported only then.
    def command(*rest: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True, show=False)]) -> None:
        importlib.import_module(MODULES[name]).main(list(rest))

    app.command(command, name=name, help=text, help_flags=[], version_flags=[])


if __name__ == "__main__":
    main()

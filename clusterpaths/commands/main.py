"""The command line: `clusterpaths NAME …`, each command a module of its own, imported only when it is called.

Belongs here: the names of the library's commands, and the entry point. In a checkout, the flows' commands are there too:
flows/cli.py adds them to these. An installed wheel has neither flows nor Prefect.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

import cyclopts

from clusterpaths.commands.shell import USER_ERROR, fail, run_command
from clusterpaths.common.roots import checkout

COMMANDS = {
    "run": "cluster paths of images through any ONNX model, without Prefect",
    "sample": "cluster paths of drawn faces through the included model: no download",
    "activations": "cluster paths of activations that are there: arrays of any program, read in place",
    "inspect": "inputs, outputs and clustered layers of a model",
    "export": "write a set's path model: one ONNX file that outputs class scores, cluster path and OOD score",
    "explain": "explain the prediction for one image, as text and as a page",
    "mcp": "serve sets to an assistant, read-only: the Model Context Protocol over stdio",
    "find": "find likely label errors, near duplicates, or regions of which a set has too few examples",
    "monitor": "compare new images, or a service's prediction log, with a set: have they drifted?",
    "names": "list a set's names; export, import, or carry over what people and models called its clusters",
    "name": "name clusters with a vision-language model; nothing is sent without --endpoint",
    "gate": "decide by a policy whether a new model may take the place of the accepted one; exit code 0 or 1",
    "accepted": "list the accepted sets and their history; roll back, or choose one by hand",
    "serve": "serve the explorer and the HTTP API",
    "completion": "print the script that completes commands and options in bash, zsh or fish",
}
MODULES = {name: f"clusterpaths.commands.{name}" for name in COMMANDS}
OPTIONS = {  # of commands that read a configuration
    "run": "clusterpaths.commands.run:ImagesRun",
    "sample": "clusterpaths.commands.sample:SampleRun",
    "activations": "clusterpaths.commands.activations:ActivationsRun",
}
FLOWS = ("celeba", "images", "recluster", "compare", "train", "announce")  # commands that need the checkout
INSTEAD = {  # of a flow's command, without a checkout
    "images": "Use `clusterpaths run MODEL IMAGES`",
    "celeba": "Use `clusterpaths run MODEL IMAGES --dataset celeba`",
    "recluster": "Use `clusterpaths run MODEL IMAGES --k K` again: what is cached is not extracted again",
    "compare": "Open /compare in `clusterpaths serve`, or give `clusterpaths run` the option --compare",
}
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
            f"library. {INSTEAD.get(words[0], INSTEAD['images'])}, which needs no Prefect; or clone the project and install it "
            'there with `pip install -e ".[prefect]"`.',
            USER_ERROR,
        )
    run_command(library(), words)


def library() -> cyclopts.App:
    """The library's commands."""
    app = cyclopts.App(name="clusterpaths", help=HELP, version=version("clusterpaths"))
    for name, text in COMMANDS.items():
        _add(app, name, text)
    return app


def _add(app: cyclopts.App, name: str, text: str) -> None:
    # The command's own parser reads the rest, including --help; its module is imported only then.
    def command(*rest: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True, show=False)]) -> None:
        call(name, list(rest))

    app.command(command, name=name, help=text, help_flags=[], version_flags=[])


def call(name: str, argv: list[str]) -> None:
    """Call a command of the library."""
    module = importlib.import_module(MODULES[name])
    if name == "completion":
        module.main(parsers(COMMANDS, MODULES, OPTIONS), argv)
    else:
        module.main(argv)


def parsers(
    commands: Mapping[str, str], modules: Mapping[str, str], options: Mapping[str, str]
) -> dict[str, Callable[[], cyclopts.App]]:
    """The parser of each command, made when it is called: for the completion of its options.

    Args:
        commands: name -> what it does.
        modules: name -> its module.
        options: name -> the class of its configuration, where it reads one.
    """
    return {name: partial(_parser, name, text, modules, options) for name, text in commands.items()}


def _parser(name: str, text: str, modules: Mapping[str, str], options: Mapping[str, str]) -> cyclopts.App:
    from clusterpaths.commands import completion

    if name == "completion":
        return completion.parser({})
    if name in options:
        return completion.of_options(name, text, load(options[name]))
    found: cyclopts.App = importlib.import_module(modules[name]).parser()
    return found


def load(place: str) -> Any:
    """What MODULE:NAME names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    main()

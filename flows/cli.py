"""The installed command: `clusterpaths celeba …` is `python flows/celeba.py …`, and so for every flow.

Commands that are not flows are in clusterpaths/commands and start without Prefect.
"""

from __future__ import annotations

import importlib
from typing import Annotated

import cyclopts

COMMANDS = {
    "celeba": "cluster paths of CelebA, or of the embedded sample with --sample",
    "images": "cluster paths of any images through any model: a directory, arrays, torchvision's data sets",
    "inspect": "inputs, outputs and clustered layers of a model",
    "recluster": "cluster again with new images or other settings, and compare with the last set",
    "announce": "announce a model file to the Prefect server, which starts the waiting deployments",
    "compare": "what changed from one set to another, of one model or of two",
    "export": "write a set's path model: one ONNX file that outputs class scores, cluster path and OOD score",
    "explain": "explain the prediction for one image, as text and as a page",
    "serve": "serve the explorer and the HTTP API",
    "train": "train a small hair-colour classifier and write it as an ONNX file",
}

MODULES = {name: f"clusterpaths.commands.{name}" for name in ("inspect", "export", "explain", "serve")}
MODULES |= {"announce": "deployments.announce"}

app = cyclopts.App(
    name="clusterpaths", help="Which route each image takes through the layers of a model.", version_flags=[]
)


def _command(name: str, text: str) -> None:
    # The flow's own parser reads the rest, including --help; its module is imported only then (importing Prefect takes a second).
    def command(*rest: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True, show=False)]) -> None:
        importlib.import_module(MODULES.get(name, f"flows.{name}")).main(list(rest))

    app.command(command, name=name, help=text, help_flags=[], version_flags=[])


for _name, _text in COMMANDS.items():
    _command(_name, _text)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console command."""
    app(argv)

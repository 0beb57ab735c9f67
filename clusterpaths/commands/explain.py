"""Explain one image by a set: `clusterpaths explain face.jpg --set CelebA`.

Prints the decision and the cluster path, and writes a page. Not a flow: it takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import cyclopts
from PIL import Image
from pydantic import Field

from clusterpaths.commands.export import find_set
from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.config import IMAGES, CacheRoot
from clusterpaths.errors import DatasetError
from clusterpaths.explanation.explain import explain_image, read_upright
from clusterpaths.records import Record
from clusterpaths.report.explanation import print_explanation, write_explanation
from clusterpaths.sets.images import find_images
from clusterpaths.sets.places import data_of, find_model
from clusterpaths.sets.published import PublishedSet


class ExplainConfig(Record):
    """Options of `clusterpaths explain`."""

    set: str = Field(description="the set: NAME/set_NN of the results' directory, or NAME for its newest set")
    model: Path | None = Field(None, description="the set's classifier [where it was when the set was made]")
    output: Path | None = Field(None, description="the page to write [explanation_IMAGE.html in the current directory]")
    as_json: Annotated[bool, cyclopts.Parameter(name="--json", negative=())] = Field(
        False, description="print the record as JSON; the page is then written only with --output"
    )
    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )
    data_root: Annotated[Path | None, IMAGES] = Field(
        None, description="the data set's directory, for pictures [where the images were]"
    )


def explain(
    image: Annotated[Path, cyclopts.Parameter(help="a picture file")],
    *,
    config: Annotated[ExplainConfig, cyclopts.Parameter(name="*")],
) -> None:
    """Explain one image: its prediction, its cluster path, and the set's statistics of both."""
    published = find_set(config.set, config.cache_root)
    explanation = explain_image(image.expanduser(), published, find_model(published, config.model))
    for warning in explanation.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    if config.as_json:
        sys.stdout.write(explanation.model_dump_json(indent=2) + "\n")
    else:
        print_explanation(explanation, sys.stdout)
    if config.output is None and config.as_json:
        return
    target = (config.output or Path(f"explanation_{image.stem}.html")).expanduser().absolute()
    reader = _reader(published, config.data_root)
    write_explanation(explanation, read_upright(image.expanduser()), target, reader, published.index)
    if not config.as_json:
        sys.stdout.write(f"Page: {target}\n")


def _reader(published: PublishedSet, data_root: Path | None) -> Callable[[str], Image.Image]:
    """Reads the set's images; a directory that is gone leaves placeholders, unless it was named."""

    def lost(_: DatasetError) -> None:
        root = data_of(published.folder, published.record).root
        sys.stderr.write(
            f"warning: The images of the set are no longer in {root}; name their directory with --images.\n"
        )

    return find_images(published, data_root, lost)


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("explain", explain, "IMAGE")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

"""Write a set's path model: `clusterpaths export CelebA/set_01`.

One ONNX file: image batch in, class scores, cluster path, distances and OOD score out. No flow: it takes seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from pydantic import Field

from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.common import roots
from clusterpaths.config import CacheRoot
from clusterpaths.export.path_model import export_path_model
from clusterpaths.records import Record
from clusterpaths.sets.find import find_named
from clusterpaths.sets.places import find_model
from clusterpaths.sets.published import PublishedSet


class ExportConfig(Record):
    """Options of `clusterpaths export`."""

    model: Path | None = Field(None, description="the set's classifier [where it was when the set was made]")
    output: Path | None = Field(None, description="the file to write [NAME_set_NN_paths.onnx in the current directory]")
    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )


def find_set(given: str, cache_root: str | None) -> PublishedSet:
    """The set named by NAME or NAME/set_NN."""
    return find_named(cache_root or roots.cache_root(), given)


def export(
    name: Annotated[str, cyclopts.Parameter(help="the set: NAME/set_NN, or NAME for its newest set")],
    *,
    config: Annotated[ExportConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """Write one ONNX file that gives class scores, cluster path, distances and OOD score of an image batch."""
    config = config or ExportConfig()
    published = find_set(name, config.cache_root)
    output = config.output or Path(f"{published.cache.name}_{published.path.name}_paths.onnx")
    record = export_path_model(published, find_model(published, config.model), output.expanduser().absolute())
    for warning in record.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    outputs = ", ".join(record.note.outputs.values())
    sys.stdout.write(f"Wrote {record.path} ({record.size:,} bytes): {record.input} in, {outputs} out.\n")


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("export", export, "NAME")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

"""Data work on a set: `clusterpaths find label-errors CelebA`.

Prints likely label errors, near duplicates or under-covered regions, or writes them. No flow: it takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import cyclopts
from pydantic import Field

from clusterpaths.commands.export import find_set
from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.config import CacheRoot
from clusterpaths.errors import ConfigError, DiskError
from clusterpaths.explore.index import SetIndex
from clusterpaths.find.export import csv_lines, fiftyone_lines
from clusterpaths.find.find import find as find_entries
from clusterpaths.find.record import Kind
from clusterpaths.find.text import describe
from clusterpaths.records import Record
from clusterpaths.storage.atomic import partial_sibling


class FindConfig(Record):
    """Options of `clusterpaths find`."""

    limit: Annotated[int, Field(ge=1)] = Field(20, description="entries to print; files have all of them")
    as_json: Annotated[bool, cyclopts.Parameter(name="--json", negative=())] = Field(
        False, description="print the record as JSON, as the HTTP API returns it"
    )
    layer: str = Field("", description="of under-covered: the layer whose neighbours count [the last one]")
    csv: Path | None = Field(None, description="write the complete list to this file, one row per example")
    fiftyone: Path | None = Field(
        None, description="write the complete list to this file, as JSON for FiftyOne's Dataset.from_json"
    )
    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )


def find(
    kind: Annotated[Kind, cyclopts.Parameter(help="what to look for")],
    set: Annotated[str, cyclopts.Parameter(help="the set: NAME/set_NN, or NAME for its newest set")],  # noqa: A002
    *,
    config: Annotated[FindConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """Find examples to relabel, to remove, or to collect more of."""
    config = config or FindConfig()
    if config.csv and config.csv == config.fiftyone:
        raise ConfigError(f"--csv and --fiftyone are both {config.csv}. Expected two files.")
    index: SetIndex = find_set(set, config.cache_root).index
    found = find_entries(index, kind, layer=config.layer, limit=config.limit)
    if config.as_json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(describe(found) + "\n")
    if config.csv:
        _write(config.csv, csv_lines(index, kind, config.layer))
    if config.fiftyone:
        _write(config.fiftyone, fiftyone_lines(index, kind, config.layer))
    for file in filter(None, (config.csv, config.fiftyone)):
        sys.stderr.write(f"Wrote {file}\n")


def _write(file: Path, pieces: Iterable[str]) -> None:
    try:
        place = file.expanduser()
        place.parent.stat()  # which would be made otherwise
        is_special = place.is_symlink() or (place.exists() and not place.is_file())  # such as /dev/stdout
        with (
            nullcontext(place) if is_special else partial_sibling(place) as partial,
            partial.open("w", encoding="utf-8", newline="") as target,
        ):
            target.writelines(pieces)
    except OSError as error:
        raise DiskError(
            f"{file} cannot be written: {error.strerror}. Name a file in a directory that exists."
        ) from error


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("find", find, "KIND SET")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

"""The names of a set's clusters and paths: `clusterpaths names CelebA/set_01`.

Lists them, or exports and imports what people and models wrote, or carries it over from an earlier set of the same model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import cyclopts
from pydantic import Field

from clusterpaths.commands.export import find_set
from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.config import CacheRoot
from clusterpaths.errors import ConfigError
from clusterpaths.naming.annotations import add_entries, parse_annotations, read_annotations, require_same_set
from clusterpaths.naming.carry_over import GOOD, carry_over
from clusterpaths.naming.record import Name
from clusterpaths.naming.resolve import names_of
from clusterpaths.records import Record
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage.atomic import atomic_write


class NamesConfig(Record):
    """Options of `clusterpaths names`."""

    export_to: Annotated[Path | None, cyclopts.Parameter(name="--export")] = Field(
        None, description="write names and notes by people and models into this JSON file"
    )
    import_from: Annotated[Path | None, cyclopts.Parameter(name="--import")] = Field(
        None, description="add the names and notes of a file that --export wrote, of the same set"
    )
    carry_over: str | None = Field(
        None, description="add those of this earlier set of the same model (NAME/set_NN), where clusters match well"
    )
    replace: Annotated[bool, cyclopts.Parameter(negative=())] = Field(
        False, description="names of the imported file replace those that are there"
    )
    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )


def names(
    set: Annotated[str, cyclopts.Parameter(help="the set: NAME/set_NN, or NAME for its newest set")],  # noqa: A002
    *,
    config: Annotated[NamesConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """List the names of a set's clusters; export, import or carry over those by people and models."""
    config = config or NamesConfig()
    published = find_set(set, config.cache_root)
    if sum(one is not None for one in (config.export_to, config.import_from, config.carry_over)) > 1:
        raise ConfigError("--export, --import and --carry-over are given together. Expected one of them.")
    if config.export_to is not None:
        text = _export(published, config.export_to.expanduser().absolute())
    elif config.import_from is not None:
        text = _import(published, config.import_from.expanduser(), replace=config.replace)
    elif config.carry_over is not None:
        text = _carry_over(find_set(config.carry_over, config.cache_root), published)
    else:
        text = listing(published)
    sys.stdout.write(text + "\n")


def listing(published: PublishedSet) -> str:
    """One line per cluster, and per path with a name of its own.

    Raises:
        CacheError: annotations.json is corrupted or another set's.
    """
    read_annotations(published)
    found = names_of(published.index)
    shown = [name for layer in found.clusters for name in layer] + list(found.of_paths)
    width = max(len(name.key) for name in shown)
    return "\n".join(f"{name.key:<{width}}  {_line(name)}".rstrip() for name in shown)


def _line(name: Name) -> str:
    doubt = f"low agreement: {name.check.sentence}" if name.check and name.check.low else ""
    beside = "; ".join(part for part in (name.origin if name.source != "data" else "", doubt) if part)
    return name.text + (f"  ({beside})" if beside else "") + (f"  {name.note}" if name.note else "")


def _export(published: PublishedSet, target: Path) -> str:
    found = read_annotations(published)
    atomic_write(target, (found.model_dump_json(indent=2) + "\n").encode())
    return f"Wrote {len(found.entries)} names and notes of {published.name} to {target}."


def _import(published: PublishedSet, source: Path, *, replace: bool) -> str:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}. Expected a file that --export wrote.") from error
    found = parse_annotations(content, str(source))
    require_same_set(published, found, str(source))
    written = add_entries(published, found.entries, replace=replace)
    others = len(found.entries) - len(written)
    kept = f"; {others} were there already" + ("" if replace else " or have another text there, see --replace")
    return f"Imported {len(written)} names and notes into {published.name}{kept if others else ''}."


def _carry_over(earlier: PublishedSet, published: PublishedSet) -> str:
    written, others = carry_over(earlier, published)
    lines = [
        f"{entry.carried.key} is {entry.key}: {entry.name} ({entry.carried.share:.0%})"
        for entry in written
        if entry.carried
    ]
    left = (
        f"; {others} not, as fewer than {GOOD:.0%} of the examples agree or there is a name already" if others else ""
    )
    return "\n".join(
        [*lines, f"Carried {len(written)} names and notes over from {earlier.name} to {published.name}{left}."]
    )


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("names", names, "SET")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

"""Which sets are accepted: `clusterpaths accepted`, and rolling back or choosing by hand.

`clusterpaths gate` moves the pointer where a candidate is accepted; this command lists its history.
"""

from __future__ import annotations

import sys
from typing import Annotated

import cyclopts
from pydantic import Field

from clusterpaths.commands.export import find_set
from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.common import roots
from clusterpaths.config import CacheRoot
from clusterpaths.errors import ConfigError, NotFoundError
from clusterpaths.records import Record
from clusterpaths.sets.accepted import Accepted, choose, line_of, read_accepted, roll_back
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage, open_storage


class AcceptedConfig(Record):
    """Options of `clusterpaths accepted`."""

    roll_back: Annotated[bool, cyclopts.Parameter(negative=())] = Field(
        False, description="return to the set that was accepted before; again: to the one before that"
    )
    set: str | None = Field(None, description="make this set the accepted one by hand: NAME/set_NN")
    as_json: Annotated[bool, cyclopts.Parameter(name="--json", negative=())] = Field(
        False, description="print the history as JSON"
    )
    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )


def accepted(
    name: Annotated[
        str | None,
        cyclopts.Parameter(help="the NAME that the accepted sets began with; needed where there are several"),
    ] = None,
    *,
    config: Annotated[AcceptedConfig | None, cyclopts.Parameter(name="*")] = None,
) -> None:
    """List the accepted sets and their history; roll back, or choose one by hand."""
    config = config or AcceptedConfig()
    if config.roll_back and config.set is not None:
        raise ConfigError("--roll-back and --set are given together. Expected one of them.")
    root = open_storage(config.cache_root or roots.cache_root())
    root.require()
    if config.roll_back:
        line = _line(root, read_accepted(root), name)
        sys.stdout.write(f"The accepted set of {line} is {roll_back(root, line).name} again.\n")
    elif config.set is not None:
        published = find_set(config.set, root.address)
        line = _chosen_line(read_accepted(root), published, name)
        choose(root, line, published)
        sys.stdout.write(f"The accepted set of {line} is {published.name}.\n")
    else:
        found = read_accepted(root)
        if name is not None:
            found = Accepted(lines={_line(root, found, name): found.lines[name]})
        sys.stdout.write((found.model_dump_json(indent=2) if config.as_json else listing(root, found)) + "\n")


def listing(root: Storage, found: Accepted) -> str:
    """The history of each line, oldest first; the accepted set is the last."""
    if not found.lines:
        return f"No set was accepted in {root} yet. `clusterpaths gate` accepts one, or --set NAME/set_NN."
    lines: list[str] = []
    for line, entries in found.lines.items():
        lines.append(f"{line}: {entries[-1].set} is accepted")
        lines += [
            f"  {entry.created}  {entry.action:<11}  {entry.set}  {entry.model.file}"
            + (f"  ({entry.decision})" if entry.decision else "")
            for entry in entries
        ]
    return "\n".join(lines)


def _chosen_line(found: Accepted, published: PublishedSet, name: str | None) -> str:
    """The line that a set is chosen for; a new one is begun only under the set's own name.

    Raises:
        NotFoundError: there is no such line.
    """
    own = published.name.partition("/")[0]
    if name is not None and name not in (*found.lines, own):
        known = ", ".join(dict.fromkeys((*found.lines, own)))
        raise NotFoundError(
            f"No set of {name} was accepted. Expected {known}: a name with accepted sets, or that of {published.name}."
        )
    return name or line_of(found, published)


def _line(root: Storage, found: Accepted, name: str | None) -> str:
    """The line of this name, or the only one.

    Raises:
        NotFoundError: there is none of this name, or none at all.
        ConfigError: there are several, and none is named.
    """
    lines = list(found.lines)
    if name is None and len(lines) > 1:
        raise ConfigError(f"There are several names with accepted sets: {', '.join(lines)}. Name one of them.")
    if not lines or (name is not None and name not in lines):
        raise NotFoundError(
            f"No set{f' of {name}' if name else ''} was accepted in {root}. Names with accepted sets: "
            f"{', '.join(lines) or 'none yet'}."
        )
    return name or lines[0]


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("accepted", accepted, "[NAME]")


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

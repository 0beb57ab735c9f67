"""Serve sets to an assistant: `clusterpaths mcp`, started by the assistant itself.

The Model Context Protocol over stdin and stdout, so nothing else may be printed. No flow.
"""

from __future__ import annotations

from typing import Annotated

import cyclopts
from pydantic import Field

from clusterpaths.commands.shell import command_parser, run_command
from clusterpaths.common import roots
from clusterpaths.common.extras import require_extra
from clusterpaths.config import CacheRoot
from clusterpaths.records import Record


class McpConfig(Record):
    """Options of `clusterpaths mcp`."""

    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )


def mcp(*, config: Annotated[McpConfig | None, cyclopts.Parameter(name="*")] = None) -> None:
    """Serve every set in the results' directory to an assistant, read-only, by the Model Context Protocol over stdio."""
    require_extra("The server for assistants", "mcp", "mcp")
    from clusterpaths.assistant.server import make_server  # imports the SDK
    from clusterpaths.explore.library import Library

    config = config or McpConfig()
    make_server(Library(config.cache_root or roots.cache_root())).run("stdio")


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("mcp", mcp)


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

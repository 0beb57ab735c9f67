"""Commands from a shell: options read, one paragraph for a user's mistake, an exit code. Without Prefect, so quick to start.

Belongs here: messages that commands and flows share. What only flows need is `flows/running.py`.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import cyclopts
from pydantic import ValidationError

from clusterpaths.errors import ClusterPathsError

USER_ERROR = 2


def run_command(app: cyclopts.App, argv: list[str] | None) -> None:
    """Run a plain command from a shell: exit code 0, or 2 with one paragraph."""
    try:
        app(argv, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        fail(option_message(error), USER_ERROR)
    except ClusterPathsError as error:
        fail(str(error), USER_ERROR)


def fail(message: str, code: int) -> NoReturn:
    """End with one paragraph on stderr."""
    sys.stderr.write(f"\nerror: {message}\n")
    raise SystemExit(code)


def option_message(error: cyclopts.CycloptsError) -> str:
    """Errors of a command line, with the given values."""
    cause = error.__cause__ or error
    return invalid(cause) if isinstance(cause, ValidationError) else f"{error} Try --help."


def invalid(error: ValidationError) -> str:
    """Errors of options, each with its name on the command line."""
    messages = []
    for entry in error.errors():
        option = "--" + str(entry["loc"][0]).replace("_", "-") + " " if entry["loc"] else ""
        messages.append(f"{option}{entry['msg'].removeprefix('Value error, ')}{_got(entry)}")
    return "; ".join(messages)


def _got(error: Any) -> str:
    """The value, where the message is pydantic's own and lacks it."""
    return "" if error["type"] == "value_error" else f", got {error['input']!r}"

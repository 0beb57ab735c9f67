"""Commands from a shell: options read, one paragraph for a user's mistake, an exit code. Without Prefect, so quick to start.

Belongs here: messages that commands and flows share. What only flows need is `flows/shell.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cyclopts
from pydantic import ValidationError

from clusterpaths.errors import ClusterPathsError, ConfigError
from clusterpaths.storage.atomic import of_machine

USER_ERROR, STOPPED, NO_READER = 2, 130, 141  # exit codes, as shells number signals; 1 is a bug, with its traceback
RUN_LOGGERS = ("clusterpaths.pipeline", "clusterpaths.running", "clusterpaths.storage")  # what a run logs


def command_parser(name: str, function: Callable[..., None], words: str = "") -> cyclopts.App:
    """The parser of a plain command: of a function's parameters.

    Args:
        name: of the command.
        function: its docstring is the help.
        words: before the options, as the usage calls them.
    """
    usage = " ".join(filter(None, ["clusterpaths", name, words, "[OPTIONS]"]))
    app = cyclopts.App(
        name=name, help=function.__doc__, usage=f"Usage: {usage}", version_flags=[],
        default_parameter=cyclopts.Parameter(negative=()),
    )  # fmt: skip
    app.default(function)
    return app


def run_command(app: cyclopts.App, argv: list[str] | None) -> None:
    """Run a plain command from a shell: exit code 0, 2 with one paragraph, or 130 for Ctrl-C."""
    with one_paragraph("Stopped."):
        require_working_directory()
        try:
            app(argv, exit_on_error=False, print_error=False)
        except cyclopts.CycloptsError as error:
            fail(option_message(error), USER_ERROR)


@contextlib.contextmanager
def one_paragraph(stopped: str) -> Iterator[None]:
    """End with one paragraph and an exit code where a user's mistake, an error of the machine or Ctrl-C ends a command.

    Args:
        stopped: what is said after Ctrl-C.
    """
    try:
        yield
        sys.stdout.flush()  # here, where a reader that is gone is noticed
    except ClusterPathsError as error:
        fail(str(error), USER_ERROR)
    except BrokenPipeError:  # as in `clusterpaths explain … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at the end
        raise SystemExit(NO_READER) from None
    except KeyboardInterrupt:
        fail(stopped, STOPPED)
    except (OSError, MemoryError, RuntimeError) as error:
        if (reported := of_machine(error)) is None:
            raise
        fail(str(reported), USER_ERROR)


def require_working_directory() -> None:
    """Check that there is a working directory: relative paths, and many libraries, need one.

    Raises:
        ConfigError: it was deleted.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "The working directory no longer exists: it was deleted or moved. Change to one that exists, such as with `cd ~`, "
            "and run the same command again."
        ) from error


@contextlib.contextmanager
def run_log(handler: logging.Handler, names: Sequence[str] = RUN_LOGGERS) -> Iterator[None]:
    """Hand what is logged of a run to a handler while inside; of other loggers, if they are named."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def fail(message: str, code: int) -> NoReturn:
    """End with one paragraph on stderr."""
    sys.stderr.write(f"\nerror: {message}\n")
    raise SystemExit(code)


def option_message(error: cyclopts.CycloptsError) -> str:
    """Errors of a command line, with the given values."""
    cause = error.__cause__ or error
    if isinstance(cause, ValidationError):
        return invalid(cause)
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"{' '.join(error.unused_tokens or ())} is no option. Try --help."
    if isinstance(error, cyclopts.MissingArgumentError) and error.argument:
        return f"{_missing(error, error.argument)} Try --help."
    return f"{error} Try --help."


def _missing(error: cyclopts.MissingArgumentError, argument: cyclopts.Argument) -> str:
    """An option without its value, or what is required and was not given."""
    text = f": {argument.parameter.help}" if argument.parameter.help else ""
    if given := error.keyword or next((token.keyword for token in argument.tokens if token.keyword), None):
        return f"{given} needs a value{text}."
    positional = argument.field_info.is_positional
    return f"{argument.name.removeprefix('--').upper() if positional else argument.name} is missing{text}."


def invalid(error: ValidationError) -> str:
    """Errors of options, each with its name on the command line."""
    messages: list[str] = []
    for option, found in itertools.groupby(error.errors(), _option):
        entries = list(found)
        if all(entry["type"] == "literal_error" for entry in entries):  # of a union, one for each of its members
            choices = " or ".join(
                ", ".join(entry["ctx"]["expected"] for entry in entries).replace(" or ", ", ").rsplit(", ", 1)
            )
            messages.append(f"{option}should be {choices}{_got(entries[0])}")
        else:
            messages += dict.fromkeys(f"{option}{_said(entry)}" for entry in entries)
    return "; ".join(messages)


def _option(entry: Any) -> str:
    return "--" + str(entry["loc"][0]).replace("_", "-") + " " if entry["loc"] else ""


def _said(entry: Any) -> str:
    if entry["type"] == "missing":
        return "is missing"
    if entry["type"] == "int_parsing":
        return f"should be an integer{_got(entry)}"
    return f"{entry['msg'].removeprefix('Value error, ').removeprefix('Input ')}{_got(entry)}"


def _got(error: Any) -> str:
    """The value, where the message is pydantic's own and lacks it."""
    return "" if error["type"] == "value_error" else f", got {error['input']!r}"

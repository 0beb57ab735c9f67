"""Compare new images with a set: `clusterpaths monitor --reference CelebA/set_01 --images NEW`.

Belongs here: the options from a shell, and how windows are printed. The flow for schedules is flows/monitor.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import cyclopts
from pydantic import Field
from rich.console import Console
from rich.table import Table

from clusterpaths.commands.shell import command_parser, run_command, run_log
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import check_once, watch
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.route import Done
from clusterpaths.monitoring.words import headline, name_of_test, p_text, sentences
from clusterpaths.running.progress import terminal, tracking

DRIFTED = 1  # exit code with --exit-code


class MonitorCommand(MonitorConfig):
    """Options of `clusterpaths monitor`."""

    as_json: Annotated[bool, cyclopts.Parameter(name="--json", negative=())] = Field(
        False, description="print the window as JSON; of a series, one line for each new window"
    )
    exit_code: Annotated[bool, cyclopts.Parameter(negative=())] = Field(
        False, description="end with exit code 1 if a window drifted; else 0, whatever was found"
    )


def monitor(*, config: Annotated[MonitorCommand, cyclopts.Parameter(name="*")]) -> None:
    """Compare new images with a set: have they, or how the model treats them, drifted?

    Without --series, all images of the directory or log are one window, and nothing is written. With --series, the windows
    that are complete since the last time are recorded beside the set, and shown by `clusterpaths serve`.
    """
    options = MonitorConfig.model_validate(config.model_dump(exclude={"as_json", "exit_code"}))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    with run_log(handler):
        windows: Iterable[WindowRecord] = (
            watch(options, _progress) if options.series else [check_once(options, _progress)]
        )
        drifted = _show(windows, options, as_json=config.as_json)
    if config.exit_code and drifted:
        raise SystemExit(DRIFTED)


class _Line(logging.Formatter):
    """A message; a warning says so."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return f"warning: {text}" if record.levelno >= logging.WARNING else text


@contextlib.contextmanager
def _progress(address: str, images: int) -> Iterator[Done]:
    """A bar in a terminal."""
    with tracking("monitoring", address, {address: max(images, 1)}, images, terminal()) as tracker:
        yield tracker.counter(address)


def _show(windows: Iterable[WindowRecord], config: MonitorConfig, *, as_json: bool) -> bool:
    """Print windows as they come; whether one drifted."""
    count, drifted = 0, False
    for count, record in enumerate(windows, 1):  # noqa: B007 - used after the loop
        drifted |= record.drifted
        if as_json:
            sys.stdout.write(json.dumps(as_json_document(record), indent=None if config.series else 2) + "\n")
            sys.stdout.flush()
        elif config.series:
            sys.stdout.write(f"{record.start[:19]} to {record.end[:19]}  {headline(record)}\n")
            sys.stdout.flush()
        else:
            _print(record)
    if config.series and not as_json:
        new = "No new window" if not count else "1 new window" if count == 1 else f"{count:,} new windows"
        sys.stdout.write(f"{new} in the series {config.series}.\n")
    return drifted


def as_json_document(record: WindowRecord) -> dict[str, Any]:
    """The record, `drifted` first."""
    return {"drifted": record.drifted, **record.model_dump(mode="json")}


def _print(record: WindowRecord) -> None:
    sys.stdout.write(headline(record) + "\n")
    for sentence in sentences(record):
        sys.stdout.write(f"  {sentence}\n")
    if not record.verdict.tests:
        return
    table = Table("test", "p", "corrected", "effect", "by chance", box=None, pad_edge=False)
    for test in record.verdict.tests:
        mark = " *" if test.adjusted_p_value <= record.verdict.alpha else ""
        table.add_row(
            name_of_test(test) + mark, p_text(test.p_value), p_text(test.adjusted_p_value), f"{test.effect:.3f}",
            f"{test.effect_by_chance:.3f}",
        )  # fmt: skip
    sys.stdout.write("\n")
    Console(file=sys.stdout, highlight=False, markup=False).print(table)
    sys.stdout.write(
        f"\n* differs at {record.verdict.alpha:g}, corrected for the number of tests. Effects are distances in 0 to 1, beside "
        "their mean without drift.\n"
    )


def parser() -> cyclopts.App:
    """The parser of the command."""
    return command_parser("monitor", monitor)


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run_command(parser(), argv)


if __name__ == "__main__":
    main()

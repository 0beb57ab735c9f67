"""Running a flow from a shell: options, one paragraph for a user's mistake, and a quiet end.

Belongs here: what every flow's `main` needs. Nothing of what a flow does.
"""

# No "from __future__ import annotations" here: `start` below is annotated with a class that only its caller knows.

import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import cyclopts
from prefect.events.worker import EventsWorker
from pydantic import BaseModel, ValidationError

from clusterpaths.errors import ClusterPathsError

USER_ERROR = 2
Config = TypeVar("Config", bound=BaseModel)


def run(flow: Callable[[Config], Any], model: type[Config], argv: list[str] | None = None) -> None:
    """Parse the command line into `model`, run `flow` with it, and exit with 0, 2 (a user's mistake) or 1."""
    app = cyclopts.App(
        name=flow.__name__, help=flow.__doc__, version_flags=[], default_parameter=cyclopts.Parameter(negative=())
    )

    def start(*, config: Annotated[model, cyclopts.Parameter(name="*")] = None) -> None:  # type: ignore[valid-type, assignment]
        _run(flow, config if config is not None else model())

    app.default(start)
    try:
        app(argv, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        _fail(_option_message(error), USER_ERROR)


def _run(flow: Callable[[Config], Any], config: Config) -> None:
    speak_plainly()
    try:
        flow(config)
    except ClusterPathsError as error:
        _settle()
        _fail(str(error), USER_ERROR)
    except KeyboardInterrupt:
        _fail("Stopped. What was recorded is kept: the same command goes on from there.", 130)
    _settle()


def _fail(message: str, code: int) -> None:
    print(f"\nerror: {message}", file=sys.stderr)
    raise SystemExit(code)


def _option_message(error: cyclopts.CycloptsError) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, ValidationError):
        return "; ".join(
            f"--{'-'.join(str(part) for part in entry['loc'][:1]).replace('_', '-')} {entry['msg']}".removeprefix("-- ")
            for entry in cause.errors()
        ).replace("Value error, ", "")
    return f"{error} Try --help."


def _settle() -> None:
    """Let the server take in the last events before the process ends; else the last states are lost, with a traceback."""
    EventsWorker.instance().wait_until_empty()


class _OneParagraph(logging.Filter):
    """Turns the log record of an error raised on purpose from a traceback into its message, once."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ClusterPathsError):
            told = getattr(error, "told", False)
            record.msg = "Stopped by the error above." if told else str(error)
            record.args, record.exc_info, record.exc_text = (), None, None
            error.told = True  # type: ignore[attr-defined]
        elif record.levelno >= logging.ERROR and str(record.msg).startswith("Finished in state Failed("):
            record.msg = "Finished in state Failed()"  # the message stands above, and in the run's state
        return True


def speak_plainly() -> None:
    """Make Prefect's run loggers tell errors raised on purpose in one paragraph."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(present, _OneParagraph) for present in logger.filters):
            logger.addFilter(_OneParagraph())

"""What a shell sees of a flow: a few lines of a view instead of Prefect's log, which is unchanged everywhere else.

Belongs here: which records of the run's loggers a person needs at once. Prefect's server and CLUSTERPATHS_LOG_FILE have all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prefect
from prefect.logging.configuration import ensure_logging_setup
from prefect.logging.handlers import PrefectConsoleHandler

from clusterpaths.running.view import View
from tasks.worker_log import LOGGERS as RUNS
from tasks.worker_log import Show

_CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
_PREFECT = str(Path(prefect.__file__).parent)
_brief: _Brief | None = None


def view() -> View | None:
    """The view of the run that this shell started; None for other runs, and with --verbose."""
    return _brief.view if _brief else None


def showing() -> Show | None:
    """Shows a log record of another process in that view; None where there is none."""
    return _brief.filter if _brief else None


@contextmanager
def brief_console(*, stages: bool) -> Iterator[View]:
    """Show a view in place of the console's log; later records, as of the server that stops, are shown from warnings on.

    Args:
        stages: the run shows its stages; else its messages are printed as lines.
    """
    global _brief
    ensure_logging_setup()
    verbose_console()
    handlers = _console_handlers()
    with View() as shown, _quiet_workers():
        brief = _brief = _Brief(shown, stages)
        for handler in handlers:
            handler.addFilter(brief)
        try:
            yield shown
        finally:
            _brief = brief.view = None


@contextmanager
def _quiet_workers() -> Iterator[None]:
    """Processes that the run starts, as Dask workers, print nothing: their warnings are shown here."""
    before = os.environ.get(_CONSOLE_LEVEL)
    os.environ.setdefault(_CONSOLE_LEVEL, "CRITICAL")
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CONSOLE_LEVEL]


def verbose_console() -> None:
    """Show the complete log: also after a run that showed a view."""
    for handler in _console_handlers():
        handler.filters = [one for one in handler.filters if not isinstance(one, _Brief)]


def _console_handlers() -> list[PrefectConsoleHandler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [handler for logger in loggers for handler in getattr(logger, "handlers", [])]
    return list(dict.fromkeys(handler for handler in found if isinstance(handler, PrefectConsoleHandler)))


class _Brief(logging.Filter):
    """Takes every record from the console: warnings and messages of the run go to the view, Prefect's own states nowhere."""

    def __init__(self, view: View, stages: bool) -> None:
        super().__init__()
        self.view: View | None = view
        self._stages = stages

    def filter(self, record: logging.LogRecord) -> bool:
        view, of_run = self.view, record.name.startswith(RUNS)
        if view is None or not of_run:
            return record.levelno >= logging.WARNING
        text = record.getMessage()
        if record.pathname.startswith(_PREFECT):  # states, and errors that the shell prints when the run has ended
            if " - Retry " in text or text.startswith("Task run exceeded timeout"):
                view.warning(f"{getattr(record, 'task_run_name', 'the run')}: {text}")
        elif record.levelno >= logging.WARNING:
            view.warning(text)
        elif record.levelno >= logging.INFO and self._stages:
            view.message(text)
        elif record.levelno >= logging.INFO:
            view.line(text)
        return False

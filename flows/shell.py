"""Running a flow from a shell: its server, error messages, logging and exit codes.

Belongs here: what every flow needs, nothing of what a flow does. Options and what is checked before Prefect is imported are
`flows/cli.py`.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from prefect import get_run_logger
from prefect.events.worker import EventsWorker
from prefect.exceptions import MissingContextError
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from clusterpaths.commands.shell import RUN_LOGGERS, USER_ERROR, fail
from clusterpaths.config import RunConfig
from clusterpaths.errors import ClusterPathsError
from clusterpaths.storage.atomic import disk_errors, of_machine
from flows.console import brief_console, verbose_console
from flows.temporary_server import begin_server, hand_over

LOG_FILE_VARIABLE = "CLUSTERPATHS_LOG_FILE"
THREADS_WARNING = "Timeouts in worker threads cannot interrupt blocking operations"  # Prefect's, of every such task
SETTLE_SECONDS = 20.0
CLIENTS = ("prefect.client", "prefect.events.clients", "prefect._internal.concurrency", "EventsWorker")  # loggers


def run_flow(
    load: Callable[[], Callable[..., Any]],
    parameters: dict[str, Any],
    *,
    verbose: bool = False,
    stages: bool = True,
) -> None:
    """Run a flow, and exit with 2 (a user's mistake) or 130 (Ctrl-C) if it did not succeed; a bug shows its traceback.

    Args:
        load: imports the flow and its stages; called while a temporary server starts.
        parameters: of the flow.
        verbose: show the complete log instead of a few lines.
        stages: whether the flow shows its stages, as a pipeline does; of others, their messages are shown.
    """
    if verbose:
        verbose_console()
    with contextlib.nullcontext() if verbose else brief_console(stages=stages):
        _run(load, parameters)


def _run(load: Callable[[], Callable[..., Any]], parameters: dict[str, Any]) -> None:
    begun = False
    try:
        set_up_logging()
        server = begin_server()
        with _importing():
            flow = load()
            if server:
                hand_over(server)
        begun = True
        # No heartbeats: a crash is visible in the shell, and Prefect waits up to a second for the heartbeat thread.
        with temporary_settings(set_defaults={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            flow(**parameters)
    except ClusterPathsError as error:
        _end_with(error, settle=begun)
    except Exception as error:
        if (machine := of_machine(error)) is not None:
            _end_with(machine, settle=begun)
        if (reported := _behind(error)) is None:
            raise
        _end_with(reported, settle=False)  # the server is gone
    except KeyboardInterrupt:
        fail("Stopped. Recorded results are preserved: run the same command to resume.", 130)
    _settle()


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Disable garbage collection: it takes a quarter of the import time and finds nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # later collections skip these objects too
        gc.enable()


def _settle() -> None:
    """Flush events before the process ends, else the last states are lost, with a traceback; the server may be gone."""
    waiting = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    waiting.start()
    waiting.join(SETTLE_SECONDS)


def _end_with(error: ClusterPathsError, *, settle: bool) -> NoReturn:
    """End with the error as the last paragraph: clients that lose the server meanwhile, on a busy machine, log nothing."""
    for name in CLIENTS:
        logging.getLogger(name).disabled = True  # not all heed a level
    logging.raiseExceptions = False  # else Prefect's handler prints what it cannot send
    if settle:
        _settle()
    fail(str(error), USER_ERROR)


def _behind(error: Exception) -> ClusterPathsError | None:
    """The expected error whose report to a server failed, if it is that."""
    behind: BaseException | None = error
    while behind and type(behind).__module__.partition(".")[0] in ("httpx", "httpcore", "prefect"):
        behind = behind.__context__
    return behind if isinstance(behind, ClusterPathsError) else None


class _OneParagraph(logging.Filter):
    """Replaces the traceback of an expected error in the log by its message, once."""

    def filter(self, record: logging.LogRecord) -> bool:
        if THREADS_WARNING in str(record.msg):
            return False  # not so here: tasks/time_limit.py
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ClusterPathsError):
            if error.recoverable:
                record.levelno, record.levelname = logging.WARNING, "WARNING"
            logged = getattr(error, "logged", False)
            record.msg = "Stopped by the error above." if logged else str(error)
            record.args, record.exc_info, record.exc_text = (), None, None
            error.logged = True  # type: ignore[attr-defined]
        elif str(record.msg).startswith("Finished in state Failed("):
            record.msg = "Finished in state Failed()"  # the message stands above, and in the run's state
        return True


def set_up_logging() -> None:
    """Make Prefect's run loggers report expected errors in one paragraph, and write JSON lines if configured.

    With CLUSTERPATHS_LOG_FILE set, every line of a run goes to that file too, as JSON with the run's id and name.
    Safe to repeat: runs started by a worker do not go through `run`.
    """
    for name in RUN_LOGGERS:
        library = logging.getLogger(name)
        if not any(isinstance(present, _ToTheRun) for present in library.handlers):
            library.addHandler(_ToTheRun())
            library.setLevel(logging.INFO)
            library.propagate = False
    target = os.environ.get(LOG_FILE_VARIABLE)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(present, _OneParagraph) for present in logger.filters):
            logger.addFilter(_OneParagraph())
        if target and not any(isinstance(present, _JsonLines) for present in logger.handlers):
            logger.addHandler(_JsonLines(target))


class _ToTheRun(logging.Handler):
    """Forwards log records of the library to the running flow or task, else to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get_run_logger().log(record.levelno, record.getMessage())
        except MissingContextError:  # a thread of the library's own
            print(f"{record.levelname} | {record.getMessage()}", file=sys.stderr)


class _JsonLines(logging.FileHandler):
    """One JSON object per line: time, level, logger, message, flow_run_id, flow_run_name, task_run_name."""

    def __init__(self, target: str) -> None:
        path = Path(target).expanduser().absolute()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(path, encoding="utf-8", delay=False)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("flow_run_id", "flow_run_name", "task_run_id", "task_run_name"):
            if (value := getattr(record, name, None)) is not None:
                line[name] = str(value)
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=False)


def run_name() -> str:
    """Name of a run in the UI: results, model and data, such as "CelebA: CelebA_CNN_v2 on celeba, first 5"."""
    config = flow_run.parameters["config"]
    config = config if isinstance(config, RunConfig) else RunConfig.model_validate(config)
    model = config.model.stem if config.model else ("SampleFaces_CNN" if config.sample else "CelebA_CNN")
    data = f"{config.sample_size:,} drawn faces" if config.sample else config.dataset
    return f"{config.result_name}: {model} on {data}" + (f", first {config.subset:,}" if config.subset else "")

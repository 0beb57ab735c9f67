"""Running a flow from a shell: options, error messages, logging and exit codes.

Belongs here: what the `main` of every flow needs, nothing of what a flow does.
"""

# No "from __future__ import annotations" here: `start` below is annotated with a class that only its caller knows.

import contextlib
import datetime
import gc
import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import cyclopts
from prefect import get_run_logger
from prefect.events.worker import EventsWorker
from prefect.exceptions import MissingContextError
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from pydantic import BaseModel

from clusterpaths.commands.shell import USER_ERROR, fail, invalid, option_message, run_command
from clusterpaths.config import RunConfig
from clusterpaths.errors import ClusterPathsError
from clusterpaths.storage.atomic import disk_errors
from flows.temporary_server import begin_server, hand_over

__all__ = ["USER_ERROR", "invalid", "option_message", "run", "run_command", "run_name", "set_up_logging"]

LOG_FILE_VARIABLE = "CLUSTERPATHS_LOG_FILE"
RELAYED = ("clusterpaths.pipeline", "clusterpaths.running", "clusterpaths.storage")  # loggers of a run
Config = TypeVar("Config", bound=BaseModel)


def run(
    flow: Callable[..., Any],
    model: type[Config],
    argv: list[str] | None = None,
    *,
    flat: bool = False,
    stages: str | None = None,
) -> None:
    """Parse the command line into `model`, run `flow` with it, and exit with 0, 2 (a user's mistake) or 1.

    A flow takes the model as its parameter `config`, or, if `flat`, the fields of the model as parameters.
    `stages` names the module that the flow imports when it runs: it is imported while a temporary server starts.
    """
    app = cyclopts.App(
        name=flow.__name__, help=flow.__doc__, version_flags=[], default_parameter=cyclopts.Parameter(negative=())
    )

    def start(*, config: Annotated[model, cyclopts.Parameter(name="*")] = None) -> None:  # type: ignore[valid-type]
        given = config if config is not None else model()
        parameters = {name: getattr(given, name) for name in model.model_fields} if flat else {"config": given}
        _run(flow, parameters, stages)

    app.default(start)
    try:
        app(argv, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        fail(option_message(error), USER_ERROR)


def _run(flow: Callable[..., Any], parameters: dict[str, Any], stages: str | None) -> None:
    set_up_logging()
    try:
        server = begin_server()
        with _importing():
            if stages:
                importlib.import_module(stages)
            if server:
                hand_over(server)
        # No heartbeats: a crash is visible in the shell, and Prefect waits up to a second for the heartbeat thread.
        with temporary_settings(set_defaults={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            flow(**parameters)
    except ClusterPathsError as error:
        _settle()
        fail(str(error), USER_ERROR)
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
    """Flush events before the process ends; else the last states are lost, with a traceback."""
    EventsWorker.instance().wait_until_empty()


class _OneParagraph(logging.Filter):
    """Replaces the traceback of an expected error in the log by its message, once."""

    def filter(self, record: logging.LogRecord) -> bool:
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
    for name in RELAYED:
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

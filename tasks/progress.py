"""Progress in the Prefect UI: an artifact that follows the library's tracker."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from clusterpaths.running.progress import Tracker, What, terminal

UPDATE_SECONDS = 2.0


@contextlib.contextmanager
def progress_artifact(what: What, examples: int, shown: AbstractContextManager[Tracker]) -> Iterator[Tracker]:
    """Show progress as an artifact too, besides where `shown` shows it; to be called inside a flow."""
    artifact = create_progress_artifact(0.0, key=f"{what}-progress", description=f"{examples:,} images: {what}")
    assert isinstance(artifact, UUID)  # a coroutine only where a loop runs
    ended = threading.Event()
    # In a thread of its own: a call to the server may take longer than a batch, which must not wait for it.
    with (
        shown as tracker,
        ThreadPoolExecutor(1, thread_name_prefix="progress") as publisher,
    ):
        publishing = publisher.submit(contextvars.copy_context().run, _follow, tracker, artifact, ended)
        try:
            yield tracker
        finally:
            ended.set()
        publishing.result()
        _publish(tracker, artifact)


def _follow(tracker: Tracker, artifact: UUID, ended: threading.Event) -> None:
    while not ended.wait(UPDATE_SECONDS):
        _publish(tracker, artifact)


def _publish(tracker: Tracker, artifact: UUID) -> None:
    update_progress_artifact(artifact, progress=100 * tracker.share, description=tracker.text())


def log_console() -> Console | None:
    """The console that Prefect logs to: lines and bar on one console do not interleave."""
    if not sys.stderr.isatty():
        return None
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                return handler.console
    return terminal()

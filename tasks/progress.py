"""How far extraction is: a progress artifact in the UI, a bar in a terminal.

Shards run in threads of one process, so they find the run's tracker by the cache's folder; on another machine there
is none, and a shard's end is what counts.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clusterpaths.cache.remote import local_folder
from clusterpaths.extract import ExtractionJob
from clusterpaths.plan import examples_in

UPDATE_SECONDS = 2.0
_trackers: dict[str, Tracker] = {}


class Tracker:
    """Counts examples; safe between threads."""

    def __init__(self, total: int, artifact: object, bar: Progress | None) -> None:
        self.total, self.done = total, 0
        self._artifact, self._bar = artifact, bar
        self._row = bar.add_task("extracting", total=total, rate="") if bar else None
        self._lock = threading.Lock()
        self._started = self._updated = time.monotonic()

    def advance(self, examples: int) -> None:
        """Add to the count; the artifact follows every two seconds."""
        self._count(lambda: self.done + examples)

    def at_least(self, share: float) -> None:
        """This share of the examples is done, and perhaps more: for shards on machines that do not count here."""
        self._count(lambda: max(self.done, int(share * self.total)))

    def _count(self, counted: Callable[[], int]) -> None:
        with self._lock:
            self.done = counted()
            now = time.monotonic()
            due = now - self._updated >= UPDATE_SECONDS
            if due:
                self._updated = now
        if self._bar is not None and self._row is not None:
            rate = f"{self.done / max(now - self._started, 1e-6):,.0f} images/s"
            self._bar.update(self._row, completed=min(self.done, self.total), rate=rate)
        if due:
            self.publish()

    def publish(self) -> None:
        update_progress_artifact(self._artifact, progress=min(100.0, 100 * self.done / max(self.total, 1)))


@contextlib.contextmanager
def tracking(job: ExtractionJob, shards: tuple[int, ...]) -> Iterator[Tracker]:
    """Show progress of these shards' examples while inside; `tracker(job.directory)` finds it from other threads."""
    directory, total = job.directory, examples_in(local_folder(job.directory), shards)
    artifact = create_progress_artifact(0.0, key="extraction-progress", description=f"{total:,} examples to extract")
    bar = _terminal_bar()
    with bar or contextlib.nullcontext():
        _trackers[directory] = Tracker(total, artifact, bar)
        try:
            yield _trackers[directory]
            _trackers[directory].publish()
        finally:
            del _trackers[directory]


def tracker(directory: str) -> Tracker | None:
    """The tracker of the extraction that runs into this folder, in this process."""
    return _trackers.get(directory)


def _terminal_bar() -> Progress | None:
    if not sys.stderr.isatty():
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    return Progress(*columns, TimeRemainingColumn(), console=_log_console(), transient=True)


def _log_console() -> Console:
    """The console that Prefect logs to: lines and bar on one console do not tear each other apart."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                return handler.console
    return Console(stderr=True)

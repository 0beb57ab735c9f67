"""How far extraction and clustering are: a progress artifact in the UI, a bar in a terminal, with speed and time left.

Shards and layers run in threads of one process, so they find the run's tracker by the cache's folder; on another
machine there is none, and their end is what counts. The estimate is `pace.py`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

from clusterpaths.cache.fit_sample import FIT_ROWS
from clusterpaths.cache.manifest import parse_ids, require_manifest
from clusterpaths.cache.rows import SAMPLE_WEIGHT
from clusterpaths.clustering.kmeans import SAMPLE_ROWS
from clusterpaths.extraction.extract import ExtractionJob
from clusterpaths.extraction.plan import ExtractionRecord, examples_in
from tasks.pace import Pace

UPDATE_SECONDS = 2.0
TOGETHER = "all layers"
What = Literal["extraction", "clustering"]
_BUSY_THREADS: dict[What, int] = {"extraction": 2, "clustering": 1}  # of a task: one decodes, one runs the model
_trackers: dict[tuple[What, str], Tracker] = {}


class Tracker:
    """Counts what tasks have done, and shows it; safe between threads.

    Args:
        pace: of the parts: shards with their examples, or layers with the values that are read of them.
        examples: images in all; what is shown is in images, whatever the pace counts.
        artifact: the progress artifact's id.
    """

    def __init__(self, pace: Pace, examples: int, artifact: object) -> None:
        self._pace, self._examples, self._artifact = pace, examples, artifact
        self._lock = threading.Lock()

    def begin(self, part: str) -> None:
        with self._lock:
            self._pace.begin(part)

    def advance(self, part: str, amount: int) -> None:
        """So much more of a part is done."""
        with self._lock:
            self._pace.add(part, amount)

    def finish(self, part: str) -> None:
        """A part is done: on a machine that does not count here, all of it at once."""
        with self._lock:
            self._pace.finish(part)

    def counter(self, part: str) -> Callable[[int], None]:
        """`advance` of one part."""
        return functools.partial(self.advance, part)

    @property
    def share(self) -> float:
        """0 … 1."""
        return min(1.0, self._pace.done / max(self._pace.total, 1))

    def text(self) -> str:
        """Such as "1,024 of 2,000 images, 640 images/s, 2 s left"."""
        with self._lock:
            rate, left = self._pace.rate_now(), self._pace.left()
        done = f"{int(self.share * self._examples):,} of {self._examples:,} images"
        if rate is None or left is None:
            return done
        return f"{done}, {rate * self._examples / max(self._pace.total, 1):,.0f} images/s, {duration(left)} left"

    def publish_until(self, ended: threading.Event) -> None:
        """Keep the artifact up to date, every two seconds."""
        while not ended.wait(UPDATE_SECONDS):
            self.publish()

    def publish(self) -> None:
        update_progress_artifact(self._artifact, progress=100 * self.share, description=self.text())


def duration(seconds: float) -> str:
    """Such as 7 s, 1:05 min, 2:30 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    big, unit = (whole, "min") if whole < 3600 else (whole // 60, "h")
    return f"{big // 60}:{big % 60:02d} {unit}"


def tracking_shards(
    job: ExtractionJob, shards: tuple[int, ...], workers: int
) -> contextlib.AbstractContextManager[Tracker]:
    """Show progress of these shards' examples while inside; `tracker` finds it from other threads."""
    directory = job.storage
    sizes = {str(shard): count for shard, count in examples_in(directory, shards).items()}
    return _tracking("extraction", job.directory, sizes, sum(sizes.values()), workers)


def tracking_layers(
    extraction: ExtractionRecord, layers: list[str], workers: int, *, together: bool = False
) -> contextlib.AbstractContextManager[Tracker]:
    """Show progress of clustering these layers while inside: their rows are read to be fitted on and to be assigned, those
    of a sample twice before that. Layers that are clustered together are one part, TOGETHER.

    Where a clustering has to go over its rows again, the display waits for it.
    """
    examples, manifest = len(parse_ids(extraction.ids)), require_manifest(extraction.storage)
    rows = examples + min(examples, FIT_ROWS) + 2 * SAMPLE_WEIGHT * min(examples, SAMPLE_ROWS)
    sizes = {layer: rows * int(np.prod(manifest.layers[layer].shape)) for layer in layers}
    if together:
        sizes = {TOGETHER: sum(sizes.values())}
    return _tracking("clustering", extraction.directory, sizes, examples, workers)


@contextlib.contextmanager
def _tracking(what: What, directory: str, sizes: dict[str, int], examples: int, workers: int) -> Iterator[Tracker]:
    artifact = create_progress_artifact(0.0, key=f"{what}-progress", description=f"{examples:,} images: {what}")
    tracker = Tracker(Pace(sizes, workers, _lone(what, workers)), examples, artifact)
    ended = threading.Event()
    # In a thread of its own: a call to the server takes longer than many a batch, which must not wait for it.
    with _terminal_bar(what, tracker), ThreadPoolExecutor(1, thread_name_prefix="progress") as publisher:
        _trackers[what, directory] = tracker
        publishing = publisher.submit(contextvars.copy_context().run, tracker.publish_until, ended)
        try:
            yield tracker
        finally:
            ended.set()
            del _trackers[what, directory]
        publishing.result()
        tracker.publish()


def tracker(what: What, directory: str) -> Tracker | None:
    """The tracker of the extraction or clustering that goes on for this cache, in this process."""
    return _trackers.get((what, directory))


def _lone(what: What, workers: int) -> float:
    """Speed of one task alone, as a share of all workers': tasks of one machine share its cores."""
    flow_run = FlowRunContext.get()
    if flow_run and getattr(flow_run.task_runner, "address", None):
        return 1 / workers
    cores, threads = os.cpu_count() or 1, _BUSY_THREADS[what]
    return min(cores, threads) / min(cores, threads * workers)


class _Standing(ProgressColumn):
    """The tracker's text; it counts down between reports, too."""

    max_refresh = 0.5

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        super().__init__()

    def render(self, task: Task) -> Text:
        task.completed = 100 * self._tracker.share
        return Text(self._tracker.text())


def _terminal_bar(what: str, tracker: Tracker) -> contextlib.AbstractContextManager[object]:
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    # The text comes first: it also moves the bar.
    columns = (TextColumn("{task.description}"), _Standing(tracker), BarColumn(), TaskProgressColumn())
    bar = Progress(*columns, console=_log_console(), transient=True)
    bar.add_task(what, total=100)
    return bar


def _log_console() -> Console:
    """The console that Prefect logs to: lines and bar on one console do not tear each other apart."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                return handler.console
    return Console(stderr=True)

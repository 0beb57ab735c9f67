"""What a terminal or a log shows of a run: what it will do, a line per stage, the warnings, the result and the next step.

Belongs here: the lines and their layout. The complete log is written by logging, which this does not replace.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.text import Text

from clusterpaths.records import StageTime
from clusterpaths.report.numbers import seconds as in_words
from clusterpaths.running.progress import Tracker, What, tracking

MOST_WARNINGS = 10  # shown at once, and again at the end
_NAME, _TIME = 20, 12  # width of the columns


class View:
    """Lines on stderr, or another file; in a terminal, one more for the running stage, with its progress. Thread-safe.

    Use it as a context manager: leaving it removes the line of the running stage.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self.console = Console(file=file or sys.stderr, highlight=False, markup=False, emoji=False)
        self._live = Live(
            _Current(self), console=self.console, transient=True, refresh_per_second=4, auto_refresh=self._terminal
        )
        self._lock = threading.RLock()
        self._running: list[_Stage] = []
        self._tracker: Tracker | None = None
        self._warnings: list[str] = []
        self._began = self._ending = self._printed = False
        self._started = time.perf_counter()

    def __enter__(self) -> View:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    @property
    def _terminal(self) -> bool:
        return self.console.is_terminal

    @property
    def width(self) -> int | None:
        """Characters of a line of a terminal; None in a log, where nothing is cut."""
        return self.console.width if self._terminal else None

    def line(self, text: str) -> None:
        """Print a line at once, in full."""
        with self._lock:
            self.console.print(text, soft_wrap=True)

    def message(self, text: str) -> None:
        """What the running stage has found: shown with it."""
        with self._lock:
            if self._running:
                self._running[-1].message = text

    def warning(self, text: str) -> None:
        """Print a warning at once, and again at the end; of many, the first ones and their number."""
        with self._lock:
            if text in self._warnings:
                return
            self._warnings.append(text)
            if len(self._warnings) <= MOST_WARNINGS and not self._ending:
                self.line(f"warning: {text}")

    def ending(self) -> None:
        """Nothing runs any more, and the result follows: warnings from now on are printed with it only."""
        with self._lock:
            self._ending = True

    def seconds(self) -> float:
        """Since the view was made."""
        return time.perf_counter() - self._started

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callable[[StageTime], None]]:
        """Show a stage while it runs, and its line when it has ended without an error; yields what takes its time."""
        stage = _Stage(name)
        with self._lock:
            self._running.append(stage)
            self._began = True
        try:
            yield stage.end
        finally:
            with self._lock:
                self._running.remove(stage)
        self.line(stage.text(self.width))

    @contextlib.contextmanager
    def tracking(self, what: What, directory: str, sizes: Mapping[str, int], examples: int) -> Iterator[Tracker]:
        """As `progress.tracking`, with the bar below the running stage."""
        with tracking(what, directory, sizes, examples) as tracker:
            self._tracker = tracker
            try:
                yield tracker
            finally:
                self._tracker = None

    def result(self, rows: Mapping[str, str], after: Sequence[str]) -> None:
        """Print the result as a table, the warnings again, and what to do next; once."""
        with self._lock:
            if self._printed:
                return
            self._printed = True
            self.line("")
            for name, value in rows.items():
                self.line(f"{name:<{_NAME}}{value}")
            if self._warnings:
                self.line("")
            for text in self._warnings[:MOST_WARNINGS]:
                self.line(f"warning: {text}")
            if len(self._warnings) > MOST_WARNINGS:
                more = len(self._warnings) - MOST_WARNINGS
                self.line(f"{more:,} more warnings are in the complete log: --verbose shows it.")
            self.line("")
            for text in after:
                self.line(text)

    def current(self) -> RenderableType:
        """The running stage and its progress."""
        with self._lock:
            stage, tracker = (self._running[-1] if self._running else None), self._tracker
        if stage is None:
            return Text("" if self._began else "starting …", style="dim")
        line = Text(stage.text(self.width), no_wrap=True, style="dim")
        return Group(line, tracker.bar) if tracker else line


class _Stage:
    """A running or ended stage."""

    def __init__(self, name: str) -> None:
        self.name, self.message = name, ""
        self.did: StageTime | None = None
        self._started = time.perf_counter()

    def end(self, did: StageTime) -> None:
        self.did = did

    def text(self, width: int | None) -> str:
        """Name, time, and what it did or has found, cut to the width if there is one."""
        found, did = self.message, self.did
        if did and did.images:
            found = did.detail or f"{did.images:,} images"
            if did.seconds:
                found += f", {did.images / did.seconds:,.0f} images/s"
        elif did and did.detail:
            found = did.detail
        took = in_words(did.seconds if did else time.perf_counter() - self._started)
        line = f"{self.name:<{_NAME}}{took:>{_TIME}}  {' '.join(found.split())}".rstrip()
        return line if width is None or len(line) <= width else line[: width - 1] + "…"


class _Current:
    """Renders what runs at the moment of each refresh."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self._view.current()

"""Progress of extraction and fitting, with speed and time left: a bar in a terminal, and the same as text.

Pieces that run in threads of this process find the run's tracker by activity and cache directory. Pieces in another
process have none: they count when they end. Estimates are rich's.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

_SPEED_SECONDS = 600.0  # speed is averaged over this long: a piece on a Dask worker only reports its end
_NOTEBOOK_WIDTH = 120  # characters: a million images fit; a notebook does not rewrite a line that was wrapped
What = Literal["extraction", "fitting", "monitoring"]
_trackers: dict[tuple[What, str], Tracker] = {}


class Tracker:
    """Counts the work done by pieces. Thread-safe.

    Args:
        what: the activity, for the bar.
        sizes: of the pieces: examples of a shard, or values read of a layer.
        examples: number of images; progress is shown in images.
        console: to draw on; None draws nothing.
    """

    def __init__(self, what: What, sizes: Mapping[str, int], examples: int, console: Console | None = None) -> None:
        self._left, self._total, self._examples = dict(sizes), max(sum(sizes.values()), 1), examples
        self._lock = threading.Lock()
        columns = (TextColumn("{task.description}"), _Standing(self), BarColumn(), TaskProgressColumn())
        self.bar = Progress(
            *columns, console=console, transient=True, disable=console is None, speed_estimate_period=_SPEED_SECONDS
        )
        self._task = self.bar.add_task(what, total=self._total)

    def advance(self, part: str, amount: int) -> None:
        """Add to the work done of a piece; work that a retry repeats counts once."""
        with self._lock:
            amount = min(amount, self._left.get(part, 0))
            if amount > 0:
                self._left[part] -= amount
                self.bar.advance(self._task, amount)

    def finish(self, part: str) -> None:
        """A piece is done; counts what was not reported yet."""
        self.advance(part, self._left.get(part, 0))

    def counter(self, part: str) -> Callable[[int], None]:
        """`advance` of one piece."""
        return functools.partial(self.advance, part)

    @property
    def share(self) -> float:
        """0 … 1."""
        return min(1.0, self._state.completed / self._total)

    def text(self) -> str:
        """Such as "1,024 of 2,000 images, 640 images/s, 2 s left"."""
        speed, left = self._state.speed, self._state.time_remaining
        done = f"{int(self.share * self._examples):,} of {self._examples:,} images"
        if speed is None or left is None:
            return done
        return f"{done}, {speed * self._examples / self._total:,.0f} images/s, {duration(left)} left"

    @property
    def _state(self) -> Task:
        return self.bar.tasks[0]


class _Standing(ProgressColumn):
    """The tracker's text."""

    max_refresh = 0.5

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        super().__init__()

    def render(self, task: Task) -> Text:  # noqa: ARG002 - the tracker has one task
        return Text(self._tracker.text())


@contextlib.contextmanager
def tracking(
    what: What, directory: str, sizes: Mapping[str, int], examples: int, console: Console | None = None
) -> Iterator[Tracker]:
    """Show progress on the console, if there is one, while inside; `counter` finds it from other threads."""
    tracker = Tracker(what, sizes, examples, console)
    _trackers[what, directory] = tracker
    try:
        with tracker.bar:
            yield tracker
    finally:
        del _trackers[what, directory]


def counter(what: What, directory: str, part: str) -> Callable[[int], None] | None:
    """The counter of one piece, if this process runs a tracker for this cache."""
    tracker = _trackers.get((what, directory))
    return tracker.counter(part) if tracker else None


def terminal() -> Console | None:
    """A console for bars where stderr is a terminal, or output is shown by a notebook; it needs no widgets there."""
    if sys.stderr.isatty():
        return Console(stderr=True)
    if type(sys.stdout).__module__.startswith("ipykernel."):  # a notebook rewrites a line, too, but has no width
        return Console(file=sys.stdout, force_terminal=True, force_jupyter=False, width=_NOTEBOOK_WIDTH)
    return None


def duration(seconds: float) -> str:
    """Such as 7 s, 1:05 min, 2:30 h."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    big, unit = (total, "min") if total < 3600 else (total // 60, "h")
    return f"{big // 60}:{big % 60:02d} {unit}"

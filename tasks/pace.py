"""How fast work in parts goes, and how long it still takes. Pure: time comes from the clock that is passed in.

Belongs here: the estimate behind the progress display. Parts are shards or layers, a few at a time. The rate comes from
how long each report took its own worker, over the last three quarters of what is done and without each worker's first
report: so making sessions and other slow starts play no part. A part may report every batch, or only its end (on Dask
workers). Time left follows from the schedule: towards the end fewer parts run than could.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping

_POINTS = 4000  # at most this many are kept of a run's history
_TAIL = 8  # rounds at the end whose schedule is followed part by part; before them, all workers are busy


class Pace:
    """For one thread at a time.

    Args:
        sizes: what there is to do, by part: examples, or values.
        at_once: parts that run at a time.
        lone: speed of one part that runs alone, as a share of what `at_once` of them reach together.
        clock: seconds.
    """

    def __init__(
        self, sizes: Mapping[str, int], at_once: int, lone: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.done = sum(sizes.values()), 0
        self._left = dict(sizes)
        self._at_once, self._lone, self._clock = max(1, min(at_once, len(sizes))), lone, clock
        # Work is counted in seconds of all workers at full speed; each part that runs has its share of them.
        self._now, self._work = clock(), 0.0
        self._seen: dict[str, float] = {}  # of parts that run: the work when they began or last reported
        self._free: list[float] = []  # the work when a part ended and none has taken its place yet
        self._starting: set[str] = set()  # first parts of their workers, until they have reported once
        self._started: list[float] = [0.0, 0.0]  # amount and work of first reports
        self._counted: list[float] = [0.0, 0.0]  # of all others
        self._dones: list[float] = [0.0]
        self._points: list[tuple[float, float]] = [(0.0, 0.0)]  # counted, when that much was done

    def begin(self, part: str) -> None:
        """It is given to a worker."""
        self._tick()
        if self._free:
            self._seen[part] = self._free.pop(0)  # what lies between two parts is part of the pace
        else:
            self._seen[part] = self._work
            self._starting.add(part)

    def add(self, part: str, amount: int) -> None:
        """So much more of it is done; what a retry does again counts once."""
        self._tick()
        self._count(part, min(amount, self._left.get(part, 0)))

    def finish(self, part: str) -> None:
        """All of it is done."""
        self._tick()
        self._count(part, self._left.get(part, 0))
        self._left.pop(part, None)
        if (seen := self._seen.pop(part, None)) is not None:
            self._free.append(seen)
            self._starting.discard(part)

    def rate(self) -> float | None:
        """Of a second, while all workers are busy; None where nothing is known yet."""
        at = bisect_right(self._dones, self.done / 4) - 1
        amount, work = (now - then for now, then in zip(self._counted, self._points[at], strict=True))
        if not (amount and work):
            amount, work = self._started
        return amount / work if amount and work else None

    def rate_now(self) -> float | None:
        """Of a second, with as many parts as run now."""
        rate = self.rate()
        return None if rate is None else rate * self._speed(max(len(self._seen), 1))

    def left(self) -> float | None:
        """Seconds until all is done; None where nothing is known yet."""
        if self.done >= self.total:
            return 0.0
        if (rate := self.rate()) is None:
            return None
        self._tick()
        running = [max(self._left[part] - (self._work - seen) * rate, 0.0) for part, seen in self._seen.items()]
        waiting = [float(left) for part, left in self._left.items() if part not in self._seen]
        tail = _TAIL * self._at_once
        return sum(waiting[:-tail]) / rate + self._schedule([left for left in running if left], waiting[-tail:], rate)

    def _schedule(self, running: list[float], waiting: list[float], rate: float) -> float:
        seconds, following = 0.0, iter(waiting)
        while True:
            while len(running) < self._at_once and (part := next(following, None)) is not None:
                running.append(part)
            if not running:
                return seconds
            first = min(running)
            seconds += first * len(running) / (rate * self._speed(len(running)))
            running = [left - first for left in running if left > first]

    def _speed(self, running: int) -> float:
        return min(1.0, running * self._lone)

    def _tick(self) -> None:
        now, running = self._clock(), max(len(self._seen), 1)
        self._work += (now - self._now) * self._speed(running) / running
        self._now = now

    def _count(self, part: str, amount: int) -> None:
        if amount <= 0:
            return
        self._left[part] -= amount
        self.done += amount
        if part in self._seen:
            where = self._started if part in self._starting else self._counted
            where[0] += amount
            where[1] += self._work - self._seen[part]
            self._seen[part] = self._work
            self._starting.discard(part)
        if self.done - self._dones[-1] >= self.total / _POINTS:
            self._dones.append(self.done)
            self._points.append((self._counted[0], self._counted[1]))

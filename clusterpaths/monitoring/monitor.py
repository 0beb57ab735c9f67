"""Monitoring: the windows of a source, judged and recorded.

Belongs here: from a configuration to records. A run can be repeated at any time and continues after any crash: what a window
has recorded is not observed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import numpy as np

from clusterpaths.common import roots
from clusterpaths.errors import CacheError, ConfigError
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.judge import Judge
from clusterpaths.monitoring.observations import (
    Status,
    as_time,
    empty_observations,
    join_observations,
    read_time,
)
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.series import Series, series_names
from clusterpaths.monitoring.sources import Progress, Source, no_progress, open_new
from clusterpaths.monitoring.verdict import level_of_window
from clusterpaths.monitoring.windows import Size, Window, cut, mark_duplicates, mark_late
from clusterpaths.sets import accepted
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import open_storage

log = logging.getLogger("clusterpaths.running.monitor")
Clock = Callable[[], int]


def utc_now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def find_reference(config: MonitorConfig) -> PublishedSet:
    """The set that is compared with.

    Raises:
        CacheError: there is no such set, it has no examples, another program made it, or it was accepted and is gone.
    """
    _, published = accepted.find_reference(open_storage(config.cache_root or roots.cache_root()), config.reference)
    if not published.num_examples:
        raise CacheError(f"{published.path} has no examples to compare with. Expected a set with some; name another.")
    return published


def check_once(config: MonitorConfig, progress: Progress = no_progress) -> WindowRecord:
    """All images of the source as one window, by hand: nothing is written.

    Raises:
        ClusterPathsError: the reference, its model or the source cannot be used.
    """
    published = find_reference(config)
    source = open_new(config, published, progress)
    none = np.empty(0, np.uint64)
    rows = join_observations([empty_observations(len(published.layers)), *(rows for rows, _ in source.new(none, None))])
    rows = mark_duplicates(rows, none)
    start, end = (int(rows.times[at]) if len(rows) else utc_now() for at in (0, -1))
    judge = Judge(published, source.address, alpha=config.alpha, seed=config.seed)
    return judge.judge(Window(rows, start, end), 0).record


def watch(config: MonitorConfig, progress: Progress = no_progress, clock: Clock = utc_now) -> Iterator[WindowRecord]:
    """Judge and record the windows of a series that are complete and were not recorded yet; each is given when it is recorded.

    Raises:
        ConfigError: no series is named, or it has windows of another size.
        CacheError: another run is recording this series, or a recorded window is corrupted.
        ClusterPathsError: as `check_once`.
    """
    published = find_reference(config)
    if config.series is None or config.size is None:
        raise ConfigError("series and window should both be given to record windows; one of them is missing.")
    series = Series(published, config.series)
    source = open_new(config, published, progress)
    with series.lock(config.wait, log.warning):
        yield from _Watching(config, config.size, published, series, source, clock).windows()


def _elsewhere(config: MonitorConfig, published: PublishedSet) -> list[Series]:
    """The series of this name beside the other sets that the reference, as NAME, stood for before.

    A new set, or an accepted model, continues what was watched with the one before it: it does not judge the past again.
    """
    if config.series is None or "/" in config.reference:
        return []
    others = accepted.sets_of(open_storage(config.cache_root or roots.cache_root()), config.reference)
    own = published.record.fingerprint
    return [
        Series(other, config.series)
        for other in others
        if other.record.fingerprint != own and config.series in series_names(other)
    ]


def observe(config: MonitorConfig) -> tuple[WindowRecord, ...]:
    """The new windows of a series, recorded; without a series, all images as one window.

    Raises:
        ClusterPathsError: as `watch` and `check_once`. Windows that were recorded before stay recorded.
    """
    return tuple(watch(config)) if config.series is not None else (check_once(config),)


class _Watching:
    """One run over a source, holding the series."""

    def __init__(
        self, config: MonitorConfig, size: Size, published: PublishedSet, series: Series, source: Source, clock: Clock
    ) -> None:
        self._config, self._size, self._series, self._source, self._clock = config, size, series, source, clock
        last = series.last()
        if last is not None and last.size != str(size):
            raise ConfigError(
                f"The series {series.name!r} of {published.name} has windows of {last.size}, so windows of {size} would overlap "
                f"them. Expected --window {last.size}, or another name with --series."
            )
        if last is not None and last.source != source.address:
            log.warning(
                "The series %s had its images from %s until now, and has them from %s",
                series.name,
                last.source,
                source.address,
            )
        self._number = last.number if last else 0
        self._closed = read_time(last.end) if last and size.span else None
        self._items, self._contents = series.identities()
        for other in _elsewhere(config, published):
            before = other.last()
            if before is not None and before.size == str(size) and size.span:
                self._closed = max(self._closed or 0, read_time(before.end))
            items, contents = other.identities()
            self._items = np.concatenate([self._items, items])
            self._contents = np.concatenate([self._contents, contents])
        self._rows = empty_observations(len(published.layers))  # of no window yet
        self._judge = Judge(
            published, source.address, alpha=level_of_window(config.alpha, config.horizon), seed=config.seed,
            series=series.name, size=str(size), read=source.read,
        )  # fmt: skip

    def windows(self) -> Iterator[WindowRecord]:
        now = self._clock()
        if self._closed is not None and now < self._closed:
            log.warning(
                "The clock says %s, before the end of the last window of the series %s (%s): no window is complete until it has "
                "caught up. Check the clock of this machine.", as_time(now), self._series.name, as_time(self._closed),
            )  # fmt: skip
        for rows, following in self._source.new(self._items, self._before(now)):
            self._rows = join_observations([self._rows, rows])
            yield from self._complete(now if following is None else min(now, following))
        if self._size.span:
            yield from self._complete(now)  # also of a source without anything new
        self._report_waiting()

    def _before(self, now: int) -> int | None:
        """Images from this time on are in no complete window: they are not run yet."""
        span = self._size.span
        return (now - self._config.lateness) // span * span if span else None

    def _complete(self, now: int) -> Iterator[WindowRecord]:
        # late ones first: a late copy does not make an image that is in time a duplicate
        marked = mark_duplicates(mark_late(self._rows, self._closed), self._contents)
        for window in cut(marked, self._size, self._closed, now, self._config.lateness):
            judged = self._judge.judge(window, self._number + 1)
            self._series.append(judged, window.rows)
            self._number, self._closed = self._number + 1, window.end
            self._contents = np.concatenate([self._contents, window.rows.routed.contents])
            self._rows = self._rows.take(~np.isin(self._rows.items, window.rows.items))
            yield judged.record

    def _report_waiting(self) -> None:
        if self._size.count and len(self._rows):
            waiting = mark_duplicates(self._rows, self._contents).count(Status.ROUTED)
            log.info("%s of %s images for the next window", f"{waiting:,}", f"{self._size.count:,}")

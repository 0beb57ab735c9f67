"""The recorded windows of sets, for those who read them again and again: pages, the HTTP API and metrics.

Belongs here: summaries of windows and series, each window read once. A window never changes once it is recorded, so what was read
stays valid; which windows there are is read from the directory's listing.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from clusterpaths.common.lru import LRUCache
from clusterpaths.errors import CacheError, NotFoundError, StorageError
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.series import Series, series_names
from clusterpaths.monitoring.summary import SeriesSummary, UnreadableWindow, WindowPage, WindowSummary, summarise
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage
from clusterpaths.storage.base import Stamp

CACHED = 4000  # summaries of windows, some 4 kB each
RECORDS = 64  # complete records
_LISTED = 5.0  # seconds that a listing is valid; a local one is made again as soon as its directory changes
_Read = WindowSummary | UnreadableWindow
log = logging.getLogger(__name__)


@dataclass
class Totals:
    """Sums over the windows of a series up to the number `last`.

    Attributes:
        complete: whether these are all.
    """

    windows: int = 0
    drifted: int = 0
    images: int = 0
    duplicates: int = 0
    unusable: int = 0
    late: int = 0
    unreadable: int = 0
    complete: bool = False
    last: int = 0
    first_stamp: Stamp | None = None  # of the documents; others if the series was begun anew
    last_stamp: Stamp | None = None

    def add(self, number: int, window: WindowSummary | UnreadableWindow, stamp: Stamp | None) -> None:
        """Add the next window."""
        self.first_stamp = self.first_stamp if self.windows else stamp
        self.last, self.last_stamp = number, stamp
        self.windows += 1
        if isinstance(window, UnreadableWindow):
            self.unreadable += 1
            return
        self.drifted += window.drifted
        self.images += window.num_images
        self.duplicates += window.duplicates
        self.unusable += window.unusable
        self.late += window.late


class History:
    """The series of any number of sets. Thread-safe."""

    def __init__(self) -> None:
        self._names: LRUCache[list[str]] = LRUCache(256, seconds=_LISTED)
        self._numbers: LRUCache[list[int]] = LRUCache(1024, seconds=_LISTED)
        self._summaries: LRUCache[_Read] = LRUCache(CACHED)
        self._records: LRUCache[WindowRecord] = LRUCache(RECORDS)
        self._totals: dict[Storage, Totals] = {}
        self._adding = threading.Lock()

    def names(self, published: PublishedSet) -> list[str]:
        """The series of a set.

        Raises:
            CacheError: their directory cannot be listed.
        """

        def read() -> list[str]:
            with _listing(f"The series of {published.name}"):
                return series_names(published)

        return self._names.get(published.folder, read) if published.folder.request_per_file else read()

    def series(self, published: PublishedSet) -> tuple[SeriesSummary, ...]:
        """All series of a set, by name."""
        return tuple(self.one_series(published, name) for name in self.names(published))

    def one_series(self, published: PublishedSet, name: str) -> SeriesSummary:
        """A series, and its last window.

        Raises:
            NotFoundError: the set has no such series.
        """
        series = self._open(published, name)
        numbers = self._list(series)
        last = self._summary(series, numbers[-1]) if numbers else None
        return SeriesSummary(
            series=name,
            windows=len(numbers),
            last=last if isinstance(last, WindowSummary) else None,
            problem=last.problem if isinstance(last, UnreadableWindow) else "",
        )

    def windows(self, published: PublishedSet, name: str, limit: int, offset: int = 0) -> WindowPage:
        """Windows of a series, the newest last.

        Args:
            published: the set.
            name: of the series.
            limit: maximum number of windows.
            offset: number of windows to skip, from the newest on.

        Raises:
            NotFoundError: the set has no such series.
        """
        series = self._open(published, name)
        numbers = self._list(series)
        end = max(len(numbers) - offset, 0)
        found = [self._summary(series, number) for number in numbers[max(end - limit, 0) : end]]
        return WindowPage(
            series=name,
            total=len(numbers),
            offset=offset,
            windows=tuple(one for one in found if isinstance(one, WindowSummary)),
            unreadable=tuple(one for one in found if isinstance(one, UnreadableWindow)),
        )

    def window(self, published: PublishedSet, name: str, number: int) -> WindowRecord:
        """One window.

        Raises:
            NotFoundError: the set has no such series, or the series no such window.
            CacheError: the record is corrupted, or of another set.
        """
        series = self._open(published, name)
        return self._records.get((series.folder, number), lambda: series.read(number), version=series.stamp(number))

    def picture(self, published: PublishedSet, name: str, number: int, picture: str) -> bytes:
        """A picture of a window, a JPEG.

        Raises:
            NotFoundError: no such series, window or picture.
            CacheError: the window's record is corrupted, or of another set.
        """
        return self._open(published, name).picture(number, picture)

    def neighbours(self, published: PublishedSet, name: str, number: int) -> tuple[int | None, int | None]:
        """Numbers of the windows before and after.

        Raises:
            NotFoundError: the set has no such series.
        """
        numbers = self._list(self._open(published, name))
        before, after = bisect.bisect_left(numbers, number) - 1, bisect.bisect_right(numbers, number)
        return (numbers[before] if before >= 0 else None), (numbers[after] if after < len(numbers) else None)

    def version(self, published: PublishedSet, name: str = "", number: int | None = None) -> str:
        """Changes when the windows of a series do, of all series of a set without a name, or with `number` that window.

        Raises:
            NotFoundError: the set has no such series.
        """
        if number is not None:
            return repr(self._open(published, name).stamp(number))
        found = []
        for one in [name] if name else self.names(published):
            series = self._open(published, one)
            numbers = self._list(series)
            found.append((one, len(numbers), [(number, series.stamp(number)) for number in numbers[-1:]]))
        return repr(found)

    def page_version(self, published: PublishedSet, page: WindowPage) -> str:
        """Changes when one of the windows of a page was replaced by a repaired one."""
        series = Series(published, page.series)
        return repr((page.total, [(one.number, series.stamp(one.number)) for one in page.by_number]))

    def totals(self, published: PublishedSet, name: str, until: float = float("inf")) -> Totals:
        """Sums over all windows. What was read before stays; windows are read until this time, the next call continues.

        Args:
            published: the set.
            name: of the series.
            until: of time.monotonic().

        Raises:
            NotFoundError: the set has no such series.
        """
        series = self._open(published, name)
        numbers = self._list(series)
        with self._adding:
            found = self._totals.setdefault(series.folder, Totals())
            first, last = (series.stamp(number) if number else None for number in (next(iter(numbers), 0), found.last))
            if (found.first_stamp, found.last_stamp) != (first if found.windows else None, last):
                found = self._totals[series.folder] = Totals()  # the series was begun anew
            for number in numbers[bisect.bisect_right(numbers, found.last) :]:
                if time.monotonic() > until:
                    break
                try:
                    read = self._cached(series, number)
                except (OSError, StorageError):
                    break  # it may pass: the next call tries this window again
                found.add(number, read, series.stamp(number))
            return dataclasses.replace(found, complete=not numbers or found.last == numbers[-1])

    def _open(self, published: PublishedSet, name: str) -> Series:
        names = self.names(published)
        if name not in names:
            there = f"It has {', '.join(names[:20])}." if names else "It has none yet."
            raise NotFoundError(f"{published.name} has no series {name[:80]!r}. {there}")
        return Series(published, name)

    def _list(self, series: Series) -> list[int]:
        folder = series.folder
        with _listing(f"The windows of the series {series.name!r}"):
            version = None if folder.request_per_file else folder.stamp("")
            return self._numbers.get(folder, series.numbers, version=version)

    def _summary(self, series: Series, number: int) -> _Read:
        try:
            return self._cached(series, number)
        except (OSError, StorageError) as error:
            log.warning("window %d of the series %s cannot be read: %s", number, series.name, error)
            return UnreadableWindow(number=number, problem=f"Window {number} cannot be read now; try again later.")

    def _cached(self, series: Series, number: int) -> _Read:
        """Raises: OSError, StorageError: not cached, as it may pass."""

        def read() -> _Read:
            try:
                return summarise(series.read(number))
            except (CacheError, NotFoundError) as error:
                return UnreadableWindow(number=number, problem=series.without_directory(str(error)))

        return self._summaries.get((series.folder, number), read, version=series.stamp(number))


@contextlib.contextmanager
def _listing(what: str) -> Iterator[None]:
    """Raises: CacheError: a directory cannot be listed."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{what} cannot be listed: {error}. Make their directory readable for this program."
        ) from error

"""A series of windows on disk: set_NN/monitor/SERIES/window_000001/ with window.json, rows.parquet and pictures.

Belongs here: reading and appending. A window's directory appears complete or not at all, and is never changed afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.common.corrupted import shortened, what_does_not_fit
from clusterpaths.errors import CacheError, ConfigError, NotFoundError
from clusterpaths.monitoring.observations import ROWS, Observations, read_identities, read_rows, write_rows
from clusterpaths.monitoring.record import MONITOR, WindowRecord
from clusterpaths.records import Record
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage
from clusterpaths.storage.base import Stamp

if TYPE_CHECKING:
    from clusterpaths.monitoring.judge import Judged  # runs models, which readers of a series do not

DOCUMENT, ANNOUNCED = "window.json", "announced.json"
_PREFIX = "window_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PICTURE = re.compile(r"\w{1,80}\.jpg", re.ASCII)  # in a record that was changed, no path leaves the window's directory
_WINDOW = re.compile(rf"{_PREFIX}(\d{{6,9}})")


class Announced(Record):
    """announced.json: up to which window events were sent."""

    number: int = Field(ge=0)


class Series:
    """The windows of one name that were compared with a set.

    Args:
        published: the reference.
        name: letters, digits, dots, dashes and underscores, at most 64.

    Raises:
        ConfigError: another name.
    """

    def __init__(self, published: PublishedSet, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"--series should be a name of at most 64 letters, digits, dots, dashes and underscores, got {name[:80]!r}."
            )
        self.name, self._set = name, published
        self.folder: Storage = published.folder / MONITOR / name

    def lock(self, wait: float, log: Callable[[str], None] = lambda _: None) -> AbstractContextManager[None]:
        """As `Storage.lock`: one run at a time appends."""
        return self.folder.lock(wait, log)

    def numbers(self) -> list[int]:
        """Of the windows, ascending."""
        matches = (_WINDOW.fullmatch(name) for name in self.folder.subdirectories())
        found = sorted(int(match[1]) for match in matches if match)
        # In a bucket, files of a directory appear one by one, and asking for each window's document is a request each. As
        # windows are appended one after the other, only the last one can be incomplete.
        if found and self.folder.request_per_file and not self.folder.exists(f"{_directory(found[-1])}/{DOCUMENT}"):
            found.pop()
        return found

    def stamp(self, number: int) -> Stamp | None:
        """Changes when a window's record is replaced; None where there is none."""
        return self.folder.stamp(f"{_directory(number)}/{DOCUMENT}")

    def without_directory(self, text: str) -> str:
        """A message about a window without the place of the results on this machine."""
        return text.replace(str(self.folder), f"{self._set.name}/{MONITOR}/{self.name}")

    def read(self, number: int) -> WindowRecord:
        """The record of a window.

        Raises:
            NotFoundError: there is none with this number.
            CacheError: it is corrupted, or of another set.
        """
        name = f"{_directory(number)}/{DOCUMENT}"
        try:
            content = self.folder.read(name)
        except FileNotFoundError as error:
            numbers = self.numbers()
            there = f"{numbers[0]} to {numbers[-1]}" if numbers else "no windows yet"
            raise NotFoundError(
                f"The series {self.name!r} of {self._set.name} has no window {number}. It has {there}."
            ) from error
        try:
            found = WindowRecord.model_validate_json(content)
            found.require_consistent(number)
        except ValueError as error:  # pydantic's are, too
            what = what_does_not_fit(error) if isinstance(error, pydantic.ValidationError) else shortened(str(error))
            raise CacheError(
                f"{self.folder}/{name} is not the record of a window: {what}. Restore it from a backup, or watch on under "
                "another --series."
            ) from error
        if found.reference.fingerprint != self._set.record.fingerprint:
            raise CacheError(
                f"{self.folder}/{name} was compared with another set: {found.reference.name}, fingerprint "
                f"{found.reference.fingerprint[:12]}; {self._set.name} has {self._set.record.fingerprint[:12]}. Watch on under "
                "another --series."
            )
        return found

    def last(self) -> WindowRecord | None:
        """The record of the last window."""
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def rows(self, number: int) -> Observations:
        """All rows of a window, with duplicates, late and unusable ones.

        Raises:
            CacheError: they cannot be read.
        """
        return read_rows(self.folder.local(f"{_directory(number)}/{ROWS}"), self._set.layers)

    def picture(self, number: int, name: str) -> bytes:
        """A picture of a window.

        Raises:
            NotFoundError: there is none with this name.
        """
        shown = (one for growth in self.read(number).growth for one in growth.exemplars_window)
        if not _PICTURE.fullmatch(name) or name not in {one.picture for one in shown}:
            raise NotFoundError(f"Window {number} of the series {self.name!r} has no picture {name[:80]!r}.")
        try:
            return self.folder.read(f"{_directory(number)}/{name}")
        except FileNotFoundError as error:
            raise NotFoundError(f"{name} of window {number} of the series {self.name!r} has been deleted.") from error

    def identities(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Items of all rows of all windows, and contents of those that were tested."""
        none = np.empty(0, np.uint64)
        parts = [read_identities(self.folder.local(f"{_directory(number)}/{ROWS}")) for number in self.numbers()]
        items, contents = (np.concatenate(columns) for columns in zip((none, none), *parts, strict=True))
        return items, contents

    def append(self, judged: Judged, rows: Observations) -> None:
        """Record a window as the next one.

        Raises:
            CacheError: another run has recorded one of this number.
            DiskError: no room or no permission.
        """
        with self.folder.publish(_directory(judged.record.number), DOCUMENT) as staged:
            write_rows(staged, rows, self._set.layers)
            for name, content in judged.pictures.items():
                (staged / name).write_bytes(content)
            (staged / DOCUMENT).write_text(judged.record.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def announced(self) -> int:
        """Number of the last window that was announced; 0: none was.

        Raises:
            CacheError: the document is corrupted.
        """
        try:
            return Announced.model_validate_json(self.folder.read(ANNOUNCED)).number
        except FileNotFoundError:
            return 0
        except pydantic.ValidationError as error:
            raise CacheError(
                f"{self.folder}/{ANNOUNCED} is corrupted: {what_does_not_fit(error)}. Remove it: drifted windows are then "
                "announced again, with the same ids."
            ) from error

    def mark_announced(self, number: int) -> None:
        """Windows up to this one are announced.

        Raises:
            DiskError: no room or no permission.
        """
        self.folder.write_bytes(ANNOUNCED, Announced(number=number).model_dump_json().encode())


def series_names(published: PublishedSet) -> list[str]:
    """The series that a set has, by name."""
    return [name for name in (published.folder / MONITOR).subdirectories() if _NAME.fullmatch(name)]


def _directory(number: int) -> str:
    return f"{_PREFIX}{number:06d}"

"""The prediction log: a row for each image that was answered, for `clusterpaths monitor` to read.

Belongs here: the columns, rotation, recovery after a crash, retention. One open file is `journal.py`'s. Several services may
write into one directory: each has its own files.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from clusterpaths.errors import DiskError
from clusterpaths.export.note import PathModelNote
from clusterpaths.monitoring.log_format import COLUMNS, LOG_KEY, LogNote
from clusterpaths.storage.atomic import disk_errors
from deployments.path_service.journal import SUFFIX, Journal, convert_journal

_PREFIX = "predictions-"
_RETRY = 1.0  # seconds until a log that failed is tried again
_CONVERT_AGAIN = 30.0  # seconds until a journal that could not be converted is tried again
_NAMES = 3  # tried for a new journal
LOGGER = logging.getLogger("clusterpaths.path_service")


class Row(NamedTuple):
    """A row of the log; the fields are its columns."""

    time: datetime
    id: str
    image: str
    path: tuple[int, ...]
    distances: tuple[float, ...]
    ood_score: float
    prediction: int
    confidence: float


class PredictionLog:
    """Writes rows to journals and makes parquet files of them. `append` and `tend` may be called from two threads.

    Args:
        directory: created if there is none.
        note: of the path model, which the files name.
        rows: after which a file is complete.
        seconds: after its first row, likewise.
        fsync: flush rows to the disk before `append` returns.
        keep_days: after which a complete file is deleted; 0: never.

    Raises:
        DiskError: the directory cannot be written.
    """

    def __init__(
        self, directory: Path, note: PathModelNote, rows: int, seconds: float, fsync: bool = True, keep_days: float = 0
    ) -> None:
        self.directory, self.failure = directory, ""
        self._rows, self._seconds, self._fsync, self._keep = rows, seconds, fsync, keep_days * 86_400
        identity = LogNote(set=note.set, fingerprint=note.fingerprint, model=note.model.sha256, layers=note.layers)
        self._schema = COLUMNS.with_metadata({LOG_KEY: identity.model_dump_json()})
        self._journal: Journal | None = None
        self._began = self._failed = 0.0
        self._later: dict[Path, float] = {}  # journals that could not be converted, and when to try again
        self._lock = threading.Lock()
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            journal = self._open()
            journal.path.unlink()
            journal.close()

    def append(self, rows: Sequence[Row]) -> bool:
        """Write rows; True once they will survive: the crash of this process, and with fsync a power cut.

        False where the disk does not take them; why is in `failure`. It is tried again after a second.
        """
        if self.failing:
            return False
        columns = zip(*rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        batch = pa.record_batch(arrays, schema=self._schema)
        with self._lock:
            if self._journal is None and not self._begin():
                return False
            assert self._journal is not None
            try:
                self._journal.append(batch)
            except OSError as error:
                self._fail(error)
                return False
            if self._journal.rows >= self._rows:
                self._seal()
        return True

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed, so recently that it is not tried again yet."""
        return bool(self.failure) and time.monotonic() - self._failed < _RETRY

    def tend(self) -> int:
        """Complete a file that is due, also those of crashed services, and delete old ones; how many could not."""
        with self._lock:
            if self._journal is not None and time.monotonic() - self._began >= self._seconds:
                self._seal()
            if self.failure and not self.failing:  # a service that is not ready gets no request that would try
                self._begin()
        return self._convert() + self._delete_old()

    def close(self) -> None:
        """Complete what is open."""
        with self._lock:
            self._seal()
        self._later.clear()
        self._convert()

    def _begin(self) -> bool:
        """Open a journal; whether that worked."""
        try:
            self._journal, self._began = self._open(), time.monotonic()
        except OSError as error:
            self._fail(error)
            return False
        self.failure = ""
        return True

    def _open(self) -> Journal:
        for _ in range(_NAMES - 1):
            try:
                return Journal(self.directory, self._name(), self._schema, self._fsync)
            except FileNotFoundError:  # another service took it for a crashed one's before it was locked
                continue
        return Journal(self.directory, self._name(), self._schema, self._fsync)

    def _name(self) -> str:
        return f"{_PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"

    def _seal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            try:
                journal.close()
            except (
                OSError
            ) as error:  # of NFS, which may report a full disk here; the descriptor is released all the same
                LOGGER.error(
                    "The journal %s reported an error when it was closed: %s.", journal.path, error.strerror or error
                )

    def _fail(self, error: OSError) -> None:
        if not self.failure:
            LOGGER.error("The prediction log %s cannot be written: %s.", self.directory, error.strerror or error)
        self.failure, self._failed = error.strerror or str(error), time.monotonic()
        self._seal()

    def _convert(self) -> int:
        now = time.monotonic()
        for path in sorted(self.directory.glob(f".{_PREFIX}*{SUFFIX}")):
            if now < self._later.get(path, now):
                continue
            try:
                rows = convert_journal(path)
            except (OSError, pa.ArrowException) as error:
                if path not in self._later:
                    LOGGER.error("No log file can be made of %s yet: %s.", path, error)
                self._later[path] = now + _CONVERT_AGAIN
            else:
                self._later.pop(path, None)
                if rows:
                    LOGGER.info("A log file with %d rows is complete: %s.", rows, path.name.strip(".")[: -len(SUFFIX)])
        return len(self._later)

    def _delete_old(self) -> int:
        if not self._keep:
            return 0
        errors = 0
        for path in self.directory.glob(f"{_PREFIX}*.parquet"):
            try:
                if time.time() - path.stat().st_mtime > self._keep:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:  # another service was quicker
                continue
            except OSError as error:
                errors += 1
                LOGGER.error("The log file %s is too old and cannot be deleted: %s.", path, error)
        return errors


def open_log(
    directory: Path, note: PathModelNote, rows: int, seconds: float, fsync: bool, keep_days: float
) -> PredictionLog:
    """A log that is ready; what crashed services left in the directory is completed first.

    Raises:
        DiskError: the directory cannot be written.
    """
    try:
        log = PredictionLog(directory, note, rows, seconds, fsync, keep_days)
    except DiskError:
        raise DiskError(
            f"The prediction log {directory} cannot be written. Expected a directory with room that this user may write to; name "
            "another with --log-dir."
        ) from None
    log.tend()
    return log

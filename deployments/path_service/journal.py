"""A log file that is still being written: an append-only journal of record batches, each with its length and checksum.

Belongs here: one journal, from its first row to its parquet file, also after a crash. Which journal is written to is
`prediction_log.py`'s.

A journal is `.NAME.journal`: frames of a length, a CRC-32 (both uint32, little-endian) and an Arrow IPC message, the first of
which is the schema. A frame that is cut off, or that the disk never had, ends it: such rows were not acknowledged. Its writer
holds a lock on it (flock), which ends with the process, so that a journal without one is a crashed service's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clusterpaths.storage.atomic import sync

SUFFIX = ".journal"
_TOGETHER = 1000  # batches in memory at a time; each may have one row
_FRAME = struct.Struct("<II")


class Journal:
    """An open journal of this process.

    Args:
        directory: of the log; it must exist.
        name: of the parquet file that it becomes, without suffix.
        schema: of the rows.
        fsync: flush each batch to the disk before `append` returns.

    Raises:
        FileNotFoundError: another process removed it before it was locked.
        OSError: it cannot be written; then there is no file.
    """

    def __init__(self, directory: Path, name: str, schema: pa.Schema, fsync: bool) -> None:
        self.path = directory / f".{name}{SUFFIX}"
        self.rows = 0
        self._fsync = fsync
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if not os.fstat(self._file).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "the new journal was removed", str(self.path))
            self._write(schema.serialize())
            if fsync:
                sync(directory)
        except BaseException:
            self.path.unlink(missing_ok=True)
            self.close()
            raise

    def append(self, batch: pa.RecordBatch) -> None:
        """Write rows behind the others, all of them or none.

        Raises:
            OSError: they are not written. The journal takes no more; `close` it.
        """
        found = os.fstat(self._file)
        end = found.st_size
        if not found.st_nlink:
            raise FileNotFoundError(errno.ENOENT, "the journal was removed", str(self.path))
        try:
            self._write(batch.serialize())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, end)
            raise
        self.rows += batch.num_rows

    def _write(self, message: pa.Buffer) -> None:
        frame = memoryview(_FRAME.pack(len(message), zlib.crc32(message)) + message.to_pybytes())
        while frame:
            frame = frame[os.write(self._file, frame) :]
        if self._fsync:
            os.fsync(self._file)

    def close(self) -> None:
        """End the lock: any process may make a parquet file of it now."""
        os.close(self._file)


def convert_journal(path: Path) -> int | None:
    """Make the parquet file of a journal that nobody writes to any more; its rows, or None if somebody still does.

    A journal without a row leaves no file. It is removed once its parquet file is complete and on the disk.

    Raises:
        OSError: the parquet file cannot be written; the journal stays.
    """
    with _exclusive(path) as exclusive:
        if not exclusive:
            return None
        target = path.with_name(path.name.removeprefix(".").removesuffix(SUFFIX) + ".parquet")
        rows = 0
        if not target.exists():  # else the process was killed before it removed the journal
            rows = _write_parquet(path, target)
        path.unlink()
        return rows


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[bool]:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # another process was quicker
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield os.fstat(file).st_nlink > 0
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


def _write_parquet(path: Path, target: Path) -> int:
    partial = target.with_name(f".{target.name}.partial")
    messages = _messages(path.read_bytes())
    first = next(messages, None)
    if first is None:
        return 0
    schema = pa.ipc.read_schema(pa.py_buffer(first))
    rows = 0
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            while some := list(itertools.islice(messages, _TOGETHER)):
                batches = [pa.ipc.read_record_batch(pa.py_buffer(each), schema) for each in some]
                table = pa.Table.from_batches(batches, schema).combine_chunks()
                writer.write_table(table)
                rows += table.num_rows
        if not rows:
            partial.unlink()
            return 0
        sync(partial)
        partial.rename(target)
        sync(target.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return rows


def _messages(content: bytes) -> Iterator[memoryview]:
    """The complete frames from the beginning."""
    left = memoryview(content)
    while len(left) >= _FRAME.size:
        length, checksum = _FRAME.unpack_from(left)
        message = left[_FRAME.size : _FRAME.size + length]
        if not length or len(message) < length or zlib.crc32(message) != checksum:
            return
        yield message
        left = left[_FRAME.size + length :]

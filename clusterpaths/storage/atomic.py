"""Writing local files so that a reader, or a crash, sees either the old or the complete new one.

Belongs here: the `.partial` sibling, flush, rename. The content is up to the caller.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from clusterpaths.common.corrupted import NO_THREAD
from clusterpaths.errors import DiskError

_OF_RUST = re.compile(r"\(os error (\d+)\)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_FAILING = {  # of the machine, no bug: errno -> what to do
    errno.EIO: "Check the disk, in the system's log",
    errno.ENXIO: "Check whether the disk is there",
    errno.ENODEV: "Check whether the disk is there",
    errno.ESTALE: "Mount the network disk again",
    errno.EREMOTEIO: "Check the network disk",
    errno.ETIMEDOUT: "Check the network disk",
    errno.EFBIG: "Allow larger files (ulimit -f)",
    errno.EMFILE: "Allow more open files (ulimit -n)",
    errno.ENFILE: "Close other programs",
    errno.ENOMEM: "Close other programs, or allow more memory",
    errno.EAGAIN: "Allow more processes and memory (ulimit -u, ulimit -v), or close other programs",
}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" and "permission denied" under `path` into one paragraph.

    Raises:
        DiskError: for ENOSPC, EDQUOT, EACCES, EPERM, EROFS, a file in place of a directory; other OSErrors pass unchanged: a
            flow's task is repeated after them.
    """
    try:
        yield
    except OSError as error:
        if (number := errno_of(error)) in (*_FULL, *_FORBIDDEN):
            raise _disk_error(path, number) from error
        raise


def of_machine(error: BaseException) -> DiskError | None:
    """The paragraph for an error of the machine, for who shows it last; None for another error, which is a bug."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and str(error) == NO_THREAD):
        return DiskError(
            "There is not enough memory. What was recorded before is preserved. Use fewer --workers, a smaller --batch-size or "
            "fewer --layers, or close other programs; then run the same command again."
        )
    number, name = errno_of(error), getattr(error, "filename", None)
    if number in (errno.EACCES, errno.EPERM):
        return DiskError(
            f"{name or 'A file'} cannot be read or written ({os.strerror(number)}). Change its permissions, or those of its "
            "directory; then run the same command again."
        )
    of_a_connection = number == errno.ETIMEDOUT and name is None
    if number not in (*_FULL, errno.EROFS, *_FAILING) or of_a_connection:
        return None
    return _disk_error(Path(os.fsdecode(name)) if isinstance(name, (str, bytes)) else None, number)


def errno_of(error: BaseException) -> int:
    """The number of an OSError, or of what a library in Rust raises for one, which has it in its text; else 0."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _OF_RUST.search(str(error)) if isinstance(error, (OSError, RuntimeError)) else None
    return int(found[1]) if found else 0


def _disk_error(path: Path | None, number: int) -> DiskError:
    reason = os.strerror(number)
    if number in _FULL:
        return DiskError(
            f"The disk is full: writing {path or 'a file'} failed ({reason}). What was recorded before is preserved. "
            "Free some room (or use --cache-format zarr, a quarter of the bytes, or --cache-format none, "
            "which stores images only, or another --cache-root) and run the same command again; it continues where it "
            "stopped."
        )
    if number in _FORBIDDEN:
        return DiskError(
            f"{path or 'A file'} cannot be written ({reason}). Expected a directory that this user may write to. "
            "Change its permissions, or name another directory with --cache-root."
        )
    return DiskError(
        f"{path or 'A file'} cannot be read or written ({reason}). What was recorded before is preserved. "
        f"{_FAILING[number]}; then run the same command again: it continues where it stopped."
    )


def require_writable(path: Path) -> None:
    """Check that a directory can be written, or made where it does not exist; nothing is written.

    Raises:
        DiskError: it cannot.
    """
    with disk_errors(path):
        if reason := unwritable(path):
            raise OSError(reason, os.strerror(reason))


def unwritable(path: Path) -> int:
    """The errno of writing into a directory, or of making it where it does not exist; 0 where that can be done."""
    try:
        existing = next(each for each in (path, *path.parents) if each.exists())
    except OSError as error:  # a directory above that may not be read
        return error.errno or errno.EACCES
    if not existing.is_dir():
        return errno.ENOTDIR
    return 0 if os.access(existing, os.W_OK | os.X_OK) else errno.EACCES


def partial_name(name: str) -> str:
    """A unique hidden name for what is not complete yet."""
    return f".{name}.{uuid.uuid4().hex[:8]}.partial"


@contextlib.contextmanager
def partial_sibling(path: Path, put_in_place: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """A unique `.partial` sibling to write to; it becomes `path` at the end, or is removed on any failure.

    `put_in_place` makes it so, a rename if left out.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            put_in_place(partial) if put_in_place else partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # on a disk that fails, the first error counts
            partial.unlink(missing_ok=True)
        raise


def atomic_write(path: Path, data: bytes, put_in_place: Callable[[Path], object] | None = None) -> None:
    """Write the file atomically and flush it to disk: the new one, or on failure the old one.

    Raises:
        DiskError: no room or no permission.
    """
    with partial_sibling(path, put_in_place) as partial:
        partial.write_bytes(data)
        sync(partial)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk: without it, a power cut may leave an empty file of that name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

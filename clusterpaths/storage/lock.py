"""One run at a time in a local directory: the second waits, then fails naming the holder."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clusterpaths.errors import CacheError
from clusterpaths.storage.atomic import disk_errors

_TO_RELEASE = 10.0  # seconds


@contextlib.contextmanager
def file_lock(directory: Path, wait: float, log: Callable[[str], None]) -> Iterator[None]:
    """As `Storage.lock`; the system releases it whenever the process ends.

    Raises:
        CacheError: another run still holds it after that time.
        DiskError: the directory cannot be written.
    """
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".lock").touch()
    lock = FileLock(directory / ".lock", thread_local=False)
    holder = directory / ".lock.holder"
    try:
        with disk_errors(directory):
            lock.acquire(timeout=0)
    except Timeout:
        who = _held_by(holder)
        if wait > 0:
            log(f"{directory} is in use by {who}; waiting up to {wait:.0f} s for it to end.")
        try:
            with disk_errors(directory):
                lock.acquire(timeout=wait, poll_interval=0.2)
        except Timeout as error:
            raise CacheError(
                f"{directory} is in use by {who}, and still is after {wait:.0f} s. One run at a time can write there. "
                "Wait for it to end, allow more time with --wait, or use another --name."
            ) from error
    try:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with disk_errors(holder):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}")
        yield
    finally:
        # In a thread: on a disk that hangs it would not return, and the system releases the lock with the process anyway.
        releasing = threading.Thread(target=_release, args=(lock, holder), daemon=True)
        releasing.start()
        releasing.join(_TO_RELEASE)


def _held_by(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
        return holder.read_text() or "another run"
    return "another run"


def _release(lock: FileLock, holder: Path) -> None:
    with contextlib.suppress(OSError):  # on a disk that fails: the text alone holds nothing
        holder.unlink(missing_ok=True)
    lock.release()

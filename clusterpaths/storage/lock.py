"""One run at a time on a cache: the second waits, or is told who is there."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clusterpaths.errors import CacheError
from clusterpaths.storage.atomic import disk_errors
from clusterpaths.storage.lease import leased_cache
from clusterpaths.storage.remote import place_of


@contextlib.contextmanager
def locked_cache(directory: Path, wait: float, log: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold the cache in `directory` while inside; the system lets go of it when a process dies, however it does.

    Args:
        directory: made where it does not exist.
        wait: seconds to wait for another run; 0 fails at once.
        log: told once when waiting begins.

    Raises:
        CacheError: another run still holds it after that time.
        DiskError: the folder cannot be written.
        StorageError: of a cache in object storage, which `lease.py` locks.
    """
    if place_of(directory):
        with leased_cache(directory, wait, log):
            yield
        return
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".lock").touch()
    lock = FileLock(directory / ".lock")
    holder = directory / ".lock.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text() if holder.is_file() else "another run"
        if wait > 0:
            log(f"{directory} is in use by {who}; waiting up to {wait:.0f} s for it to end.")
        try:
            lock.acquire(timeout=wait, poll_interval=0.2)
        except Timeout as error:
            raise CacheError(
                f"{directory} is in use by {who}, and still was after {wait:.0f} s. One run at a time can write there. "
                "Wait for it to end, allow more time with --wait, or use another --name."
            ) from error
    try:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()

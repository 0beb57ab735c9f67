"""One run at a time in a directory of a bucket: a lock object that its holder renews.

Belongs here: `Storage.lock` for an s3:// address. The object stores its holder and its time of expiry. A run that dies
leaves it behind: the next one takes it over once it has expired, or at once where the dead process was of this machine.
Clocks of the machines must agree to within half a minute. A write that the storage delays ends before the lease does:
the retries of a request, the request itself and the time since the last renewal take less than it. A holder that was suspended
for longer notices it by the time, before it writes a manifest or a set, and renews the lease or stops: `require_held`.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from clusterpaths.errors import CacheError, StorageError
from clusterpaths.records import Record
from clusterpaths.storage import objects

LOCK = ".lock"
LEASE = 300.0  # seconds
RENEW = 20.0
CLOCKS = 30.0  # seconds that clocks may differ
_RELEASE_TIMEOUT = 5.0  # seconds for the storage to answer at the end
_POLL_INTERVAL = 1.0

_held: dict[str, _Lease] = {}


class Holder(Record):
    """The content of the lock object."""

    who: str
    machine: str
    pid: int
    expires: float
    token: str


@contextlib.contextmanager
def leased(bucket: str, key: str, url: str, wait: float, log: Callable[[str], None]) -> Iterator[None]:
    """As `Storage.lock`, by the object `key`.

    Args:
        bucket: its bucket.
        key: of the lock object.
        url: address of what is locked.
        wait: seconds.
        log: as of `Storage.lock`.

    Raises:
        CacheError: another run still holds it after `wait` seconds.
        StorageError: the storage does not answer, or refuses access.
    """
    lease = _Lease(bucket, key, url)
    lease.acquire(wait, log)
    _held[url] = lease
    try:
        with lease.renewed(log):
            yield
    finally:
        del _held[url]
        lease.release(log)


def require_held(url: str) -> None:
    """Check that this process, where it held the lease of a directory, still does; one whose time is over is renewed first.

    Raises:
        CacheError: another run has taken it over.
        StorageError: its time is over, and the storage does not answer.
    """
    lease = _held.get(url)
    if lease and not lease.is_held():
        raise CacheError(
            f"{url} was taken over by another run, since this one had not renewed its lock for {LEASE:.0f} s. Nothing more "
            "is written. Wait for the other run to end and run the same command again."
        )


class _Lease:
    def __init__(self, bucket: str, key: str, url: str) -> None:
        self._bucket, self._key, self._url, self._token = bucket, key, url, uuid.uuid4().hex
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._who = f"process {os.getpid()} on {socket.gethostname()} since {now}"
        self._etag, self._expires = "", 0.0
        self._renewing = threading.Lock()
        self.lost = False

    def acquire(self, wait: float, log: Callable[[str], None]) -> None:
        deadline, logged = time.monotonic() + wait, False
        while True:
            found = objects.read(self._bucket, self._key)
            holder = _parse(found[0]) if found else None
            if found is None or holder is None or _is_over(holder):
                if self._write(found[1] if found else None):
                    if holder and holder.expires:
                        log(f"{self._url} was held by {holder.who}, which ended without releasing it: taken over.")
                    return
                continue  # another run won the race: read its lock
            if time.monotonic() >= deadline:
                raise CacheError(
                    f"{self._url} is in use by {holder.who}, and still is after {wait:.0f} s. One run at a time can write "
                    "there. Wait for it to end, allow more time with --wait, or use another --name."
                )
            if not logged:
                log(f"{self._url} is in use by {holder.who}; waiting up to {wait:.0f} s for it to end.")
                logged = True
            time.sleep(min(_POLL_INTERVAL, max(deadline - time.monotonic(), 0)))

    @contextlib.contextmanager
    def renewed(self, log: Callable[[str], None]) -> Iterator[None]:
        """Renew it in a thread while inside."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW):
                try:
                    with self._renewing:
                        held = self._write(self._etag)
                except StorageError:  # the run's next access to the storage raises it
                    continue
                if not held and ended.is_set():
                    return  # it was released meanwhile
                if not held:
                    self.lost = True
                    log(
                        f"{self._url} was taken over by another run, since this one had not renewed its lock for too long."
                    )
                    return

        thread = threading.Thread(target=contextvars.copy_context().run, args=(renew,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_RELEASE_TIMEOUT)

    def is_held(self) -> bool:
        """Whether it is still this run's. One whose time is over is renewed: it may have been taken over while nobody looked."""
        with self._renewing:
            if not self.lost and time.time() > self._expires - CLOCKS:
                self.lost = not self._write(self._etag)
            return not self.lost

    def release(self, log: Callable[[str], None]) -> None:
        """Mark it as over (expires 0), if it is still this run's."""
        if self.lost:
            return
        try:  # a conditional write: a delete could remove the lock of another run
            objects.put(self._bucket, self._key, self._content(expires=0), self._etag, _RELEASE_TIMEOUT)
        except StorageError:
            log(
                f"The lock of {self._url} could not be released, since the storage does not answer: it expires by itself."
            )

    def _write(self, etag: str | None) -> bool:
        """Write the lock object if it is still that of `etag` (None: if there is none): the lease begins anew."""
        expires = time.time() + LEASE  # before the request, which may take long
        written = objects.put(self._bucket, self._key, self._content(expires), etag)
        if written is not None:
            self._etag, self._expires = written, expires
        return written is not None

    def _content(self, expires: float) -> bytes:
        holder = Holder(who=self._who, machine=_machine(), pid=os.getpid(), expires=expires, token=self._token)
        return holder.model_dump_json().encode()


def _parse(content: bytes) -> Holder | None:
    try:
        return Holder.model_validate_json(content)
    except ValidationError:
        return None


def _is_over(holder: Holder) -> bool:
    return holder.expires < time.time() or (holder.machine == _machine() and not Path(f"/proc/{holder.pid}").exists())


def _machine() -> str:
    """A name for the processes that this one can see: machine, boot, and pid namespace; unique where none can be had."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return uuid.uuid4().hex
    return hashlib.sha256(f"{socket.gethostname()} {boot} {space}".encode()).hexdigest()[:16]

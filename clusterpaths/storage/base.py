"""The interface of storage: operations on a directory of documents and arrays, local or remote.

Belongs here: the interface, and the parts shared by a local directory (`directory.py`) and a bucket (`bucket.py`). Names
of files and subdirectories are relative, with slashes: "examples/00003.parquet".
"""

from __future__ import annotations

import contextlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

from clusterpaths.storage.atomic import atomic_write, disk_errors, partial_name, partial_sibling, sync

Result = TypeVar("Result")
Stamp = tuple[int, int, int]  # inode, time in ns, bytes


class Storage(ABC):
    """A directory; two of the same address are equal. Messages print its address.

    Args:
        address: an absolute path, or s3://BUCKET/PREFIX: as in records and documents.

    Attributes:
        request_per_file: whether each access to a file is a request: then caches have few files, and readers check rarely.
        zarr_pipeline: zarr's codec pipeline for arrays in this directory.
    """

    request_per_file: ClassVar[bool]
    zarr_pipeline: ClassVar[str]

    def __init__(self, address: str) -> None:
        self.address = address

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rpartition("/")[2]

    @abstractmethod
    def __truediv__(self, name: str) -> Storage:
        """A subdirectory; it need not exist."""

    @property
    @abstractmethod
    def parent(self) -> Storage:
        """The directory that this one is in."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """Path of its files on this machine: itself, or the mirror of a bucket, which only `local` updates."""

    def resolve(self) -> Storage:
        """The same directory with symbolic links followed."""
        return self

    # Reading

    @abstractmethod
    def require(self, *, writes: bool = False) -> None:
        """Check that the storage answers quickly; later accesses of a run retry for longer.

        Args:
            writes: check also that two runs cannot overwrite each other's files: of a bucket, that it has conditional writes.

        Raises:
            StorageError: it does not answer, refuses these credentials, has no such bucket, or no conditional writes.
            ConfigError: obstore is not installed.
        """

    @abstractmethod
    def local(self, name: str) -> Path:
        """The path of a file on this machine, up to date; it does not exist where the storage has no such file."""

    @abstractmethod
    def local_tree(self, name: str = "") -> Path:
        """The path of a subdirectory on this machine, with all files below it up to date."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.local(name).read_bytes()

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def stamp(self, name: str) -> Stamp | None:
        """A stamp that changes when a file is replaced; None where there is none. Files of a bucket are assumed not to change.

        Raises:
            OSError: it cannot be accessed.
        """

    @abstractmethod
    def subdirectories(self) -> list[str]:
        """Their names, ascending. Empty where the directory does not exist.

        Raises:
            OSError: it cannot be listed.
        """

    @abstractmethod
    def published(self, prefix: str, last: str) -> list[str]:
        """The subdirectories with this prefix, without those that `publish` has begun and not completed."""

    @abstractmethod
    def complete(self, name: str, files: Iterable[str], is_complete: Callable[[BinaryIO], bool]) -> set[str]:
        """Which of these files of a subdirectory exist and are complete; in a bucket, an existing file is complete."""

    @abstractmethod
    def usage(self, *names: str) -> tuple[int, int]:
        """Number of files in these subdirectories, and their bytes."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free bytes of the disk; None where there is no bound."""

    # Writing

    def make(self) -> None:
        """Make the directory, if it is not there.

        Raises:
            DiskError: no room or no permission.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """A path to write to; on leaving, it is flushed to disk and becomes the file of that name, or on failure nothing.

        Raises:
            DiskError: no room or no permission.
        """
        with partial_sibling(self.path / name, lambda partial: self._put_in_place(partial, name)) as partial:
            yield partial
            sync(partial)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file atomically and flush it to disk: the new one, or on failure the old one.

        Raises:
            DiskError: no room or no permission.
        """
        atomic_write(self.path / name, data, lambda partial: self._put_in_place(partial, name))

    def write_json(self, name: str, content: Any, *, indent: int | None = 2) -> None:
        """`write_bytes` of a JSON document, UTF-8, with a newline at its end."""
        self.write_bytes(name, (json.dumps(content, indent=indent, ensure_ascii=False) + "\n").encode())

    @abstractmethod
    def _put_in_place(self, partial: Path, name: str) -> None:
        """Rename a complete file to its final name."""

    @contextlib.contextmanager
    def publish(self, name: str, last: str) -> Iterator[Path]:
        """A local directory to fill; on leaving, it becomes the subdirectory `name`; on any failure nothing is written.

        Readers never see an incomplete one: it appears by a rename or, in a bucket, with the file `last`. Another run never
        writes into it: in a bucket, the name belongs to the first run that begins to publish it.

        Raises:
            DiskError: no room or no permission.
            CacheError: another run has begun to publish that name, or has taken over the lock.
        """
        staged = self.path / partial_name(name)
        try:
            with disk_errors(staged):
                staged.mkdir()
                yield staged
                for path in (*staged.iterdir(), staged):  # files and their names must reach the disk before the rename
                    sync(path)
                self._publish(staged, name, last)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise

    @abstractmethod
    def _publish(self, staged: Path, name: str, last: str) -> None:
        """Rename a complete directory to its final name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    @abstractmethod
    def remove_tree(self, name: str = "") -> None:
        """Remove a subdirectory and its content if it exists."""

    def remove_partials(self, *names: str) -> None:
        """Remove what killed runs have left half-written on this machine in these subdirectories ("": here)."""
        for name in names:
            for left in (self.path / name).glob(".*.partial"):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    # Documents that several runs change

    @abstractmethod
    def read_version(self, name: str) -> tuple[bytes | None, str]:
        """The content of a file as it is now, None where there is none, and its version for `replace`."""

    @abstractmethod
    def replace(self, name: str, content: bytes, version: str) -> bool:
        """Write a file if it still has that version ("": missing); else False, and nothing is written.

        A local directory has no versions: there, only the holder of `lock` writes.

        Raises:
            CacheError: another run has taken over the lock.
            DiskError: no room or no permission.
        """

    @abstractmethod
    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Read, change and write a file as one step; safe between threads, processes and machines.

        Args:
            name: the file.
            change: of its content, None where there is none; called again where another writer won the race.
        """

    @abstractmethod
    def lock(self, wait: float, log: Callable[[str], None] = lambda _: None) -> contextlib.AbstractContextManager[None]:
        """Hold the directory, which is made where it does not exist, while inside: one run at a time writes there.

        Args:
            wait: seconds to wait for another run; 0 fails at once.
            log: called once when waiting begins, and where a dead run's lock is taken over.

        Raises:
            CacheError: another run still holds it after that time.
            DiskError: the directory cannot be written.
            StorageError: the storage does not answer, or refuses access.
        """

    # Arrays

    @abstractmethod
    def zarr_store(self, name: str) -> Any:
        """Where zarr finds the array of that name (`zarr.storage.StoreLike`)."""

    def with_retries(self, operation: Callable[[], Result]) -> Result:
        """Result of `operation` on an array; in a bucket retried while the server is unavailable."""
        return operation()


def stamp_of(path: Path) -> Stamp | None:
    """As `Storage.stamp`, of a file of this machine."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def published_meanwhile(directory: Storage) -> str:
    """The message for a name that another run has taken."""
    return f"{directory} was published by another run meanwhile. Run again: it takes the next number."

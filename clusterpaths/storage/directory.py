"""A directory of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from clusterpaths.errors import CacheError
from clusterpaths.storage.atomic import atomic_write
from clusterpaths.storage.base import Stamp, Storage, published_meanwhile, stamp_of
from clusterpaths.storage.lock import file_lock

_in_process = threading.Lock()  # FileLock objects of one process would not queue threads in order


class Directory(Storage):
    """As `Storage`.

    Args:
        path: absolute.
    """

    request_per_file = False
    # The Rust codecs release the GIL: zarr's own pipeline is slow in threads.
    zarr_pipeline = "zarrs.ZarrsCodecPipeline"

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    @property
    def name(self) -> str:
        return self._path.name

    def __truediv__(self, name: str) -> Directory:
        return Directory(self._path / name)

    @property
    def parent(self) -> Directory:
        return Directory(self._path.parent)

    def resolve(self) -> Directory:
        return Directory(self._path.resolve())

    def require(self, *, writes: bool = False) -> None:
        pass

    def local(self, name: str) -> Path:
        return self._path / name

    def local_tree(self, name: str = "") -> Path:
        return self._path / name

    def exists(self, name: str) -> bool:
        return (self._path / name).is_file()

    def stamp(self, name: str) -> Stamp | None:
        return stamp_of(self._path / name)

    def subdirectories(self) -> list[str]:
        if not self._path.is_dir():
            return []
        with os.scandir(self._path) as entries:
            return sorted(
                entry.name  # pathlib's is_dir is False for a broken or circular link
                for entry in entries
                if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())
            )

    def published(self, prefix: str, last: str) -> list[str]:  # noqa: ARG002 - a rename brings all files at once
        return [name for name in self.subdirectories() if name.startswith(prefix)]

    def complete(self, name: str, files: Iterable[str], is_complete: Callable[[BinaryIO], bool]) -> set[str]:
        found = set()
        for file in files:
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                open(f"{self.address}/{name}/{file}", "rb", buffering=0) as opened,  # noqa: PTH123 - up to 3,000 a layer
            ):
                if is_complete(opened):
                    found.add(file)
        return found

    def usage(self, *names: str) -> tuple[int, int]:
        sizes = [
            os.lstat(os.path.join(folder, file)).st_size  # noqa: PTH118 - a million files: no Path for each
            for name in names
            for folder, _, files in os.walk(self._path / name)
            for file in files
        ]
        return len(sizes), sum(sizes)

    def free_bytes(self) -> int | None:
        existing = next(path for path in (self._path, *self._path.parents) if path.exists())
        return shutil.disk_usage(existing).free

    def _put_in_place(self, partial: Path, name: str) -> None:
        partial.replace(self._path / name)

    def _publish(self, staged: Path, name: str, last: str) -> None:  # noqa: ARG002 - all files appear at once
        if (self._path / name).exists():
            raise CacheError(published_meanwhile(self / name))
        staged.rename(self._path / name)

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def remove_tree(self, name: str = "") -> None:
        shutil.rmtree(self._path / name, ignore_errors=True)

    def read_version(self, name: str) -> tuple[bytes | None, str]:
        try:
            return (self._path / name).read_bytes(), ""
        except FileNotFoundError:
            return None, ""

    def replace(self, name: str, content: bytes, version: str) -> bool:  # noqa: ARG002 - there are none
        atomic_write(self._path / name, content)
        return True

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        with _in_process, FileLock(self._path / f".{Path(name).stem}.lock"):
            self.replace(name, change(self.read_version(name)[0]), "")

    def lock(self, wait: float, log: Callable[[str], None] = lambda _: None) -> AbstractContextManager[None]:
        return file_lock(self._path, wait, log)

    def zarr_store(self, name: str) -> Any:
        from zarr.storage import LocalStore

        return LocalStore(self._path / name)

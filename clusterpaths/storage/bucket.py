"""A directory in object storage, s3://BUCKET/PREFIX, and this machine's mirror of its documents.

Belongs here: which object a file is, and synchronising both. A mirror is a local directory with all small documents
(manifest, tables, clusterings, sets), never with activations. The objects are authoritative: a mirror can be deleted at
any time.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from clusterpaths.errors import CacheError, StorageError
from clusterpaths.storage import objects
from clusterpaths.storage.atomic import partial_name
from clusterpaths.storage.base import Result, Stamp, Storage, published_meanwhile, stamp_of
from clusterpaths.storage.lease import LOCK, leased, require_held

MIRROR_VARIABLE = "CLUSTERPATHS_MIRROR"
SCHEME = "s3://"
_AT_ONCE = 8  # concurrent transfers of documents
_CLAIM = ".claim"  # in a directory that is being published: only the run that wrote it writes there
_CLEAN_UP = 5.0  # seconds for the storage to answer after a failure


def mirror_root() -> Path:
    """The directory of all mirrors of this machine: mirrors/BUCKET/PREFIX … in the user's cache directory."""
    moved = os.environ.get(MIRROR_VARIABLE)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clusterpaths" / "mirrors"
    return (Path(moved).expanduser() if moved else home).resolve()


class Bucket(Storage):
    """As `Storage`.

    Args:
        bucket: its name.
        key: the prefix, without slashes at its ends; "" for all of the bucket.
    """

    request_per_file = True
    # zarr's own would create another client from a copy of these settings, and hide its errors.
    zarr_pipeline = "zarr.core.codec_pipeline.BatchedCodecPipeline"

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"{SCHEME}{bucket}/{key}".rstrip("/"))
        self._bucket, self._key = bucket, key

    @property
    def path(self) -> Path:
        return mirror_root().joinpath(self._bucket, *self._key.split("/"))

    def __truediv__(self, name: str) -> Bucket:
        return Bucket(self._bucket, self._key_of(name))

    @property
    def parent(self) -> Bucket:
        return Bucket(self._bucket, self._key.rpartition("/")[0])

    def require(self, *, writes: bool = False) -> None:
        objects.store_of(self._bucket)
        objects.list_prefixes(self._bucket, self._below(), objects.FIRST_PATIENCE)
        if writes:
            objects.require_conditional_writes(self._bucket, self._key_of(f".probe-{uuid.uuid4().hex[:8]}"))

    def local(self, name: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(partial_name(path.name))
        try:
            etag = objects.download(self._bucket, self._key_of(name), partial, _noted(path))
            if etag is not None:
                partial.replace(path)
                _note(path, etag)
        except FileNotFoundError:
            path.unlink(missing_ok=True)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def local_tree(self, name: str = "") -> Path:
        folder = self.path / name
        there = {self.path / file: entry["e_tag"] for file, entry in self._objects(name).items()}
        for path in list(folder.rglob("*")) if folder.is_dir() else []:
            if path.is_file() and not path.name.startswith(".") and path not in there:
                path.unlink(missing_ok=True)
        stale = [path.relative_to(self.path).as_posix() for path, etag in there.items() if _noted(path) != etag]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
            # in a copy of the context: they log as this task
            on_their_way = [pool.submit(contextvars.copy_context().run, self.local, file) for file in stale]
            for done in on_their_way:
                done.result()
        return folder

    def exists(self, name: str) -> bool:
        return objects.exists(self._bucket, self._key_of(name))

    def stamp(self, name: str) -> Stamp | None:
        path = self.path / name
        return stamp_of(path) or stamp_of(self.local(name))

    def subdirectories(self) -> list[str]:
        return sorted(key.rstrip("/").rpartition("/")[2] for key in objects.list_prefixes(self._bucket, self._below()))

    def published(self, prefix: str, last: str) -> list[str]:
        names = [name for name in self.subdirectories() if name.startswith(prefix)]
        return [name for name in names if self.exists(f"{name}/{last}")]

    def complete(self, name: str, files: Iterable[str], is_complete: Callable[[BinaryIO], bool]) -> set[str]:  # noqa: ARG002
        there = (self / name)._objects()
        return {file for file in files if file in there}

    def usage(self, *names: str) -> tuple[int, int]:
        sizes = [entry["size"] for name in names for entry in self._objects(name).values()]
        return len(sizes), sum(sizes)

    def free_bytes(self) -> int | None:
        return None

    def _put_in_place(self, partial: Path, name: str) -> None:
        etag = objects.upload(self._bucket, self._key_of(name), partial)
        partial.replace(self.path / name)
        _note(self.path / name, etag)

    def _publish(self, staged: Path, name: str, last: str) -> None:
        """The name belongs to the run whose conditional write of `_CLAIM` succeeds; `last` is uploaded after all others.

        A claim that a killed run has left stays, and so does the name: that run may be suspended, not dead.
        """
        require_held(self.address)
        files = [path.relative_to(staged).as_posix() for path in sorted(staged.rglob("*")) if path.is_file()]
        keys = {file: self._key_of(f"{name}/{file}") for file in (_CLAIM, *files)}
        if objects.put(self._bucket, keys[_CLAIM], uuid.uuid4().hex.encode(), None) is None:
            raise CacheError(published_meanwhile(self / name))
        if self.exists(f"{name}/{last}"):
            objects.delete(self._bucket, [keys[_CLAIM]])
            raise CacheError(published_meanwhile(self / name))
        try:
            etags = {file: objects.upload(self._bucket, keys[file], staged / file) for file in files if file != last}
            require_held(self.address)
        except BaseException:
            with contextlib.suppress(StorageError):  # else they stay: readers skip what has no `last`
                objects.delete(self._bucket, [key for file, key in keys.items() if file != last], _CLEAN_UP)
            raise
        made = objects.put(self._bucket, keys[last], (staged / last).read_bytes(), None)
        if made is None:
            raise CacheError(published_meanwhile(self / name))
        objects.delete(self._bucket, [keys[_CLAIM]])
        shutil.rmtree(self.path / name, ignore_errors=True)
        staged.rename(self.path / name)
        for file, etag in (etags | {last: made}).items():
            _note(self.path / name / file, etag)

    def remove(self, name: str) -> None:
        objects.delete(self._bucket, [self._key_of(name)])
        (self.path / name).unlink(missing_ok=True)

    def remove_tree(self, name: str = "") -> None:
        objects.delete(self._bucket, [entry["path"] for entry in self._objects(name).values()])
        shutil.rmtree(self.path / name, ignore_errors=True)

    def read_version(self, name: str) -> tuple[bytes | None, str]:
        return objects.read(self._bucket, self._key_of(name)) or (None, "")

    def replace(self, name: str, content: bytes, version: str) -> bool:
        require_held(self.address)
        return objects.put(self._bucket, self._key_of(name), content, version or None) is not None

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        while True:
            content, version = self.read_version(name)
            if self.replace(name, change(content), version):
                return
            time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - so that writers of many machines do not collide again

    @contextlib.contextmanager
    def lock(self, wait: float, log: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        self.require(writes=True)
        self.path.mkdir(parents=True, exist_ok=True)
        with leased(self._bucket, self._key_of(LOCK), self.address, wait, log):
            yield

    def zarr_store(self, name: str) -> Any:
        from zarr.storage import ObjectStore, StorePath

        return StorePath(ObjectStore(objects.store_of(self._bucket)), self._key_of(name))

    def with_retries(self, operation: Callable[[], Result]) -> Result:
        return objects.with_retries(self._bucket, operation)

    def _key_of(self, name: str) -> str:
        return "/".join(part for part in (self._key, name) if part)

    def _below(self) -> str | None:
        return f"{self._key}/" if self._key else None

    def _objects(self, name: str = "") -> dict[str, Any]:
        """Every object below a subdirectory, by its name here: dicts with path (its full key), size, e_tag."""
        start = len(self._below() or "")
        found = objects.list_objects(self._bucket, (self / name)._below())
        return {entry["path"][start:]: entry for entry in found}


# Which etag a mirror's file is of: beside it, with what distinguishes this file from one that replaces it.


def _note(path: Path, etag: str) -> None:
    note, stamp = _note_path(path), stamp_of(path)
    partial = note.with_name(partial_name(note.name))
    try:
        if stamp is not None:  # else another thread has removed the file: then there is no etag to store
            partial.write_text(json.dumps([etag, *stamp]))
            partial.replace(note)
    except FileNotFoundError:  # with its directory
        partial.unlink(missing_ok=True)


def _noted(path: Path) -> str | None:
    try:
        etag, *stamp = json.loads(_note_path(path).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return str(etag) if tuple(stamp) == stamp_of(path) else None


def _note_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.etag")

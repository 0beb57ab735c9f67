"""A cache in object storage: its address s3://BUCKET/PREFIX/NAME, and this machine's mirror of its documents.

Belongs here: which object a file is, and bringing both to the same state. A mirror is a folder like any cache's, in
which all small documents lie (manifest, tables, clusterings, sets); activations never do. Whoever reads a document of a
cache calls `fetch` or `fetch_folder` first; whoever writes one through `atomic.partial_sibling` has it in the store too.
For folders that are no mirror, all of this does nothing.

The object is the truth: a mirror can be deleted at any time. Records that cross machines hold addresses, not paths.
"""

from __future__ import annotations

import contextvars
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from clusterpaths.errors import CacheError
from clusterpaths.storage.objects import FIRST_PATIENCE, patiently, store_of

MIRROR_VARIABLE = "CLUSTERPATHS_MIRROR"
SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_AT_ONCE = 8  # documents on their way


class Place(NamedTuple):
    """Where something lies in object storage."""

    bucket: str
    key: str

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")


def mirror_root() -> Path:
    """The folder of all mirrors of this machine: mirrors/BUCKET/PREFIX … in the user's cache folder."""
    moved = os.environ.get(MIRROR_VARIABLE)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clusterpaths" / "mirrors"
    return (Path(moved).expanduser() if moved else home).resolve()


def parse_root(value: Any) -> Any:
    """A cache root as it was given: of s3://BUCKET/PREFIX its mirror's folder, all else as it is.

    Raises:
        ValueError: no such address.
    """
    text = value if isinstance(value, str) else str(value) if isinstance(value, Path) else ""
    match = re.match(r"s3:/+(.*)", text)  # a Path makes one slash of two
    if not match:
        if "://" in text:
            raise ValueError("should be a folder, or s3://BUCKET/PREFIX")
        return value
    bucket, *prefix = match[1].rstrip("/").split("/")
    if not _BUCKET.fullmatch(bucket) or any(part in ("", ".", "..") or set(part) & set("?#@\\") for part in prefix):
        # not repeated: people write credentials into addresses
        raise ValueError("should be s3://BUCKET/PREFIX with nothing else in it; credentials come from the environment")
    return str(mirror_root().joinpath(bucket, *prefix))  # of a JSON document, pydantic takes no Path


def local_folder(address: str) -> Path:
    """The folder that a record's `directory` stands for on this machine: itself, or the mirror of an s3:// address."""
    if not address.startswith(SCHEME):
        return Path(address)
    return mirror_root().joinpath(
        *address.removeprefix(SCHEME).split("/")
    )  # of ours: a name may hold what a root may not


def address_of(path: Path) -> str:
    """The path, or the s3:// address of what is mirrored there: what may stand in records and documents."""
    place = place_of(path)
    return place.url if place else str(path)


def place_of(path: Path) -> Place | None:
    """The object (or prefix) that a path of a mirror is; None for all other paths."""
    root = f"{mirror_root()}/"
    if not str(path).startswith(root):
        return None
    bucket, _, key = str(path)[len(root) :].partition("/")
    return Place(bucket, key)


def require_storage(folder: Path) -> None:
    """Of a mirror: check that its store answers, and soon; once a run has begun, it is patient.

    Raises:
        StorageError: it does not, refuses these credentials, or has no such bucket.
        ConfigError: obstore is not installed.
    """
    place = place_of(folder)
    if place:
        store_of(place.bucket)
        patiently(place.bucket, lambda: _folders(place.bucket, f"{place.key}/"), FIRST_PATIENCE)


def fetch(path: Path) -> Path:
    """Bring one file of a mirror up to date: as it is in the store, or gone; returns the path."""
    place = place_of(path)
    if place is None:
        return path
    from obstore import exceptions

    known = _noted(path)
    try:
        _download(place, path, known)
    except exceptions.NotModifiedError:
        pass
    except FileNotFoundError:
        path.unlink(missing_ok=True)
    return path


def fetch_folder(folder: Path) -> Path:
    """Bring all files below a folder of a mirror up to date, and remove what the store does not have."""
    place = place_of(folder)
    if place is None:
        return folder
    there = {folder / entry["path"][len(place.key) + 1 :]: entry["e_tag"] for entry in list_objects(folder)}
    for path in list(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and not path.name.startswith(".") and path not in there:
            path.unlink(missing_ok=True)
    stale = [path for path, etag in there.items() if _noted(path) != etag]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
        on_their_way = [pool.submit(contextvars.copy_context().run, fetch, path) for path in stale]  # logs as this task
        for done in on_their_way:
            done.result()
    return folder


def list_objects(folder: Path) -> Iterator[Any]:
    """Every object below a folder of a mirror: dicts with path (its whole key), size and e_tag."""
    import obstore

    place = _required(folder)
    pages = patiently(place.bucket, lambda: list(obstore.list(store_of(place.bucket), f"{place.key}/")))
    return (entry for page in pages for entry in page)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, ascending; of a mirror, as the store has them. Empty where it does not exist."""
    place = place_of(folder)
    if place is None:
        return local_subfolders(folder)
    found = patiently(place.bucket, lambda: _folders(place.bucket, f"{place.key}/" if place.key else None))
    return sorted(key.rstrip("/").rpartition("/")[2] for key in found)


def local_subfolders(folder: Path) -> list[str]:
    """As `subfolders`, of a folder that is known to be no mirror."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name  # pathlib's is_dir is False for a link that leads nowhere or to itself
            for entry in entries
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())
        )


def exists(path: Path) -> bool:
    """Whether a file is there; of a mirror, in the store."""
    place = place_of(path)
    if place is None:
        return path.is_file()
    import obstore

    try:
        patiently(place.bucket, lambda: obstore.head(store_of(place.bucket), place.key))
    except FileNotFoundError:
        return False
    return True


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a file that is whole to its name; of a mirror, put it into the store first."""
    place = place_of(path)
    etag = _upload(partial, place) if place else ""
    partial.replace(path)
    if place:
        _note(path, etag)


def put_folder(partial: Path, folder: Path, last: str) -> None:
    """Rename a folder that is whole to its name; of a mirror, put its files into the store first, `last` after all others.

    What a killed run left under that name goes first. A reader who waits for `last` never sees half of it.

    Raises:
        CacheError: `last` is there already: another run has made it.
    """
    place = place_of(folder)
    if place is None:
        partial.rename(folder)
        return
    taken = f"{place.url} was published by another run meanwhile. Run again: it takes the next number."
    if exists(folder / last):
        raise CacheError(taken)
    remove_tree(folder)
    etags = {}
    for path in sorted(partial.rglob("*")):
        if path.is_file() and path.name != last:
            name = path.relative_to(partial).as_posix()
            etags[name] = _upload(path, Place(place.bucket, f"{place.key}/{name}"))
    made = put_object(folder / last, (partial / last).read_bytes(), None)
    if made is None:
        raise CacheError(taken)
    partial.rename(folder)
    for name, etag in (etags | {last: made}).items():
        _note(folder / name, etag)


def remove_file(path: Path) -> None:
    """Remove a file, there or not; of a mirror, from the store too."""
    place = place_of(path)
    if place:
        _delete(place.bucket, [place.key])
    path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all in it, there or not; of a mirror, from the store too."""
    place = place_of(folder)
    if place:
        _delete(place.bucket, [entry["path"] for entry in list_objects(folder)])
    shutil.rmtree(folder, ignore_errors=True)


def read_object(path: Path) -> tuple[bytes, str] | None:
    """Content and etag of a mirrored file as the store has it now, past the mirror; None where there is none."""
    import obstore

    place = _required(path)

    def get() -> tuple[bytes, str]:
        result = obstore.get(store_of(place.bucket), place.key)
        return bytes(result.bytes()), str(result.meta["e_tag"])

    try:
        return patiently(place.bucket, get)
    except FileNotFoundError:
        return None


def put_object(path: Path, content: bytes, etag: str | None, patience: float | None = None) -> str | None:
    """Write a mirrored file in the store if it is still that of `etag` (None: if there is none).

    Returns its new etag; None where somebody else was quicker, and nothing was written.
    """
    import obstore
    from obstore import exceptions

    place = _required(path)
    mode: Any = "create" if etag is None else {"e_tag": etag}

    def put() -> str:
        return str(obstore.put(store_of(place.bucket), place.key, content, mode=mode)["e_tag"])

    try:
        return patiently(place.bucket, put, patience)
    except FileNotFoundError:  # it was to be replaced, and is gone
        return None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        # A connection that broke after the write was done makes the second try meet the first one's work.
        found = read_object(path)
        return found[1] if found and found[0] == content else None


def _required(path: Path) -> Place:
    place = place_of(path)
    if place is None:
        raise ValueError(f"{path} is no file of a mirror")
    return place


def _folders(bucket: str, prefix: str | None) -> list[str]:
    import obstore

    return list(obstore.list_with_delimiter(store_of(bucket), prefix)["common_prefixes"])


def _upload(path: Path, place: Place) -> str:
    import obstore

    return str(patiently(place.bucket, lambda: obstore.put(store_of(place.bucket), place.key, path)["e_tag"]))


def _download(place: Place, path: Path, known: str | None) -> None:
    import obstore

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")

    def get() -> str:
        result = obstore.get(store_of(place.bucket), place.key, options={"if_none_match": known} if known else None)
        with partial.open("wb") as file:
            for piece in result.stream(min_chunk_size=4 << 20):
                file.write(piece)
        return str(result.meta["e_tag"])

    try:
        etag = patiently(place.bucket, get)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _note(path, etag)


def _delete(bucket: str, keys: list[str]) -> None:
    import obstore

    if keys:
        patiently(bucket, lambda: obstore.delete(store_of(bucket), keys))


def _note(path: Path, etag: str) -> None:
    """Remember of which etag a mirror's file is. Beside it, with what tells this very file from one that replaces it."""
    note = _note_path(path)
    partial = note.with_name(f"{note.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_text(json.dumps([etag, *_identity(path)]))
        partial.replace(note)
    except FileNotFoundError:  # another thread has taken the file away: then there is nothing to remember
        partial.unlink(missing_ok=True)


def _noted(path: Path) -> str | None:
    try:
        etag, *identity = json.loads(_note_path(path).read_text())
        return str(etag) if identity == _identity(path) else None
    except (FileNotFoundError, ValueError):
        return None


def _note_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.etag")


def _identity(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_ino, found.st_mtime_ns, found.st_size]

"""All models and sets of a results directory, looked up by name, opened at first use.

Belongs here: listing directories, checking whether a set is complete, and caching opened sets. Text of a request never
becomes part of a path: it is looked up among existing names. In object storage, only native sets are found.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import re
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from clusterpaths.cache.examples import EXAMPLES
from clusterpaths.common.lru import LRUCache
from clusterpaths.common.text import is_utf8
from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.explore.index import SetIndex, summarise_set
from clusterpaths.explore.records import ModelSummary, SetSummary
from clusterpaths.sets.directory import PATHS, RECORD
from clusterpaths.sets.external import CENTROIDS_JSON, METADATA, PATHS_JSON, ExternalSet, is_external, read_external
from clusterpaths.sets.maps import MAPS, POINTS
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import Storage, StorageLike, objects, open_storage

PREFERRED = "CelebA"  # default model of a request, if it exists: as existing dashboards expect
LARGEST = 200 << 20  # bytes of all cached indexes, at least one; two of 202,599 examples in five layers fit
_FRESH = 1.0  # seconds that a listing is valid
_FRESH_REMOTE = 5.0  # in object storage, where listing is slow
_STAMPED = (RECORD, PATHS, MAPS, POINTS)  # a later run may add the maps, or other points
_SET, _NUMBERED = "set_", re.compile(r"set_(\d{1,9})", re.ASCII)

_CORRUPTED = (CacheError, OSError, pa.ArrowException)

Stamp = tuple[tuple[int, int, int] | str | None, ...]


class _Listing(NamedTuple):
    models: dict[str, dict[str, Storage]]  # model -> set, by number -> directory
    unreadable: dict[str, str]  # model -> why its directory cannot be listed
    etags: dict[Storage, dict[str, str]]  # in object storage: set -> file -> etag
    at: float


class _ReplacedError(Exception):
    """Files of a set in object storage were replaced after the last listing."""


class Library:
    """The sets of one results directory. Thread-safe."""

    def __init__(self, root: StorageLike, *, largest: int = LARGEST) -> None:
        self.root = open_storage(root)
        self.opened = 0  # indexes made so far
        self._lock = threading.Lock()
        self._listing = _Listing({}, {}, {}, -float("inf"))
        self._lately: LRUCache[tuple[ModelSummary, ...]] = LRUCache(1, seconds=_FRESH)
        self._indexes: LRUCache[SetIndex] = LRUCache(largest, lambda index: index.nbytes, minimum=1)
        self._summaries: dict[Storage, tuple[Stamp, SetSummary | str]] = {}  # or why it cannot be shown

    def models(self) -> tuple[ModelSummary, ...]:
        """Every directory of the root, by name, with its complete sets by number."""
        listing = self._names(0.0)
        self._forget(frozenset(folder for sets in listing.values() for folder in sets.values()))
        return tuple(self._summary(name, sets) for name, sets in listing.items())

    def models_lately(self) -> tuple[ModelSummary, ...]:
        """As `models`, at most a second old: for the header of every page, as checking every set is expensive."""
        return self._lately.get("models", self.models)

    def names(self) -> tuple[str, ...]:
        """Current names of all models."""
        return tuple(self._names(0.0))

    def listed(self) -> dict[str, dict[str, Storage]]:
        """Directories of all sets by model and set, as a listing has them: they may be incomplete, and none is opened.

        Raises:
            CacheError: the results directory cannot be listed.
        """
        return self._names(_FRESH)

    def model(self, name: str) -> ModelSummary:
        """Raises: NotFoundError."""
        return self._summary(name, self._sets(name, fresh=0.0))  # never a stale list of sets

    def set(self, model: str, name: str) -> SetIndex:
        """A set in memory, as it is on disk now.

        Raises:
            NotFoundError: it is missing or incomplete.
            CacheError: its files are corrupted or inconsistent.
        """
        folder = self._sets(model).get(name)
        if folder is None:
            folder = self._names(0.0).get(model, {}).get(name)  # it may have just been published
        if folder is None:
            known = ", ".join(self._sets(model)) or "none"
            raise NotFoundError(f"{model} has no set {name[:80]!r}. It has {known}.")
        return self._open(folder)

    def newest(self, model: str) -> SetIndex:
        """The complete set with the highest number. Raises: NotFoundError."""
        summary = self.model(model)
        if not summary.sets:
            problems = "".join(f" {problem}" for problem in summary.problems)
            raise NotFoundError(f"{model} has no set that can be shown.{problems} Run the flow; it publishes one.")
        return self.set(model, summary.sets[-1].set)

    def default(self) -> SetIndex:
        """The default set: CelebA's newest, else the newest of all.

        Raises:
            NotFoundError: there is no set.
        """
        models = self.models()
        for model in models:
            if model.name == PREFERRED and model.sets:
                return self.set(model.name, model.sets[-1].set)
        found = [(self._made(summary), summary.model, summary.set) for model in models for summary in model.sets]
        if not found:
            raise NotFoundError("There is no set yet. Run the flow; it publishes one.")
        _, name, newest = max(found)
        return self.set(name, newest)

    # Names -------------------------------------------------------------------------------------------------------

    def _names(self, fresh: float) -> dict[str, dict[str, Storage]]:
        """Existing names, from a listing at most `fresh` seconds old."""
        fresh = _FRESH_REMOTE if self.root.request_per_file else fresh
        listing = self._listing
        if time.monotonic() - listing.at > fresh:
            listing = self._listing = _Listing(*self._scan(), time.monotonic())
        return listing.models

    def _scan(self) -> tuple[dict[str, dict[str, Storage]], dict[str, str], dict[Storage, dict[str, str]]]:
        found: dict[str, dict[str, Storage]] = {}
        unreadable: dict[str, str] = {}
        etags: dict[Storage, dict[str, str]] = {}
        try:
            models = self._visible(self.root.subdirectories)
        except OSError as error:
            raise CacheError(
                f"The results directory cannot be listed: {error}. Make it readable for this program."
            ) from error
        for model in models:
            try:
                names = sorted(self._visible(functools.partial(self._published, model, etags)), key=_by_number)
            except OSError as error:
                names, unreadable[model] = [], f"{model} cannot be listed: {self._without_paths(error)}"
            found[model] = {name: self.root / model / name for name in names}
        return found, unreadable, etags

    def _published(self, model: str, etags: dict[Storage, dict[str, str]]) -> list[str]:
        """Names of its complete sets; of those in object storage, `etags` gets the files. One request per set."""
        folder = self.root / model
        if not self.root.request_per_file:
            return folder.published(_SET, RECORD)
        sets = {name: _etags(folder / name) for name in folder.subdirectories() if name.startswith(_SET)}
        complete = {name: files for name, files in sets.items() if RECORD in files}
        etags.update({folder / name: files for name, files in complete.items()})
        return list(complete)

    def _visible(self, listed: Callable[[], list[str]]) -> list[str]:
        """Names of listed directories; hidden ones are incomplete, names that are not UTF-8 fit no address.

        Raises:
            OSError: it cannot be listed.
        """
        try:
            names = listed()
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            return []
        return [name for name in names if not name.startswith(".") and is_utf8(name)]

    def _sets(self, model: str, fresh: float = _FRESH) -> dict[str, Storage]:
        found = self._names(fresh).get(model)
        if found is None:
            names = self._names(0.0)
            found = names.get(model)
            if found is None:
                raise NotFoundError(f"There is no model {model[:80]!r}. There are {', '.join(names) or 'none yet'}.")
        return found

    # Sets --------------------------------------------------------------------------------------------------------

    def _open(self, folder: Storage) -> SetIndex:
        while True:
            stamp = self._stamp(folder)
            read = functools.partial(self._read, folder, stamp)
            try:
                return self._indexes.get(folder, read, version=stamp)
            except _ReplacedError:  # the stamp is another one now
                continue

    def _read(self, folder: Storage, stamp: Stamp) -> SetIndex:
        with self._lock:
            known = self._summaries.get(folder)
        if known and known[0] == stamp and isinstance(known[1], str):
            raise CacheError(known[1])  # unchanged, so still corrupted
        try:
            source = read_external(folder.path) if is_external(folder.path) else _checked(folder)
            index = SetIndex(source, summarise_set(source, _version(source, stamp)))
            index.attributes  # noqa: B018 - read now, so that errors are raised at once
            index.maps  # noqa: B018 - opened now, so that they are those of the stamp
        except _CORRUPTED as error:
            problem = self._problem(folder, error)
            if self._stamp(folder) == stamp:  # else it was removed or replaced meanwhile
                with self._lock:
                    self._summaries[folder] = stamp, problem
            raise CacheError(problem) from error
        if self.root.request_per_file:  # its files may be newer than the listing
            self._listing.etags[folder] = _etags(folder)
            if self._stamp(folder) != stamp:
                raise _ReplacedError
        self.opened += 1
        with self._lock:
            self._summaries[folder] = stamp, index.summary
        return index

    def _stamp(self, folder: Storage) -> Stamp:
        """Changes when the set is replaced.

        Raises:
            NotFoundError: the set is missing or incomplete.
            CacheError: its directory cannot be read.
        """
        try:
            if self.root.request_per_file:  # as of the last listing: its files are only fetched when the set is opened
                listed = self._listing.etags.get(folder, {})
                stamp: Stamp = tuple(map(listed.get, _STAMPED))
            else:
                stamp = *map(folder.stamp, _STAMPED), folder.parent.stamp(EXAMPLES)
            if all(needed := stamp[:2]):
                return stamp
            if is_external(folder.path):
                documents = folder.stamp(PATHS_JSON), folder.stamp(CENTROIDS_JSON), folder.parent.stamp(METADATA)
                return *documents, *stamp[2:]
        except OSError as error:  # such as a symbolic link to itself, or no permission
            raise CacheError(self._problem(folder, error)) from error
        self._indexes.discard(folder)
        with self._lock:
            self._summaries.pop(folder, None)
        name = f"{folder.parent.name}/{folder.name}"
        if not folder.path.is_dir() or (self.root.request_per_file and not any(needed)):
            raise NotFoundError(f"{name} has been deleted.")
        missing = [file for file, found in zip((RECORD, PATHS), needed, strict=True) if not found]
        raise NotFoundError(
            f"{name} is incomplete: it lacks {' and '.join(missing)}. Wait for it, or publish it again."
        )

    def _summary(self, model: str, sets: dict[str, Storage]) -> ModelSummary:
        found, unlisted = [], self._listing.unreadable.get(model)
        problems = [unlisted] if unlisted else []
        for folder in sets.values():
            try:
                known = self._known(folder)
            except NotFoundError as error:
                if folder.path.is_dir():
                    problems.append(str(error))
                continue
            except CacheError as error:
                known = str(error)
            except OSError as error:
                known = self._problem(folder, error)
            if isinstance(known, str):
                problems.append(known)
            else:
                found.append(known)
        return ModelSummary(name=model, sets=tuple(found), problems=tuple(problems))

    def _known(self, folder: Storage) -> SetSummary | str:
        """The summary of a set, or why it cannot be shown; reads the set again if it changed."""
        stamp = self._stamp(folder)
        with self._lock:
            known = self._summaries.get(folder)
        if known and known[0] == stamp:
            return known[1]
        found: SetSummary | str
        if is_external(folder.path):
            return self._open(folder).summary  # the number of examples is only known after reading all of it
        try:
            source = _checked(folder)
            found = summarise_set(source, _version(source, stamp))
        except _CORRUPTED as error:
            found = self._problem(folder, error)
        with self._lock:
            self._summaries[folder] = stamp, found
        return found

    def _problem(self, folder: Storage, error: Exception) -> str:
        """What is wrong with a set, without paths of this machine."""
        return f"{folder.parent.name}/{folder.name} cannot be shown: {self._without_paths(error)}"

    def _without_paths(self, error: Exception) -> str:
        text = str(error)
        for root in (str(self.root.path), self.root.address):
            text = text.replace(f"{root}/", "").replace(root, "")
        return text

    def _made(self, summary: SetSummary) -> float:
        """Creation time in seconds since 1970; without a record, the modification time of its directory."""
        if summary.created:
            return datetime.datetime.fromisoformat(summary.created).timestamp()
        try:
            return (self.root / summary.model / summary.set).path.stat().st_mtime
        except OSError:  # deleted meanwhile, or no permission
            return 0.0

    def _forget(self, there: frozenset[Storage]) -> None:
        self._indexes.retain(there)
        with self._lock:
            for folder in [folder for folder in self._summaries if folder not in there]:
                del self._summaries[folder]


def _by_number(name: str) -> tuple[float, str]:
    match = _NUMBERED.fullmatch(name)
    return float(match[1]) if match else -1.0, name


def _etags(folder: Storage) -> dict[str, str]:
    """File -> etag of a directory in object storage."""
    bucket, _, key = folder.address.partition("://")[2].partition("/")
    found = objects.list_objects(bucket, f"{key}/")
    return {entry["path"].removeprefix(f"{key}/"): str(entry["e_tag"]) for entry in found}


def _checked(folder: Storage) -> PublishedSet:
    """Raises: CacheError: the set is corrupted."""
    published = open_set(folder)
    published.check()
    return published


def _version(source: PublishedSet | ExternalSet, stamp: Stamp) -> str:
    """Twelve hex digits that change when the set is replaced."""
    fingerprint = source.record.fingerprint if source.record else ""
    return hashlib.sha256(repr((fingerprint, stamp)).encode()).hexdigest()[:12]

"""All models and sets of a results' folder, looked up by name, opened when first asked for.

Belongs here: which folders there are, whether a set is whole, and caching opened ones. Text of a request never becomes
part of a path: it is looked up among the names that are there. In object storage, only sets of ours are found.
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
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import Storage, StorageLike, open_storage

PREFERRED = "CelebA"  # what a request without a model means, where there is one: as existing dashboards expect
LARGEST = 200 << 20  # bytes of all cached indexes, one at least; two of 202,599 examples in five layers fit
_FRESH = 1.0  # seconds that a list of names is taken for true
_FRESH_REMOTE = 5.0  # in object storage, where a list takes a while and sets are never replaced
_SET, _NUMBERED = "set_", re.compile(r"set_(\d{1,9})", re.ASCII)

_DAMAGED = (CacheError, OSError, pa.ArrowException)

Stamp = tuple[tuple[int, int, int] | None, ...]


class _Listing(NamedTuple):
    models: dict[str, dict[str, Storage]]  # model -> set, by number -> folder
    unreadable: dict[str, str]  # model -> why its folder cannot be listed
    at: float


class Library:
    """The sets below one results' folder. Threads may share it."""

    def __init__(self, root: StorageLike, *, largest: int = LARGEST) -> None:
        self.root = open_storage(root)
        self.opened = 0  # indexes made so far
        self._lock = threading.Lock()
        self._listing = _Listing({}, {}, -float("inf"))
        self._lately: LRUCache[tuple[ModelSummary, ...]] = LRUCache(1, seconds=_FRESH)
        self._indexes: LRUCache[SetIndex] = LRUCache(largest, lambda index: index.nbytes, minimum=1)
        self._summaries: dict[Storage, tuple[Stamp, SetSummary | str]] = {}  # or why it cannot be shown

    def models(self) -> tuple[ModelSummary, ...]:
        """Every folder of the root, by name, with its whole sets by number."""
        listing = self._names(0.0)
        self._forget(frozenset(folder for sets in listing.values() for folder in sets.values()))
        return tuple(self._summary(name, sets) for name, sets in listing.items())

    def models_lately(self) -> tuple[ModelSummary, ...]:
        """As `models`, up to a second ago: for the head of every page, where a look at every set would cost most."""
        return self._lately.get("models", self.models)

    def names(self) -> tuple[str, ...]:
        """Of all models, as of now."""
        return tuple(self._names(0.0))

    def model(self, name: str) -> ModelSummary:
        """Raises: NotFoundError."""
        return self._summary(name, self._sets(name, fresh=0.0))  # a list of sets is never old

    def set(self, model: str, name: str) -> SetIndex:
        """A set in memory, as it lies on disk now.

        Raises:
            NotFoundError: it is not there, or not whole.
            CacheError: its files are damaged, or do not fit together.
        """
        folder = self._sets(model).get(name)
        if folder is None:
            folder = self._names(0.0).get(model, {}).get(name)  # it may have just been published
        if folder is None:
            known = ", ".join(self._sets(model)) or "none"
            raise NotFoundError(f"{model} has no set {name[:80]!r}. It has {known}.")
        return self._open(folder)

    def newest(self, model: str) -> SetIndex:
        """The whole set with the highest number. Raises: NotFoundError."""
        summary = self.model(model)
        if not summary.sets:
            problems = "".join(f" {problem}" for problem in summary.problems)
            raise NotFoundError(f"{model} has no set that can be shown.{problems} Run the flow; it publishes one.")
        return self.set(model, summary.sets[-1].set)

    def default(self) -> SetIndex:
        """What a request without a model means: CelebA's newest set, else the one that was made last.

        Raises:
            NotFoundError: there is no set at all.
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
        """What is there, from a list that is at most `fresh` seconds old."""
        fresh = _FRESH_REMOTE if self.root.request_per_file else fresh
        listing = self._listing
        if time.monotonic() - listing.at > fresh:
            listing = self._listing = _Listing(*self._scan(), time.monotonic())
        return listing.models

    def _scan(self) -> tuple[dict[str, dict[str, Storage]], dict[str, str]]:
        found: dict[str, dict[str, Storage]] = {}
        unreadable = {}
        try:
            models = self._visible(self.root.subdirectories)
        except OSError as error:
            raise CacheError(f"The results' folder cannot be listed: {error}. Let this program read it.") from error
        for model in models:
            try:
                inside = functools.partial((self.root / model).published, _SET, RECORD)
                names = sorted(self._visible(inside), key=_by_number)
            except OSError as error:
                names, unreadable[model] = [], f"{model} cannot be listed: {self._said(error)}"
            found[model] = {name: self.root / model / name for name in names}
        return found, unreadable

    def _visible(self, listed: Callable[[], list[str]]) -> list[str]:
        """Names of listed directories; hidden ones are somebody's unfinished work, others than UTF-8 fit no address.

        Raises:
            OSError: it cannot be listed.
        """
        try:
            names = listed()
        except (FileNotFoundError, NotADirectoryError):  # taken away meanwhile
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
        stamp = self._stamp(folder)
        return self._indexes.get(folder, lambda: self._read(folder, stamp), version=stamp)

    def _read(self, folder: Storage, stamp: Stamp) -> SetIndex:
        with self._lock:
            known = self._summaries.get(folder)
        if known and known[0] == stamp and isinstance(known[1], str):
            raise CacheError(known[1])  # it is as damaged as it was
        try:
            source = read_external(folder.path) if is_external(folder.path) else _checked(folder)
            index = SetIndex(source, summarise_set(source, _version(source, stamp)))
            index.attributes  # noqa: B018 - read now: what is wrong with them is said when the set is opened
        except _DAMAGED as error:
            problem = self._problem(folder, error)
            if self._stamp(folder) == stamp:  # else it was taken away or replaced meanwhile
                with self._lock:
                    self._summaries[folder] = stamp, problem
            raise CacheError(problem) from error
        self.opened += 1
        with self._lock:
            self._summaries[folder] = stamp, index.summary
        return index

    def _stamp(self, folder: Storage) -> Stamp:
        """What changes when the set is replaced.

        Raises:
            NotFoundError: the set is gone, or not whole.
            CacheError: its folder cannot be looked into.
        """
        try:
            needed = folder.stamp(RECORD), folder.stamp(PATHS)
            # of object storage, examples.parquet comes here only when the set is opened
            beside = () if self.root.request_per_file else (folder.parent.stamp(EXAMPLES),)
            if all(needed):
                return *needed, *beside
            if is_external(folder.path):
                documents = folder.stamp(PATHS_JSON), folder.stamp(CENTROIDS_JSON), folder.parent.stamp(METADATA)
                return *documents, *beside
        except OSError as error:  # a link that leads to itself, a folder of somebody else
            raise CacheError(self._problem(folder, error)) from error
        self._indexes.discard(folder)
        with self._lock:
            self._summaries.pop(folder, None)
        name = f"{folder.parent.name}/{folder.name}"
        if not folder.path.is_dir():
            raise NotFoundError(f"{name} has been deleted.")
        missing = [file for file, found in zip((RECORD, PATHS), needed, strict=True) if not found]
        raise NotFoundError(f"{name} is not whole: it lacks {' and '.join(missing)}. Wait for it, or publish it again.")

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
        """Of a set that was not looked at since it changed: read enough of it to know whether it can be shown."""
        stamp = self._stamp(folder)
        with self._lock:
            kept = self._summaries.get(folder)
        if kept and kept[0] == stamp:
            return kept[1]
        found: SetSummary | str
        if is_external(folder.path):
            return self._open(folder).summary  # short of reading all of it, nothing says how many examples
        try:
            source = _checked(folder)
            found = summarise_set(source, _version(source, stamp))
        except _DAMAGED as error:
            found = self._problem(folder, error)
        with self._lock:
            self._summaries[folder] = stamp, found
        return found

    def _problem(self, folder: Storage, error: Exception) -> str:
        """What is wrong with a set, for whoever may see it: without where on this machine it lies."""
        return f"{folder.parent.name}/{folder.name} cannot be shown: {self._said(error)}"

    def _said(self, error: Exception) -> str:
        text = str(error)
        for root in (str(self.root.path), self.root.address):
            text = text.replace(f"{root}/", "").replace(root, "")
        return text

    def _made(self, summary: SetSummary) -> float:
        """When, as seconds since 1970; of a set that does not say, when its folder was written to."""
        if summary.created:
            return datetime.datetime.fromisoformat(summary.created).timestamp()
        try:
            return (self.root / summary.model / summary.set).path.stat().st_mtime
        except OSError:  # deleted meanwhile, or somebody else's
            return 0.0

    def _forget(self, there: frozenset[Storage]) -> None:
        self._indexes.retain(there)
        with self._lock:
            for folder in [folder for folder in self._summaries if folder not in there]:
                del self._summaries[folder]


def _by_number(name: str) -> tuple[float, str]:
    match = _NUMBERED.fullmatch(name)
    return float(match[1]) if match else -1.0, name


def _checked(folder: Storage) -> PublishedSet:
    """Raises: CacheError: the set is corrupted."""
    published = open_set(folder)
    published.check()
    return published


def _version(source: PublishedSet | ExternalSet, stamp: Stamp) -> str:
    """Twelve hex digits that change when the set is replaced."""
    fingerprint = source.record.fingerprint if source.record else ""
    return hashlib.sha256(repr((fingerprint, stamp)).encode()).hexdigest()[:12]

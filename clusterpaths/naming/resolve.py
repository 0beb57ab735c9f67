"""The names of a set as they are shown: a person's, else a model's, else the data's.

Belongs here: the choice among the three, and reading annotations once while they are unchanged. Pages, reports, explanations,
CSV, the API and path models all take names from here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property

from clusterpaths.common.lru import LRUCache
from clusterpaths.errors import CacheError, StorageError
from clusterpaths.explore.index import SetIndex
from clusterpaths.naming.annotations import ANNOTATIONS, Annotations, Entry, read_annotations
from clusterpaths.naming.from_data import name_cluster
from clusterpaths.naming.record import MIXED, STEP, Name, path_key
from clusterpaths.sets.published import PublishedSet

_FRESH_REMOTE = 5.0  # seconds that annotations in object storage are not read again, as a listing of sets
_CACHED = 32  # sets

Read = tuple[Annotations | None, str]  # or why they cannot be shown
log = logging.getLogger(__name__)
_local: LRUCache[Read] = LRUCache(_CACHED)
_remote: LRUCache[Read] = LRUCache(_CACHED, seconds=_FRESH_REMOTE)


class SetNames:
    """All names of one set. Thread-safe, and unchanged by later edits.

    Attributes:
        annotations: of the set; None where it cannot have any (another program made it), or they cannot be read.
        problem: why annotations.json is not shown; empty otherwise.
        version: changes with the annotations, for caches of what shows names.
    """

    def __init__(self, index: SetIndex, annotations: Annotations | None, problem: str = "") -> None:
        self._index = index
        self.annotations, self.problem = annotations, problem
        self._shorts: dict[tuple[int, int], str] = {}
        entries = annotations.entries if annotations else ()
        self._entries = {(one.key, one.source): one for one in entries}
        content = (annotations.model_dump_json() if annotations else "") + problem
        self.version = hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def can_be_edited(self) -> bool:
        """Whether the set can have annotations at all."""
        return self.annotations is not None

    @cached_property
    def clusters(self) -> tuple[tuple[Name, ...], ...]:
        """clusters[layer][cluster]."""
        return tuple(tuple(self.cluster(layer, c) for c in range(k)) for layer, k in enumerate(self._index.k))

    def cluster(self, layer: int | str, cluster: int) -> Name:
        """The name of one cluster; the layer by number or name.

        Raises:
            NotFoundError: no such layer or cluster.
        """
        at = self._index.layer_index(layer) if isinstance(layer, str) else layer
        self._index.require_cluster(at, cluster)
        return self._chosen(name_cluster(self._index, at, cluster))

    def path(self, path: Sequence[int]) -> Name:
        """A path's own name if a person or model gave it one, else the names of its clusters, read as words."""
        return self._chosen(Name(key=path_key(path), text=self.words(path), source="data"))

    def words(self, path: Sequence[int]) -> str:
        """The names of a path's clusters, first layer to last; a name that stays the same is read once.

        Mixed clusters are left out, unless all are.
        """
        names = [self._short(layer, cluster) for layer, cluster in enumerate(path)]
        known = [name for name in names if name not in ("", MIXED)]
        read: list[str] = []
        for name in known or [name for name in names if name][:1]:
            if not read or read[-1] != name:
                read.append(name)
        return STEP.join(read)

    def _short(self, layer: int, cluster: int) -> str:
        key = layer, cluster
        if key not in self._shorts:
            self._shorts[key] = self.cluster(layer, cluster).short
        return self._shorts[key]

    @cached_property
    def of_paths(self) -> tuple[Name, ...]:
        """Names of the paths that a person or model named or annotated, by key."""
        keys = dict.fromkeys(key for key, _ in self._entries if "/" not in key)
        return tuple(self.path([int(step) for step in key.split("-")]) for key in keys)

    def as_text(self) -> dict[str, str]:
        """Key -> text of every cluster that has a name, and of paths with a name of their own."""
        names = [name for layer in self.clusters for name in layer] + list(self.of_paths)
        return {name.key: name.text for name in names if name.text}

    def _chosen(self, data: Name) -> Name:
        person, model = self._entries.get((data.key, "person")), self._entries.get((data.key, "model"))
        named = next((one for one in (person, model) if one and one.name), None)
        noted = next((one for one in (person, model) if one and one.note), None)
        changes = {
            "note": noted.note if noted else "",
            "note_source": noted.source if noted else None,
            "revision": person.revision if person else 0,
        }
        if named is None:
            return data.model_copy(update=changes)
        return _named(named).model_copy(update=changes | {"data": data.text})


def names_of(index: SetIndex) -> SetNames:
    """The names of a set as they are now: annotations that were changed since are read again."""
    annotations, problem = _read(index.source) if isinstance(index.source, PublishedSet) else (None, "")
    version = annotations.revision if annotations else -1, annotations, problem
    found: dict[str, tuple[object, SetNames]] = index.once("resolved names", dict)
    last = found.get("last")
    if last is None or last[0] != version:
        last = found["last"] = version, SetNames(index, annotations, problem)
    return last[1]


def read_again(published: PublishedSet) -> None:
    """Forget what was read of a set's annotations: this process has changed them."""
    for cache in (_local, _remote):
        cache.discard(published.folder)


def all_path_names(names: SetNames, index: SetIndex) -> list[str]:
    """The name of each occupied path, in the order of `index.paths`."""
    return [names.path(path).text for path in index.paths.paths.tolist()]


def _read(published: PublishedSet) -> Read:
    def read() -> Read:
        try:
            return read_annotations(published), ""
        except CacheError as error:
            return None, str(error)
        except (OSError, StorageError) as error:  # whose text may name directories of this machine
            log.warning("%s of %s cannot be read: %s", ANNOTATIONS, published.name, error)
            return None, f"{published.name}/{ANNOTATIONS} cannot be read now, so names are those from the data."

    folder = published.folder
    if folder.request_per_file:
        return _remote.get(folder, read)
    return _local.get(folder, read, version=(folder.stamp(ANNOTATIONS), published.record.fingerprint))


def _named(entry: Entry) -> Name:
    return Name(
        key=entry.key,
        text=entry.name,
        source=entry.source,
        by=entry.by,
        at=entry.at,
        check=entry.check,
        carried=entry.carried,
    )

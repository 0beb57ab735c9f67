"""Finding a set: by number, name or fingerprint, or as the best one to compare another with.

Belongs here: selecting among existing sets. `published.py` reads them.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterpaths.errors import CacheError, DatasetError
from clusterpaths.records import SetRecord
from clusterpaths.sets.directory import RECORD
from clusterpaths.sets.join import join_examples
from clusterpaths.sets.places import config_here
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import Storage, StorageLike, open_storage

LEAST_COMMON = 0.5  # share of a new set's examples that its predecessor must have
_SET = re.compile(r"set_(\d+)")


def list_sets(directory: StorageLike) -> list[str]:
    """Names of the sets of a cache, by number; in object storage, of those that are complete."""
    return _numbered(open_storage(directory).published("set_", RECORD))


def next_set(directory: Storage) -> str:
    """Name of the set after the last one, also after incomplete ones in object storage."""
    names = _numbered(directory.subdirectories())
    return f"set_{int(names[-1][4:]) + 1 if names else 1:02d}"


def _numbered(names: list[str]) -> list[str]:
    return sorted((name for name in names if _SET.fullmatch(name)), key=lambda name: int(name[4:]))


def find_set(directory: Storage, fingerprint: str) -> PublishedSet | None:
    """The newest set of a cache with this identity; directories of other programs are skipped.

    So are sets with cosine distances of 0 for activations that are all 0, as an earlier version published them.
    """
    for published in _newest_first(directory, list_sets(directory)):
        if published.record.fingerprint == fingerprint and not _zeros_at_0(published.record):
            published.folder.local_tree()
            return published
    return None


def _zeros_at_0(record: SetRecord) -> bool:
    """Whether it is of that version, and noted such activations."""
    noted = ("dead layer", "no activation at all")
    return record.distance == "cosine" and any(
        one.zeros is None and any(words in one.note for words in noted) for one in record.clusters.values()
    )


def find_named(cache_root: StorageLike, given: str) -> PublishedSet:
    """The set that NAME/set_NN, or NAME for its newest one, stands for; looked up among existing sets.

    Raises:
        CacheError: there are no such results or no such set, or another program made it.
    """
    cache_root = open_storage(cache_root)
    cache_root.require()
    name, _, wanted = given.rstrip("/").partition("/")
    names = [other for other in cache_root.subdirectories() if list_sets(cache_root / other)]
    if name not in names:
        raise CacheError(
            f"There are no sets called {given!r} in {cache_root}. Expected NAME or NAME/set_NN, with NAME one of: "
            f"{', '.join(names) or 'none yet'}. Name one of these, or another directory with --cache-root."
        )
    sets = list_sets(cache_root / name)
    if wanted and wanted not in sets:
        raise CacheError(
            f"{name} in {cache_root} has no set {wanted!r}. Expected one of: {', '.join(sets)}, or {name} alone "
            "for the newest."
        )
    folder = cache_root / name / (wanted or sets[-1])
    folder.local_tree()
    return open_set(folder)


def set_config(published: PublishedSet, data_root: Path | None = None) -> dict[str, Any]:
    """The configuration of a set, for `RunConfig`, with its directories and files as they are now (`config_here`).

    Raises:
        CacheError: it is not recorded, or the set was made of activations, without a run.
    """
    if published.record.without_model:
        raise CacheError(
            f"{published.path} was made of activations, without a model: there is no run to repeat. Run `clusterpaths "
            "activations` again with the settings that you want; a new set is published beside it."
        )
    if published.record.collected:
        raise CacheError(
            f"{published.path} was collected from a PyTorch model: only a program that has it can run it again. Call "
            "clusterpaths.collect with the settings that you want, such as another k: the activations are there."
        )
    if not published.record.config:
        raise CacheError(
            f"{published.path} does not record its configuration (an older version made it). "
            "Run flows/celeba.py once with the settings that you want; recluster then uses that set."
        )
    return config_here(published.folder, published.record, data_root)


def find_earlier(own: PublishedSet) -> PublishedSet | None:
    """The set to compare a new one with: the one before it under its name, else what `find_predecessor` finds.

    Sets without a layer in common, and directories of other programs, are skipped.
    """
    sets = list_sets(own.cache)
    for other in _newest_first(own.cache, sets[: sets.index(own.folder.name)]):
        if set(other.layers) & set(own.layers):
            other.folder.local_tree()
            return other
    return find_predecessor(own)


def find_predecessor(own: PublishedSet) -> PublishedSet | None:
    """The set that a new model's set is best compared with: the newest one of another model, under another name beside it.

    It has the same layers, is not newer, and has at least half of the set's examples with the same images.
    Directories of the cache root without native sets, or that cannot be read, are skipped.

    Args:
        own: a published set, cache_root/NAME/set_NN.
    """
    born = _time(own.record)
    cache_root = own.cache.parent
    found: list[tuple[datetime.datetime, str, PublishedSet]] = []
    for cache in (cache_root / name for name in cache_root.subdirectories()):
        try:
            sets = list_sets(cache) if cache != own.cache else []
        except OSError:
            continue
        for other in _newest_first(cache, sets):
            try:
                time = _time(other.record)
            except ValueError:
                continue
            if (
                other.record.model.sha256 != own.record.model.sha256
                and set(other.layers) == set(own.layers)
                and time <= born
            ):
                found.append((time, other.folder.address, other))
    newest = sorted(found, key=lambda entry: entry[:2], reverse=True)
    return next((other for _, _, other in newest if is_comparable(other, own)), None)


def is_comparable(other: PublishedSet, own: PublishedSet) -> bool:
    """Whether another set has a layer in common, and at least half of a set's examples with the same images."""
    if not set(other.layers) & set(own.layers):
        return False
    try:
        other.folder.local_tree()
        common = len(join_examples(other, own)[0])
    except (CacheError, DatasetError, OSError):
        return False  # corrupted, or of other images
    return common >= LEAST_COMMON * len(own.ids)


def _newest_first(cache: Storage, names: list[str]) -> Iterator[PublishedSet]:
    """The native ones of these sets."""
    for name in reversed(names):
        try:
            yield open_set(cache / name)
        except CacheError:
            continue  # a set of another program


def _time(record: SetRecord) -> datetime.datetime:
    time = datetime.datetime.fromisoformat(record.created)
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)

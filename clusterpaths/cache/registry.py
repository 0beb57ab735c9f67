"""registry.parquet: which file each example of a cache is, and what the data set says of it now.

Belongs here: giving ids. An id is given once, to one content (its digest), and never to another. So shards, which hold rows of
ids, and sets stay right whatever happens to the files: an inserted file gets a new id and shifts none, a renamed file takes its
id along, a file of other content is a new example. Of files that are gone the ids stay taken; a file that comes back has its
old one. Labels, splits and attributes are those of the last run's data set; each set has a copy of its own.

Columns: id, file, size (bytes), mtime (ns since the epoch, null: files have no times), digest (xxh3 of the bytes; null: not read
yet), present (whether the data set has it now), split, label, and attr_NAME for each attribute; the metadata of the schema has
the class names. The registry outlives a --refresh.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.examples import ATTRIBUTE, READ, class_type, require_columns, write_table
from clusterpaths.common.corrupted import parse_json, reading
from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.errors import CacheError
from clusterpaths.storage import Storage

REGISTRY = "registry.parquet"
_CLASSES = b"class_names"
_IDENTITY = ("id", "file", "size", "mtime", "digest")
_TYPES = {name: READ.field(name).type for name in _IDENTITY} | {
    "present": pa.bool_(), "split": pa.string(), "label": (pa.int16(), pa.int32())
}  # fmt: skip


def read_registry(directory: Storage, columns: list[str] | None = None) -> pa.Table | None:
    """The registry of a cache, ids ascending; None where there is none, as in caches from before 2026-11-29.

    Raises:
        CacheError: it cannot be read.
    """
    path = directory.local(REGISTRY)
    if not path.is_file():
        return None
    try:
        with reading():
            table = pq.read_table(path, columns=columns)
            attributes = {name: pa.int8() for name in table.column_names if name.startswith(ATTRIBUTE)}
            require_columns(table, {name: _TYPES[name] for name in columns or _TYPES if name in _TYPES} | attributes)
            class_names(table)
            return table
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CacheError:
    return CacheError(
        f"{path}, which records the ids of images, cannot be read: {error}. Remove it and run the flow again: of the images "
        "in the cache, the ids are found again."
    )


def require_registry(directory: Storage, columns: list[str] | None = None) -> pa.Table:
    """As `read_registry`, of a run that has begun.

    Raises:
        CacheError: there is none.
    """
    registry = read_registry(directory, columns)
    if registry is None:
        raise CacheError(f"{directory / REGISTRY} is missing: something removed it since this run began. Run again.")
    return registry


def write_registry(directory: Storage, registry: pa.Table) -> None:
    """Write it atomically, unless it is there already."""
    if not directory.local(REGISTRY).is_file() or not registry.equals(read_registry(directory), check_metadata=True):
        write_table(directory, REGISTRY, registry)


def record_digests(directory: Storage, examples: pa.Table) -> None:
    """Record the digests of what extraction read: columns id and digest, ids ascending."""
    registry = require_registry(directory)
    write_registry(directory, registry.set_column(4, "digest", _digests(registry, examples)))


def known_examples(registry: pa.Table | None, read: pa.Table) -> pa.Table:
    """All examples that a cache knows, columns id to digest and `read`: whether activations were made of the file.

    Args:
        registry: None: of a cache from before there was one.
        read: what the shards' parts say, columns id to digest and error, one row per id, ids ascending.
    """
    if registry is None:
        known = read.select(_IDENTITY)
    else:
        registry = registry.select(_IDENTITY)
        other = read.filter(pa.array(~np.isin(read["id"].to_numpy(), registry["id"].to_numpy()))).select(_IDENTITY)
        known = pa.concat_tables([registry.set_column(4, "digest", _digests(registry, read)), other]).sort_by("id")
    extracted = read["id"].to_numpy()[read["error"].is_null().to_numpy()]
    return known.append_column("read", pa.array(np.isin(known["id"].to_numpy(), extracted)))


def _digests(registry: pa.Table, read: pa.Table) -> pa.ChunkedArray:
    """The registry's digests, with those of what was read since."""
    at = pc.index_in(registry["id"], read["id"].combine_chunks())
    return pc.coalesce(read["digest"].take(at), registry["digest"])


def register(table: ExampleTable, known: pa.Table, dataset: Dataset, *, by_content: bool = False) -> pa.Table:
    """The registry of a data set as it is now.

    A file is a known example where its name, size and time are those recorded, or its content is; only files of which the
    first is not so are read. New names are read where a file of the same size is gone: it may have been renamed.

    Args:
        table: of the data set. Its own ids are used for new examples where they are free.
        known: see `known_examples`.
        dataset: reads contents.
        by_content: read every file that was read before, whatever its size and time say.
    """
    matched, digests = _match(table, known, dataset, by_content)
    ids = _ids(table, known["id"].to_numpy(), matched)
    old = known["digest"].take(pa.array(matched, mask=matched < 0))
    kind = pa.from_numpy_dtype(class_type(max(len(table.class_names), int(table.labels.max(initial=-1)) + 1)))
    present = {
        "id": pa.array(ids, pa.int64()),
        "file": pa.array(table.files, pa.string()),
        "size": pa.array(table.sizes, pa.int64()),
        "mtime": pa.nulls(len(table), pa.int64()) if table.mtimes is None else pa.array(table.mtimes, pa.int64()),
        "digest": pc.coalesce(pa.array(digests, pa.uint64()), old),
        "present": pa.array(np.ones(len(table), bool)),
        "split": pa.array(table.splits, pa.string()),
        "label": pa.array(table.labels, kind),
        **{f"{ATTRIBUTE}{name}": pa.array(values, pa.int8()) for name, values in table.attributes.items()},
    }
    gone = known.filter(pa.array(np.isin(np.arange(len(known)), matched, invert=True))).select(_IDENTITY)
    unknown = {"present": pa.array(np.zeros(len(gone), bool)), "split": pa.array([""] * len(gone), pa.string())}
    unknown["label"] = pa.array(np.full(len(gone), -1), kind)
    for name in table.attributes:
        unknown[f"{ATTRIBUTE}{name}"] = pa.array(np.zeros(len(gone)), pa.int8())
    for name, values in unknown.items():
        gone = gone.append_column(name, values)
    every = pa.concat_tables([pa.table(present), gone]).sort_by("id").combine_chunks()
    return every.replace_schema_metadata({_CLASSES: json.dumps(table.class_names, ensure_ascii=False)})


def _match(
    table: ExampleTable, known: pa.Table, dataset: Dataset, by_content: bool
) -> tuple[NDArray[np.int64], list[int | None]]:
    """For each example: the row of `known` that it is, -1: none; and its digest, where it was read now."""
    size_of, time_of, digest_of = (known[name].to_pylist() for name in ("size", "mtime", "digest"))
    was_read = known["read"].to_pylist()
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, file in enumerate(known["file"].to_pylist()):
        rows_of[file].append(row)
    sizes = table.sizes.tolist()
    times = [None] * len(table) if table.mtimes is None else table.mtimes.tolist()
    matched = np.full(len(table), -1, np.int64)
    digests: list[int | None] = [None] * len(table)
    new: list[int] = []

    def digest(at: int) -> int | None:
        if digests[at] is None:
            digests[at] = _digest(dataset, table.files[at])
        return digests[at]

    for at, file in enumerate(table.files):
        rows = rows_of.get(file, ())
        comparable = [row for row in rows if digest_of[row] is not None]
        found = [row for row in rows if size_of[row] == sizes[at] and time_of[row] in (times[at], None)]
        if comparable and (by_content or not found):
            content = digest(at)
            found = [row for row in comparable if digest_of[row] == content]
        # without a digest: nothing was made of it yet, or by a version that did not record contents
        found = found or [r for r in rows if digest_of[r] is None and (size_of[r] == sizes[at] or not was_read[r])]
        if found:
            matched[at] = found[-1]
        else:
            new.append(at)
    if new and len(known):
        _find_renamed(new, matched, sizes, size_of, digest_of, digest)
    return matched, digests


def _find_renamed(
    new: Iterable[int],
    matched: NDArray[np.int64],
    sizes: list[int],
    size_of: list[int],
    digest_of: list[int | None],
    digest: Any,
) -> None:
    taken = set(matched[matched >= 0].tolist())
    gone: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))  # size -> digest -> rows
    for row, content in enumerate(digest_of):
        if content is not None and row not in taken:
            gone[size_of[row]][content].append(row)
    for at in new:
        by_digest = gone.get(sizes[at])
        if by_digest and (rows := by_digest.get(digest(at))):
            matched[at] = rows.pop(0)


def _ids(table: ExampleTable, taken: NDArray[np.int64], matched: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) known ones; new examples have the data set's own ids where these are free, else the next numbers."""
    old = matched >= 0
    ids = np.where(old, taken[matched] if len(taken) else -1, table.ids)
    clash = ~old & np.isin(table.ids, taken)
    first = max(int(values.max(initial=-1)) for values in (taken, ids[~clash])) + 1
    ids[clash] = np.arange(first, first + int(clash.sum()))
    return ids


def _digest(dataset: Dataset, file: str) -> int | None:
    try:
        return dataset.digest(file)
    except OSError:
        return None  # missing or unreadable: extraction lists it


def present_examples(registry: pa.Table) -> ExampleTable:
    """The examples that the data set has now, with their ids, ascending."""
    table = registry.filter(registry["present"])
    times = table["mtime"]
    return ExampleTable(
        ids=table["id"].to_numpy(),
        files=tuple(table["file"].to_pylist()),
        sizes=table["size"].to_numpy(),
        splits=tuple(table["split"].to_pylist()),
        labels=table["label"].to_numpy(),
        class_names=class_names(registry),
        attributes={
            name.removeprefix(ATTRIBUTE): table[name].to_numpy()
            for name in table.column_names
            if name.startswith(ATTRIBUTE)
        },
        mtimes=None if times.null_count else times.to_numpy(),
    )


def current_file(directory: Storage, example: int) -> str | None:
    """The file that an example is now; None where the data set does not have it, or there is no registry."""
    path = directory.local(REGISTRY)
    if not path.is_file():
        return None
    try:
        with reading():
            found = pq.read_table(path, columns=["file"], filters=[("id", "==", example), ("present", "==", True)])
            return str(found["file"][0]) if len(found) else None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def class_names(registry: pa.Table) -> tuple[str, ...]:
    """Of the labels."""
    metadata: Mapping[bytes, bytes] = registry.schema.metadata or {}
    return tuple(map(str, parse_json(metadata.get(_CLASSES, b"[]"))))


def attribute_names(registry: pa.Table) -> tuple[str, ...]:
    """Of its columns."""
    return tuple(name.removeprefix(ATTRIBUTE) for name in registry.column_names if name.startswith(ATTRIBUTE))


def version_of(registry: pa.Table) -> str:
    """Changes when an id means another file: xxh3_64 of ids, files, sizes and times of the present examples."""
    table = registry.filter(registry["present"]).select(["id", "file", "size", "mtime"]).combine_chunks()
    hasher = xxhash.xxh3_64()
    for name in ("id", "size", "mtime"):
        hasher.update(pc.fill_null(table[name], -1).to_numpy())
    hasher.update("\0".join(table["file"].to_pylist()).encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()

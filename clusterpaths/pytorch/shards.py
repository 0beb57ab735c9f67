"""Rows of batches into the shards of a cache: which rows are there, and what is written of a shard.

Belongs here: the shards of a collection, in order of position, with the writers that every extraction has. Running the model is
`collect.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.cache.examples import ATTRIBUTE, PARTS, make_part, read_part, write_part
from clusterpaths.cache.manifest import (
    Manifest,
    ShardRecord,
    change_manifest,
    format_ids,
    record_shard,
)
from clusterpaths.cache.stores import open_store
from clusterpaths.cache.zarr_layout import slots
from clusterpaths.datasets.activations import pixels_digest, pixels_file
from clusterpaths.datasets.base import ExampleTable, file_digest, path_in
from clusterpaths.errors import CorruptedShardError
from clusterpaths.extraction.writer import ShardWriter
from clusterpaths.models.session import Outputs
from clusterpaths.records import ModelOutputs
from clusterpaths.storage import Storage

SHARD = 1024  # rows from which a shard ends with its batch: the unit of resume
INPUT = "input"  # column of examples.parquet: xxh3 of what the model was given


@dataclass(frozen=True)
class Rows:
    """n consecutive examples of a batch.

    Attributes:
        digests: (n,) of the inputs.
        labels: (n,), -1 where there is none.
        attributes: (n, A) of 1 and -1; None: there are none.
        pixels: (n, height, width, 3), stored where the images have no files; None: not stored.
    """

    digests: NDArray[np.uint64]
    labels: NDArray[np.int32]
    attributes: NDArray[np.int8] | None
    pixels: NDArray[np.uint8] | None

    def take(self, own: slice) -> Rows:
        """Of these rows."""
        return Rows(
            self.digests[own],
            self.labels[own],
            None if self.attributes is None else self.attributes[own],
            None if self.pixels is None else self.pixels[own],
        )


@dataclass(frozen=True)
class Known:
    """What is stored of the examples 0 … n - 1.

    Attributes:
        done: (n,) whether activations are complete.
        digests: (n,) of the inputs.
        labels: (n,).
        sizes: (n,) bytes of files.
        mtimes: (n,) of files; -1 where there are none.
    """

    done: NDArray[np.bool_]
    digests: NDArray[np.uint64]
    labels: NDArray[np.int32]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.done)


def read_known(directory: Storage, manifest: Manifest) -> tuple[Known, Manifest]:
    """What is stored, and the manifest with shards that are not complete as planned ones."""
    recorded = [shard for shard in manifest.shards if shard.rows is not None]
    complete = open_store(directory, manifest.format, manifest.layers).complete(recorded)
    count = max((int(shard.planned_ids().max()) + 1 for shard in manifest.shards), default=0)
    done = np.zeros(count, bool)
    digests, labels = np.zeros(count, np.uint64), np.full(count, -1, np.int32)
    sizes, mtimes = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    local = directory.local_tree(PARTS)
    shards = []
    for shard in manifest.shards:
        try:
            part = read_part(local, shard) if shard.index in complete else None
        except CorruptedShardError:
            part = None
        if part is None:
            shards.append(shard.model_copy(update={"rows": None, "failed": (), "checksums": {}}))
            continue
        shards.append(shard)
        ids = part["id"].to_numpy()
        done[ids] = True
        for name, target in ((INPUT, digests), ("label", labels), ("size", sizes)):
            target[ids] = part[name].to_numpy()
        mtimes[ids] = part["mtime"].fill_null(-1).to_numpy()
    return Known(done, digests, labels, sizes, mtimes), manifest.model_copy(update={"shards": tuple(shards)})


def plan_shards(shards: Sequence[ShardRecord], batches: Sequence[int]) -> tuple[ShardRecord, ...]:
    """These shards, and new ones for the rows of the batches (their sizes) that none of them has.

    A new shard ends with a batch: an interrupted collection then has the same batches when it is continued.
    """
    planned = list(shards)
    covered = max((int(shard.planned_ids().max()) + 1 for shard in planned), default=0)
    first = end = covered
    at = 0
    for size in batches:
        at += size
        end = max(at, covered)
        if end - first >= SHARD:
            planned.append(next_shard(planned, first, end))
            first = end
    if end > first:
        planned.append(next_shard(planned, first, end))
    return tuple(planned)


def next_shard(shards: Sequence[ShardRecord], first: int, end: int) -> ShardRecord:
    """A planned shard of the examples first … end - 1, behind these ones."""
    return ShardRecord(
        index=max((shard.index for shard in shards), default=-1) + 1,
        ids=format_ids(np.arange(first, end)),
        start=max((shard.start + slots(len(shard.planned_ids())) for shard in shards), default=0),
    )


class OpenShard:
    """A shard that rows are written to.

    Args:
        directory: of the cache.
        manifest: its identity.
        shard: as planned; `open_end`: its last example is not known yet.
    """

    def __init__(self, directory: Storage, manifest: Manifest, shard: ShardRecord, *, open_end: bool = False) -> None:
        self._directory, self._identity, self._shard = directory, manifest.identity, shard
        ids = shard.planned_ids()
        self.first, self._end = int(ids[0]), None if open_end else int(ids[-1]) + 1
        self._writer = ShardWriter(directory, self._identity, shard)
        self._rows: list[Rows] = []
        self._logits: list[NDArray[np.float32]] = []

    @property
    def at(self) -> int:
        """The next example."""
        return self.first + self._writer.rows

    @property
    def room(self) -> int:
        """How many rows it still takes."""
        return (1 << 62) if self._end is None else self._end - self.at

    @property
    def full(self) -> bool:
        """Whether it ends here; one with an open end does when its batch does."""
        return self._writer.rows >= SHARD if self._end is None else self.at == self._end

    def add(self, rows: Rows, outputs: Outputs, own: slice) -> None:
        """Take these rows of a batch."""
        taken = rows.take(own)
        ids = np.arange(self.at, self.at + len(taken.digests))
        if self._end is None:
            store = open_store(self._directory, self._identity.format, self._identity.layers)
            store.reserve(self._shard.start + slots(self._writer.rows + len(ids)))
        self._writer.add(ids, {layer: values[own] for layer, values in outputs.layers.items()})
        self._rows.append(taken)
        if outputs.logits is not None:
            self._logits.append(outputs.logits[own])

    def finish(self, files: Any, outputs: ModelOutputs, attributes: Callable[[int], tuple[str, ...]]) -> ShardRecord:
        """Write what is left, record the shard, and return its record.

        Args:
            files: `examples.Files` of all examples; None: they have none.
            outputs: what the class scores mean.
            attributes: names of so many labels that are 0 or 1.
        """
        end = self.at
        record = self._writer.finish().model_copy(update={"ids": format_ids(np.arange(self.first, end))})
        joined = _joined(self._rows)
        table = example_table(self.first, end, files, joined.labels)
        if joined.pixels is not None:
            with self._directory.write(pixels_file(self.first)) as partial, partial.open("wb") as file:
                np.save(file, joined.pixels)
        part = make_part(
            table,
            record.index,
            self._shard.start + np.arange(len(table)),
            [None] * len(table),
            np.concatenate(self._logits) if self._logits else None,
            outputs,
            _contents(table, files, joined),
        )
        part = part.append_column(INPUT, pa.array(joined.digests)).append_column("label", pa.array(joined.labels))
        if joined.attributes is not None:
            names = attributes(joined.attributes.shape[1])
            for name, values in zip(names, joined.attributes.T, strict=True):
                part = part.append_column(f"{ATTRIBUTE}{name}", pa.array(np.ascontiguousarray(values)))
        write_part(self._directory, record.index, part)
        if self._end is None:
            change_manifest(self._directory, lambda now: _with(now, record))
        record_shard(self._directory, self._identity, record)
        return record


def _with(manifest: Manifest, record: ShardRecord) -> Manifest:
    planned = record.model_copy(update={"rows": None, "failed": (), "checksums": {}})
    others = tuple(shard for shard in manifest.shards if shard.index != record.index)
    return manifest.model_copy(update={"shards": (*others, planned)})


def _joined(rows: Sequence[Rows]) -> Rows:
    attributes = [one.attributes for one in rows if one.attributes is not None]
    pixels = [one.pixels for one in rows if one.pixels is not None]
    return Rows(
        np.concatenate([one.digests for one in rows]),
        np.concatenate([one.labels for one in rows]),
        np.concatenate(attributes) if attributes else None,
        np.concatenate(pixels) if pixels else None,
    )


def example_table(
    first: int,
    end: int,
    files: Any,
    labels: NDArray[np.int32],
    class_names: tuple[str, ...] = (),
    attributes: Mapping[str, NDArray[np.int8]] | None = None,
) -> ExampleTable:
    """The table of the examples first … end - 1: named by their files, else by their numbers."""
    count = end - first
    return ExampleTable(
        ids=np.arange(first, end, dtype=np.int64),
        files=tuple(f"{number:08d}" for number in range(first, end)) if files is None else files.names[first:end],
        sizes=np.zeros(count, np.int64) if files is None else files.sizes[first:end],
        splits=("",) * count,
        labels=labels,
        class_names=class_names,
        attributes=attributes or {},
        mtimes=None if files is None else files.mtimes[first:end],
    )


def _contents(table: ExampleTable, files: Any, rows: Rows) -> NDArray[np.uint64]:
    """(n,) digests of the examples' images, as `datasets.activations.ActivationsData.digest` gives them; else of the inputs."""
    if files is not None:
        return np.array([file_digest(path_in(Path(files.root), name)) for name in table.files], np.uint64)
    if rows.pixels is not None:
        return np.array([pixels_digest(one) for one in rows.pixels], np.uint64)
    return rows.digests

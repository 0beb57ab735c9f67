"""What is written of a shard: its rows in complete chunks, with their checksums, and its labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.manifest import (
    PIXELS,
    SAMPLE,
    CacheIdentity,
    FailedExample,
    ShardRecord,
    record_shard,
    require_manifest,
)
from clusterpaths.cache.pixels import PixelStore
from clusterpaths.cache.stores import open_store
from clusterpaths.cache.zarr_layout import CHUNK_ROWS
from clusterpaths.clustering.assign import FitRecord, assigner_of, write_labels
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models.products import Products
from clusterpaths.storage import Storage


class ShardWriter:
    """Collects rows of a shard into full chunks and writes them.

    Args:
        directory: of the cache.
        cache: its identity.
        shard: as planned.
    """

    def __init__(self, directory: Storage, cache: CacheIdentity, shard: ShardRecord) -> None:
        self._shard = shard
        self._buffers: dict[str, NDArray[Any]]
        if cache.format == "none":
            size = cache.preprocessing.size
            self._store: Any = PixelStore(directory, size).shard(shard)
            self._buffers = {PIXELS: np.empty((CHUNK_ROWS, *size, 3), np.uint8)}
        else:
            self._store = open_store(directory, cache.format, cache.layers)
            self._buffers = {
                layer: np.empty((CHUNK_ROWS, *record.shape), record.dtype) for layer, record in cache.layers.items()
            }
        self._hashes = {name: xxhash.xxh3_64() for name in self._buffers}
        self._ids = np.empty(CHUNK_ROWS, np.int64)
        self._waiting = 0  # rows in the buffers
        self._written = 0

    @property
    def rows(self) -> int:
        """How many rows it was given."""
        return self._written + self._waiting

    def add(self, ids: NDArray[np.int64], rows: Mapping[str, NDArray[Any]]) -> None:
        """Take the rows of these (n,) ids: layer (or pixels) -> (n, …)."""
        done = 0
        while done < len(ids):
            at = self._waiting
            take = min(len(ids) - done, CHUNK_ROWS - at)
            for name, buffer in self._buffers.items():
                buffer[at : at + take] = rows[name][done : done + take]
            self._ids[at : at + take] = ids[done : done + take]
            self._waiting, done = at + take, done + take
            if self._waiting == CHUNK_ROWS:
                self._flush()

    def _flush(self) -> None:
        count, row = self._waiting, self._shard.start + self._written
        for name, buffer in self._buffers.items():
            self._store.write(name, self._ids[:count], row, buffer[:count])
            self._hashes[name].update(buffer[:count].data)
        self._written, self._waiting = row + count - self._shard.start, 0

    def finish(self) -> ShardRecord:
        """Write what is left; the record of the shard, without failures."""
        if self._waiting:
            self._flush()
        checksums = {name: digest.hexdigest() for name, digest in self._hashes.items()}
        return self._shard.model_copy(update={"rows": self._written, "failed": (), "checksums": checksums})


class SampleWriter:
    """Writes activations of some of a shard's examples into the cache of the sample; for a cache without activations.

    Args:
        job: settings.
        sample: those examples, as planned there.
    """

    def __init__(self, job: ExtractionJob, sample: ShardRecord) -> None:
        self._directory = job.storage / SAMPLE
        self._cache = require_manifest(self._directory).identity
        self._writer = ShardWriter(self._directory, self._cache, sample)
        self._ids = sample.planned_ids()
        self._seen = [np.empty(0, np.int64)]

    def add(self, ids: NDArray[np.int64], layers: Mapping[str, NDArray[Any]]) -> None:
        """As `ShardWriter.add`; examples that are not of the sample are left out."""
        own = np.isin(ids, self._ids)
        if own.any():
            taken = slice(None) if own.all() else own  # mostly all: no copy
            self._writer.add(ids[taken], {layer: rows[taken] for layer, rows in layers.items()})
            self._seen.append(ids[taken])

    def finish(self) -> None:
        """Write what is left, and record the shard."""
        record = self._writer.finish()
        failed = np.setdiff1d(self._ids, np.concatenate(self._seen)).tolist()
        missing = tuple(FailedExample(id=example, file="", reason="") for example in failed)
        record_shard(self._directory, self._cache, record.model_copy(update={"failed": missing}))


class ShardLabels:
    """Collects what the assignment of a shard's rows needs, and writes their labels.

    Args:
        directory: of the cache.
        fits: of the layers to assign.
    """

    def __init__(self, directory: Storage, fits: tuple[FitRecord, ...]) -> None:
        self._directory, self._fits = directory, fits
        self._pieces: dict[str, list[Products]] = defaultdict(list)

    def add(self, products: Mapping[str, Products]) -> None:
        """Take the products of consecutive rows, by layer."""
        for layer, one in products.items():
            self._pieces[layer].append(one)

    def write(self, record: ShardRecord) -> None:
        """Assign all rows of the shard, and write a file for each layer."""
        for fit in self._fits:
            labels = assigner_of(self._directory, fit).assign(self._pieces[fit.layer])
            write_labels(self._directory, fit, record, labels)

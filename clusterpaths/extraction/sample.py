"""The activations of a sample, for a cache that stores images only: a cache of its own, while layers are fitted and evaluated.

Belongs here: planning it. Its shards are those of the cache with the sample's examples, under the same index.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.manifest import (
    SAMPLE,
    Manifest,
    ShardRecord,
    format_ids,
    read_manifest,
    require_manifest,
    write_manifest,
)
from clusterpaths.cache.stores import open_store
from clusterpaths.cache.zarr_layout import slots
from clusterpaths.errors import CacheError
from clusterpaths.storage import Storage


def plan_sample(directory: Storage, ids: NDArray[np.int64]) -> dict[int, ShardRecord]:
    """Make room for the activations of these examples of a cache; shard of the cache -> its part of the sample.

    What an interrupted run has left is reused where it is of the same examples.
    """
    cache, own = require_manifest(directory), directory / SAMPLE
    identity = cache.identity.model_copy(update={"format": "zarr"})
    shards, start = list[ShardRecord](), 0
    for shard in cache.shards:
        within = shard.planned_ids()[shard.planned_among(ids)]
        if len(within):
            shards.append(ShardRecord(index=shard.index, ids=format_ids(within), start=start))
            start += slots(len(within))
    planned = Manifest(**dict(identity), shards=tuple(shards))
    stored = _stored(own)
    if stored is not None and (stored.key, _places(stored)) == (planned.key, _places(planned)):
        store = open_store(own, "zarr", stored.layers)
        store.reserve(start)  # again: the run may have been stopped before, or what it made is gone
        complete = store.complete([shard for shard in stored.shards if shard.rows is not None])
        return {s.index: s if s.index in complete else p for s, p in zip(stored.shards, planned.shards, strict=True)}
    own.remove_tree()
    own.make()
    write_manifest(own, planned)
    open_store(own, "zarr", planned.layers).reserve(start)
    return {shard.index: shard for shard in shards}


def whole_shards(directory: Storage, shards: Iterable[ShardRecord]) -> dict[int, ShardRecord]:
    """Index -> record in the cache of the sample, of those of a cache's shards whose rows are all there."""
    stored = _stored(directory / SAMPLE)
    there = {one.index: one for one in stored.shards if one.rows is not None} if stored else {}
    return {
        shard.index: found
        for shard in shards
        if (found := there.get(shard.index)) and np.array_equal(found.row_ids(), shard.row_ids())
    }


def _places(manifest: Manifest) -> list[tuple[int, str, int]]:
    return [(shard.index, shard.ids, shard.start) for shard in manifest.shards]


def _stored(own: Storage) -> Manifest | None:
    try:
        return read_manifest(own)
    except CacheError:  # corrupted: it is made again
        return None

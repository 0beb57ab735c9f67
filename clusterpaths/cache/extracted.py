"""Which examples a cache has activations of, for the stages after extraction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.manifest import ShardRecord, parse_ids
from clusterpaths.storage import StoredRecord


class ExtractionRecord(StoredRecord):
    """Result of extraction: the examples that were wanted and have activations, and those that could not be read."""

    num_examples: int
    failed: tuple[tuple[int, str, str], ...]
    ids: str

    def example_ids(self) -> NDArray[np.int64]:
        """(num_examples,) ascending."""
        return parse_ids(self.ids)


def locate(shards: list[ShardRecord], ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Position in `shards` and row within that shard, (n,) each, of these (n,) ids; -1 for those that have no row."""
    every = np.concatenate([np.empty(0, np.int64), *(shard.row_ids() for shard in shards)])
    if len(every) == 0:
        return np.full(len(ids), -1), np.full(len(ids), -1)
    counts = np.array([shard.rows or 0 for shard in shards], np.int64)
    shard_of = np.repeat(np.arange(len(shards)), counts)
    row_of = np.arange(len(every)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.argsort(every, kind="stable")
    found = order[np.searchsorted(every, ids, sorter=order).clip(max=len(every) - 1)]
    there = every[found] == ids
    return np.where(there, shard_of[found], -1), np.where(there, row_of[found], -1)

"""The examples that a layer is fitted on: a uniform sample, chosen by a hash of their ids.

Belongs here: one choice by id, the same before extraction (`plan.py` gives these examples shards of their own, the first
ones) and after it. A smaller sample is part of every larger one.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# A fit needs no more examples than the larger of these two, however many there are. With 400 per cluster, a small layer's
# inertia on 12,000 images was up to 1.010 of that of KMeans on all of them (fc2, cosine, k=15), with 600 up to 1.006.
FIT_ROWS = 4096
FIT_ROWS_PER_CLUSTER = 800
# Seeding draws at most this many of them.
SAMPLE_ROWS = 2048
_DOUBLINGS = 4


def fit_size(k: int) -> int:
    """How many examples k clusters of a layer are fitted on, where there are so many."""
    return max(FIT_ROWS, FIT_ROWS_PER_CLUSTER * k)


def draw_ids(ids: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """A uniform sample of these (n,) ascending ids, ascending; all of them where there are no more than `size`.

    Each id has a fixed pseudo-random number (SplitMix64: Steele, Lea and Flood 2014); the smallest
    ones are taken. So an example that is added or fails changes the sample by that one example.
    """
    if len(ids) <= size:
        return ids
    return np.sort(ids[np.argpartition(_scattered(ids), size)[:size]])


def nested_samples(ids: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """These (n,) ascending ids in groups, each ascending: the sample of `size`, what twice the size adds, and so on.

    With shards of their own, a later fit of more clusters reads a few shards more instead of some rows of every shard.
    The last group is the remainder: after four doublings, more groups would slow readers that go through all ids in order.
    """
    sizes = [size << doubling for doubling in range(_DOUBLINGS + 1) if size << doubling < len(ids)]
    larger = [*(draw_ids(ids, each) for each in sizes), ids]
    return [larger[0], *(np.setdiff1d(b, a, assume_unique=True) for a, b in pairwise(larger))]


def _scattered(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A bijective hash: two ids never get the same number."""
    x = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

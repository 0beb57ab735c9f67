"""The examples that a clustering of many is fitted on, and so the order in which rows are read.

Belongs here: one choice by id, the same before extraction (`plan.py` gives these examples separate shards) and
after it (`rows.py` reads them first), so that a fit reads few shards instead of a few rows of every one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Beyond, centroids are fitted on a uniform sample of this size. Of few clusters (kmeans.LEAST_FIT_ROWS) its means are
# those of all rows but for some thousandths of the inertia.
FIT_ROWS = 4096
# Seeding draws at most this many rows of those.
SAMPLE_ROWS = 2048


def fit_positions(ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Ascending positions of a uniform sample of FIT_ROWS of these (n,) ids; None where there are no more than that.

    Each id has a fixed pseudo-random number (SplitMix64: Steele, Lea and Flood 2014); the smallest
    ones are taken. So an example that is added or fails changes the sample by that one example.
    """
    if len(ids) <= FIT_ROWS:
        return None
    return np.sort(np.argpartition(scattered(ids), FIT_ROWS)[:FIT_ROWS])


def scattered(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A bijective hash: two ids never get the same number."""
    x = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

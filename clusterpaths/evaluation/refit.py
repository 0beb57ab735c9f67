"""Refitting the clustering of a set on a part of its examples, to evaluate it on the held-out others.

Belongs here: reading a sample of examples, clustering the fit ones, assigning the held-out ones. What is measured on
them is `evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering import kmeans
from clusterpaths.clustering.kmeans import Assignment
from clusterpaths.clustering.reading import Subset
from clusterpaths.common.threads import one_thread
from clusterpaths.records import SetRecord
from clusterpaths.storage import Storage

GRADED_LAYERS = 2  # the last ones: distances to their centroids are a graded path
FEATURES = 256  # a wider last layer is projected to so many dimensions (Johnson and Lindenstrauss 1984)


@dataclass(frozen=True)
class Refit:
    """A refitted clustering: a sample of n of the set's examples, fitted on a part of them."""

    sample: NDArray[np.int64]  # (n,) positions in the set, ascending
    fit: NDArray[np.int64]  # positions in the sample
    held_out: NDArray[np.int64]  # the others
    clusters: NDArray[np.int16]  # (n, L)
    distances: NDArray[np.float32]  # (n, L)
    features: NDArray[np.float32]  # (n, FEATURES or fewer) of the last layer
    projection: NDArray[np.float32] | None  # (width of the last layer, FEATURES) that made them
    graded: NDArray[np.float32]  # (n, sum of k) distances to all centroids of the last GRADED_LAYERS layers
    centroids: dict[str, NDArray[np.float32]]


def refit_clustering(
    directory: Storage,
    record: SetRecord,
    ids: NDArray[np.int64],
    sample: NDArray[np.int64],
    fit: NDArray[np.int64],
    held_out: NDArray[np.int64],
    seed: int,
) -> Refit:
    """Cluster every layer on a part of a sample of a set's examples, and assign the rest of the sample.

    Args:
        directory: the cache.
        record: of the set.
        ids: (m,) of all its examples.
        sample: (n,) ascending positions among them.
        fit: positions among the sample, to cluster.
        held_out: the others, to assign.
        seed: of the projection; the clustering has the set's own.

    Raises:
        CorruptedShardError: bytes on disk differ from their checksum.
    """
    shape, last = (len(sample), len(record.layers)), record.layers[-1]
    clusters, distances = np.empty(shape, np.int16), np.empty(shape, np.float32)
    width = LayerRows(directory, last, ids[:0]).width
    projection = None
    if width > FEATURES:
        projection = np.random.default_rng([seed, 2]).standard_normal((width, FEATURES), np.float32)
    features = np.empty((len(sample), min(width, FEATURES)), np.float32)
    centroids: dict[str, NDArray[np.float32]] = {}
    graded = []
    for at, layer in enumerate(record.layers):
        rows = LayerRows(directory, layer, ids[sample])
        k = record.k_per_layer[layer]
        centroids[layer] = kmeans.fit(Subset(rows, fit), k, record.distance, record.seed).centroids
        labels, far = np.empty(len(sample), np.int16), np.empty(len(sample), np.float32)
        assigned, compared = Assignment(centroids[layer], record.distance, labels, far), None
        if layer in record.layers[-GRADED_LAYERS:]:
            compared = kmeans.comparable(centroids[layer], record.distance)
            graded.append(np.empty((len(sample), k), np.float32))
        with one_thread():
            for where, block in rows.blocks():
                assigned.add(where, block)
                if compared is not None:
                    graded[-1][where] = kmeans.graded(block, compared, record.distance)
                if layer == last:
                    features[where] = block if projection is None else block @ projection
        clusters[:, at], distances[:, at] = labels, far
    return Refit(sample, fit, held_out, clusters, distances, features, projection, np.hstack(graded), centroids)

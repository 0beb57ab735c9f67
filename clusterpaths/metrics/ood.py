"""How unusual a distance to a centroid is: distances in units that clusters and layers share.

Belongs here: pure functions on the columns of paths.parquet. Which centroid is nearest is `kmeans.py`'s; the same
numbers as ONNX nodes are `models/path_graph.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPREAD_FLOOR = 0.1  # of the layer's pooled spread: a cluster of near-twins must not make every newcomer a stranger
TINIEST_SPREAD = 1e-6  # a layer without any spread


@dataclass(frozen=True)
class DistanceScale:
    """How far examples of each cluster usually lie from its centroid: for each layer (k,) float64 mean and spread."""

    means: tuple[NDArray[np.float64], ...]
    spreads: tuple[NDArray[np.float64], ...]

    def score(self, clusters: NDArray[np.integer], distances: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) OOD score: mean over layers of the distance, standardised within its own cluster; both are (n, layers)."""
        scores: NDArray[np.float64] = self.standardise(clusters, distances).mean(axis=1)
        return scores

    def standardise(self, clusters: NDArray[np.integer], distances: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, layers): how many spreads each distance lies above the mean of its cluster."""
        columns = [
            (distances[:, i].astype(np.float64) - self.means[i][clusters[:, i]]) / self.spreads[i][clusters[:, i]]
            for i in range(clusters.shape[1])
        ]
        return np.stack(columns, axis=1)


def scale_distances(clusters: NDArray[np.integer], distances: NDArray[np.floating], k: Sequence[int]) -> DistanceScale:
    """Mean and standard deviation of the distances in each cluster of each layer; inputs are (n, layers), n > 0.

    A spread is at least a tenth of the layer's pooled one (root of the mean squared deviation from the own cluster's
    mean). A cluster with one example has no spread of its own and takes the pooled one; an empty cluster takes the
    layer's mean, too.
    """
    means, spreads = [], []
    for i, clusters_here in enumerate(k):
        own, values = clusters[:, i], distances[:, i].astype(np.float64)
        sizes = np.bincount(own, minlength=clusters_here)  # (k,)
        mean = np.bincount(own, values, clusters_here) / np.maximum(sizes, 1)
        squares = np.bincount(own, (values - mean[own]) ** 2, clusters_here)
        pooled = float(np.sqrt(squares.sum() / len(own)))
        spread = np.where(sizes > 1, np.sqrt(squares / np.maximum(sizes, 1)), pooled)
        means.append(np.where(sizes > 0, mean, values.mean()))
        spreads.append(np.maximum(spread, max(SPREAD_FLOOR * pooled, TINIEST_SPREAD)))
    return DistanceScale(tuple(means), tuple(spreads))


def overall_distance(distances: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n,) mean over layers of the distance, each layer in units of its own mean; `distances` is (n, layers).

    A layer in which every distance is 0 adds nothing.
    """
    scale = distances.sum(axis=0, dtype=np.float64) / max(len(distances), 1)
    result: NDArray[np.float64] = (distances / np.where(scale > 0, scale, 1.0)).mean(axis=1)
    return result

"""Refitting the clustering of a set on a part of its examples, to evaluate it on the held-out others.

Belongs here: reading a sample of examples, clustering the fit ones, assigning the held-out ones. What is measured on
them is `evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.fit_sample import fit_positions
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.kmeans import Assignment, Clustering, clustering
from clusterpaths.clustering.reading import Pass, Result, Shape, Steps, Where, run
from clusterpaths.clustering.shared_reading import SharedReading
from clusterpaths.records import SetRecord
from clusterpaths.storage import Storage

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

    def add_features(where: Where, block: NDArray[np.float32]) -> None:
        features[where] = block if projection is None else block @ projection

    def steps(layer: str, rows: Shape) -> Steps[Clustering]:
        k = record.k_per_layer[layer]
        members = _Members(rows.width, len(fit))
        found = yield from _among(clustering(members, k, record.distance, record.seed), fit, len(sample))
        labels, far = np.empty(len(held_out), np.int16), np.empty(len(held_out), np.float32)
        assigned = Assignment(found.centroids, record.distance, labels, far)
        yield from _among(_once(assigned), held_out, len(sample))
        at = record.layers.index(layer)
        clusters[fit, at], distances[fit, at] = found.labels, found.distances
        clusters[held_out, at], distances[held_out, at] = labels, far
        if layer == last:
            yield Pass(None, add_features)
        return found

    chosen = fit_positions(ids)  # of all examples, not of the sample: those have separate shards
    first = None if chosen is None else np.flatnonzero(np.isin(ids[sample], ids[chosen]))
    if require_manifest(directory).format == "none":
        shared = SharedReading(directory, record.layers, ids[sample])
        for rows in shared.layers.values():
            rows.fit = first
        found = shared.run(steps)
    else:
        every = {layer: LayerRows(directory, layer, ids[sample]) for layer in record.layers}
        for rows in every.values():
            rows.fit = first
        found = {layer: run(steps(layer, rows), rows) for layer, rows in every.items()}
    centroids = {layer: one.centroids for layer, one in found.items()}
    return Refit(sample, fit, held_out, clusters, distances, features, projection, centroids)


@dataclass
class _Members:
    """The shape of some of a layer's rows (`reading.Shape`)."""

    width: int
    count: int
    fit: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.count


def _among(steps: Steps[Result], members: NDArray[np.int64], n: int) -> Steps[Result]:
    """Steps of some of n rows, at the positions `members`, as readings of all of them: sequential, and of complete shards."""
    while True:
        try:
            asked = next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        place = np.full(n, -1, np.int64)  # of each row among the members that are wanted
        wanted = np.arange(len(members)) if asked.positions is None else asked.positions
        place[members[wanted]] = wanted

        def add(where: Where, block: NDArray[np.float32], place=place, asked=asked) -> None:  # type: ignore[no-untyped-def]
            if (own := place[where] >= 0).any():
                asked.add(place[where][own], block[own])

        yield Pass(None, add)


def _once(assigned: Assignment) -> Steps[None]:
    yield Pass(None, assigned.add)

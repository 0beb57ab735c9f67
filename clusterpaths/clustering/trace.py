"""Stage trace: the labels of all shards and layers become the cluster path of every example, and its coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.cache.examples import read_examples, write_table
from clusterpaths.cache.extracted import ExtractionRecord, locate
from clusterpaths.cache.manifest import CLUSTERINGS, ShardRecord, require_manifest
from clusterpaths.cache.registry import require_registry
from clusterpaths.clustering.assign import FitRecord, Labels, assigner_of, read_labels
from clusterpaths.clustering.identity import SetIdentity
from clusterpaths.clustering.principal import Axes
from clusterpaths.errors import CacheError
from clusterpaths.records import ClusterSummary, Distance, Record
from clusterpaths.storage import Storage


class TraceRecord(Record):
    """The paths of a set."""

    file: Path
    clusters: dict[str, ClusterSummary]


def trace_paths(extraction: ExtractionRecord, identity: SetIdentity, fits: Sequence[FitRecord]) -> TraceRecord:
    """Join the layers to cluster paths: a parquet file with the columns that `SetRecord` describes.

    Raises:
        CacheError: a shard is not assigned, or was extracted again since.
    """
    directory, ids = extraction.storage, extraction.example_ids()
    described, examples = (
        table.filter(pa.array(np.isin(table["id"].to_numpy(), ids)))
        for table in (
            require_registry(directory, ["id", "file", "split", "label"]),
            read_examples(directory, ["id", "prediction", "digest"]),
        )
    )
    recorded = [shard for shard in require_manifest(directory).shards if shard.rows is not None]
    shards, rows = locate(recorded, ids)
    if not len(described) == len(examples) == len(ids) or (len(ids) and shards.min() < 0):
        raise CacheError(f"The cache {directory} does not have all of these {len(ids):,} examples. Run again.")
    for name in ("prediction", "digest"):
        described = described.append_column(name, examples[name])
    examples, clusters = described, {}
    for fit in fits:
        labels = _of_examples(directory, fit, recorded, shards, rows)
        k = identity.k_per_layer[fit.layer]
        clusters[fit.layer] = _summary(labels, k, fit, identity.distance)
        examples = examples.append_column(fit.layer, pa.array(labels.labels, pa.int16()))
        examples = examples.append_column(f"distance.{fit.layer}", pa.array(labels.distances, pa.float32()))
    file = f"{CLUSTERINGS}/paths-{identity.fingerprint()[:16]}.parquet"
    write_table(directory, file, examples)
    return TraceRecord(file=directory.path / file, clusters=clusters)


def _of_examples(
    directory: Storage,
    fit: FitRecord,
    recorded: Sequence[ShardRecord],
    shards: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> Labels:
    """Labels and distances of the examples in these rows of these shards."""
    labels, distances = np.empty(len(rows), np.int16), np.empty(len(rows), np.float32)
    zeros, coordinates = np.empty(len(rows), bool), np.empty((len(rows), 0), np.float32)  # these are `Located`'s
    for own, found in _by_shard(directory, directory.local_tree(fit.directory), fit, recorded, shards):
        labels[own], distances[own], zeros[own] = (
            values[rows[own]] for values in (found.labels, found.distances, found.zeros)
        )
    return Labels(labels, distances, zeros, coordinates)


def _by_shard(
    directory: Storage, files: Path, fit: FitRecord, recorded: Sequence[ShardRecord], shards: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Labels]]:
    """Positions of the examples of each shard, of those that have some, and all labels of the shard.

    Raises:
        CacheError: a shard is not assigned, or was extracted again since.
    """
    order = np.argsort(shards, kind="stable")
    indexes, starts = np.unique(shards[order], return_index=True)
    for index, own in zip(indexes.tolist(), np.split(order, starts[1:]), strict=False):  # of no examples, no shard
        found = read_labels(files, fit, recorded[index])
        if found is None:
            raise CacheError(
                f"Shard {recorded[index].index} of {directory} is not assigned in {fit.layer}. Run the flow again."
            )
        yield own, found


class Located:
    """The coordinates of all examples in each layer, by blocks of examples in order of id; little of them is in memory.

    Args:
        extraction: the examples.
        fits: of the layers, which all shards are assigned to.

    Attributes:
        axes: layer -> the axes that coordinates are along.

    Raises:
        CacheError: the cache does not have all of these examples, or the axes of a fit are missing.
    """

    def __init__(self, extraction: ExtractionRecord, fits: Sequence[FitRecord]) -> None:
        self._directory, self._fits = extraction.storage, tuple(fits)
        self._recorded = [shard for shard in require_manifest(self._directory).shards if shard.rows is not None]
        self._shards, self._rows = locate(self._recorded, extraction.example_ids())
        if len(self._shards) and self._shards.min() < 0:
            raise CacheError(f"The cache {self._directory} does not have all of the examples. Run again.")
        self._files = {fit.layer: self._directory.local_tree(fit.directory) for fit in fits}
        assigners = {fit.layer: assigner_of(self._directory, fit) for fit in fits}
        self.axes: dict[str, Axes] = {layer: one.axes for layer, one in assigners.items() if one.axes}

    def largest(self) -> dict[str, float]:
        """Layer -> the largest magnitude of a component.

        Raises:
            CacheError: a shard is not assigned, or was extracted again since.
        """
        found = {}
        for fit in self._fits:
            every = self._of_shards(fit, self._shards)
            found[fit.layer] = max(
                (float(np.abs(one.coordinates[:, :-1]).max(initial=0)) for _, one in every), default=0.0
            )
        return found

    def blocks(self, size: int) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Layer -> (m, d + 1) components and residuals of the next examples, m at most `size`.

        Raises:
            CacheError: as `largest`.
        """
        for start in range(0, len(self._rows), size):
            shards, rows = self._shards[start : start + size], self._rows[start : start + size]
            found = {
                layer: np.empty((len(rows), len(one.directions) + 1), np.float32) for layer, one in self.axes.items()
            }
            for fit in self._fits:
                for own, labels in self._of_shards(fit, shards):
                    found[fit.layer][own] = labels.coordinates[rows[own]]
            yield found

    def _of_shards(self, fit: FitRecord, shards: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Labels]]:
        return _by_shard(self._directory, self._files[fit.layer], fit, self._recorded, shards)


def _summary(labels: Labels, k: int, fit: FitRecord, distance: Distance) -> ClusterSummary:
    sizes = np.bincount(labels.labels, minlength=k)
    empty = np.flatnonzero(sizes == 0)
    zero_rows, notes = int(labels.zeros.sum()), []
    if zero_rows == len(labels.labels):
        notes.append("dead layer: every activation is 0")
    elif zero_rows:
        notes.append(f"{zero_rows:,} examples have no activation at all (all 0)")
    if len(empty):
        why = (
            f"only {fit.distinct} distinct activations were found"
            if fit.distinct < k
            else "no example is nearest to their centroids"
        )
        notes.append(f"{len(empty)} of {k} clusters are empty: {why}; a smaller --k for this layer fits")
    # |u - c|^2 = 2 (1 - cos); in order of id, so that it does not depend on how the examples were sharded
    squared = (
        2 * labels.distances.astype(np.float64) if distance == "cosine" else labels.distances.astype(np.float64) ** 2
    )
    return ClusterSummary(
        sizes=tuple(sizes.tolist()),
        empty=tuple(empty.tolist()),
        inertia=float(squared.sum()),
        iterations=fit.passes,
        note="; ".join(notes),
        zeros=zero_rows,
    )

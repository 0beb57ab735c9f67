"""Stage trace: the labels of all shards and layers become the cluster path of every example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.cache.examples import read_examples, write_table
from clusterpaths.cache.extracted import ExtractionRecord, locate
from clusterpaths.cache.manifest import CLUSTERINGS, ShardRecord, require_manifest
from clusterpaths.cache.registry import require_registry
from clusterpaths.clustering.assign import FitRecord, Labels, read_labels
from clusterpaths.clustering.identity import SetIdentity
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
    zeros = np.empty(len(rows), bool)
    files = directory.local_tree(fit.directory)
    order = np.argsort(shards, kind="stable")
    edges = np.searchsorted(shards[order], np.arange(len(recorded) + 1))
    for index, record in enumerate(recorded):
        own = order[edges[index] : edges[index + 1]]
        if len(own) == 0:
            continue
        found = read_labels(files, fit, record)
        if found is None:
            raise CacheError(f"Shard {record.index} of {directory} is not assigned in {fit.layer}. Run the flow again.")
        labels[own], distances[own], zeros[own] = (
            values[rows[own]] for values in (found.labels, found.distances, found.zeros)
        )
    return Labels(labels, distances, zeros)


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

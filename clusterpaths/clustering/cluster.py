"""Stages cluster and trace: k-means of each layer, then the cluster path of every example.

Belongs here: from a cache to files in clusterings/, each named by the fingerprint of its settings, so that an
interrupted or repeated run reuses finished ones. The numerics are `kmeans.py`.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from clusterpaths.cache.examples import read_examples, write_table
from clusterpaths.cache.manifest import CLUSTERINGS, parse_ids
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.identity import SetIdentity
from clusterpaths.clustering.kmeans import Clustering, cluster_rows
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.extraction.finish import ExtractionRecord
from clusterpaths.records import ClusterSummary, Record
from clusterpaths.storage import Storage


class ClusteringRecord(Record):
    """File of one layer's clustering in the cache, and its summary."""

    layer: str
    file: str
    summary: ClusterSummary
    seconds: float
    found: bool


def cluster_layer(
    extraction: ExtractionRecord, identity: SetIdentity, layer: str, progress: Callable[[int], None] | None = None
) -> ClusteringRecord:
    """Cluster one layer of a cache; the file holds ids (n,), labels (n,), distances (n,) and centroids (k, width).

    `progress` is called with the number of values that were read since its last call.

    Raises:
        CorruptedShardError: bytes on disk differ from their checksum.
    """
    started = time.perf_counter()
    directory, ids = extraction.storage, parse_ids(extraction.ids)
    file = clustering_file(identity, layer)
    clustering = read_clustering(directory, file)
    found = clustering is not None
    if clustering is None:
        rows = LayerRows(directory, layer, ids, progress)
        try:
            clustering = cluster_rows(rows, identity.k_per_layer[layer], identity.distance, identity.seed)
        except CorruptedShardError:
            raise
        except Exception:
            for _ in rows.blocks():  # corrupted bytes with NaN fail before their checksum is compared; this compares it
                pass
            raise
        write_clustering(directory, file, clustering)
    return _record(layer, file, clustering, time.perf_counter() - started, found)


def clustering_file(identity: SetIdentity, layer: str) -> str:
    """The file of the cache for a layer's clustering."""
    return f"{CLUSTERINGS}/{layer}-{identity.layer_fingerprint(layer)[:16]}.npz"


def _record(layer: str, file: str, clustering: Clustering, seconds: float, found: bool) -> ClusteringRecord:
    return ClusteringRecord(layer=layer, file=file, summary=_summary(clustering), seconds=seconds, found=found)


def read_clustering(directory: Storage, file: str) -> Clustering | None:
    """A clustering from its file; None where there is none that can be read."""
    try:
        with np.load(directory.local(file)) as arrays:
            scalars = arrays["scalars"].tolist()
            return Clustering(
                arrays["centroids"],
                arrays["labels"],
                arrays["distances"],
                inertia=scalars[0],
                distinct=int(scalars[1]),
                zero_rows=int(scalars[2]),
                passes=int(scalars[3]),
            )
    except (FileNotFoundError, zipfile.BadZipFile, KeyError, EOFError, ValueError):
        return None  # written atomically, so an invalid one is external or corrupted: it is computed again


def write_clustering(directory: Storage, file: str, clustering: Clustering) -> None:
    """Write the file atomically."""
    scalars = [clustering.inertia, clustering.distinct, clustering.zero_rows, clustering.passes]
    with directory.write(file) as partial, partial.open("wb") as opened:
        np.savez(
            opened,
            centroids=clustering.centroids,
            labels=clustering.labels,
            distances=clustering.distances,
            scalars=np.array(scalars, np.float64),
        )


def _summary(clustering: Clustering) -> ClusterSummary:
    sizes = clustering.sizes
    empty = np.flatnonzero(sizes == 0)
    notes = []
    if clustering.zero_rows == len(clustering.labels):
        notes.append("dead layer: every activation is 0")
    elif clustering.zero_rows:
        notes.append(f"{clustering.zero_rows:,} examples have no activation at all (all 0)")
    if len(empty):
        why = (
            f"only {clustering.distinct} distinct activations were found"
            if clustering.distinct < len(sizes)
            else "no example is nearest to their centroids"
        )
        notes.append(f"{len(empty)} of {len(sizes)} clusters are empty: {why}; a smaller --k for this layer fits")
    return ClusterSummary(
        sizes=tuple(sizes.tolist()),
        empty=tuple(empty.tolist()),
        inertia=clustering.inertia,
        iterations=clustering.passes,
        note="; ".join(notes),
    )


def trace_paths(extraction: ExtractionRecord, identity: SetIdentity, clusterings: list[ClusteringRecord]) -> Path:
    """Join the layers to cluster paths: a parquet file with the columns that `SetRecord` describes.

    Raises:
        CacheError: a layer's clustering is missing, or is not of these examples.
    """
    directory, ids = extraction.storage, parse_ids(extraction.ids)
    examples = read_examples(directory, ["id", "file", "split", "label", "prediction"])
    examples = examples.filter(pa.array(np.isin(examples["id"].to_numpy(), ids)))
    by_layer = {record.layer: record for record in clusterings}
    for layer in identity.layers:
        clustering = read_clustering(directory, by_layer[layer].file)
        if clustering is None or len(clustering.labels) != len(ids) or len(examples) != len(ids):
            gone = directory / by_layer[layer].file
            raise CacheError(f"The clustering {gone} is not of these {len(ids)} examples. Run again.")
        examples = examples.append_column(layer, pa.array(clustering.labels, pa.int16()))
        examples = examples.append_column(f"distance.{layer}", pa.array(clustering.distances, pa.float32()))
    file = f"{CLUSTERINGS}/paths-{identity.fingerprint()[:16]}.parquet"
    write_table(directory, file, examples)
    return directory.path / file

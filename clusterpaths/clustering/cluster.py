"""Stages cluster and trace: k-means of each layer, then the cluster path of every example.

Belongs here: from a cache to files in clusterings/, each named by the question that it answers, so that an
interrupted or repeated run finds what is done. The numerics are `kmeans.py`.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from clusterpaths.cache.examples import read_examples, write_table
from clusterpaths.cache.manifest import CLUSTERINGS, parse_ids, require_manifest
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.identity import SetIdentity
from clusterpaths.clustering.kmeans import Clustering, cluster_rows, clustering
from clusterpaths.clustering.shared_reading import RowsTogether
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.extraction.plan import ExtractionRecord
from clusterpaths.records import ClusterSummary, Record
from clusterpaths.storage.atomic import partial_sibling
from clusterpaths.storage.remote import address_of, fetch, local_folder


class ClusteringRecord(Record):
    """Where one layer's clustering lies, and what it looks like."""

    layer: str
    path: str
    summary: ClusterSummary
    seconds: float
    found: bool


def cluster_layer(
    extraction: ExtractionRecord, identity: SetIdentity, layer: str, progress: Callable[[int], None] | None = None
) -> ClusteringRecord:
    """Cluster one layer of a cache; the file holds ids (n,), labels (n,), distances (n,) and centroids (k, width).

    `progress` is called with the number of values that were read since its last call.

    Raises:
        CorruptedShardError: bytes on disk are not those that were extracted.
    """
    started = time.perf_counter()
    directory = local_folder(extraction.directory)
    path = clustering_path(extraction, identity, layer)
    ids = parse_ids(extraction.ids)
    clustering = read_clustering(path)
    found = clustering is not None
    if clustering is None:
        rows = LayerRows(directory, layer, ids, progress)
        try:
            clustering = cluster_rows(rows, identity.k_per_layer[layer], identity.distance, identity.seed)
        except CorruptedShardError:
            raise
        except Exception:
            for _ in rows.blocks():  # NaN in damaged bytes is met before their checksum is; then this says so
                pass
            raise
        write_clustering(path, clustering)
    return _record(layer, path, clustering, time.perf_counter() - started, found)


def cluster_layers(
    extraction: ExtractionRecord,
    identity: SetIdentity,
    layers: Sequence[str],
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[ClusteringRecord]:
    """As `cluster_layer` of each, to the bit, for a cache without activations: its model runs once for all of them.

    Args:
        extraction: of a cache of the format "none".
        identity: what is asked of it.
        layers: some or all of the question's.
        workers: runs of the model at a time.
        progress: as of `LayerRows`.

    Raises:
        CorruptedShardError: bytes on disk are not those that were extracted.
        ModelError: the model file is gone, or another one now.
    """
    started = time.perf_counter()
    directory = local_folder(extraction.directory)
    paths = {layer: clustering_path(extraction, identity, layer) for layer in layers}
    found = {layer: one for layer, path in paths.items() if (one := read_clustering(path)) is not None}
    made: dict[str, Clustering] = {}
    if missing := tuple(layer for layer in layers if layer not in found):
        made = RowsTogether(directory, missing, parse_ids(extraction.ids), workers, progress).run(
            lambda layer, rows: clustering(rows, identity.k_per_layer[layer], identity.distance, identity.seed)
        )
        for layer in missing:
            write_clustering(paths[layer], made[layer])
    seconds = (time.perf_counter() - started) / max(len(missing), 1)
    return [_record(layer, paths[layer], (found | made)[layer], seconds, layer in found) for layer in layers]


def shares_readings(extraction: ExtractionRecord) -> bool:
    """Whether all layers of this cache are best clustered by one `cluster_layers`: where every reading runs the model."""
    return require_manifest(local_folder(extraction.directory)).format == "none"


def clustering_path(extraction: ExtractionRecord, identity: SetIdentity, layer: str) -> Path:
    """Where a layer's clustering lies."""
    return local_folder(extraction.directory) / CLUSTERINGS / f"{layer}-{identity.layer_fingerprint(layer)[:16]}.npz"


def _record(layer: str, path: Path, clustering: Clustering, seconds: float, found: bool) -> ClusteringRecord:
    return ClusteringRecord(
        layer=layer, path=address_of(path), summary=_summary(clustering), seconds=seconds, found=found
    )


def read_clustering(path: Path) -> Clustering | None:
    """A clustering from its file; None where there is none that can be read."""
    try:
        with np.load(fetch(path)) as file:
            scalars = file["scalars"].tolist()
            return Clustering(
                file["centroids"],
                file["labels"],
                file["distances"],
                inertia=scalars[0],
                distinct=int(scalars[1]),
                zero_rows=int(scalars[2]),
                passes=int(scalars[3]),
            )
    except (FileNotFoundError, zipfile.BadZipFile, KeyError, EOFError, ValueError):
        return None  # written atomically, so a bad one is not ours or was damaged: it is made again


def write_clustering(path: Path, clustering: Clustering) -> None:
    """Atomically."""
    scalars = [clustering.inertia, clustering.distinct, clustering.zero_rows, clustering.passes]
    with partial_sibling(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
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
        CacheError: a layer's clustering is gone, or is not of these examples.
    """
    directory = local_folder(extraction.directory)
    ids = parse_ids(extraction.ids)
    examples = read_examples(directory, ["id", "file", "split", "label", "prediction"])
    examples = examples.filter(pa.array(np.isin(examples["id"].to_numpy(), ids)))
    by_layer = {record.layer: record for record in clusterings}
    for layer in identity.layers:
        clustering = read_clustering(local_folder(by_layer[layer].path))
        if clustering is None or len(clustering.labels) != len(ids) or len(examples) != len(ids):
            raise CacheError(f"The clustering {by_layer[layer].path} is not of these {len(ids)} examples. Run again.")
        examples = examples.append_column(layer, pa.array(clustering.labels, pa.int16()))
        examples = examples.append_column(f"distance.{layer}", pa.array(clustering.distances, pa.float32()))
    path = directory / CLUSTERINGS / f"paths-{identity.fingerprint()[:16]}.parquet"
    write_table(path, examples)
    return path

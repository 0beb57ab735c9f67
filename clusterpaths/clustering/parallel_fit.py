"""k-means of one layer by many tasks: each assigns and adds up one part of the rows; a step joins the results.

Belongs here: Lloyd's iteration in parts, for so many examples that one sequential stream would take too long, and the
files that the tasks exchange. The numerics are `kmeans.py`; which machine does a part does not matter here.

A part is a fixed number of rows in order of id, and parts are added up in their order in float64: so neither the
number of workers nor batch or shard size changes the result. Whether a layer is fitted so depends on N only.
Source: Lloyd 1982; data-parallel as in Dhillon and Modha, "A data-clustering algorithm on distributed memory
multiprocessors", 2000.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.fit_sample import fit_positions
from clusterpaths.cache.manifest import parse_ids
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.cluster import clustering_file, read_clustering, write_clustering
from clusterpaths.clustering.identity import SetIdentity
from clusterpaths.clustering.kmeans import (
    MAX_PASSES,
    ROUNDING,
    Assignment,
    Clustering,
    first_alike,
    reinitialising,
    sums_of,
)
from clusterpaths.clustering.reading import Rows, run
from clusterpaths.clustering.seeding import scaled, seeding
from clusterpaths.common.threads import one_thread
from clusterpaths.errors import CacheError
from clusterpaths.extraction.finish import ExtractionRecord
from clusterpaths.records import Distance
from clusterpaths.storage import Storage, StoredRecord

PARALLEL_FROM = 1_000_000  # examples; below, the single stream of `kmeans.cluster_rows` is fast enough, and reads less
PART_ROWS = 1 << 16  # a multiple of the default shard size: few shards span two parts
ITERATIONS = 10  # each reads all activations once
TOLERANCE = 1e-4  # share of the inertia that an iteration must gain for another to follow


class LayerFit(StoredRecord):
    """State of the fit of a layer.

    Attributes:
        directory: of the fit's files.
        layer: its name.
        part_rows: examples in each part; the last has the rest.
        parts: how many there are.
        iteration: the next one, from 0; its centroids are in the directory.
        distinct: different rows in the sample that gave the seeds.
        reinitialised: how often empty clusters were re-initialised.
        inertia: of the iteration before; None at the start, and after a re-initialisation.
        done: the layer's clustering is written.
    """

    layer: str
    part_rows: int
    parts: int
    iteration: int = 0
    distinct: int = 0
    reinitialised: int = 0
    inertia: float | None = None
    done: bool = False


@dataclass(frozen=True)
class LloydPart:
    """What one part of the rows, m of them, contributes to k centroids: summed over parts, one step of Lloyd's.

    Attributes:
        sums: (k, width) float64, of the rows nearest to each centroid; of unit rows for cosine.
        counts: (k,) int64, how many those are; for cosine without rows of zeros.
        labels: (m,) int16, nearest centroids.
        distances: (m,) float32, to them, as in `Clustering`.
        inertia: sum of squared distances.
        zero_rows: rows of length 0.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    labels: NDArray[np.int16]
    distances: NDArray[np.float32]
    inertia: float
    zero_rows: int


def lloyd_part(rows: Rows, centroids: NDArray[np.float32], distance: Distance) -> LloydPart:
    """Assign this part's rows to the centroids (k, width), and add them up, in one reading."""
    k = len(centroids)
    sums, counts = np.zeros(centroids.shape, np.float64), np.zeros(k, np.int64)
    labels, distances = np.empty(len(rows), np.int16), np.empty(len(rows), np.float32)
    assigned = Assignment(centroids, distance, labels, distances)
    first = first_alike(centroids)
    for where, block in rows.blocks():
        found = assigned.add(where, block)
        more, added = sums_of(block, replace(found, labels=first[found.labels]), k)
        sums += more
        counts += added
    return LloydPart(sums, counts, labels, distances, assigned.inertia, assigned.zero_rows)


def lloyd_step(
    sums: NDArray[np.float64], counts: NDArray[np.int64], centroids: NDArray[np.float32], distance: Distance
) -> NDArray[np.float32]:
    """The next centroids (k, width) from the sums and counts of all parts; one without rows is unchanged."""
    means = sums / np.maximum(counts, 1)[:, None]
    moved = np.where((counts > 0)[:, None], means, centroids).astype(np.float32)
    return scaled(moved, distance)


def fits_in_parts(extraction: ExtractionRecord) -> bool:
    """Whether layers of this cache are fitted in parts: by the number of examples only."""
    return len(parse_ids(extraction.ids)) >= PARALLEL_FROM


def begin_fit(extraction: ExtractionRecord, identity: SetIdentity, layer: str) -> LayerFit:
    """The same sketch seeds as `kmeans.cluster_rows` has; or done, where the clustering exists.

    Raises:
        CorruptedShardError: bytes on disk cannot be read.
    """
    cache, ids = extraction.storage, parse_ids(extraction.ids)
    result = clustering_file(identity, layer)
    parts = -(-len(ids) // PART_ROWS)
    own = cache / f"{result.removesuffix('.npz')}.fit"
    fit = LayerFit(directory=own.address, layer=layer, part_rows=PART_ROWS, parts=parts)
    if read_clustering(cache, result) is not None:
        return fit.model_copy(update={"done": True})
    rows = LayerRows(cache, layer, ids)
    rng = np.random.default_rng(identity.seed)
    centroids, _, distinct = run(seeding(rows, identity.k_per_layer[layer], identity.distance, rng), rows)
    own.make()
    _write_centroids(fit, scaled(centroids, identity.distance))
    return fit.model_copy(update={"distinct": distinct})


def fit_part(extraction: ExtractionRecord, identity: SetIdentity, fit: LayerFit, part: int) -> None:
    """Assign and add up one part's rows for the fit's centroids, into a file; an existing file is reused.

    Raises:
        CorruptedShardError: bytes on disk differ from their checksum.
    """
    centroids = _read_centroids(fit)
    if _read_part(fit, part, centroids) is not None:
        return
    directory, ids = extraction.storage, parse_ids(extraction.ids)
    start, stop = part * fit.part_rows, min((part + 1) * fit.part_rows, len(ids))
    if fit.iteration == 0 and len(across := _ids_across(directory, ids, start, stop)):
        all_rows = LayerRows(directory, fit.layer, across)
        all_rows.fit = None  # in order of id, regardless of their number
        for _ in all_rows.blocks():
            pass  # a checksum is compared where a shard is read completely, and no part reads these completely
    rows = LayerRows(directory, fit.layer, ids[start:stop])
    chosen = fit_positions(ids)  # of all rows: those have separate shards, a sample of this part has not
    rows.fit = None if chosen is None else chosen[(chosen >= start) & (chosen < stop)] - start
    with one_thread():
        found = lloyd_part(rows, centroids, identity.distance)
    scalars = np.array([found.inertia, found.zero_rows], np.float64)
    with fit.storage.write(_part_file(fit, part)) as partial, partial.open("wb") as file:
        np.savez(
            file, sums=found.sums, counts=found.counts, labels=found.labels, distances=found.distances,
            scalars=scalars, made_for=np.array(_digest(centroids)),
        )  # fmt: skip


def advance_fit(extraction: ExtractionRecord, identity: SetIdentity, fit: LayerFit) -> LayerFit:
    """Join the parts of an iteration, and begin the next one or write the layer's clustering, as `cluster_layer` does.

    The written labels belong to the written centroids: those of the last iteration.

    Raises:
        CacheError: the file of a part is missing or corrupted.
    """
    centroids, ids = _read_centroids(fit), parse_ids(extraction.ids)
    sums, counts = np.zeros(centroids.shape, np.float64), np.zeros(len(centroids), np.int64)
    labels, distances = np.empty(len(ids), np.int16), np.empty(len(ids), np.float32)
    inertia, zero_rows = 0.0, 0
    for part in range(fit.parts):
        found = _read_part(fit, part, centroids)
        if found is None:
            raise CacheError(
                f"{fit.storage / _part_file(fit, part)} is missing or corrupted. Run again: the other parts are reused."
            )
        rows = slice(part * fit.part_rows, part * fit.part_rows + len(found.labels))
        sums += found.sums
        counts += found.counts
        labels[rows], distances[rows] = found.labels, found.distances
        inertia += found.inertia
        zero_rows += found.zero_rows
    moved = lloyd_step(sums, counts, centroids, identity.distance)
    following = fit.model_copy(update={"iteration": fit.iteration + 1, "inertia": inertia})
    rounding = ROUNDING * float((counts * np.einsum("ij,ij->i", centroids, centroids)).sum())
    if inertia <= rounding or _ends(fit, inertia, np.array_equal(moved, centroids)):  # a gain within rounding is none
        rows_of_layer = LayerRows(extraction.storage, fit.layer, ids)
        moved = centroids.copy()
        reinitialisation_left = fit.reinitialised + 1 < MAX_PASSES
        if not reinitialisation_left or not run(
            reinitialising(moved, identity.distance, labels, distances), rows_of_layer
        ):
            clustering = Clustering(centroids, labels, distances, inertia, fit.distinct, zero_rows, fit.iteration + 1)
            write_clustering(extraction.storage, clustering_file(identity, fit.layer), clustering)
            fit.storage.remove_tree()
            return following.model_copy(update={"done": True})
        following = following.model_copy(update={"inertia": None, "reinitialised": fit.reinitialised + 1})
    _write_centroids(following, moved)
    for part in range(fit.parts):
        fit.storage.remove(_part_file(fit, part))
    return following


def _ends(fit: LayerFit, inertia: float, settled: bool) -> bool:
    little = fit.inertia is not None and fit.inertia - inertia <= TOLERANCE * inertia
    return settled or little or fit.iteration + 1 >= ITERATIONS * (1 + fit.reinitialised)


def _ids_across(directory: Storage, ids: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Ids of the shards that are in this part and in others."""
    examples = read_examples(directory, ["id", "shard"])
    shards = examples["shard"].to_numpy()[np.searchsorted(examples["id"].to_numpy(), ids)]
    across = np.intersect1d(shards[start:stop], np.concatenate([shards[:start], shards[stop:]]))
    return ids[np.isin(shards, across)]


def _centroids_file(fit: LayerFit) -> str:
    return f"centroids-{fit.iteration}.npy"


def _part_file(fit: LayerFit, part: int) -> str:
    return f"part-{fit.iteration}-{part}.npz"


def _write_centroids(fit: LayerFit, centroids: NDArray[np.float32]) -> None:
    with fit.storage.write(_centroids_file(fit)) as partial, partial.open("wb") as file:
        np.save(file, centroids)


def _read_centroids(fit: LayerFit) -> NDArray[np.float32]:
    centroids: NDArray[np.float32] = np.load(fit.storage.local(_centroids_file(fit)))
    return centroids


def _read_part(fit: LayerFit, part: int, centroids: NDArray[np.float32]) -> LloydPart | None:
    """What a part found for these centroids; None where it is not there, or was found for others."""
    try:
        with np.load(fit.storage.local(_part_file(fit, part))) as file:
            if file["made_for"].item() != _digest(centroids):
                return None  # of an interrupted run on another machine, whose sums round differently
            inertia, zero_rows = file["scalars"].tolist()
            return LloydPart(
                file["sums"], file["counts"], file["labels"], file["distances"], inertia, int(zero_rows)
            )  # fmt: skip
    except (FileNotFoundError, zipfile.BadZipFile, KeyError, EOFError, ValueError):
        return None


def _digest(centroids: NDArray[np.float32]) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(centroids).data)

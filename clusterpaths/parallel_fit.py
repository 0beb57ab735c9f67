"""k-means of one layer by many tasks: each assigns and adds up one part of the rows; a step joins what they found.

Belongs here: Lloyd's iteration in parts, for so many examples that one sequential stream would take too long, and the
files by which the tasks speak to each other. The numerics are `kmeans.py`; which machine does a part is no matter here.

A part is a fixed number of rows in order of id, and parts are added up in their order in float64: so neither the
number of workers nor batch or shard size plays a part in the result. Whether a layer is fitted so depends on N alone.
Source: Lloyd 1982; data-parallel as in Dhillon and Modha, "A data-clustering algorithm on distributed memory
multiprocessors", 2000.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.atomic import partial_sibling
from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import CLUSTERINGS, parse_ids
from clusterpaths.cache.rows import LayerRows
from clusterpaths.cluster import read_clustering, write_clustering
from clusterpaths.errors import CacheError
from clusterpaths.kmeans import (
    MAX_PASSES,
    Clustering,
    LloydPart,
    lloyd_part,
    lloyd_step,
    one_thread,
    scaled,
    seed_centroids,
    seed_empty_again,
)
from clusterpaths.plan import ExtractionRecord
from clusterpaths.question import Question
from clusterpaths.records import Record

PARALLEL_FROM = 1_000_000  # examples; below, the one stream of `kmeans.cluster_rows` is quick enough, and reads less
PART_ROWS = 1 << 16  # a multiple of the usual shard size: few shards lie across two parts
ITERATIONS = 10  # each reads all activations once
TOLERANCE = 1e-4  # share of the inertia that an iteration must gain for another to follow


class LayerFit(Record):
    """Where the fit of a layer stands.

    Attributes:
        layer: its name.
        folder: files of the fit.
        part_rows: examples in each part; the last has the rest.
        parts: how many there are.
        iteration: that comes next, from 0; its centroids lie in the folder.
        distinct: different rows in the sample that gave the seeds.
        seeded_again: how often empty clusters were given new seeds.
        inertia: of the iteration before; None at the start, and after seeds were given.
        done: the layer's clustering is written.
    """

    layer: str
    folder: str
    part_rows: int
    parts: int
    iteration: int = 0
    distinct: int = 0
    seeded_again: int = 0
    inertia: float | None = None
    done: bool = False


def fits_in_parts(extraction: ExtractionRecord) -> bool:
    """Whether layers of this cache are fitted in parts: by the number of examples alone."""
    return len(parse_ids(extraction.ids)) >= PARALLEL_FROM


def begin_fit(extraction: ExtractionRecord, question: Question, layer: str) -> LayerFit:
    """The same sketch seeds as `kmeans.cluster_rows` has; or done, where the clustering lies there.

    Raises:
        DamagedShardError: bytes on disk cannot be read.
    """
    ids = parse_ids(extraction.ids)
    result = _result(extraction, question, layer)
    parts = -(-len(ids) // PART_ROWS)
    fit = LayerFit(layer=layer, folder=str(result.with_suffix(".fit")), part_rows=PART_ROWS, parts=parts)
    if read_clustering(result) is not None:
        return fit.model_copy(update={"done": True})
    rows = LayerRows(Path(extraction.directory), layer, ids)
    with one_thread():
        centroids, _, distinct = seed_centroids(
            rows, question.k_per_layer[layer], question.distance, np.random.default_rng(question.seed)
        )
    Path(fit.folder).mkdir(parents=True, exist_ok=True)
    _write_centroids(fit, scaled(centroids, question.distance))
    return fit.model_copy(update={"distinct": distinct})


def fit_part(extraction: ExtractionRecord, question: Question, fit: LayerFit, part: int) -> None:
    """Assign and add up one part's rows for the fit's centroids, into a file; a file that is there already is kept.

    Raises:
        DamagedShardError: bytes on disk are not those that were extracted.
    """
    centroids = _read_centroids(fit)
    if _read_part(fit, part, centroids) is not None:
        return
    directory, ids = Path(extraction.directory), parse_ids(extraction.ids)
    start, stop = part * fit.part_rows, min((part + 1) * fit.part_rows, len(ids))
    if fit.iteration == 0 and len(across := _ids_across(directory, ids, start, stop)):
        for _ in LayerRows(directory, fit.layer, across).blocks():
            pass  # a checksum is compared where a shard is read whole, and no part reads these whole
    with one_thread():
        found = lloyd_part(LayerRows(directory, fit.layer, ids[start:stop]), centroids, question.distance)
    scalars = np.array([found.inertia, found.zero_rows], np.float64)
    with partial_sibling(_part_path(fit, part)) as partial, partial.open("wb") as file:
        np.savez(
            file, sums=found.sums, counts=found.counts, labels=found.labels, distances=found.distances,
            scalars=scalars, made_for=np.array(_digest(centroids)),
        )  # fmt: skip


def advance_fit(extraction: ExtractionRecord, question: Question, fit: LayerFit) -> LayerFit:
    """Join the parts of an iteration, and go on to the next or write the layer's clustering, as `cluster_layer` does.

    The labels that are written belong to the centroids that are written: those of the last iteration.

    Raises:
        CacheError: the file of a part is gone or damaged.
    """
    centroids, ids = _read_centroids(fit), parse_ids(extraction.ids)
    sums, counts = np.zeros(centroids.shape, np.float64), np.zeros(len(centroids), np.int64)
    labels, distances = np.empty(len(ids), np.int16), np.empty(len(ids), np.float32)
    inertia, zero_rows = 0.0, 0
    for part in range(fit.parts):
        found = _read_part(fit, part, centroids)
        if found is None:
            raise CacheError(f"{_part_path(fit, part)} is gone or damaged. Run again: the other parts are kept.")
        rows = slice(part * fit.part_rows, part * fit.part_rows + len(found.labels))
        sums += found.sums
        counts += found.counts
        labels[rows], distances[rows] = found.labels, found.distances
        inertia += found.inertia
        zero_rows += found.zero_rows
    moved = lloyd_step(sums, counts, centroids, question.distance)
    following = fit.model_copy(update={"iteration": fit.iteration + 1, "inertia": inertia})
    if _ends(fit, inertia, np.array_equal(moved, centroids)):
        rows_of_layer = LayerRows(Path(extraction.directory), fit.layer, ids)
        moved = centroids.copy()
        seeds_left = fit.seeded_again + 1 < MAX_PASSES
        if not seeds_left or not seed_empty_again(rows_of_layer, moved, question.distance, labels, distances):
            clustering = Clustering(centroids, labels, distances, inertia, fit.distinct, zero_rows, fit.iteration + 1)
            write_clustering(_result(extraction, question, fit.layer), clustering)
            shutil.rmtree(fit.folder)
            return following.model_copy(update={"done": True})
        following = following.model_copy(update={"inertia": None, "seeded_again": fit.seeded_again + 1})
    _write_centroids(following, moved)
    for part in range(fit.parts):
        _part_path(fit, part).unlink()
    return following


def _ends(fit: LayerFit, inertia: float, settled: bool) -> bool:
    little = fit.inertia is not None and fit.inertia - inertia <= TOLERANCE * inertia
    return settled or little or fit.iteration + 1 >= ITERATIONS * (1 + fit.seeded_again)


def _ids_across(directory: Path, ids: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Ids of the shards that begin in this part and go on after it."""
    examples = read_examples(directory, ["id", "shard"])
    shards = examples["shard"].to_numpy()[np.searchsorted(examples["id"].to_numpy(), ids)]
    across = np.setdiff1d(np.intersect1d(shards[start:stop], shards[stop:]), shards[:start])
    return ids[np.isin(shards, across)]


def _result(extraction: ExtractionRecord, question: Question, layer: str) -> Path:
    return Path(extraction.directory) / CLUSTERINGS / f"{layer}-{question.layer_fingerprint(layer)[:16]}.npz"


def _centroids_path(fit: LayerFit) -> Path:
    return Path(fit.folder) / f"centroids-{fit.iteration}.npy"


def _part_path(fit: LayerFit, part: int) -> Path:
    return Path(fit.folder) / f"part-{fit.iteration}-{part}.npz"


def _write_centroids(fit: LayerFit, centroids: NDArray[np.float32]) -> None:
    with partial_sibling(_centroids_path(fit)) as partial, partial.open("wb") as file:
        np.save(file, centroids)


def _read_centroids(fit: LayerFit) -> NDArray[np.float32]:
    centroids: NDArray[np.float32] = np.load(_centroids_path(fit))
    return centroids


def _read_part(fit: LayerFit, part: int, centroids: NDArray[np.float32]) -> LloydPart | None:
    """What a part found for these centroids; None where it is not there, or was found for others."""
    try:
        with np.load(_part_path(fit, part)) as file:
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

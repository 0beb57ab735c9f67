"""Routes of new images: the set's model and centroids on images of a data set, in batches.

Belongs here: images in, observations out. An image that cannot be read is observed as such; it does not end the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.clustering.assign import Assigner
from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.export.path_model import check_set_model
from clusterpaths.models.outputs import decide, not_finite
from clusterpaths.models.rounded import RoundedSession
from clusterpaths.monitoring.observations import Observations, Status, empty_observations, join_observations
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import ModelRecord
from clusterpaths.sets.published import PublishedSet

log = logging.getLogger("clusterpaths.running.monitor")
BATCH = 32

Done = Callable[[int], None]
"""Called with how many further images are done."""


@dataclass(frozen=True)
class Route:
    """Of n images: clusters (n, L) int16, distances (n, L) float32, OOD scores (n,), predictions (n,) int32, -1: none.

    `usable` (n,) bool: whether activations and class scores are finite.
    """

    clusters: NDArray[np.int16]
    distances: NDArray[np.float32]
    ood_scores: NDArray[np.float64]
    predictions: NDArray[np.int32]
    usable: NDArray[np.bool_]


class Router:
    """Runs a set's model on images, thread-safe.

    Args:
        published: the set.
        model: its classifier, with the set's layers as taps (`export.path_model.check_set_model`).

    Raises:
        CacheError: the set's files are missing or inconsistent.
    """

    def __init__(self, published: PublishedSet, model: ModelRecord) -> None:
        record = published.record
        self._record, self._scale, self._outputs = record, published.distance_scale, record.meaning
        self._assigners = {layer: Assigner(rows, record.distance) for layer, rows in published.read_centroids().items()}
        dtypes, self.warnings = published.stored_dtypes()
        centroids = {layer: one.compared for layer, one in self._assigners.items()}
        self._session = RoundedSession(model, dtypes, centroids)

    def route(self, pixels: NDArray[np.uint8]) -> Route:
        """Of (n, height, width, 3) uint8 images at the model's size."""
        out = self._session.run(normalise(pixels, self._record.preprocessing))
        found = [self._assigners[layer].assign([out.products[layer]]) for layer in self._record.layers]
        clusters = np.stack([one.labels for one in found], axis=1)
        distances = np.stack([one.distances for one in found], axis=1)
        usable = np.asarray(np.isfinite(distances).all(axis=1), np.bool_)
        predictions: NDArray[np.int32] = np.full(len(pixels), -1, np.int32)
        if out.logits is not None:
            usable = usable & ~not_finite(self._outputs, out.logits)
            predictions = decide(self._outputs, out.logits).predictions.astype(np.int32)
        return Route(clusters, distances, self._scale.score(clusters, distances), predictions, usable)


def open_router(published: PublishedSet, model: Path) -> Router:
    """A router of a set with its model's file.

    Raises:
        ModelError: another model than the set's.
        CacheError: the set's files are missing or inconsistent.
    """
    return Router(published, check_set_model(published.record, model))


def route_images(
    router: Router,
    published: PublishedSet,
    dataset: Dataset,
    table: ExampleTable,
    workers: int,
    done: Done = lambda _: None,
) -> Observations:
    """The observations of a data set's examples; times are those of the files.

    Memory is bounded by a few batches: images are decoded by threads, a batch at a time for each.

    Args:
        router: of the set.
        published: the set.
        dataset: of the images.
        table: its examples, with times (`ExampleTable.mtimes`); without, all have time 0.
        workers: threads.
        done: counts progress.
    """
    observe = _Observer(router, published, dataset, table)
    starts = range(0, len(table), BATCH)
    parts = [empty_observations(len(published.layers))]
    with ThreadPoolExecutor(workers, thread_name_prefix="route") as pool:
        for part in pool.map(observe, starts):
            parts.append(part)
            done(len(part))
    return join_observations(parts)


def item_keys(table: ExampleTable) -> NDArray[np.uint64]:
    """(n,) identity of each example's file as it is now: of its name, its size and its time."""
    times = _times(table)
    return np.array(
        [
            xxhash.xxh3_64_intdigest(f"{file}\0{size}\0{time}".encode())
            for file, size, time in zip(table.files, table.sizes.tolist(), times.tolist(), strict=True)
        ],
        np.uint64,
    )


def _times(table: ExampleTable) -> NDArray[np.int64]:
    return np.zeros(len(table), np.int64) if table.mtimes is None else table.mtimes


class _Observer:
    """Observes the batch that begins at a row of the table."""

    def __init__(self, router: Router, published: PublishedSet, dataset: Dataset, table: ExampleTable) -> None:
        self._router, self._published, self._dataset, self._table = router, published, dataset, table
        self._keys, self._times = item_keys(table), _times(table) // 1000

    def __call__(self, start: int) -> Observations:
        read = list(self._read(range(start, min(start + BATCH, len(self._table)))))
        rows = np.array([row for row, _, _ in read], np.int64)
        readable = np.array([pixels is not None for _, _, pixels in read], np.bool_)
        n, n_layers = len(rows), len(self._published.layers)
        found = Observations(
            times=self._times[rows],
            items=self._keys[rows],
            contents=np.array([content for _, content, _ in read], np.uint64),
            names=np.array([self._table.files[row] for row in rows], np.object_),
            status=np.where(readable, Status.ROUTED, Status.UNUSABLE).astype(np.int8),
            clusters=np.full((n, n_layers), -1, np.int16),
            distances=np.full((n, n_layers), np.nan, np.float32),
            ood_scores=np.full(n, np.nan),
            predictions=np.full(n, -1, np.int32),
        )
        if readable.any():
            route = self._router.route(np.stack([pixels for _, _, pixels in read if pixels is not None]))
            at = np.flatnonzero(readable)
            found.status[at[~route.usable]] = Status.UNUSABLE
            at = at[route.usable]
            found.clusters[at], found.distances[at] = route.clusters[route.usable], route.distances[route.usable]
            found.ood_scores[at], found.predictions[at] = (
                route.ood_scores[route.usable],
                route.predictions[route.usable],
            )
        return found

    def _read(self, rows: Iterable[int]) -> Iterator[tuple[int, int, NDArray[np.uint8] | None]]:
        """Rows with the digest of their file, and its pixels: None of a file that is no image.

        A file that cannot be read, as its disk or its permissions do not allow it, or that was removed, is left for the next run.
        """
        for row in rows:
            file = self._table.files[row]
            try:
                content = self._dataset.digest(file)
            except OSError as error:
                log.warning(
                    "The new image %s cannot be read now (%s); it is left for the next run", file, error.strerror
                )
                continue
            try:
                yield row, content, fit(self._dataset.read_image(file), self._published.record.preprocessing)
            except OSError:
                yield row, content, None

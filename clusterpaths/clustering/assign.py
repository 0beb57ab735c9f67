"""Assigning examples to the fitted centroids, a shard at a time: labels, distances and coordinates, recorded like activations.

Belongs here: from products (`models/products.py`) to labels, and their files: clusterings/LAYER-FIT/SHARD.npz. Such a file counts
only for the centroids and for the bytes of the shard that it was made of, so a shard that is extracted again is
assigned again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.manifest import PIXELS, ShardRecord
from clusterpaths.clustering.kmeans import comparable, decide, distances_to_all, first_alike
from clusterpaths.clustering.principal import Axes
from clusterpaths.common.corrupted import reading
from clusterpaths.common.lru import LRUCache
from clusterpaths.errors import CacheError
from clusterpaths.models.products import Products, ProductSession, join_products
from clusterpaths.records import CacheDtype, Distance, Record
from clusterpaths.storage import Storage


class FitRecord(Record):
    """The fitted centroids of one layer, in a directory of the cache."""

    layer: str
    directory: str
    digest: str
    distance: Distance
    distinct: int
    passes: int
    num_fitted: int
    axes: str  # digest
    found: bool = False

    @property
    def file(self) -> str:
        """With the centroids (k, width) float32."""
        return f"{self.directory}/centroids.npy"

    @property
    def axes_file(self) -> str:
        """With the axes of the layer's map."""
        return f"{self.directory}/axes.npz"


@dataclass(frozen=True)
class Labels:
    """Of n rows of a shard, in order.

    Attributes:
        labels: (n,) int16, the nearest centroid.
        distances: (n,) float32, to it: 1 - cosine, or Euclidean.
        zeros: (n,) bool, rows of length 0.
        coordinates: (n, d + 1) float32, components and residuals (`principal.Axes.coordinates`); (n, 0) without axes.
    """

    labels: NDArray[np.int16]
    distances: NDArray[np.float32]
    zeros: NDArray[np.bool_]
    coordinates: NDArray[np.float32]


class Assigner:
    """Assigns rows of one layer; thread-safe.

    Args:
        centroids: (k, width) float32.
        distance: between them and rows.
        axes: of the layer's map; None: rows get no coordinates.

    Attributes:
        centroids: those.
        compared: as rows are compared with them: float64 where float32 would decide wrongly (`kmeans.comparable`).
        axes: those.
    """

    def __init__(self, centroids: NDArray[np.float32], distance: Distance, axes: Axes | None = None) -> None:
        self.centroids, self._distance, self.axes = centroids, distance, axes
        self.compared = comparable(centroids, distance)
        self._lengths = np.einsum("ij,ij->i", self.compared, self.compared)
        self._first = first_alike(centroids)
        self._sessions: dict[CacheDtype, ProductSession] = {}

    @property
    def factors(self) -> NDArray[np.float32] | None:
        """(d + 1, width) of the axes."""
        return self.axes.factors if self.axes else None

    def products(self, rows: NDArray[Any]) -> Products:
        """Of (n, width) float16 or float32 rows, as `TapSession` computes them in the model's graph."""
        dtype: CacheDtype = "float16" if rows.dtype == np.float16 else "float32"
        if dtype not in self._sessions:
            self._sessions[dtype] = ProductSession(self.compared.shape[1], dtype, self.compared, self.factors)
        return self._sessions[dtype].run(rows)

    def distances(self, one: Products) -> NDArray[np.float32]:
        """(n, k) distances to all centroids, of n rows."""
        if one.with_centroids is None:
            raise ValueError("should be products with centroids, got squared lengths only")
        return distances_to_all(one.with_centroids, one.squares, self._lengths, self._distance)

    def coordinates(self, one: Products) -> NDArray[np.float32]:
        """(n, d + 1) components and residuals of n rows; (n, 0) without axes."""
        if self.axes is None:
            return np.empty((len(one.squares), 0), np.float32)
        if one.with_axes is None:
            raise ValueError("should be products with axes, got none")
        return self.axes.coordinates(one.with_axes, one.squares, self._distance)

    def assign(self, pieces: Sequence[Products]) -> Labels:
        """Of consecutive rows; equal centroids count as the first of them."""
        dtype = self.compared.dtype
        along = None if self.axes is None else np.empty((0, len(self.axes.directions) + 1), dtype)
        none = Products(np.empty(0, dtype), np.empty((0, len(self.compared)), dtype), along)
        every = join_products([none, *pieces])
        squares, products = every.squares, every.with_centroids
        if products is None:
            raise ValueError("should be products with centroids, got squared lengths only")
        found = decide(products, squares, self._lengths, self._distance)
        distances = found.distances(self._distance)
        return Labels(self._first[found.labels], distances, squares == 0, self.coordinates(every))


_assigners: LRUCache[Assigner] = LRUCache(64)  # of this process


def assigner_of(directory: Storage, fit: FitRecord) -> Assigner:
    """The assigner to a fit's centroids, with its axes.

    Raises:
        CacheError: one of its files is missing or is not the one of the record.
    """
    key = (directory.address, fit.directory, fit.digest, fit.axes)
    return _assigners.get(key, lambda: _read_assigner(directory, fit))


def _read_assigner(directory: Storage, fit: FitRecord) -> Assigner:
    centroids = read_centroids(directory, fit.file)
    if centroids is None or digest_of(centroids) != fit.digest:
        raise CacheError(
            f"The centroids in {directory / fit.file} are missing or are not those of this run. Run the flow again; "
            "it computes them again."
        )
    axes = read_axes(directory, fit.axes_file)
    if axes is None or axes.digest != fit.axes or axes.directions.shape[1:] != centroids.shape[1:]:
        raise CacheError(
            f"The axes in {directory / fit.axes_file} are missing or are not those of this run. Run the flow again; "
            "it computes them again."
        )
    return Assigner(centroids, fit.distance, axes)


def read_centroids(directory: Storage, file: str) -> NDArray[np.float32] | None:
    """(k, width) float32; None where there are none that can be read."""
    try:
        with reading():
            centroids: NDArray[np.float32] = np.load(directory.local(file))
    except (FileNotFoundError, ValueError):
        return None
    return centroids if centroids.ndim == 2 else None  # a header may be corrupted, and the bytes those of the digest


def read_axes(directory: Storage, file: str) -> Axes | None:
    """Axes that were written with `write_axes`; None where there are none that can be read."""
    try:
        with directory.local(file).open("rb") as opened, reading(), np.load(opened) as arrays:
            return Axes(arrays["directions"], arrays["mean"], arrays["explained"])
    except (FileNotFoundError, ValueError):
        return None


def write_axes(directory: Storage, file: str, axes: Axes) -> None:
    """Write them atomically."""
    with directory.write(file) as partial, partial.open("wb") as opened:
        np.savez(opened, directions=axes.directions, mean=axes.mean, explained=axes.explained)


def digest_of(centroids: NDArray[np.float32]) -> str:
    """xxh3_64 of their bytes."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(centroids).data)


def release_assigners() -> None:
    """Free the memory of centroids and their sessions, when all shards are assigned."""
    _assigners.clear()


def labels_file(shard: int) -> str:
    """The file in a fit's directory with the labels, distances and coordinates of one shard."""
    return f"{shard:05d}.npz"


def write_labels(directory: Storage, fit: FitRecord, record: ShardRecord, labels: Labels) -> None:
    """Write a shard's file atomically."""
    with directory.write(f"{fit.directory}/{labels_file(record.index)}") as partial, partial.open("wb") as file:
        np.savez(
            file,
            labels=labels.labels,
            distances=labels.distances,
            zeros=labels.zeros,
            coordinates=labels.coordinates,
            made_of=np.array(_made_of(fit, record)),
        )


def assigned(directory: Storage, fit: FitRecord, records: Iterable[ShardRecord]) -> set[int]:
    """The indexes of those recorded shards that are assigned."""
    files = directory.local_tree(fit.directory)
    return {record.index for record in records if read_labels(files, fit, record) is not None}


def read_labels(files: Path, fit: FitRecord, record: ShardRecord) -> Labels | None:
    """Of a recorded shard, from the fit's directory; None where it was not assigned, or while its bytes were others."""
    try:
        # opened here: numpy leaves a file that is no archive open
        with (files / labels_file(record.index)).open("rb") as file, reading(), np.load(file) as arrays:
            if arrays["made_of"].item() != _made_of(fit, record):
                return None
            return Labels(arrays["labels"], arrays["distances"], arrays["zeros"], arrays["coordinates"])
    except (FileNotFoundError, ValueError):
        return None  # written atomically, so an invalid one is corrupted: the shard is assigned again


def _made_of(fit: FitRecord, record: ShardRecord) -> str:
    return f"{fit.digest} {fit.axes} {record.rows} {record.checksums.get(PIXELS) or record.checksums[fit.layer]}"

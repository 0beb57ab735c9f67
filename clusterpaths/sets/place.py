"""The maps of a set: made of the coordinates of a run, and the place of other examples on them.

Belongs here: maps.parquet and axes.npz of a run's fits, and the same transform for activations that come later. The documents'
shape is `maps.py`, the arithmetic `clustering/principal.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.extracted import ExtractionRecord
from clusterpaths.clustering.assign import Assigner, FitRecord
from clusterpaths.clustering.layout import Layout
from clusterpaths.clustering.principal import Axes
from clusterpaths.clustering.trace import Located
from clusterpaths.common.corrupted import reading
from clusterpaths.errors import CacheError
from clusterpaths.sets.maps import AXES, MAPS, LayerMap, MapRecord, Maps, MapsWriter
from clusterpaths.sets.points import fitted_layout
from clusterpaths.sets.published import PublishedSet

_DIRECTIONS, _MEAN = "axes/", "mean/"  # before the layer's name
BLOCK_ROWS = 1 << 15  # of a row group: 10 MB for five layers


def write_maps_of(
    opened: Callable[[str], AbstractContextManager[Path]], extraction: ExtractionRecord, fits: Sequence[FitRecord]
) -> None:
    """Write axes.npz, then maps.parquet, of these fits.

    Args:
        opened: gives the path to write a document of this name to, inside its context.
        extraction: the examples, in all of whose shards the layers are assigned.
        fits: of the layers.

    Raises:
        CacheError: a shard is not assigned, or was extracted again since.
    """
    located = Located(extraction, fits)
    with opened(AXES) as path:
        _write_axes(path, located)
    with opened(MAPS) as path:
        _write_maps(path, located)


def _write_axes(path: Path, located: Located) -> None:
    arrays: dict[str, Any] = {}
    for layer, axes in located.axes.items():
        arrays |= {_DIRECTIONS + layer: axes.directions, _MEAN + layer: axes.mean}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _write_maps(path: Path, located: Located) -> None:
    records = {layer: MapRecord(explained=tuple(one.explained.tolist())) for layer, one in located.axes.items()}
    with MapsWriter(path, records, located.largest()) as writer:
        for block in located.blocks(BLOCK_ROWS):
            writer.write({layer: _as_map(records[layer], values) for layer, values in block.items()})


def _as_map(record: MapRecord, coordinates: NDArray[np.float32]) -> LayerMap:
    """Of coordinates (n, d + 1), as assignment has them."""
    return LayerMap(record, coordinates[:, :2], coordinates[:, :-1], coordinates[:, -1])


class Placer:
    """Places activations on the maps of a set, as those of its own examples were.

    Args:
        published: a set with maps.

    Raises:
        CacheError: the set has no maps, or its documents cannot be read.
    """

    def __init__(self, published: PublishedSet) -> None:
        self._maps, axes = read_axes(published)
        centroids, distance = published.read_centroids(), published.record.distance
        self._published, self._layouts = published, dict[str, Layout]()
        self._assigners = {layer: Assigner(centroids[layer], distance, one) for layer, one in axes.items()}

    def place(self, rows: NDArray[Any], layer: str) -> LayerMap:
        """Points, components and residuals of activations (n, width) of a layer, float16 or float32 as in the cache.

        Raises:
            CacheError: the points that UMAP was fitted on cannot be read.
        """
        one, record = self._assigners[layer], self._maps.records[layer]
        found = _as_map(record, one.coordinates(one.products(np.ascontiguousarray(rows))))
        if record.method != "umap":
            return found
        if layer not in self._layouts:
            self._layouts[layer] = fitted_layout(self._published, layer)
        points = self._layouts[layer].place(self._maps.rounded(layer, found.components))
        return replace(found, points=points)


def read_axes(published: PublishedSet) -> tuple[Maps, dict[str, Axes]]:
    """The maps of a set, and layer -> the axes of its map.

    Raises:
        CacheError: the set has no maps, or its documents cannot be read.
    """
    maps = published.require_maps()
    path = published.file(AXES)
    found = {}
    try:
        with path.open("rb") as opened, reading(), np.load(opened) as file:
            for layer, record in maps.records.items():
                directions, mean = file[_DIRECTIONS + layer], file[_MEAN + layer]
                found[layer] = Axes(directions, mean, np.array(record.explained))
    except (OSError, ValueError) as error:
        raise CacheError(f"{path} cannot be read: {error}. Expected the axes of a set's maps; {_AGAIN}") from error
    for layer, axes in found.items():
        if axes.mean.ndim != 1 or axes.directions.shape != (len(axes.explained), len(axes.mean)):
            raise CacheError(
                f"{path} has axes of shape {axes.directions.shape} and a mean of {axes.mean.size:,} values in layer {layer}; "
                f"{MAPS} has {len(axes.explained)} axes. They do not match; {_AGAIN}"
            )
    return maps, found


_AGAIN = "remove both and run again with the same options to add them."

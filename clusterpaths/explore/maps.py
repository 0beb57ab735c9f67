"""The map of a set as a browser needs it: what there is, and each column of the examples as an array.

Belongs here: names, types and order of the columns. The pages draw them, `server/api/maps.py` sends them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import Source
from clusterpaths.explore.routes import routes
from clusterpaths.records import Record

Column = NDArray[Any]


class MapLayer(Record):
    """One layer."""

    name: str
    k: int
    method: str = Field(description="how the coordinates were computed; empty: the set has no maps")
    explained: tuple[float, ...] = Field(
        description="share of the variance along each coordinate; empty: not known, or they are no principal components"
    )


class MapColumn(Record):
    """One value per example."""

    name: str = Field(description="for /map/columns?name=")
    dtype: str = Field(description="NumPy's name; little-endian")


class MapInfo(Record):
    """What the map of a set shows; all columns are in the order of ids, which ascend."""

    num_examples: int
    version: str = Field(description="changes when the set is replaced")
    has_maps: bool
    layers: tuple[MapLayer, ...]
    columns: tuple[MapColumn, ...]
    source: Source | None = Field(description="of `classes`; None: no class is known")
    classes: tuple[str, ...] = Field(description="most frequent first: the colours' order")
    predictions: tuple[str, ...] = Field(description="names of the values of the column prediction, from 0 on")
    labels: tuple[str, ...] = Field(description="of the column label")
    splits: tuple[str, ...] = Field(description="of the column split")
    attributes: tuple[str, ...]
    num_paths: int = Field(description="different values of the column path, which is the path's rank from 0 on")


def map_info(index: SetIndex) -> MapInfo:
    """What there is to show."""
    records = index.maps.records if index.maps else {}
    return MapInfo(
        num_examples=len(index),
        version=index.summary.version,
        has_maps=index.maps is not None,
        layers=tuple(
            MapLayer(
                name=layer,
                k=k,
                method=records[layer].method if records else "",
                explained=records[layer].explained[:2] if records and records[layer].method == "pca" else (),
            )
            for layer, k in zip(index.layers, index.k, strict=True)
        ),
        columns=tuple(MapColumn(name=name, dtype=dtype) for name, (dtype, _) in _columns(index).items()),
        source=routes(index).source,
        classes=tuple(dict.fromkeys(one.name for one in routes(index).classes)),
        predictions=_names(index.predictions, index.class_name),
        labels=_names(index.labels, index.label_name),
        splits=index.split_names,
        attributes=index.attribute_names,
        num_paths=len(index.paths.counts),
    )


def map_column(index: SetIndex, name: str) -> Column:
    """One column, (n,) little-endian.

    Raises:
        NotFoundError: the set has no such column; lists those it has.
        CacheError: the cache's class scores are there and cannot be read.
    """
    columns = _columns(index)
    if name not in columns:
        shown = list(columns)
        listed = ", ".join(shown[:50]) + (f" and {len(shown) - 50} more" if len(shown) > 50 else "")
        raise NotFoundError(f"{index.name} has no column {name[:80]!r}. It has {listed}.")
    dtype, values = columns[name]
    return np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))


def map_points(index: SetIndex, layer: str) -> Column:
    """(n, 2) float32, little-endian: where the examples lie on the map of a layer.

    Raises:
        NotFoundError: the set has no such layer, or no maps.
        CacheError: they cannot be read.
    """
    return np.ascontiguousarray(index.map_points(index.layer_index(layer)), np.dtype("<f4"))


def _columns(index: SetIndex) -> dict[str, tuple[str, Column]]:
    """Name -> dtype and the array (views, no copies). Values that are not known are -1, 0 (attributes) or NaN."""
    large = bool(len(index)) and int(index.ids[-1]) >= 1 << 31
    found: dict[str, tuple[str, Column]] = {"id": ("int64" if large else "int32", index.ids)}
    for at, layer in enumerate(index.layers):
        found[f"cluster:{layer}"] = "int16", index.clusters[:, at]
    found["path"] = "int32", index.paths.of_example
    for name, values in (("prediction", index.predictions), ("label", index.labels)):
        if (values >= 0).any():
            found[name] = ("int32" if values.dtype.itemsize > 2 else "int16"), values
    if (index.right >= 0).any():
        found["right"] = "int8", index.right
    if (index.splits >= 0).any():
        found["split"] = "int16", index.splits
    if index.ood is not None:
        found["ood"] = "float64", index.ood  # the precision at which the server compares them
    if index.distances is not None:
        for at, layer in enumerate(index.layers):
            found[f"distance:{layer}"] = "float32", index.distances[:, at]
    if index.confidence is not None:
        found["confidence"] = "float32", index.confidence
    for attribute, has in index.attributes.items():
        found[f"attribute:{attribute}"] = "int8", has
    return found


def _names(classes: NDArray[np.integer], name: Callable[[int], str]) -> tuple[str, ...]:
    return tuple(name(i) for i in range(int(classes.max(initial=-1)) + 1))

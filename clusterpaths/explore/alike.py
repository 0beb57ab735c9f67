"""The examples nearest to one, from the first layer of the network (looks alike) to the last one (decided alike).

Belongs here: distances between places on the maps of the layers (`sets/maps.py`), in units that are comparable between layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.lru import LRUCache
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import Alike, AlikePage, ExampleRow, LayerWeight
from clusterpaths.sets.maps import least_squared_distances, squared_distances

BUDGET = 72 << 20  # bytes of cached layers, of all sets; five of 202,599 examples and 16 components fit
FEW = 12  # beside other things
_NEAREST = 512  # lists of nearest examples that are cached, of all sets: 8 bytes per example
NEAR = 0.3  # of the typical distance to the nearest neighbour: nearer ones are copies, or nearly
_SAMPLE, _OTHERS = 64, 4096  # examples for the unit of distance
_ROUNDINGS = (
    4  # times (d + 8) eps of the squared norms: more than float32 sums of d products can be wrong, on both ways
)

Rows = NDArray[np.integer]
Floats = NDArray[np.float32]


class Place(NamedTuple):
    """Where one image lies in one layer."""

    component: NDArray[np.float32]  # (d,)
    residual: float


class _Layer(NamedTuple):
    """Where n examples lie in one layer."""

    components: NDArray[np.float32]  # (n, d)
    residuals: NDArray[np.float32]  # (n,)
    norms: NDArray[np.float32]  # (n,) squared, of components and residual
    unit: float  # of distances
    near: float  # squared distance below which an example is a copy, or nearly


_layers: LRUCache[_Layer] = LRUCache(
    BUDGET, lambda one: one.components.nbytes + one.residuals.nbytes + one.norms.nbytes, minimum=2
)


# by set, version, example, depth and count; without the records, which take a hundred times as much
_nearest_rows: LRUCache[tuple[Rows, Floats]] = LRUCache(_NEAREST)


def alike(index: SetIndex, example: int, depth: float, *, count: int = 24) -> AlikePage:
    """The examples nearest to an example of the set; between two layers, by the weighted mean of their distances.

    Args:
        index: the set; with maps.
        example: its id.
        depth: 0 to 1.
        count: how many.

    Raises:
        NotFoundError: no such example, or the set has no maps.
        CacheError: the maps cannot be read.
    """
    weights = weights_at(depth, len(index.layers))
    return AlikePage(
        id=example,
        depth=depth,
        layers=tuple(LayerWeight(layer=index.layers[layer], weight=weight) for layer, weight in weights.items()),
        examples=_records(index, *prepare_alike(index, example, depth, count=count)),
    )


def prepare_alike(index: SetIndex, example: int, depth: float, *, count: int = 24) -> tuple[Rows, Floats]:
    """Rows and distances of those in `alike`, cached. Arguments and errors as of `alike`."""
    row = index.row_of(example)
    weights = weights_at(depth, len(index.layers))

    def compute() -> tuple[Rows, Floats]:
        places = {layer: place_of(index, layer, row) for layer in weights}
        rows, apart = _nearest(index, places, weights, count, without=row)
        return rows.astype(np.int32 if len(index) < 1 << 31 else np.int64), apart

    return _nearest_rows.get((index.folder, index.summary.version, row, depth, count), compute)


def weights_at(depth: float, num_layers: int) -> dict[int, float]:
    """Layer -> its weight, of the one or two layers at a depth from 0 to 1."""
    at = min(max(depth, 0.0), 1.0) * (num_layers - 1)
    before = math.floor(at)
    return {before: before + 1 - at, **({before + 1: at - before} if at > before else {})}


def nearest(
    index: SetIndex, places: Mapping[int, Place], weights: Mapping[int, float], count: int, without: int = -1
) -> tuple[Alike, ...]:
    """The examples nearest to places, one per layer; `without`: a row that is none of them.

    Raises:
        NotFoundError: the set has no maps.
        CacheError: they cannot be read.
    """
    return _records(index, *_nearest(index, places, weights, count, without))


def _nearest(
    index: SetIndex, places: Mapping[int, Place], weights: Mapping[int, float], count: int, without: int
) -> tuple[Rows, Floats]:
    """Rows and distances (m,) of `nearest`."""
    there = [(weight, _layer(index, layer), places[layer]) for layer, weight in weights.items()]

    def apart_from(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        each = [weight * _distances(layer, place, rows) for weight, layer, place in there]
        found: NDArray[np.float32] = functools.reduce(np.add, each)
        found[np.isnan(found)] = np.inf  # too large numbers are the farthest ones
        return found

    least = functools.reduce(np.add, [_least_distances(layer, place, weight) for weight, layer, place in there])  # (n,)
    if without >= 0:
        least[without] = np.inf
    count = min(count, len(least) - (without >= 0))
    if count < 1:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    promising = np.flatnonzero(least <= np.partition(least, count - 1)[count - 1])
    promising = promising[promising != without][:count]
    rows = np.flatnonzero(least <= apart_from(promising).max())  # all that can be as near; those that are equal, by id
    if without >= 0:
        rows = rows[rows != without]
    apart = apart_from(rows)
    order = np.argsort(apart, kind="stable")[:count]
    return rows[order], apart[order]


def _records(index: SetIndex, rows: Rows, apart: Floats) -> tuple[Alike, ...]:
    pairs = zip(index.examples(rows), apart.tolist(), strict=True)
    return tuple(Alike(example=one, distance=distance) for one, distance in pairs)


def alike_in(index: SetIndex, layer: int, place: Place, without: int = -1) -> tuple[ExampleRow, ...]:
    """The few examples nearest to a place in one layer; arguments and errors as those of `nearest`."""
    return tuple(one.example for one in nearest(index, {layer: place}, {layer: 1.0}, FEW, without))


def place_of(index: SetIndex, layer: int, row: int) -> Place:
    """Where an example of the set lies in a layer.

    Raises:
        NotFoundError: the set has no maps.
        CacheError: they cannot be read.
    """
    found = _layer(index, layer)
    return Place(found.components[row], float(found.residuals[row]))


def _distances(layer: _Layer, place: Place, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(m,) from a place to the examples in m rows, in units of the layer."""
    components, residuals = layer.components[rows], layer.residuals[rows]
    squared = squared_distances(place.component, place.residual, components, residuals, layer.near)
    found: NDArray[np.float32] = np.sqrt(squared)
    found /= np.float32(layer.unit)
    return found


def _least_distances(layer: _Layer, place: Place, weight: float) -> NDArray[np.float32]:
    """(n,) no more than what `_distances` finds for all examples, times a weight, and nearly that, at a quarter of its cost.

    By |a - b|² = |a|² + |b|² - 2ab, less what rounding can add to it.
    """
    component, residual = place.component, np.float32(place.residual)
    shrunk = np.float32(1 - _ROUNDINGS * (len(component) + 8) * np.finfo(np.float32).eps)
    found: NDArray[np.float32] = layer.components @ (component * np.float32(-2))  # (n,)
    found += layer.norms * shrunk
    found += (component @ component + residual**2) * shrunk
    beyond = layer.residuals * (2 * residual)
    copies = np.flatnonzero(found < beyond + np.float32(layer.near))  # or nearly: see `squared_distances`
    found[copies] -= beyond[copies]
    np.fmax(found, 0, out=found)  # also where too large numbers gave NaN
    np.sqrt(found, out=found)
    found *= np.float32(weight / layer.unit)
    return found


def _layer(index: SetIndex, layer: int) -> _Layer:
    key = index.folder, index.summary.version, layer
    return _layers.get(key, lambda: _read(index, layer))


def _read(index: SetIndex, layer: int) -> _Layer:
    maps, name = index.require_maps(), index.layers[layer]
    components, residuals = np.ascontiguousarray(maps.components(name)), maps.residuals(name)
    norms: NDArray[np.float32] = np.einsum("ij,ij->i", components, components) + np.square(residuals)
    near = NEAR * _unit(components, residuals, least_squared_distances)
    return _Layer(components, residuals, norms, _unit(components, residuals, squared_distances), near**2)


def _unit(
    components: NDArray[np.float32], residuals: NDArray[np.float32], squared_of: Callable[..., NDArray[np.float32]]
) -> float:
    """The median distance of 64 examples to the nearest of 4,096 others; 1 where that is 0. Both evenly spread over the ids."""
    n = len(components)
    some = np.unique(np.linspace(0, n - 1, min(_SAMPLE, n)).astype(np.int64))
    others = np.unique(np.linspace(0, n - 1, min(_OTHERS, n)).astype(np.int64))
    found = []
    for row in some.tolist():
        rows = others[others != row]
        if len(rows):
            squared = squared_of(components[row], float(residuals[row]), components[rows], residuals[rows])
            found.append(math.sqrt(float(squared.min())))
    return float(np.median(found)) or 1.0 if found else 1.0

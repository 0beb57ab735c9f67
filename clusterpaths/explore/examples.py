"""Details of one example, and its most similar examples."""

from __future__ import annotations

import bisect

import numpy as np
from numpy.typing import NDArray

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.paths import summarise
from clusterpaths.explore.records import ExampleDetail, ExampleLayer, Neighbour

PATH_EXEMPLARS = 8


def example_detail(index: SetIndex, example: int, *, neighbours: int = 12) -> ExampleDetail:
    """Raises: NotFoundError: no such example."""
    row = index.row_of(example)
    score = None if index.ood is None else float(index.ood[row])
    values = index.attribute_values[:, row].tolist()
    return ExampleDetail(
        example=index.examples(np.array([row]))[0],
        layers=tuple(_layer(index, row, layer) for layer in range(len(index.layers))),
        path=summarise(index, index.paths.of_example[row : row + 1], PATH_EXEMPLARS)[0],
        ood_score=score,
        ood_percentile=None if score is None else index.ood_percentile(score),
        attributes={name: value > 0 for name, value in zip(index.attribute_names, values, strict=True) if value},
        probabilities=index.top_scores(row),
        neighbours=_neighbours(index, row, neighbours),
    )


def _layer(index: SetIndex, row: int, layer: int) -> ExampleLayer:
    cluster = int(index.clusters[row, layer])
    size = int(index.sizes[layer][cluster])
    distance = standardised = percentile = None
    if index.distances is not None and index.standardised is not None:
        column = index.distances[:, layer]
        distance, standardised = float(column[row]), float(index.standardised[row, layer])
        members = index.members(layer, cluster)  # nearest first
        nearer = bisect.bisect_left(members, distance, key=column.__getitem__)
        percentile = 100 * nearer / size
    return ExampleLayer(
        layer=index.layers[layer],
        cluster=cluster,
        cluster_count=size,
        distance=distance,
        standardised=standardised,
        percentile=percentile,
    )


def _neighbours(index: SetIndex, row: int, count: int) -> tuple[Neighbour, ...]:
    """Most layers shared, then smallest difference, then lower id; none without distances."""
    if index.standardised is None or count < 1:
        return ()
    shared = index.layers_shared(index.clusters[row])
    found: list[tuple[int, int, float]] = []
    for level in range(len(index.layers), -1, -1):
        rows = _rows_on(index, np.flatnonzero(shared == level))
        rows = rows[rows != row]
        apart = index.standardised[rows] - index.standardised[row]
        squared = np.einsum("ij,ij->i", apart, apart)
        wanted = count - len(found)
        if len(rows) > wanted:  # include ties with the last one; ties are sorted by id
            close = squared <= np.partition(squared, wanted - 1)[wanted - 1]
            rows, squared = rows[close], squared[close]
        nearest = np.lexsort((rows, squared))[:wanted]
        found += [(int(rows[i]), level, float(np.sqrt(squared[i]))) for i in nearest]
        if len(found) == count:
            break
    examples = index.examples(np.array([other for other, _, _ in found], np.int64))
    return tuple(
        Neighbour(example=example, layers_shared=level, difference=difference)
        for example, (_, level, difference) in zip(examples, found, strict=True)
    )


def _rows_on(index: SetIndex, positions: NDArray[np.int64]) -> NDArray[np.integer]:
    """Rows on any of these paths."""
    if len(positions) == 1:
        return index.on_path(int(positions[0]))
    wanted = np.zeros(len(index.paths.counts), np.bool_)
    wanted[positions] = True
    return np.flatnonzero(wanted[index.paths.of_example])

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
        layers=layers_of(index, index.clusters[row], *_measured(index, row)),
        path=summarise(index, index.paths.of_example[row : row + 1], PATH_EXEMPLARS)[0],
        ood_score=score,
        ood_percentile=None if score is None else index.ood_percentile(score),
        attributes={name: value > 0 for name, value in zip(index.attribute_names, values, strict=True) if value},
        probabilities=index.top_scores(row),
        neighbours=()
        if index.standardised is None
        else neighbours_of(index, index.clusters[row], index.standardised[row], neighbours, without=row),
    )


def layers_of(
    index: SetIndex,
    path: NDArray[np.integer],
    distances: NDArray[np.floating] | None,
    standardised: NDArray[np.floating] | None,
) -> tuple[ExampleLayer, ...]:
    """Where a path (L,) goes in each layer, and how far from the centroids (L,) it is; None: not known."""
    found = []
    for layer, (name, cluster) in enumerate(zip(index.layers, path.tolist(), strict=True)):
        size = int(index.sizes[layer][cluster])
        nearer = None
        if distances is not None and index.distances is not None and size:
            members = index.members(layer, cluster)  # nearest first
            nearer = bisect.bisect_left(members, float(distances[layer]), key=index.distances[:, layer].__getitem__)
        found.append(
            ExampleLayer(
                layer=name,
                cluster=cluster,
                cluster_count=size,
                distance=None if distances is None else float(distances[layer]),
                standardised=None if standardised is None else float(standardised[layer]),
                percentile=None if nearer is None else 100 * nearer / size,
            )
        )
    return tuple(found)


def _measured(index: SetIndex, row: int) -> tuple[NDArray[np.floating] | None, NDArray[np.floating] | None]:
    """An example's distances and standardised distances (L,), where the set has them."""
    if index.distances is None or index.standardised is None:
        return None, None
    return index.distances[row], index.standardised[row]


def neighbours_of(
    index: SetIndex, path: NDArray[np.integer], standardised: NDArray[np.floating], count: int, without: int = -1
) -> tuple[Neighbour, ...]:
    """Most layers shared with a path (L,), then smallest difference from its standardised distances, then lower id.

    `without`: a row that is none of them. None without distances.
    """
    if index.standardised is None or count < 1:
        return ()
    shared = index.layers_shared(path)
    found: list[tuple[int, int, float]] = []
    for level in range(len(index.layers), -1, -1):
        rows = _rows_on(index, np.flatnonzero(shared == level))
        rows = rows[rows != without]
        apart = index.standardised[rows] - standardised
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

"""Near duplicates: pictures that are in the set more than once, also re-encoded or slightly changed.

Belongs here: from distances between activations to groups. Coordinates are `sets/maps.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.alike import NEAR
from clusterpaths.explore.index import SetIndex
from clusterpaths.find.coordinates import WORKERS, coordinates
from clusterpaths.find.record import NEAR_DUPLICATES, DuplicateGroup, NearDuplicates
from clusterpaths.sets.maps import Maps
from clusterpaths.sets.published import PublishedSet

EARLY = 2  # layers: later ones tell apart what looks alike
SHOWN = 12  # examples of a group in its record; a CSV has all
_NEIGHBOURS = 8  # others of each example that are looked at
_SAMPLE = 2_000  # examples whose nearest neighbours give a layer's median
Rows = NDArray[np.int64]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Group:
    """Examples that are the same picture, or nearly."""

    rows: Rows  # ascending
    distance: float  # of the pairs that join it, the largest; 0: identical
    exact: bool
    splits: tuple[str, ...]  # the known parts of the data set that it is in


def find_near_duplicates(index: SetIndex) -> tuple[Group, ...]:
    """The groups of a set, computed once: across splits first, then identical ones, then the nearest.

    Files of identical content are one group. For the others, two examples are near if the distance between their activations is
    below `NEAR` of the median distance to the nearest neighbour, in each of the first two layers: candidates are the 8 nearest in
    the first one (scipy's k-d tree, of Maneewongvatana and Mount, 1999), which the second one confirms. Groups are
    connected components of near pairs.

    Raises:
        NotFoundError: the set has neither contents nor maps.
    """
    return index.once(NEAR_DUPLICATES, lambda: _of_set(index))


def near_duplicates_page(index: SetIndex, *, limit: int = 50, offset: int = 0) -> NearDuplicates:
    """A piece of the list. Raises: NotFoundError: as `find_near_duplicates`."""
    groups = find_near_duplicates(index)
    return NearDuplicates(
        total=len(groups),
        limit=limit,
        offset=offset,
        examples=sum(len(group.rows) for group in groups),
        across_splits=sum(len(group.splits) > 1 for group in groups),
        note=_note(*_sources(index)),
        entries=tuple(_record(index, group) for group in groups[offset : offset + limit]),
    )


def labels_differ(index: SetIndex, group: Group) -> bool:
    """Whether two of a group have different labels."""
    labels = index.labels[group.rows]
    return len(np.unique(labels[labels >= 0])) > 1


def same_content(contents: NDArray[np.uint64]) -> Rows:
    """(n,) for each example the first one with the same content; 0 is no content."""
    _, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
    return np.where(contents == 0, np.arange(len(contents)), first[inverse])


def near_pairs(layers: list[Points], near: float = NEAR) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs (p, 2) of near points, the lower one first, and their distances (p,), the largest over the layers.

    Args:
        layers: (n, d) points of each layer, the first layer first.
        near: the limit, in units of a layer's median distance to the nearest neighbour.
    """
    from scipy.spatial import cKDTree  # imported here: most answers need no tree

    none = np.empty((0, 2), np.int64), np.empty(0)
    n = len(layers[0])
    if n < 3:
        return none
    sample = np.sort(np.random.default_rng(0).permutation(n)[:_SAMPLE])
    trees = [cKDTree(points) for points in layers]
    scales = [
        float(np.median(tree.query(points[sample], k=2, workers=WORKERS)[0][:, 1]))
        for tree, points in zip(trees, layers, strict=True)
    ]
    if not scales[0] > 0:  # more than half have a twin, or the layer is constant: no distance tells them apart
        return none
    distances, others = trees[0].query(
        layers[0], k=min(_NEIGHBOURS + 1, n), distance_upper_bound=near * scales[0], workers=WORKERS
    )  # itself, too
    at, column = np.nonzero(np.isfinite(distances))
    pairs = np.sort(np.column_stack([at, others[at, column]]), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    worst = np.zeros(len(pairs))
    for points, scale in zip(layers, scales, strict=True):
        if scale > 0 and len(pairs):
            apart = points[pairs[:, 0]].astype(np.float64) - points[pairs[:, 1]]
            worst = np.maximum(worst, np.sqrt((apart**2).sum(axis=1)) / scale)
    return pairs[worst < near], worst[worst < near]


def _of_set(index: SetIndex) -> tuple[Group, ...]:
    contents, maps = _sources(index)
    n = len(index)
    first = np.arange(n) if contents is None else same_content(contents)
    unique = np.flatnonzero(first == np.arange(n))  # one of each content
    pairs, distances = np.empty((0, 2), np.int64), np.empty(0)
    if maps is not None:
        pairs, distances = near_pairs([coordinates(maps, layer)[unique] for layer in maps.layers[:EARLY]])
        pairs = unique[pairs]
    copies = np.flatnonzero(first != np.arange(n))
    links = np.concatenate([pairs, np.column_stack([first[copies], copies])])
    found = _components(n, links, np.concatenate([distances, np.zeros(len(copies))]))
    groups = [Group(rows, distance, len(np.unique(first[rows])) == 1, _splits(index, rows)) for rows, distance in found]
    return tuple(sorted(groups, key=_order))


def _components(n: int, links: NDArray[np.int64], distances: NDArray[np.float64]) -> Iterator[tuple[Rows, float]]:
    """Connected components of the links (l, 2): their rows, and the largest distance in each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(links):
        return
    graph = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    largest = np.zeros(component.max() + 1)
    np.maximum.at(largest, component[links[:, 0]], distances)
    members = np.unique(links)
    members = members[np.argsort(component[members], kind="stable")]
    for rows in np.split(members, np.flatnonzero(np.diff(component[members])) + 1):
        yield rows, float(largest[component[rows[0]]])


def _splits(index: SetIndex, rows: Rows) -> tuple[str, ...]:
    return tuple(index.split_names[i] for i in np.unique(index.splits[rows]).tolist() if i >= 0)


def _order(group: Group) -> tuple[bool, bool, float, int]:
    return len(group.splits) < 2, not group.exact, group.distance, int(group.rows[0])


def _record(index: SetIndex, group: Group) -> DuplicateGroup:
    return DuplicateGroup(
        exact=group.exact,
        distance=group.distance,
        count=len(group.rows),
        splits=group.splits,
        across_splits=len(group.splits) > 1,
        labels_differ=labels_differ(index, group),
        examples=index.examples(group.rows[:SHOWN]),
    )


def _sources(index: SetIndex) -> tuple[NDArray[np.uint64] | None, Maps | None]:
    """Contents and maps, one of which is there.

    Raises:
        NotFoundError: neither is.
    """
    contents = index.source.contents if isinstance(index.source, PublishedSet) else None
    maps = index.maps
    if contents is None and maps is None:
        raise NotFoundError(
            f"{index.name} has neither maps nor the contents of its files, so near duplicates cannot be found. It was published "
            "before there were maps; run again to add them."
        )
    return contents, maps


def _note(contents: NDArray[np.uint64] | None, maps: Maps | None) -> str:
    exact = "Contents of files were not recorded, so nothing is called identical. " if contents is None else ""
    if maps is None:
        return "Identical files only: this set was published before there were maps. Run again to find near duplicates, too."
    return (
        f"{exact}Near: closer than {NEAR:g} of the median distance to the nearest neighbour, in both of the first two layers, by "
        "the distances of the maps. Where more than half of the examples coincide in the first layer, none are called near. "
        "Across splits first, then identical files, then the nearest."
    )

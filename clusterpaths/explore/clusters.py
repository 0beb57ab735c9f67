"""What is known of the clusters of a set, and their exemplars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.index import SetIndex, class_shares, group_classes, majority, right_share
from clusterpaths.explore.lift import lifts
from clusterpaths.explore.records import (
    ClusterDetail,
    ClusterInfo,
    ExamplePage,
    ExampleRow,
    Exemplars,
    PathSummary,
    Source,
)

LISTED_PATHS = 10
PATH_EXEMPLARS = 6


@dataclass(frozen=True)
class ClassSource:
    """Where majority classes are taken from: predictions where there are any, else labels."""

    name: Source | None
    classes: NDArray[np.int16]  # (n,)
    class_name: Callable[[int], str]


def class_source(index: SetIndex) -> ClassSource:
    """For all clusters and transitions of a set the same one."""
    if (index.predictions >= 0).any():
        return ClassSource("predictions", index.predictions, index.class_name)
    return ClassSource("labels" if (index.labels >= 0).any() else None, index.labels, index.label_name)


def cluster_infos(index: SetIndex) -> tuple[ClusterInfo, ...]:
    """By layer, then number; empty ones too. Worked out once a set."""
    return index.once("clusters", lambda: _cluster_infos(index))


def cluster_info(index: SetIndex, layer: int, cluster: int) -> ClusterInfo:
    """One of them."""
    return cluster_infos(index)[sum(index.k[:layer]) + cluster]


def cluster_detail(index: SetIndex, layer: str, cluster: int, *, exemplars: int = 12) -> ClusterDetail:
    """Raises: NotFoundError: no such layer or cluster."""
    at = index.layer_index(layer)
    index.require_cluster(at, cluster)
    return index.answer(("cluster", at, cluster, exemplars), lambda: _cluster_detail(index, at, cluster, exemplars))


def exemplars(
    index: SetIndex, layer: str, cluster: int, kind: Exemplars, limit: int = 20, offset: int = 0
) -> ExamplePage:
    """Members of a cluster: nearest to the centroid first, farthest first, or in an order drawn by lot once for all.

    Raises:
        NotFoundError: no such layer or cluster, or no distances to go by.
    """
    at = index.layer_index(layer)
    index.require_cluster(at, cluster)
    if index.distances is None and kind != "random":
        raise NotFoundError(f"{index.name} has no distances to centroids, so only random exemplars of a cluster.")
    limit, offset = max(limit, 0), max(offset, 0)
    rows = _chosen(index, at, cluster, kind)[offset : offset + limit]
    total = int(index.sizes[at][cluster])
    return ExamplePage(total=total, limit=limit, offset=offset, examples=_shown(index, at, rows))


def _chosen(index: SetIndex, layer: int, cluster: int, kind: Exemplars) -> NDArray[np.int64]:
    members = index.members(layer, cluster)
    if kind == "nearest":
        return members
    if kind == "farthest":
        return members[::-1]
    fixed = index.record.fingerprint if index.record else index.summary.set
    seed = int.from_bytes(f"{fixed}/{layer}/{cluster}".encode(), "big")
    return index.answer(
        ("random", layer, cluster), lambda: np.random.default_rng(seed).permutation(np.sort(members)).astype(np.int32)
    )


def _shown(index: SetIndex, layer: int, rows: NDArray[np.integer]) -> tuple[ExampleRow, ...]:
    return index.examples(rows, None if index.distances is None else index.distances[rows, layer])


def _cluster_infos(index: SetIndex) -> tuple[ClusterInfo, ...]:
    source, found = class_source(index), []
    for i, (layer, k) in enumerate(zip(index.layers, index.k, strict=True)):
        classes = group_classes(index.clusters[:, i], source.classes, k)
        found += [
            ClusterInfo(
                layer=layer,
                cluster=cluster,
                count=count,
                share=count / max(len(index), 1),
                majority=majority(classes, cluster, source.class_name),
            )
            for cluster, count in enumerate(index.sizes[i].tolist())
        ]
    return tuple(found)


def _cluster_detail(index: SetIndex, layer: int, cluster: int, count: int) -> ClusterDetail:
    from clusterpaths.explore.routes import transitions  # it counts what this module does

    members = index.members(layer, cluster)
    arriving = transitions(index, layer - 1) if layer else ()
    leaving = transitions(index, layer) if layer + 1 < len(index.layers) else ()
    has_distances = index.distances is not None

    def shown(kind: Exemplars) -> tuple[ExampleRow, ...]:
        if kind != "random" and not has_distances:
            return ()
        return _shown(index, layer, _chosen(index, layer, cluster, kind)[:count])

    return ClusterDetail(
        info=cluster_info(index, layer, cluster),
        mean_distance=float(index.distances[members, layer].mean(dtype=np.float64))
        if index.distances is not None and len(members)
        else None,
        predictions=class_shares(index.predictions[members], index.class_name),
        labels=class_shares(index.labels[members], index.label_name),
        right=right_share(index, members),
        lifts=lifts(index, members),
        nearest=shown("nearest"),
        farthest=shown("farthest"),
        random=shown("random"),
        arrivals=tuple(sorted((t for t in arriving if t.next_cluster == cluster), key=lambda t: -t.count)),
        departures=tuple(sorted((t for t in leaving if t.cluster == cluster), key=lambda t: -t.count)),
        paths=_paths_through(index, layer, cluster),
    )


def _paths_through(index: SetIndex, layer: int, cluster: int) -> tuple[PathSummary, ...]:
    from clusterpaths.explore.paths import summarise

    through = np.flatnonzero(index.paths.paths[:, layer] == cluster)[:LISTED_PATHS]
    return summarise(index, through, PATH_EXEMPLARS)

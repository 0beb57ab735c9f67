"""Details of one cluster: classes, exemplars, lifts, and the paths and transitions through it."""

from __future__ import annotations

import numpy as np

from clusterpaths.explore.clusters import cluster_info, exemplars
from clusterpaths.explore.index import SetIndex, class_shares, right_share
from clusterpaths.explore.lift import lifts
from clusterpaths.explore.paths import summarise
from clusterpaths.explore.records import ClusterDetail, ExampleRow, Exemplars, PathSummary
from clusterpaths.explore.routes import transitions

LISTED_PATHS = 10
PATH_EXEMPLARS = 6


def cluster_detail(index: SetIndex, layer: str, cluster: int, *, exemplars: int = 12) -> ClusterDetail:
    """Raises: NotFoundError: no such layer or cluster."""
    at = index.layer_index(layer)
    index.require_cluster(at, cluster)
    return index.answer(("cluster", at, cluster, exemplars), lambda: _cluster_detail(index, at, cluster, exemplars))


def _cluster_detail(index: SetIndex, layer: int, cluster: int, count: int) -> ClusterDetail:
    members = index.members(layer, cluster)
    arriving = transitions(index, layer - 1) if layer else ()
    leaving = transitions(index, layer) if layer + 1 < len(index.layers) else ()
    has_distances = index.distances is not None

    def shown(kind: Exemplars) -> tuple[ExampleRow, ...]:
        if kind != "random" and not has_distances:
            return ()
        return exemplars(index, index.layers[layer], cluster, kind, count).examples

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
    through = np.flatnonzero(index.paths.paths[:, layer] == cluster)[:LISTED_PATHS]
    return summarise(index, through, PATH_EXEMPLARS)

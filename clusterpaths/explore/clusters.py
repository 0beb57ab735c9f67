"""Summaries of the clusters of a set, and their exemplars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.index import SetIndex, majority
from clusterpaths.explore.records import ClusterInfo, ExamplePage, Exemplars, Source
from clusterpaths.metrics.paths import majority_classes


@dataclass(frozen=True)
class ClassSource:
    """Source of majority classes: predictions if there are any, else labels."""

    name: Source | None
    classes: NDArray[np.integer]  # (n,)
    class_name: Callable[[int], str]


def class_source(index: SetIndex) -> ClassSource:
    """The same for all clusters and transitions of a set."""
    if (index.predictions >= 0).any():
        return ClassSource("predictions", index.predictions, index.class_name)
    return ClassSource("labels" if (index.labels >= 0).any() else None, index.labels, index.label_name)


def cluster_infos(index: SetIndex) -> tuple[ClusterInfo, ...]:
    """By layer, then number; empty ones too. Computed once per set."""
    return index.once("clusters", lambda: _cluster_infos(index))


def cluster_info(index: SetIndex, layer: int, cluster: int) -> ClusterInfo:
    """One of them."""
    return cluster_infos(index)[sum(index.k[:layer]) + cluster]


def exemplars(
    index: SetIndex, layer: str, cluster: int, kind: Exemplars, limit: int = 20, offset: int = 0
) -> ExamplePage:
    """Members of a cluster: nearest to the centroid first, farthest first, or in a fixed random order.

    Raises:
        NotFoundError: no such layer or cluster, or no distances.
    """
    at = index.layer_index(layer)
    index.require_cluster(at, cluster)
    if index.distances is None and kind != "random":
        raise NotFoundError(f"{index.name} has no distances to centroids, so only random exemplars of a cluster.")
    limit, offset = max(limit, 0), max(offset, 0)
    rows = _chosen(index, at, cluster, kind)[offset : offset + limit]
    distances = None if index.distances is None else index.distances[rows, at]
    total = int(index.sizes[at][cluster])
    return ExamplePage(total=total, limit=limit, offset=offset, examples=index.examples(rows, distances))


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


def _cluster_infos(index: SetIndex) -> tuple[ClusterInfo, ...]:
    source, found = class_source(index), []
    for i, (layer, k) in enumerate(zip(index.layers, index.k, strict=True)):
        classes = majority_classes(index.clusters[:, i], source.classes, k)
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

"""The Sankey: all clusters of a set, and the examples between those of neighbouring layers."""

from __future__ import annotations

import numpy as np

from clusterpaths.explore.clusters import class_source, cluster_infos
from clusterpaths.explore.index import SetIndex, class_shares, majority
from clusterpaths.explore.records import Routes, Transition
from clusterpaths.metrics.paths import majority_classes


def routes(index: SetIndex) -> Routes:
    """The Sankey data, computed once per set."""
    return index.once("routes", lambda: _routes(index))


def transitions(index: SetIndex, left: int) -> tuple[Transition, ...]:
    """From layer `left` to the next: those that occur, by their clusters."""
    return index.once(("transitions", left), lambda: _transitions(index, left))


def _routes(index: SetIndex) -> Routes:
    source = class_source(index)
    return Routes(
        source=source.name,
        num_examples=len(index),
        layers=index.layers,
        clusters=cluster_infos(index),
        transitions=tuple(t for left in range(len(index.layers) - 1) for t in transitions(index, left)),
        classes=class_shares(source.classes, source.class_name),
    )


def _transitions(index: SetIndex, left: int) -> tuple[Transition, ...]:
    k_left, k = index.k[left], index.k[left + 1]
    source = class_source(index)
    groups = index.clusters[:, left].astype(np.int64) * k + index.clusters[:, left + 1]
    counts = np.bincount(groups, minlength=k_left * k)
    classes = majority_classes(groups, source.classes, k_left * k)
    return tuple(
        Transition(
            layer=index.layers[left],
            cluster=code // k,
            next_layer=index.layers[left + 1],
            next_cluster=code % k,
            count=count,
            majority=majority(classes, code, source.class_name),
        )
        for code, count in enumerate(counts.tolist())
        if count
    )

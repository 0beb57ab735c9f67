"""What changed in a window: the clusters and paths that grew most, with examples of both sides.

Belongs here: selecting them. Pictures of new images are `judge.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.intervals import ratio_interval
from clusterpaths.metrics.ood import overall_distance
from clusterpaths.metrics.paths import count_paths
from clusterpaths.monitoring.observations import Observations
from clusterpaths.monitoring.record import Growth, NewImage
from clusterpaths.naming.record import path_key
from clusterpaths.naming.resolve import names_of
from clusterpaths.sets.published import PublishedSet

MOST, EXEMPLARS = 6, 6  # shown of each kind, and of each side
CONFIDENCE = 0.95


@dataclass(frozen=True)
class _Candidate:
    """A cluster (`layer` >= 0) or a path (-1), and how many examples of each side are in it."""

    layer: int
    path: tuple[int, ...]  # of a cluster its id alone
    reference: int
    window: int


def find_growth(published: PublishedSet, rows: Observations) -> tuple[Growth, ...]:
    """The clusters, then the paths, whose share grew clearly, the largest difference of shares first.

    Clearly: the interval of the ratio of both shares, of 95% for all clusters and paths that occur jointly (Bonferroni), is
    above 1.

    Args:
        published: the reference.
        rows: the routed ones of a window.
    """
    n, m = len(published.ids), len(rows)
    if not m:
        return ()
    candidates = [*_clusters(published, rows), *_paths(published, rows)]
    confidence = 1 - (1 - CONFIDENCE) / len(candidates)
    clear: list[tuple[float, float, _Candidate]] = []
    for one in candidates:
        if one.window * n > one.reference * m:
            low, _ = ratio_interval(one.window, m, one.reference, n, confidence)
            if low > 1:
                clear.append((one.window / m - one.reference / n, low, one))
    clear.sort(key=lambda entry: (-entry[0], entry[2].layer, entry[2].path))
    chosen = [entry for entry in clear if entry[2].layer >= 0][:MOST] + [
        entry for entry in clear if entry[2].layer < 0
    ][:MOST]
    make = _Maker(published, rows)
    return tuple(make.growth(one, low) for _, low, one in chosen)


def _clusters(published: PublishedSet, rows: Observations) -> Iterator[_Candidate]:
    for layer, k in enumerate(published.k):
        sides = [np.bincount(side.clusters[:, layer], minlength=k).tolist() for side in (published, rows)]
        for cluster, (reference, window) in enumerate(zip(*sides, strict=True)):
            if reference or window:
                yield _Candidate(layer, (cluster,), reference, window)


def _paths(published: PublishedSet, rows: Observations) -> Iterator[_Candidate]:
    n = len(published.ids)
    both = count_paths(np.concatenate([published.clusters, rows.clusters]))
    reference = np.bincount(both.of_example[:n], minlength=len(both.counts))
    for path, total, before in zip(both.paths.tolist(), both.counts.tolist(), reference.tolist(), strict=True):
        yield _Candidate(-1, tuple(path), before, total - before)


class _Maker:
    """Makes records of the chosen ones."""

    def __init__(self, published: PublishedSet, rows: Observations) -> None:
        self._set, self._rows = published, rows
        self._names = names_of(published.index)
        self._overall = overall_distance(np.nan_to_num(rows.distances))

    def growth(self, one: _Candidate, low: float) -> Growth:
        cluster = one.layer >= 0
        key = f"{self._set.layers[one.layer]}/{one.path[0]}" if cluster else path_key(one.path)
        name = self._names.cluster(one.layer, one.path[0]) if cluster else self._names.path(one.path)
        n, m = len(self._set.ids), len(self._rows)
        return Growth(
            kind="cluster" if cluster else "path",
            key=key,
            name=name.text,
            reference=one.reference,
            window=one.window,
            share_reference=one.reference / n,
            share_window=one.window / m,
            ratio=(one.window / m) / (one.reference / n) if one.reference else None,
            ratio_low=low,
            exemplars_reference=tuple(self._set.ids[self._of_reference(one)].tolist()),
            exemplars_window=tuple(self._image(row) for row in self._of_window(one).tolist()),
        )

    def _of_reference(self, one: _Candidate) -> NDArray[np.integer]:
        index = self._set.index
        if one.layer >= 0:
            found: NDArray[np.integer] = index.members(one.layer, one.path[0])
        else:
            found = index.on_path(index.path_rank(one.path)) if one.reference else np.empty(0, np.int64)
        return found[:EXEMPLARS]

    def _of_window(self, one: _Candidate) -> NDArray[np.integer]:
        """Rows, nearest to the centroid first."""
        if one.layer >= 0:
            members = np.flatnonzero(self._rows.clusters[:, one.layer] == one.path[0])
            distances = self._rows.distances[members, one.layer]
        else:
            members = np.flatnonzero((self._rows.clusters == np.array(one.path)).all(axis=1))
            distances = self._overall[members]
        return members[np.argsort(distances, kind="stable")][:EXEMPLARS]

    def _image(self, row: int) -> NewImage:
        prediction = int(self._rows.predictions[row])
        return NewImage(
            name=str(self._rows.names[row]),
            path=tuple(self._rows.clusters[row].tolist()),
            prediction=self._set.class_name(prediction) if prediction >= 0 else "",
            ood_score=float(self._rows.ood_scores[row]),
        )

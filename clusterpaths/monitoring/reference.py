"""A published set as the reference that windows are compared with.

Belongs here: making the set's examples comparable with new ones. A centroid is nearer to the examples it was fitted on than to
new ones, and some are in its cluster only because of that: compared as they are, new images of the same source would look
different too often.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.assign import Assigner
from clusterpaths.common.corrupted import reading
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.metrics.ood import Assigned, assign_held_out, held_out_scores
from clusterpaths.monitoring.record import MONITOR
from clusterpaths.monitoring.verdict import Routes
from clusterpaths.sets.published import PublishedSet

log = logging.getLogger(__name__)

HELD_OUT = f"{MONITOR}/held_out.npz"
ENOUGH = 1000  # held-out examples, which are compared with alone
SAME = 0.99  # of examples, whose cluster the cached activations confirm


def reference_routes(published: PublishedSet, *, store: bool = False) -> Routes:
    """Of the set's examples, paths and OOD scores as if no centroid had been fitted on them.

    Layers are fitted on a sample of the examples (`cache/fit_sample.py`). If at least ENOUGH examples are outside of it, these
    are the reference, as they are: they are exchangeable with new images of the same source, so that error rates hold exactly.

    Of a smaller set every example is used. Each is assigned as if it were held out, with the activations in the set's
    cache (`assign_held_out`); without them its clusters stay those of the set, which is logged. It is an approximation: its
    error rates are measured in docs/monitoring.md. Where examples are is read from monitor/held_out.npz beside the set, if it is
    there.

    Args:
        published: the set.
        store: write that file, if the activations had to be read: all windows of a series are then compared with the same
            reference, whatever becomes of the cache, and activations in a bucket are read once.

    Raises:
        CacheError: the set's files are missing or corrupted.
        DiskError: no room or no permission.
    """
    fitted = published.fitted
    outside = np.flatnonzero(~fitted.any(axis=1))
    if len(outside) >= ENOUGH:
        return Routes(published.clusters[outside], published.scores.ood[outside], published.predictions[outside])
    held_out = _stored(published)
    if held_out is None:
        held_out = _held_out(published)
        if store and held_out is not None:
            _store(published, held_out)
    clusters = published.clusters if held_out is None else held_out.clusters
    scores = held_out_scores(
        published.clusters, published.distances, published.k, published.record.distance, fitted, held_out
    )
    return Routes(clusters, scores, published.predictions)


def _held_out(published: PublishedSet) -> Assigned | None:
    """Where every example is if it is held out; None without the activations."""
    try:
        if not published.is_of_cache():
            raise CacheError("The cache is of another model.")
        layers = [_held_out_layer(published, at) for at in range(len(published.layers))]
    except (CacheError, CorruptedShardError) as error:
        log.warning(
            "%s cannot be compared as if its examples were held out, so false alarms are somewhat more frequent: %s",
            published.name,
            error,
        )
        return None
    clusters, distances = (np.stack(columns, 1) for columns in zip(*layers, strict=True))
    return Assigned(clusters.astype(np.int16), distances.astype(np.float32))  # as they are stored


def _stored(published: PublishedSet) -> Assigned | None:
    """What an earlier window was compared with; None if there is none, or it is of another set or corrupted."""
    try:
        # opened here: numpy leaves a file that is no archive open
        with published.file(HELD_OUT).open("rb") as file, reading(), np.load(file) as arrays:
            if arrays["fingerprint"].item() != published.record.fingerprint:
                return None
            found = Assigned(arrays["clusters"], arrays["distances"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s/%s cannot be read and is computed again: %s", published.name, HELD_OUT, error)
        return None
    return found if found.clusters.shape == published.clusters.shape == found.distances.shape else None


def _store(published: PublishedSet, held_out: Assigned) -> None:
    folder, name = published.folder / MONITOR, HELD_OUT.removeprefix(f"{MONITOR}/")
    folder.make()
    with folder.write(name) as partial, partial.open("wb") as file:
        np.savez(
            file, clusters=held_out.clusters, distances=held_out.distances, fingerprint=published.record.fingerprint
        )


def _held_out_layer(published: PublishedSet, at: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    layer, own = published.layers[at], published.clusters[:, at].astype(np.int64)
    assigner = Assigner(published.read_centroids()[layer], published.record.distance)
    rows = LayerRows(published.cache, layer, published.ids)
    distances = np.empty((len(rows), published.k[at]), np.float32)
    for where, block in rows.blocks():
        distances[where] = assigner.distances(assigner.products(block))
    if (distances.argmin(axis=1) == own).mean() < SAME:
        raise CacheError(f"The activations of {layer} in its cache are no longer those it was made of.")
    return assign_held_out(distances, own, published.record.distance, published.fitted[:, at])

"""The fit and the held-out examples of a set, and the clustering that they are measured with.

Belongs here: which examples are which. A set's layers are fitted on a sample of its examples (`cache/fit_sample.py`): all
others are held out from the published clustering, and their paths and distances are in the set. Where the sample leaves
fewer than a fifth of the examples out, and with --fit all, 20% are held out from a clustering of their own (`refit.py`), with
the set's k, distance and seed: it measures how such a clustering generalises, and differs from the published one by a fifth of
its data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.extracted import locate
from clusterpaths.cache.fit_sample import SAMPLE_ROWS, draw_ids, fit_size
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.rows import LayerRows, stored_rows
from clusterpaths.clustering import kmeans
from clusterpaths.evaluation.refit import FEATURES, GRADED_LAYERS, refit_clustering
from clusterpaths.metrics.alignment import split_fit_eval
from clusterpaths.records import SetRecord
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage

SHARE = 0.2  # of the examples, held out
MIN_EVAL = 30  # held-out examples; fewer are not informative
MAX_EXAMPLES = 20_000
MAX_BYTES = 4 << 30  # of float32 activations of all layers, that clustering again may read
MIN_CAPPED = 2000  # examples even of a model with huge layers
RUN = 64  # consecutive examples that are sampled together: a chunk of the cache


@dataclass(frozen=True)
class Members:
    """n examples of a set, by the clustering that is measured.

    Attributes:
        positions: (n,) in the set, ascending.
        clusters: (n, L).
        distances: (n, L) to the own centroid.
    """

    positions: NDArray[np.int64]
    clusters: NDArray[np.int16]
    distances: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Features:
    """What deep k-NN and other baselines compare: rows of the last layer, projected where they are wide; graded paths.

    Attributes:
        positions: (n,) of the fit examples that are compared with, in the set.
        fit: (n, d).
        held_out: (m, d) of all held-out examples; None where their activations were not read.
        projection: (width, d) that makes them of the last layer's rows; the identity where these are narrow.
        graded: (n, g) of the fit examples: distances to all centroids of the last layers (`refit.GRADED_LAYERS`).
        graded_held_out: (m, g), or None, as `held_out`.
    """

    positions: NDArray[np.int64]
    fit: NDArray[np.float32]
    held_out: NDArray[np.float32] | None
    projection: NDArray[np.float32]
    graded: NDArray[np.float32]
    graded_held_out: NDArray[np.float32] | None


@dataclass(frozen=True)
class Split:
    """Fit and held-out examples, and centroids.

    Attributes:
        fit: examples that the clustering was fitted on.
        held_out: examples that it was not.
        refitted: layer -> (k, width) of a clustering that was refitted; None: the published one is measured.
        features: of the last layer.
    """

    fit: Members
    held_out: Members
    refitted: dict[str, NDArray[np.float32]] | None
    features: Features


@dataclass(frozen=True)
class Positions:
    """Positions in the set, ascending, and whether the held-out ones are held out from the published clustering."""

    fit: NDArray[np.int64]
    held_out: NDArray[np.int64]
    published: bool

    @property
    def sample(self) -> NDArray[np.int64]:
        """All of them, ascending."""
        return np.union1d(self.fit, self.held_out)


def choose_positions(published: PublishedSet, directory: Storage, seed: int) -> Positions:
    """Which examples are fit and which are held out, at most 20,000 of them; no activation is read."""
    record, ids = published.record, published.ids
    size = fit_size(max(record.k_per_layer.values()))  # a smaller sample is a part of the largest one
    fitted_all = record.config.get("fit") == "all"
    sampled = np.arange(len(ids)) if fitted_all else np.flatnonzero(np.isin(ids, draw_ids(ids, size)))
    if len(ids) - len(sampled) >= SHARE * len(ids):
        others = np.delete(ids, sampled)
        return Positions(sampled, np.searchsorted(ids, draw_ids(others, MAX_EXAMPLES)), published=True)
    sampled = sampled[with_activations(directory, ids[sampled])]
    limit = min(_row_limit(directory, record), MAX_EXAMPLES)
    if fitted_all:
        limit = min(limit, round(size / (1 - SHARE)))  # as many to fit as in a sample
    sample = sampled[sample_rows(len(sampled), limit, seed)]
    fit, held_out = split_fit_eval(len(sample), SHARE, seed)
    return Positions(sample[fit], sample[held_out], published=False)


def split_set(published: PublishedSet, directory: Storage, chosen: Positions, seed: int) -> Split:
    """The examples' clusters: from the set, or of a clustering fitted on the fit examples.

    Reads activations: of the last two layers of some fit examples, or of every layer of all these examples.

    Raises:
        CacheError, CorruptedShardError: the cache does not hold them.
    """
    if chosen.published:
        fit, held_out = (_members(published, positions) for positions in (chosen.fit, chosen.held_out))
        return Split(fit, held_out, None, _read_features(published, directory, chosen.fit, seed))
    sample = chosen.sample
    fit_rows, held_rows = (np.searchsorted(sample, positions) for positions in (chosen.fit, chosen.held_out))
    again = refit_clustering(directory, published.record, published.ids, sample, fit_rows, held_rows, seed)
    fit, held_out = (
        Members(sample[rows], again.clusters[rows], again.distances[rows]) for rows in (fit_rows, held_rows)
    )
    projection = np.eye(again.features.shape[1], dtype=np.float32) if again.projection is None else again.projection
    features = Features(
        chosen.fit,
        again.features[fit_rows],
        again.features[held_rows],
        projection,
        again.graded[fit_rows],
        again.graded[held_rows],
    )
    return Split(fit, held_out, again.centroids, features)


def sample_rows(n: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Up to about `limit` of n positions, ascending: all, or random runs of 64 that the cache reads at once."""
    if n <= limit:
        return np.arange(n)
    starts = np.random.default_rng([seed, 1]).permutation(-(-n // RUN))[: max(limit // RUN, 1)] * RUN
    return np.concatenate([np.arange(start, min(start + RUN, n)) for start in np.sort(starts)])


def _row_limit(directory: Storage, record: SetRecord) -> int:
    widths = sum(LayerRows(directory, layer, np.empty(0, np.int64)).width for layer in record.layers)
    return max(MIN_CAPPED, MAX_BYTES // (4 * widths))


def with_activations(directory: Storage, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) Of these examples. A cache of images lacks those that count for images of its sample which could not be read."""
    if require_manifest(directory).format != "none":
        return np.ones(len(ids), bool)
    shards = require_manifest(stored_rows(directory)).shards
    return locate([shard for shard in shards if shard.rows is not None], ids)[0] >= 0


def _members(published: PublishedSet, positions: NDArray[np.int64]) -> Members:
    return Members(positions, published.clusters[positions], published.distances[positions])


def _read_features(published: PublishedSet, directory: Storage, fit: NDArray[np.int64], seed: int) -> Features:
    """Of at most 2,048 of the fit examples; each row is read once."""
    ids, record = published.ids[fit], published.record
    ids = draw_ids(ids[with_activations(directory, ids)], SAMPLE_ROWS)
    width = LayerRows(directory, record.layers[-1], ids).width
    if width > FEATURES:
        projection = np.random.default_rng([seed, 2]).standard_normal((width, FEATURES), np.float32)
    else:
        projection = np.eye(width, dtype=np.float32)
    features, graded = read_features(published, directory, ids, projection)
    return Features(np.searchsorted(published.ids, ids), features, None, projection, graded, None)


def read_features(
    published: PublishedSet, directory: Storage, ids: NDArray[np.int64], projection: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Projected rows (n, d) of the last layer, and graded paths (n, g), of these (n,) ascending ids, from the cache."""
    record = published.record
    features, graded = np.empty((len(ids), projection.shape[1]), np.float32), []
    centroids = published.read_centroids()
    for layer in record.layers[-GRADED_LAYERS:]:
        rows = LayerRows(directory, layer, ids)
        compared = kmeans.comparable(centroids[layer], record.distance)
        graded.append(np.empty((len(ids), len(compared)), np.float32))
        for where, block in rows.blocks():
            graded[-1][where] = kmeans.graded(block, compared, record.distance)
            if layer == record.layers[-1]:
                features[where] = block @ projection
    return features, np.hstack(graded)

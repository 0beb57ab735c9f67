"""Out-of-distribution (OOD) scores: how far an example is from the data set's own. Higher is farther.

Belongs here: pure functions on cluster ids, distances to centroids, and class scores. The OOD score of the explorer, of
explanations, of path models (as ONNX nodes: `export/path_graph.py`) and of the evaluation is `DistanceScale.score`.
How well a score detects OOD examples is `detection.py`; the k-NN score is `neighbours.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.checks import Ints, require_equal_width, require_paths
from clusterpaths.metrics.paths import count_paths
from clusterpaths.models.outputs import Decisions
from clusterpaths.records import Distance

Floats = NDArray[np.floating[Any]]

SPREAD_FLOOR = (
    0.1  # of the layer's pooled spread: a cluster of near-duplicates must not make every new example an outlier
)
TINIEST_SPREAD = 1e-6  # a layer without any spread


@dataclass(frozen=True)
class DistanceScale:
    """Distances of the fit examples of each cluster from its centroid: for each layer (k,) float64 mean and spread."""

    means: tuple[NDArray[np.float64], ...]
    spreads: tuple[NDArray[np.float64], ...]

    def score(self, clusters: Ints, distances: Floats) -> NDArray[np.float64]:
        """(n,) OOD score: mean over layers of the distance, standardised within its own cluster; both are (n, layers)."""
        scores: NDArray[np.float64] = self.standardise(clusters, distances).mean(axis=1)
        return scores

    def standardise(self, clusters: Ints, distances: Floats) -> NDArray[np.float64]:
        """(n, layers): distances in standard deviations above the mean of their cluster.

        Raises:
            ValueError: shapes that do not match, or another number of layers.
        """
        _require_distances(clusters, distances)
        if clusters.shape[1] != len(self.means):
            raise ValueError(f"clusters should have {len(self.means)} layers, got {clusters.shape[1]} instead.")
        columns = [
            (distances[:, i].astype(np.float64) - self.means[i][clusters[:, i]]) / self.spreads[i][clusters[:, i]]
            for i in range(clusters.shape[1])
        ]
        return np.stack(columns, axis=1)


def scale_distances(clusters: Ints, distances: Floats, k: Sequence[int]) -> DistanceScale:
    """Mean and standard deviation of the distances in each cluster of each layer; inputs are (n, layers), n > 0.

    A standard deviation is at least a tenth of the layer's pooled one (root of the mean squared deviation from the own cluster's
    mean). A cluster with one example has no deviation of its own and gets the pooled one; an empty cluster also gets the
    layer's mean.

    Raises:
        ValueError: shapes that do not match, ids below 0, or no examples.
    """
    _require_distances(clusters, distances)
    if not len(clusters):
        raise ValueError("There should be at least one example to fit, got none.")
    means, spreads = [], []
    for i, num_clusters in enumerate(k):
        own, values = clusters[:, i], distances[:, i].astype(np.float64)
        sizes = np.bincount(own, minlength=num_clusters)  # (k,)
        mean = np.bincount(own, values, num_clusters) / np.maximum(sizes, 1)
        squares = np.bincount(own, (values - mean[own]) ** 2, num_clusters)
        pooled = float(np.sqrt(squares.sum() / len(own)))
        spread = np.where(sizes > 1, np.sqrt(squares / np.maximum(sizes, 1)), pooled)
        means.append(np.where(sizes > 0, mean, values.mean()))
        spreads.append(np.maximum(spread, max(SPREAD_FLOOR * pooled, TINIEST_SPREAD)))
    return DistanceScale(tuple(means), tuple(spreads))


def held_out_scores(
    clusters: Ints,
    distances: Floats,
    k: Sequence[int],
    distance: Distance,
    fitted: NDArray[np.bool_],
    held_out: Assigned | None = None,
) -> NDArray[np.float64]:
    """(n,) the OOD score that each example would have if it were held out: what a new example's score is compared with.

    An example that a centroid was fitted on is nearer to it than a new one is, the more so the smaller the cluster. So its
    distance is that to the centroid of the other fitted members, and mean and spread are those of the other members. Both
    follow exactly from the distances where the centroid is the mean of its members (for cosine, of their directions). This
    is the jackknife of conformal prediction (Vovk et al., Algorithmic Learning in a Random World, 2005; Barber et al., arXiv
    1905.02928). Nothing is known of a cluster without its only member: the member counts as the layer's farthest.

    Args:
        clusters: (n, layers), n > 0.
        distances: (n, layers) to the own centroid.
        k: clusters of each layer.
        distance: 1 - cosine, or Euclidean.
        fitted: (n, layers) whether the layer was fitted on the example.
        held_out: where each example is, if it is held out; if left out, its cluster stays the same.
    """
    _require_distances(clusters, distances)
    standardised = np.empty(clusters.shape)
    for i, num_clusters in enumerate(k):
        own, values = clusters[:, i], distances[:, i].astype(np.float64)
        far, alone = _without_itself(own, values, num_clusters, distance, fitted[:, i])
        sizes, sums, squares = (
            np.bincount(own, weights, num_clusters)[own] for weights in (None, values, values**2)
        )  # (n,) each, of its cluster
        others = np.maximum(sizes - 1, 1)
        mean = (sums - values) / others
        spread = np.sqrt(np.maximum((squares - values**2) / others - mean**2, 0))
        pooled = float(np.sqrt(np.square(values - sums / sizes).mean()))
        spread = np.maximum(np.where(sizes > 2, spread, pooled), max(SPREAD_FLOOR * pooled, TINIEST_SPREAD))
        standardised[:, i] = (far - mean) / spread
        standardised[alone, i] = standardised[~alone, i].max(initial=0)
    if held_out is not None:
        moved = held_out.clusters != clusters
        scale = scale_distances(clusters, distances, k)
        standardised[moved] = scale.standardise(held_out.clusters, held_out.distances)[moved]
    scores: NDArray[np.float64] = standardised.mean(axis=1)
    return scores


class Assigned(NamedTuple):
    """Of each example the clusters (n, layers) and the distances (n, layers) to their centroids."""

    clusters: Ints
    distances: Floats


def assign_held_out(
    distances: Floats, own: Ints, distance: Distance, fitted: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest centroid of each example if it were held out from its own, and the distance to it; (n,) each.

    A centroid is drawn to each example it was fitted on. Where activations are wide, some examples would be in another
    cluster without that, so clusters of fitted examples are not distributed as those of new ones.

    Args:
        distances: (n, k) to all centroids of a layer.
        own: (n,) the cluster it is in; one without any example is no other example's.
        distance: 1 - cosine, or Euclidean.
        fitted: (n,) whether the layer was fitted on the example.
    """
    n, k = distances.shape
    rows = np.arange(n)
    held_out = distances.astype(np.float64)
    held_out[:, np.bincount(own, minlength=k) == 0] = np.inf
    far, alone = _without_itself(own, held_out[rows, own], k, distance, fitted)
    held_out[rows, own] = np.where(alone & (len(np.unique(own)) > 1), np.inf, far)
    nearest = held_out.argmin(axis=1)
    return nearest, held_out[rows, nearest]


def _without_itself(
    own: Ints, values: NDArray[np.float64], k: int, distance: Distance, fitted: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distances (n,) to the centroid of the other fitted members of the cluster, and whether there is no other (n,)."""
    members = np.bincount(own[fitted], minlength=k)[own]
    alone = fitted & (members < 2)
    if distance == "euclidean":
        far = values * members / np.maximum(members - 1, 1)
    else:  # the directions sum up to a vector along the centroid, of the length of their cosines' sum
        cosines = 1 - values
        length = np.bincount(own[fitted], cosines[fitted], k)[own]
        rest = np.sqrt(np.maximum(length**2 - 2 * length * cosines + 1, np.finfo(np.float64).tiny))
        far = np.clip(1 - (length * cosines - 1) / rest, values, 2)
    return np.where(fitted & ~alone, far, values), alone


def overall_distance(distances: Floats) -> NDArray[np.float64]:
    """(n,) mean over layers of the distance, each layer in units of its own mean; `distances` is (n, layers).

    It orders examples by how typical they are of one path. A layer in which every distance is 0 is ignored.
    """
    scale = distances.sum(axis=0, dtype=np.float64) / max(len(distances), 1)
    result: NDArray[np.float64] = (distances / np.where(scale > 0, scale, 1.0)).mean(axis=1)
    return result


def path_rarity(fit_paths: Ints, paths: Ints) -> NDArray[np.float64]:
    """-log of each path's smoothed frequency in fit, in nats; (m,) of (m, L).

    Add-one smoothing (Laplace) over the p occupied paths and one more for all unseen ones:
    (count + 1) / (n + p + 1).

    Raises:
        ValueError: shapes that do not match, or ids below 0.
    """
    require_paths("fit_paths", fit_paths)
    require_paths("paths", paths)
    require_equal_width("fit_paths", fit_paths, "paths", paths)
    both = count_paths(np.concatenate([fit_paths, paths]))
    n = len(fit_paths)
    counts = np.bincount(both.of_example[:n], minlength=len(both.counts))
    rarity: NDArray[np.float64] = -np.log((counts[both.of_example[n:]] + 1) / (n + (counts > 0).sum() + 1))
    return rarity


def confidence_scores(decisions: Decisions) -> dict[str, NDArray[np.float64]]:
    """The OOD scores that need class scores of m examples only; each (m,). Empty where an example has no one class.

    "max softmax" is minus the largest probability (Hendrycks and Gimpel, arXiv 1610.02136), "max logit" minus the largest
    class score (Hendrycks et al., arXiv 1911.11132), "energy" minus the log of the summed exponentials (Liu et al., arXiv
    2010.03759). Where the model outputs no logits, the first one is all there is.
    """
    if decisions.probabilities is None or not (decisions.predictions >= 0).any():
        return {}
    largest = decisions.probabilities.max(axis=1)
    if decisions.energy is None:
        return {"max softmax": -largest}
    # log softmax = logit - energy
    return {"max softmax": -largest, "max logit": -decisions.energy - np.log(largest), "energy": -decisions.energy}


def _require_distances(clusters: Ints, distances: Floats) -> None:
    require_paths("clusters", clusters)
    if clusters.shape != distances.shape:
        raise ValueError(f"distances should be {clusters.shape} as clusters, got {distances.shape} instead.")

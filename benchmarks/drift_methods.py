"""The drift detectors that benchmarks/drift.py compares: cluster paths, and what a team would use without them.

Belongs here: what a detector sees of images, and its decision. Each corrects for its own number of tests with Holm's method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kstwo
from sklearn.decomposition import PCA

from clusterpaths.monitoring.two_sample import count_groups, draws_needed, g_test, holm
from clusterpaths.monitoring.verdict import Routes, detect

METHODS = ("cluster paths", "softmax", "PCA + KS, last layer", "PCA + KS, pixels")
COMPONENTS = 32  # as Rabanser, Günnemann and Lipton, Failing Loudly, NeurIPS 2019
Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Seen:
    """What detectors see of n images.

    Attributes:
        routes: of the path model; of a reference those of the set.
        confidence: (n,) largest class probability.
        predictions: (n,) class indices.
        features: (n, d) values of the last layer.
        pixels: (n, p) of the images, as the model takes them.
    """

    routes: Routes
    confidence: Rows
    predictions: NDArray[np.int64]
    features: Rows
    pixels: Rows

    def __len__(self) -> int:
        return len(self.predictions)

    def take(self, rows: NDArray[Any]) -> Self:
        """Of these images only."""
        routes = Routes(*(getattr(self.routes, name)[rows] for name in ("clusters", "ood_scores", "predictions")))
        return replace(
            self, routes=routes, **{name: getattr(self, name)[rows] for name in _ARRAYS}
        )  # fmt: skip

    def join(self, other: Seen) -> Self:
        """These images, then the others."""
        names = ("clusters", "ood_scores", "predictions")
        routes = Routes(*(np.concatenate([getattr(self.routes, name), getattr(other.routes, name)]) for name in names))
        return replace(
            self,
            routes=routes,
            **{name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _ARRAYS},
        )


_ARRAYS = ("confidence", "predictions", "features", "pixels")
Detector = Callable[[Seen, float, int], bool]  # of (window, alpha, seed)


def detectors(reference: Seen, layers: tuple[str, ...]) -> Mapping[str, Detector]:
    """By name, for one reference."""
    found: tuple[Detector, ...] = (
        lambda window, alpha, seed: detect(reference.routes, window.routes, layers, (), alpha, seed).drifted,
        lambda window, alpha, seed: _softmax(reference, window, alpha, seed),
        _pca_ks(reference.features, lambda seen: seen.features),
        _pca_ks(reference.pixels, lambda seen: seen.pixels),
    )
    return dict(zip(METHODS, found, strict=True))


def _softmax(reference: Seen, window: Seen, alpha: float, seed: int) -> bool:
    """Kolmogorov-Smirnov on the largest probability, and the predictions' counts."""
    counts = count_groups(reference.predictions, window.predictions)
    predictions = g_test(*counts, draws_needed(alpha, 2), np.random.default_rng(seed)).p_value
    confidence = ks_columns(reference.confidence[:, None], window.confidence[:, None])
    return min(holm([predictions, *confidence])) <= alpha


def _pca_ks(reference: Rows, of: Callable[[Seen], Rows]) -> Detector:
    """Kolmogorov-Smirnov on each principal component of the reference."""
    pca = PCA(min(COMPONENTS, *reference.shape), svd_solver="randomized", random_state=0).fit(reference)
    projected = pca.transform(reference)

    def found(window: Seen, alpha: float, _: int) -> bool:
        return min(holm(list(ks_columns(projected, pca.transform(of(window)))))) <= alpha

    return found


def ks_columns(reference: Rows, window: Rows) -> NDArray[np.float64]:
    """P-values of the two-sample Kolmogorov-Smirnov test of each column of (n, d) and (m, d): (d,), asymptotic as scipy's."""
    n, m = len(reference), len(window)
    order = np.argsort(np.concatenate([reference, window]), axis=0, kind="stable")
    steps = np.where(order < n, 1 / n, -1 / m)
    distance = np.abs(np.cumsum(steps, axis=0)).max(axis=0)
    p_values: NDArray[np.float64] = kstwo.sf(distance, np.round(n * m / (n + m)))
    return p_values

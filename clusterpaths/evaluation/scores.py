"""The OOD scores that are compared: those of paths, and those of the literature, fitted on the fit examples once.

Belongs here: which scores a set can have. They are computed by `metrics/ood.py`, `metrics/neighbours.py` and
`metrics/baselines.py`; how well they detect OOD images is measured in `probe.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.predictions import read_raw_rows
from clusterpaths.evaluation.split import Split
from clusterpaths.metrics.baselines import Mahalanobis, ViM, fit_mahalanobis, fit_vim
from clusterpaths.metrics.neighbours import nearest_neighbours
from clusterpaths.metrics.ood import DistanceScale, confidence_scores, path_rarity, scale_distances
from clusterpaths.models.outputs import Decisions
from clusterpaths.records import ModelOutputs
from clusterpaths.sets.columns import Classes
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage


@dataclass(frozen=True)
class Seen:
    """What the model makes of m images."""

    published: NDArray[np.int16]  # (m, L) paths by the set's centroids
    clusters: NDArray[np.int16]  # (m, L) by those of the clustering that is measured
    distances: NDArray[np.float32]  # (m, L) to the latter
    graded: NDArray[np.float32]  # (m, g) to all of the latter's centroids in the last layers
    features: NDArray[np.float32]  # (m, d)
    decisions: Decisions  # of m rows


@dataclass(frozen=True)
class OODScores:
    """Scores of images, by name; higher is farther from the set's own."""

    split: Split
    scale: DistanceScale
    mahalanobis: Mahalanobis | None
    vim: ViM | None

    def of(self, seen: Seen) -> dict[str, NDArray[np.float64]]:
        """(m,) each."""
        own, features = self.split.fit, seen.features
        scores = {
            "paths": self.scale.score(seen.clusters, seen.distances),
            "path rarity": path_rarity(own.clusters, seen.clusters),
            "deep k-NN": nearest_neighbours(self.split.features.fit, features)[1][:, -1],
        }
        if self.mahalanobis is not None:
            scores["Mahalanobis"] = self.mahalanobis.score(features)
        if self.vim is not None and seen.decisions.energy is not None:
            scores["ViM"] = self.vim.score(features, seen.decisions.energy)
        return scores | confidence_scores(seen.decisions)


def fit_scores(
    published: PublishedSet, directory: Storage, split: Split, predictions: Classes, outputs: ModelOutputs
) -> OODScores:
    """Fit them on the fit examples; of class scores, only logits are read.

    Args:
        published: the set.
        directory: its cache.
        split: with the fit examples.
        predictions: (n,) of all the set's examples, -1 for none.
        outputs: what the model's rows mean.
    """
    features, k = split.features, [published.record.k_per_layer[layer] for layer in published.record.layers]
    classes = predictions[features.positions]
    known, mahalanobis, vim = classes >= 0, None, None
    if known.any():
        mahalanobis = fit_mahalanobis(features.fit[known], classes[known])
        logits = read_raw_rows(directory, published.ids[features.positions]) if outputs.kind == "logits" else None
        if logits is not None:
            read = np.flatnonzero(np.isfinite(logits).all(axis=1))
            vim = fit_vim(features.fit[read], logits[read]) if len(read) else None
    return OODScores(split, scale_distances(split.fit.clusters, split.fit.distances, k), mahalanobis, vim)

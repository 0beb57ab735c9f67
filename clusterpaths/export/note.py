"""What a path model's file says of itself: its metadata, and the names of what it outputs.

Belongs here: the record and how it is read by whoever runs the file. Without onnx: a service imports this module. Writing
the file is `path_model.py`'s.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.export.path_predictions import PathPredictions
from clusterpaths.records import Distance, ModelIdentity, ModelOutputs, Record

PATH_MODEL_KEY = "clusterpaths.path_model"
PATH, DISTANCES, OOD_SCORE = "path", "distances", "ood_score"
QUANTILES = 1001  # of the held-out OOD scores: a percentile is exact to a tenth


class Reference(Record):
    """What is usual in the set: what an image's OOD score and path are compared with."""

    ood_scores: tuple[float, ...] = Field(
        description="quantiles of the OOD scores of the set's examples, each held out, at equal steps from 0 to 1; ascending"
    )
    paths: dict[str, int] = Field(description="each path that an example took, such as 0-1-4 -> number of examples")

    @cached_property
    def _scores(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.array(self.ood_scores), np.linspace(0, 100, len(self.ood_scores))

    def ood_percentile(self, score: float) -> float:
        """Percent of the set's examples, each held out, with a lower OOD score; between two quantiles on a line."""
        scores, percent = self._scores
        return float(np.interp(score, scores, percent))


def path_text(path: tuple[int, ...]) -> str:
    """0-1-4."""
    return "-".join(map(str, path))


class PathModelNote(Record):
    """Metadata of the file, under clusterpaths.path_model in its metadata."""

    version: int = 1
    set: str = Field(description="NAME/set_NN")
    fingerprint: str = Field(description="of the set")
    model: ModelIdentity
    dataset: str
    num_examples: int
    layers: tuple[str, ...] = Field(description="the columns of path and distances")
    k_per_layer: dict[str, int]
    distance: Distance
    rounded: tuple[str, ...] = Field(description="layers whose activations are rounded to float16, as the cache's were")
    outputs: dict[str, str] = Field(
        description="logits (where there are), path, distances, ood_score -> name in the graph"
    )
    output_kind: str = Field(default="", description="what the output logits holds, such as logits or probabilities")
    predictions: PathPredictions | None = Field(
        default=None, description="the decision that each path predicts; None: the model predicts no class"
    )
    names: dict[str, str] = Field(
        default_factory=dict,
        description="of clusters (conv3/2) and of paths (0-1-4) with one of their own, when exported",
    )
    created: str = Field(description="when the set was made; ISO time, UTC")
    meaning: ModelOutputs | None = Field(
        default=None,
        description="what the output logits means, with the set's class of each column; None: exported before that was recorded",
    )
    reference: Reference | None = Field(
        default=None, description="what is usual in the set; None: exported before that was recorded"
    )

"""What the path service answers, as JSON.

Belongs here: the records, and how one is made of what the path model says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from clusterpaths.models.outputs import labels_over_threshold
from clusterpaths.records import Record
from clusterpaths.report.numbers import verdict
from deployments.path_service.model import PathModel, Routed


class NamedClass(Record):
    """A class of the set."""

    index: int
    name: str


class ImageAnswer(Record):
    """What the path model says of one image."""

    id: str = Field(description="of its row in the prediction log")
    file: str = Field(description="file name, where the form gave one")
    image: str = Field(description="SHA-256 of its bytes")
    prediction: NamedClass | None = Field(description="none for a model without classes, or with several labels")
    confidence: float | None = Field(description="largest class probability")
    labels: tuple[str, ...] = Field(description="of a multi-label model: those at 0.5 or more, most probable first")
    probabilities: tuple[float, ...] = Field(description="of each class, in the order of `classes` at /")
    path: tuple[int, ...] = Field(description="one cluster per layer")
    path_name: str = Field(description="the name that a person gave this path; else empty")
    distances: tuple[float, ...] = Field(description="to the own centroid of each layer")
    ood_score: float = Field(
        description="mean over the layers, in standard deviations above the mean of the own cluster"
    )
    ood_percentile: float = Field(description="percent of the set's examples, each held out, with a lower OOD score")
    verdict: str = Field(description="typical, unusual (from 95%), very unusual (from 99%)")
    path_count: int = Field(description="examples of the set on this path; 0: never seen")
    path_prediction: NamedClass | None = Field(description="the class that the path predicts")
    contrary: bool = Field(description="whether the model predicts another class than its path")


class Answer(Record):
    """The answer to a request, images in its order."""

    set: str
    fingerprint: str
    logged: bool = Field(description="whether the images' rows are in the prediction log, safe from a crash")
    images: tuple[ImageAnswer, ...]


def describe(model: PathModel, routed: Routed, row_id: str, file: str, image: str) -> dict[str, object]:
    """The fields of an `ImageAnswer`."""
    percentile = model.reference.ood_percentile(routed.ood_score)
    expected = model.path_prediction(routed.path)
    probabilities = routed.probabilities
    over: Sequence[int] = ()
    if model.meaning.is_multi_label:
        over = labels_over_threshold(model.meaning, np.array(probabilities)).tolist()
    return {
        "id": row_id,
        "file": file,
        "image": image,
        "prediction": _named(model, routed.prediction),
        "confidence": max(probabilities) if probabilities else None,
        "labels": [model.class_name(index) for index in over],
        "probabilities": probabilities,
        "path": routed.path,
        "path_name": model.note.names.get("-".join(map(str, routed.path)), ""),
        "distances": routed.distances,
        "ood_score": routed.ood_score,
        "ood_percentile": percentile,
        "verdict": verdict(percentile),
        "path_count": model.path_count(routed.path),
        "path_prediction": None if expected is None else _named(model, expected),
        "contrary": expected is not None and routed.prediction >= 0 and expected != routed.prediction,
    }


def confidence(routed: Routed) -> float:
    """Largest probability; NaN: the model has none."""
    return max(routed.probabilities, default=math.nan)


def _named(model: PathModel, index: int) -> dict[str, object] | None:
    return {"index": index, "name": model.class_name(index)} if index >= 0 else None

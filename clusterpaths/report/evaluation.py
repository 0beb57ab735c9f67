"""The section of report.html with the metrics of a set.

Belongs here: from an `Evaluation` to named rows with their intervals, and a line that defines each number. The layout is
evaluation_section.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from clusterpaths.evaluation.record import Detection, Evaluation, Measure, OODDetection
from clusterpaths.metrics.alignment import SUFFIX_EXAMPLES
from clusterpaths.metrics.neighbours import NEIGHBOURS

SCORES = {
    "paths": "OOD score: mean over layers of the standardised distance to the centroid.",
    "path rarity": "How rare the path of the image is among the fit examples.",
    "deep k-NN": f"Distance to the {NEIGHBOURS}th nearest fit example in the last layer.",
    "Mahalanobis": "Mahalanobis distance to the nearest class mean in the last layer.",
    "ViM": "Virtual-logit matching: what principal components of the last layer leave out, minus the energy.",
    "max softmax": "Negative of the largest class probability.",
    "max logit": "Negative of the largest class score.",
    "energy": "Negative log-sum-exp of the class scores.",
}
SHORT_NAMES = {"crops of photographs": "photo crops"}  # kind of OOD images in metrics.json -> on pages
FPR95 = "Share of OOD images accepted at the threshold that accepts 95% of in-distribution images; lower is better."


@dataclass(frozen=True)
class Row:
    """One bar: a share, its interval, and a line that explains it; `own` is False for baselines."""

    name: str
    value: float
    low: float
    high: float
    n: int
    words: str = ""
    own: bool = True
    chance: float | None = None

    @property
    def interval(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True)
class Group:
    """A card; `terms` define the rows of this and similar cards."""

    title: str
    hint: str
    rows: tuple[Row, ...]
    terms: tuple[tuple[str, str], ...] = ()


def evaluation_rows(evaluation: Evaluation) -> tuple[Group, ...]:
    """All measures that have a value, in the order in which they are shown; empty groups are left out."""
    purity = {
        "labels": (evaluation.purity_labels, evaluation.chance_labels, "class given by the data set"),
        "predictions": (evaluation.purity_predictions, evaluation.chance_predictions, "class predicted by the model"),
    }
    rows = tuple(
        row if chance is None else replace(row, chance=chance, words=f"{words}; by chance {chance:.3f}")
        for name, (measure, chance, words) in purity.items()
        for row in _rows({name: (measure, words)})
    )
    hint = "Share of examples with the most frequent class of their path; by chance: with the classes permuted."
    found = [Group("Purity", hint, rows)]
    if alignment := evaluation.alignment:
        seen = "share whose path occurs among the fit examples; the others use " + (
            "back-off" if alignment.unseen == "back-off" else "the most similar paths"
        )
        own = _rows(
            {
                "decision alignment": (alignment.daf, f"over {alignment.paths:,} paths"),
                "on seen paths": (
                    alignment.daf_seen,
                    "the same, over examples whose path occurs among the fit examples",
                ),
                "coverage": (alignment.coverage, seen),
                "back-off": (
                    alignment.back_off,
                    f"by the longest end of the path that at least {SUFFIX_EXAMPLES} fit examples took",
                ),
                "graded path": (
                    alignment.graded,
                    f"by {alignment.graded_values:,} distances to the centroids of the last layers, with a logistic regression",
                ),
            }
        )
        baselines = _rows(
            {
                "deep k-NN": (
                    alignment.deep_knn,
                    f"baseline: vote of {NEIGHBOURS} nearest neighbours in the last layer",
                ),
                "majority": (alignment.majority, "baseline: always the most frequent prediction"),
            },
            own=False,
        )
        hint = "Share of held-out examples whose prediction is the most frequent one of their path."
        found.append(Group("Decision alignment", hint, own + baselines))
    found += _interventions(evaluation)
    paths = {one.name: (one.paths, "") for one in evaluation.perturbations}
    hint = "Share of examples whose path is unchanged when the image is perturbed."
    found.append(Group("Path agreement", hint, _rows(paths)))
    predictions = {one.name: (one.predictions, "") for one in evaluation.perturbations}
    hint = "Share of examples whose prediction is unchanged on the same perturbed images."
    found.append(Group("Prediction agreement", hint, _rows(predictions, own=False)))
    for at, detection in enumerate(evaluation.strangers):
        hint = f"AUROC: probability that one of {detection.num_images:,} OOD images scores higher than an in-distribution one."
        if detection.num_sources:
            hint += f" Intervals are by photograph: {detection.num_sources:,}."
        rows = tuple(row for score in detection.scores for row in _score(score))
        terms = () if at else _terms(detection)  # once is enough
        title = f"OOD detection: {SHORT_NAMES.get(detection.name, detection.name)}"
        found.append(Group(title, hint, rows, terms))
    return tuple(group for group in found if group.rows)


def _interventions(evaluation: Evaluation) -> list[Group]:
    """What happens to the decision when a layer's values are moved to another cluster, or forgotten."""
    steered = tuple(
        replace(
            row,
            chance=one.random.value,
            words=f"random vector {one.random.value:.3f}, another example's values {one.patched.value:.3f}, "
            f"unchanged {one.before.value:.3f}{_past(one.bypassed)}",
        )
        for one in evaluation.steering
        for row in _rows({one.layer: (one.steered, "")})
    )
    unchanged = tuple(
        replace(
            row,
            chance=one.mean.value,
            words=f"by its clusters in all layers from here on {one.onwards.value:.3f}; by the mean of all examples "
            f"{one.mean.value:.3f}{_past(one.bypassed)}",
        )
        for one in evaluation.necessity
        for row in _rows({one.layer: (one.cluster, "")})
    )
    steering = (
        "Share of held-out examples that the model decides as most of another cluster's examples, when the difference "
        "of the two clusters' means is added to their values in this layer; dotted: a random vector of equal length."
    )
    necessity = (
        "Share of held-out examples whose decision stays when their values in this layer are replaced by the mean of their "
        "cluster: all but the cluster is forgotten; dotted: by the mean of all examples."
    )
    return [
        Group("Steering", steering, steered),
        Group("Decisions unchanged with the cluster only", necessity, unchanged),
    ]


def _past(bypassed: bool) -> str:
    return "; a skip connection goes past the layer" if bypassed else ""


def _terms(detection: OODDetection) -> tuple[tuple[str, str], ...]:
    measured = {score.score for score in detection.scores}
    return (*((name, words) for name, words in SCORES.items() if name in measured), ("FPR95", FPR95))


def _rows(measures: Mapping[str, tuple[Measure | None, str]], own: bool = True) -> tuple[Row, ...]:
    return tuple(Row(name, m.value, m.low, m.high, m.n, words, own) for name, (m, words) in measures.items() if m)


def _score(score: Detection) -> tuple[Row, ...]:
    words = f"FPR95 {score.fpr95.value:.3f} ({score.fpr95.low:.3f} to {score.fpr95.high:.3f})"
    rows = _rows({score.score: (score.auroc, words)}, own=score.score.startswith("path"))
    return tuple(replace(row, chance=0.5) for row in rows)

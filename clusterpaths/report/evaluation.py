"""The section of report.html on what the paths are worth.

Belongs here: from an `Evaluation` to named rows with their intervals, and what each number means in a line of plain
words. Looks: evaluation_section.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterpaths.evaluation.record import Detection, Evaluation, Measure, OODDetection
from clusterpaths.metrics.neighbours import NEIGHBOURS

SCORES = {
    "paths": "How far an image lies from the centroids on its path, for a member of those clusters.",
    "path rarity": "How rare its path is among the examples to fit.",
    "deep k-NN": f"How far the {NEIGHBOURS}th nearest example to fit is in the last layer.",
    "max softmax": "How unsure the model is: its largest probability, turned around.",
    "energy": "How small all class scores are together.",
}
FPR95 = "The share of other images that pass as own where the score lets 95% of own ones pass; smaller is better."


@dataclass(frozen=True)
class Row:
    """One bar: a share, its interval as text and as the bar's ends, and a line of words; own is not a baseline."""

    name: str
    value: float
    low: float
    high: float
    n: int
    words: str = ""
    own: bool = True

    @property
    def interval(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True)
class Group:
    """A card; `chance` is where a score that knows nothing would be, `terms` explain the rows of it and its like."""

    title: str
    hint: str
    rows: tuple[Row, ...]
    chance: float | None = None
    terms: tuple[tuple[str, str], ...] = ()


def evaluation_rows(evaluation: Evaluation) -> tuple[Group, ...]:
    """All measures that have a value, in the order in which they are shown; empty groups are left out."""
    purity = {
        "labels": (evaluation.purity_labels, "the class that the data set gives"),
        "predictions": (evaluation.purity_predictions, "the class that the model gives"),
    }
    found = [Group("Purity", "Share of examples with the most frequent class of their path.", _rows(purity))]
    if alignment := evaluation.alignment:
        seen = "the share whose path some example to fit takes; others are told from the nearest paths"
        own = _rows(
            {
                "decision alignment": (alignment.daf, f"over {alignment.paths:,} paths"),
                "on seen paths": (alignment.daf_seen, "the same, only of those on a path that was seen"),
                "coverage": (alignment.coverage, seen),
            }
        )
        baselines = _rows(
            {
                "deep k-NN": (alignment.deep_knn, f"baseline: vote of the {NEIGHBOURS} nearest in the last layer"),
                "majority": (alignment.majority, "baseline: always the most frequent decision"),
            },
            own=False,
        )
        hint = "Share of examples kept aside whose decision is the most frequent one of their path."
        found.append(Group("Decision alignment", hint, own + baselines))
    kept = {one.name: (one.paths, "") for one in evaluation.perturbations}
    found.append(Group("Whole paths kept", "Share that keep every cluster when their image is changed.", _rows(kept)))
    decided = {one.name: (one.predictions, "") for one in evaluation.perturbations}
    hint = "Share that keep the model's decision on the same changed images."
    found.append(Group("Decisions kept", hint, _rows(decided, own=False)))
    for at, strangers in enumerate(evaluation.strangers):
        hint = f"AUROC: how often one of {strangers.num_images:,} other images looks stranger than an own one."
        rows = tuple(row for score in strangers.scores for row in _score(score))
        terms = () if at else _terms(strangers)  # once is enough
        found.append(Group(f"Told apart: {strangers.name}", hint, rows, 0.5, terms))
    return tuple(group for group in found if group.rows)


def _terms(detection: OODDetection) -> tuple[tuple[str, str], ...]:
    measured = {score.score for score in detection.scores}
    return (*((name, words) for name, words in SCORES.items() if name in measured), ("FPR95", FPR95))


def _rows(measures: Mapping[str, tuple[Measure | None, str]], own: bool = True) -> tuple[Row, ...]:
    return tuple(Row(name, m.value, m.low, m.high, m.n, words, own) for name, (m, words) in measures.items() if m)


def _score(score: Detection) -> tuple[Row, ...]:
    words = f"FPR95 {score.fpr95.value:.3f} ({score.fpr95.low:.3f} to {score.fpr95.high:.3f})"
    return _rows({score.score: (score.auroc, words)}, own=score.score.startswith("path"))

"""comparison_with_….json: what changed from one set to another.

Belongs here: the record and its parts. `compare.py` creates it, `report/comparison.py` renders it.
"""

from __future__ import annotations

from pydantic import Field

from clusterpaths.evaluation.record import Measure
from clusterpaths.records import Distance, ModelIdentity, Record

Interval = tuple[float, float]


class Side(Record):
    """One of the two sets."""

    name: str = Field(description="NAME/set_NN")
    model: ModelIdentity
    k_per_layer: dict[str, int]
    distance: Distance
    seed: int
    num_examples: int
    created: str
    paths: int | None = Field(
        default=None, description="occupied ones; None, as below, in comparisons from before that"
    )
    purity_labels: float | None = None
    purity_predictions: float | None = None
    chance_labels: float | None = Field(default=None, description="purity_labels with the labels permuted")
    chance_predictions: float | None = None
    alignment: Measure | None = Field(
        default=None, description="decision alignment on held-out examples, where measured"
    )
    singletons: int | None = Field(default=None, description="examples that are the only one on their path")
    purity_labels_interval: Interval | None = Field(default=None, description="95%, where measured")
    purity_predictions_interval: Interval | None = None
    accuracy: Measure | None = Field(
        default=None, description="share of labelled examples whose prediction is their label"
    )
    path_agreement: dict[str, Measure] = Field(
        default={}, description="of each perturbation: share of images whose path is unchanged"
    )
    ood: dict[str, Measure] = Field(
        default={}, description="of each kind of OOD images: AUROC of the OOD score of the paths"
    )


class ClusterMatch(Record):
    """A cluster of the first set and the one of the second that corresponds to it; None: there is none."""

    first: int | None
    second: int | None
    shared: int = Field(description="common examples in both; 0 where one is None")
    size_first: int = Field(description="common examples")
    size_second: int


class LayerComparison(Record):
    """One layer."""

    layer: str
    shared_information: float | None = Field(
        default=None,
        description="adjusted mutual information; needs no matching and no equal k; 0: as by chance, 1: the same",
    )
    adjusted_rand: float = Field(description="needs no matching; 1: the same up to names, 0: as by chance")
    agreement: float = Field(description="share of examples whose cluster is unchanged after matching")
    agreement_interval: Interval = Field(description="95%, Wilson")
    matches: tuple[ClusterMatch, ...] = Field(
        description="clusters of the first by id, then unmatched ones of the second"
    )
    majority_first: tuple[str | None, ...] = Field(
        default=(), description="most frequent class of each cluster of the first, by id; None: not known"
    )
    majority_second: tuple[str | None, ...] = ()


class ExampleChange(Record):
    """One example on both sides."""

    id: int
    file: str
    layers_changed: int
    path_first: tuple[int, ...]
    path_second: tuple[int, ...]
    path_renamed: tuple[int, ...] = Field(description="path_second in the first's names; -1: no counterpart")
    label: int = Field(description="index into label_names, or into class_names where that is empty; -1: none")
    prediction_first: int
    prediction_second: int


class DecisionCount(Record):
    """Examples that the first model gives one class and the second another, or the same."""

    first: int
    second: int
    count: int
    examples: tuple[ExampleChange, ...] = Field(default=(), description="of changed decisions, the lowest ids")


class Decisions(Record):
    """Changes of predictions, over examples with a prediction on both sides."""

    num_examples: int
    changed: int
    changed_interval: Interval = Field(description="of the share, 95%, Wilson")
    num_labelled: int = Field(description="0 if labels and predictions have different classes")
    right_first: int = Field(description="correct predictions of the labelled")
    right_second: int
    counts: tuple[DecisionCount, ...] = Field(description="pairs that occur, changed ones first, most frequent first")


class PathCount(Record):
    """One of the largest paths of a side."""

    path: tuple[int, ...] = Field(description="in the side's own ids")
    renamed: tuple[int, ...] = Field(description="in the first's names; -1: no counterpart")
    count: int


class Migration(Record):
    """Examples between the largest paths of both sides; the last row and column are all other paths."""

    first: tuple[PathCount, ...]
    second: tuple[PathCount, ...]
    counts: tuple[tuple[int, ...], ...]


class Comparison(Record):
    """What changed from `first` to `second`, over the examples and layers that both have.

    Intervals treat the examples as a random sample and both clusterings as fixed: they do not cover the variation between
    seeds.
    """

    version: int = 1
    first: Side
    second: Side
    same_model: bool
    num_examples: int = Field(description="in both")
    only_first: int
    only_second: int
    layers: tuple[LayerComparison, ...] = Field(description="in both, in the first's order")
    layers_only_first: tuple[str, ...]
    layers_only_second: tuple[str, ...]
    path_agreement: float = Field(description="share of examples whose path is unchanged in all layers after matching")
    path_agreement_interval: Interval = Field(description="95%, Wilson")
    paths_kept: int = Field(description="examples")
    layers_kept: float = Field(description="mean share of an example's layers whose cluster is unchanged")
    changed_layers: tuple[int, ...] = Field(description="examples with 0, 1, … all layers changed")
    path_adjusted_rand: float = Field(description="of complete paths as one partition; needs no matching")
    moved: tuple[ExampleChange, ...] = Field(description="most layers changed first, then nearest to their centroids")
    classes: tuple[str, ...] = Field(
        default=(),
        description="of the first set's predictions, or labels where it has none: the most frequent first, which colours follow",
    )
    class_names: tuple[str, ...]
    label_names: tuple[str, ...] = Field(
        default=(), description="names of labels if their classes differ from a side's predictions"
    )
    decisions: Decisions | None = Field(description="None if a side has no predictions")
    migration: Migration
    created: str = Field(description="ISO time, UTC")

    @property
    def same_k(self) -> bool:
        """Whether every layer has as many clusters on both sides. Else paths differ whatever the model does."""
        return all(self.first.k_per_layer[x.layer] == self.second.k_per_layer[x.layer] for x in self.layers)

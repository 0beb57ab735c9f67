"""The explanation of one image: the record and its parts.

Belongs here: the fields of a document that is written and sent. `explain.py` creates it from the records of `explore/`,
`report/explanation.py` renders it.
"""

from __future__ import annotations

from pydantic import Field

from clusterpaths.records import ModelIdentity, Record


class ClassScore(Record):
    """A class and the probability that the model gives it (several labels have one each)."""

    index: int
    name: str
    probability: float


class MajorityClass(Record):
    """The most frequent class on a path, and its share of those examples there whose class is known."""

    index: int
    name: str
    share: float
    of: int


class ExampleNote(Record):
    """One example of the set; classes by name, None where not known."""

    id: int
    file: str
    label: str | None
    prediction: str | None


class LayerExplanation(Record):
    """Where the image went in one layer."""

    layer: str
    cluster: int
    name: str = Field(default="", description="of the cluster; empty: it has none")
    distance: float = Field(description="to the cluster's centroid, as in paths.parquet")
    standardised: float = Field(description="spreads above the mean of the cluster's examples")
    cluster_count: int = Field(description="examples of the set in this cluster")
    exemplars: tuple[ExampleNote, ...] = Field(description="nearest to the centroid first")


class PathNote(Record):
    """One path that examples of the set took."""

    path: tuple[int, ...]
    hamming: int = Field(description="layers in which it differs from the image's path")
    count: int
    majority_predictions: MajorityClass | None
    majority_labels: MajorityClass | None
    exemplars: tuple[ExampleNote, ...]


class SuffixNote(Record):
    """The end of a path, in the last layers, that examples of the set took."""

    path: tuple[int, ...] = Field(description="its clusters in the last layers")
    majority_predictions: MajorityClass


class DecisionChange(Record):
    """A shift of the image's values in one layer, towards another cluster, that changes the decision."""

    layer: str
    source: int = Field(description="the image's cluster in the layer")
    target: int = Field(description="the cluster that it is moved to")
    target_name: str = Field(default="", description="of that cluster; empty: it has none")
    amount: float = Field(description="share of the way, 0 to 1, at which the decision becomes another one")
    prediction: str = Field(description="the class that is decided there")
    at_target: str = Field(description="the class that is decided at the end of the way")
    path: tuple[int, ...] = Field(description="at the end of the way")
    exemplars: tuple[ExampleNote, ...] = Field(description="of the target, nearest to its centroid first")


class Counterfactual(Record):
    """The nearest other path that changes the decision, found by running the model with values moved to it."""

    nearest: DecisionChange | None = Field(description="with the smallest amount; None: no other cluster changes it")
    changes: tuple[DecisionChange, ...] = Field(description="the nearest one of each layer, in order of layers")
    asked: tuple[str, ...] = Field(description="layers whose values were moved")


class Explanation(Record):
    """The explanation of one image by a set."""

    image: str
    set: str = Field(description="NAME/set_NN")
    model: ModelIdentity
    num_examples: int
    prediction: ClassScore | None = Field(description="None: the model has no class scores, or is multi-label")
    labels: tuple[str, ...] = Field(
        default=(), description="of a multi-label model: those over 0.5, most probable first"
    )
    classes: tuple[ClassScore, ...] = Field(description="most probable first")
    path: tuple[int, ...]
    path_name: str = Field(default="", description="the path's name, or those of its clusters read as words")
    layers: tuple[LayerExplanation, ...]
    count: int = Field(description="examples of the set on the same path")
    share: float
    rank: int | None = Field(description="1: no path is more frequent; None: no example took it")
    occupied: int = Field(description="different paths in the set")
    own: PathNote | None = Field(description="the path's examples; None: there are none")
    similar: PathNote | None = Field(description="if there are none: the most similar path, then the most frequent")
    suffix: SuffixNote | None = Field(
        default=None,
        description="if there are none, and that predicts decisions better than the most similar path: the longest end of the "
        "path that at least 8 examples took",
    )
    ood_score: float = Field(description="mean over layers of the standardised distance")
    ood_percentile: float = Field(description="percent of the set's examples, each held out, with a lower score")
    other: PathNote | None = Field(description="the most similar path with another prediction")
    counterfactual: Counterfactual | None = Field(
        default=None, description="None: the set has no means of its clusters, or the model decides on no one class"
    )
    looks_alike: tuple[ExampleNote, ...] = Field(
        default=(), description="nearest in the first layer, by its map; empty: the set has no maps"
    )
    decided_alike: tuple[ExampleNote, ...] = Field(default=(), description="nearest in the last layer, by its map")
    warnings: tuple[str, ...] = ()

"""Examples, classes, clusters and paths as frozen records: the same for the JSON of /api/v1, for the pages, for
report.html and for explanations.

Belongs here: the fields. The other modules of this package create them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from clusterpaths.explore.ranges import MOST_REGIONS, parse_layer_range, parse_range, parse_region
from clusterpaths.records import Distance, Record

Source = Literal["predictions", "labels"]
Order = Literal["id", "rare", "common", "near", "far", "strange", "unsure"]
Exemplars = Literal["nearest", "farthest", "random"]
Interval = tuple[float, float]


class SetSummary(Record):
    """Summary of one set."""

    model: str = Field(description="directory in the results directory")
    set: str
    num_examples: int
    layers: tuple[str, ...]
    k_per_layer: dict[str, int]
    distance: Distance | None = Field(description="None: not recorded")
    dataset: str = Field(description="empty: not recorded, and no images")
    data_set_title: str = Field(default="", description="name of the data set; empty: none, as of a directory")
    model_file: str
    created: str = Field(description="ISO time, UTC; empty: not recorded")
    version: str = Field(description="changes when the set is replaced; for caches of its answers")


class ModelSummary(Record):
    """One model's directory."""

    name: str
    sets: tuple[SetSummary, ...] = Field(description="complete ones, by number")
    problems: tuple[str, ...] = Field(default=(), description="sets that cannot be shown, and why")


class ClassShare(Record):
    """One class within a group; the share is of those in the group whose class is known."""

    index: int
    name: str
    count: int
    share: float

    @property
    def known(self) -> int:
        """How many in the group have a class that is known; count > 0."""
        return round(self.count / self.share)


class Lift(Record):
    """How much more frequent a class or attribute is within a group than outside it.

    The ratio of the two shares, with Katz's interval on the logarithm (Katz, Baptista, Azen and Pike, Obtaining
    Confidence Intervals for the Risk Ratio in Cohort Studies, Biometrics 34, 1978). If it is absent in the group or
    outside, one end is exact instead (Przyborowski and Wilenski, Homogeneity of Results in Testing Samples from
    Poisson Series, Biometrika 31, 1940) and the other is 0 or open.
    """

    kind: Literal["prediction", "label", "attribute", "split", "cluster"]
    name: str = Field(description="of a cluster: LAYER:CLUSTER")
    count: int = Field(description="in the group")
    known: int = Field(description="in the group, where it is known")
    share: float
    share_outside: float
    lift: float | None = Field(description="None: absent outside")
    interval: tuple[float, float | None] = Field(
        description="95% jointly with all others of the table (Bonferroni); lower end 0: absent in the group; "
        "upper end None: unbounded, absent outside"
    )
    clear: bool = Field(description="the interval excludes 1")


class ExampleRow(Record):
    """One example; classes by name, None where not known."""

    id: int
    file: str = Field(description="empty: the set has no images")
    split: str
    label: str | None
    prediction: str | None
    right: bool | None = Field(description="None: not known, or labels are other classes than predictions")
    path: tuple[int, ...]
    path_count: int = Field(description="examples of the set on the same path")
    ood_score: float | None
    distance: float | None = Field(
        default=None,
        description="to the centroid of the selected cluster; of a path: mean over layers, each in units of its own mean",
    )


class ExamplePage(Record):
    """A piece of a selection."""

    total: int
    limit: int
    offset: int
    examples: tuple[ExampleRow, ...]


class ClusterInfo(Record):
    """Summary of one cluster."""

    layer: str
    cluster: int
    count: int
    share: float
    majority: ClassShare | None = Field(description="of predictions, else of labels; None: neither is known")


class Transition(Record):
    """Examples that go from one cluster to one of the next layer."""

    layer: str
    cluster: int
    next_layer: str
    next_cluster: int
    count: int
    majority: ClassShare | None


class Routes(Record):
    """The Sankey: all clusters, and the examples between those of neighbouring layers."""

    source: Source | None = Field(description="of the majority classes; None: no class is known")
    num_examples: int
    layers: tuple[str, ...]
    clusters: tuple[ClusterInfo, ...] = Field(description="by layer, then number; empty ones too")
    transitions: tuple[Transition, ...] = Field(description="by layer, then clusters; only those that occur")
    classes: tuple[ClassShare, ...] = Field(description="of all examples, most frequent first: the colours' order")


class PathSummary(Record):
    """Summary of one cluster path."""

    path: tuple[int, ...]
    count: int
    share: float
    rank: int = Field(description="1: no path is more frequent")
    prediction: ClassShare | None = Field(description="the most frequent one")
    label: ClassShare | None
    exemplars: tuple[ExampleRow, ...] = Field(description="nearest to their centroids over all layers")


class ClusterDetail(Record):
    """Details of one cluster."""

    info: ClusterInfo
    mean_distance: float | None
    predictions: tuple[ClassShare, ...] = Field(description="most frequent first")
    labels: tuple[ClassShare, ...]
    right: ClassShare | None = Field(description="index 1, name right: correct predictions")
    lifts: tuple[Lift, ...] = Field(description="clear ones first, largest lift first; then the others")
    nearest: tuple[ExampleRow, ...]
    farthest: tuple[ExampleRow, ...]
    random: tuple[ExampleRow, ...] = Field(description="the same for every request")
    arrivals: tuple[Transition, ...] = Field(description="from the previous layer, most frequent first")
    departures: tuple[Transition, ...] = Field(description="to the next layer, most frequent first")
    paths: tuple[PathSummary, ...] = Field(description="the most frequent ones through it")


class PathPage(Record):
    """A piece of the list of paths."""

    total: int
    limit: int
    offset: int
    paths: tuple[PathSummary, ...]


class PathDetail(Record):
    """Details of one path; `Question.path` selects its examples."""

    summary: PathSummary
    predictions: tuple[ClassShare, ...]
    labels: tuple[ClassShare, ...]
    right: ClassShare | None
    agreement_interval: Interval | None = Field(description="of the most frequent prediction's share, 95%, Wilson")
    lifts: tuple[Lift, ...]
    clusters: tuple[ClusterInfo, ...] = Field(description="one per layer")
    similar: tuple[PathSummary, ...] = Field(description="paths that differ in one layer, most frequent first")


class Median(Record):
    """The median of a group's values."""

    value: float
    interval: Interval | None = Field(
        description="95%, between order statistics; None: of fewer than 6 values there is none"
    )
    count: int = Field(description="values in the group")


class ClassPair(Record):
    """Examples with one label and one prediction."""

    label: str
    prediction: str
    count: int
    right: bool | None = Field(description="None: labels are other classes than predictions")


class PathShare(Record):
    """One path within a selection."""

    path: tuple[int, ...]
    count: int = Field(description="in the selection")
    share: float = Field(description="of the selection")
    path_count: int = Field(description="in the set")


class SelectionSummary(Record):
    """What the examples of a selection have in common, and how they differ from the rest of the set.

    What was selected by is left out of the lifts, as it says nothing: the classes of a selection by class, and so on.
    """

    total: int
    share: float = Field(description="of the set")
    predictions: tuple[ClassShare, ...] = Field(description="most frequent first")
    labels: tuple[ClassShare, ...]
    right: ClassShare | None = Field(description="index 1, name right: correct predictions")
    pairs: tuple[ClassPair, ...] = Field(
        description="labels and predictions: incorrect ones first, most frequent first; at most 200"
    )
    compared: int = Field(
        description="other examples, that lifts and OOD scores compare with: all, or those for which right or label is known"
    )
    lifts: tuple[Lift, ...] = Field(description="of classes, attributes and splits; as of a cluster")
    clusters: tuple[Lift, ...] = Field(description="of the clusters of all layers, in the same order")
    ood: Median | None = Field(description="OOD scores; None without distances, and for an empty selection")
    ood_outside: Median | None = Field(description="of the other examples that are compared with")
    paths: tuple[PathShare, ...] = Field(description="the most frequent ones")


class ExampleLayer(Record):
    """Where an example went in one layer."""

    layer: str
    cluster: int
    cluster_count: int
    distance: float | None
    standardised: float | None = Field(description="spreads above the mean of the cluster's examples")
    percentile: float | None = Field(description="percent of the cluster's examples that are nearer")


class Neighbour(Record):
    """A similar example."""

    example: ExampleRow
    layers_shared: int
    difference: float = Field(description="of the standardised distances to the centroids, Euclidean over layers")


class Alike(Record):
    """An example that is near another one."""

    example: ExampleRow
    distance: float = Field(description="1: as far as an example's nearest neighbour typically is, in the same layers")


class LayerWeight(Record):
    """A layer's share of a distance."""

    layer: str
    weight: float


class AlikePage(Record):
    """The examples nearest to one, at one depth of the network."""

    id: int
    depth: float = Field(description="0: by the first layer (looks alike), 1: by the last one (decided alike)")
    layers: tuple[LayerWeight, ...] = Field(description="the one or two layers at that depth; weights sum to 1")
    examples: tuple[Alike, ...] = Field(description="nearest first, then lower id")


class ExampleDetail(Record):
    """Details of one example."""

    example: ExampleRow
    layers: tuple[ExampleLayer, ...]
    path: PathSummary
    ood_score: float | None = Field(description="mean over layers of the standardised distance")
    ood_percentile: float | None = Field(description="percent of the set's examples, each held out, with a lower score")
    attributes: dict[str, bool] = Field(description="those that are known")
    probabilities: tuple[ClassShare, ...] = Field(description="as share, count 0; most probable first, ten")
    neighbours: tuple[Neighbour, ...] = Field(
        description="most layers shared, then smallest difference; none without distances"
    )


class Choices(Record):
    """Available filter values of a set."""

    predictions: tuple[str, ...]
    labels: tuple[str, ...]
    attributes: tuple[str, ...]
    splits: tuple[str, ...]
    layers: dict[str, int] = Field(description="layer -> k")
    can_be_right: bool
    confidence: bool = Field(description="whether probabilities are stored, so that confidence can be asked for")
    maps: bool = Field(description="whether there are maps of the layers, so that within can be asked for")


class Question(Record):
    """A selection of examples. All given filters must hold; fields are URL parameters."""

    prediction: tuple[str, ...] = Field(default=(), description="one of these classes, by name")
    label: tuple[str, ...] = Field(default=(), description="one of these classes; none: those without a label")
    right: Literal["right", "wrong"] | None = Field(default=None, description="whether the prediction is correct")
    attribute: tuple[str, ...] = Field(default=(), description="all of these: Smiling, or -Smiling for those without")
    split: tuple[str, ...] = Field(default=(), description="one of these parts of the data set")
    path: str = Field(default="", description="cluster ids from the first layer on, 3-2 or 3-2-1-0-4; * for any")
    cluster: tuple[str, ...] = Field(
        default=(), description="in each layer one of its clusters listed here: LAYER:CLUSTER, such as conv1:3"
    )
    ood: str = Field(default="", description="OOD score in this range: LOW..HIGH; either end may be left out")
    confidence: str = Field(
        default="", description="probability of the predicted class in this range, 0 to 1: LOW..HIGH"
    )
    distance: tuple[str, ...] = Field(
        default=(), description="distance to the own centroid in all of these ranges: LAYER:LOW..HIGH"
    )
    within: tuple[str, ...] = Field(
        default=(),
        description="inside all of these regions of layers' maps, at most 8, polygons of 3 to 64 corners: LAYER:x,y;x,y;x,y; "
        "on a map by UMAP LAYER:umap;x,y;x,y;x,y",
    )
    id: tuple[int, ...] = Field(default=(), description="one of these ids")
    order: Order = Field(
        default="id",
        description="id, rare or common (paths), near or far (from the centroids), strange (OOD score, highest first), "
        "unsure (confidence, lowest first)",
    )

    @field_validator("ood", "confidence")
    @classmethod
    def _is_range(cls, value: str) -> str:
        if value:
            parse_range(value)
        return value

    @field_validator("distance")
    @classmethod
    def _are_ranges(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            parse_layer_range(value)
        return values

    @field_validator("within")
    @classmethod
    def _are_regions(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(values) > MOST_REGIONS:
            raise ValueError(f"Expected at most {MOST_REGIONS} regions, here are {len(values)}; take some out")
        for value in values:
            parse_region(value)
        return values

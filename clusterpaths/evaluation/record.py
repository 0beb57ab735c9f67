"""Records of metrics.json: what `evaluate.py` measures.

Belongs here: the records, and when a stored one is still valid. A measure without a value is left out, with a note on why.
"""

from __future__ import annotations

from pydantic import Field, ValidationError

from clusterpaths.metrics.alignment import UnseenRule
from clusterpaths.records import Record
from clusterpaths.sets.directory import SetDirectory

# Raised when a definition changes. 2: the OOD score of small clusters; 3: held out from the published clustering; 4: OOD
# images drawn at random, intervals by photograph, back-off and graded paths, more OOD scores to compare with; 5: interventions.
VERSION = 5
METRICS = "metrics.json"


class Measure(Record):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float
    n: int = Field(description="examples it is measured on")


class Complexity(Record):
    """How many paths the set has; of all its examples, so nothing is estimated."""

    occupied: int
    covering: int = Field(description="of the most frequent paths, those that hold 95% of the examples")
    entropy: float = Field(description="bits")


class Alignment(Record):
    """Decision-alignment faithfulness on held-out examples."""

    daf: Measure
    coverage: Measure = Field(description="share on a path that was seen in fit")
    daf_seen: Measure | None = Field(description="of those only")
    paths: int = Field(description="occupied paths of the fit examples")
    unseen: UnseenRule = Field(
        default="hamming",
        description="how a path that was not seen in fit predicts: by the most similar paths, or by its longest suffix that "
        "was seen often; whichever predicts more of the fit examples' decisions in cross-validation",
    )
    back_off: Measure | None = Field(
        default=None, description="by the longest suffix of every path that was seen at least 8 times in fit"
    )
    graded: Measure | None = Field(
        default=None,
        description="by the graded path: the distances to all centroids of the last two layers, with a logistic regression; "
        "of the same examples as deep_knn",
    )
    graded_values: int = Field(default=0, description="numbers per image in a graded path")
    features: int = Field(default=0, description="numbers per image that deep_knn compares")
    majority: Measure = Field(description="baseline: always the most frequent class")
    deep_knn: Measure | None = Field(
        description="baseline: the nearest neighbours in the last layer; of the held-out examples whose images were run"
    )


class Perturbed(Record):
    """Path agreement under one change of the pixels."""

    name: str
    paths: Measure = Field(description="share whose complete path is unchanged")
    layers: Measure = Field(description="mean share of layers with an unchanged cluster")
    predictions: Measure | None


class Detection(Record):
    """How well one OOD score separates other images from the set's own."""

    score: str
    auroc: Measure
    fpr95: Measure = Field(description="share of other images that pass where 95% of own examples do")


class OODDetection(Record):
    """One kind of out-of-distribution images, and how well each score detects them."""

    name: str
    num_images: int
    num_sources: int | None = Field(
        default=None, description="photographs that the images were cut from: intervals are by photograph"
    )
    scores: tuple[Detection, ...]


class Steering(Record):
    """What shifting a layer's values from an example's cluster to another one does to the decision.

    Shares over held-out examples and target clusters, for each of which the decision of most of its examples is the target's.
    """

    layer: str
    steered: Measure = Field(
        description="share that decides as the target does, when the difference of the two clusters' means is added"
    )
    random: Measure = Field(description="when a random vector of equal length is added")
    patched: Measure = Field(description="when the values of another example of the target are put in")
    before: Measure = Field(description="without a change")
    changed: Measure = Field(description="share whose decision is another one after steering")
    changed_randomly: Measure = Field(description="after the random vector")
    targets: int = Field(description="target clusters of each example")
    bypassed: bool = Field(description="whether a skip connection, which is left as it is, goes past the layer")


class Necessity(Record):
    """How many decisions stay when a layer's values are replaced by a mean."""

    layer: str
    cluster: Measure = Field(description="the mean of the example's cluster: all but the cluster is forgotten")
    onwards: Measure = Field(
        description="the mean of the fit examples with the same clusters from this layer on (of its cluster where none has): "
        "all but the rest of the path is forgotten"
    )
    mean: Measure = Field(description="baseline: the mean of all fit examples")
    bypassed: bool = Field(description="as in steering")


class Evaluation(Record):
    """metrics.json."""

    version: int = VERSION
    set: str
    fingerprint: str = Field(description="the set's")
    seed: int
    max_images: int = Field(default=0, description="limit of num_images")
    num_fit: int
    num_eval: int
    refitted: bool = Field(
        default=True,
        description="whether a clustering of the fit examples was made to evaluate it, or the set's own was fitted on them",
    )
    num_images: int = Field(description="eval examples whose images were perturbed and compared with OOD images")
    complexity: Complexity
    purity_labels: Measure | None
    purity_predictions: Measure | None
    chance_labels: float | None = Field(default=None, description="purity_labels by chance: with the labels permuted")
    chance_predictions: float | None = None
    alignment: Alignment | None = None
    perturbations: tuple[Perturbed, ...] = ()
    strangers: tuple[OODDetection, ...] = Field(default=(), description="OOD detection, one entry per kind of images")
    causal: bool = Field(default=False, description="whether interventions were asked for")
    steering: tuple[Steering, ...] = Field(default=(), description="by layer, those that the model can be cut at")
    necessity: tuple[Necessity, ...] = ()
    notes: tuple[str, ...] = ()


def read_evaluation(directory: SetDirectory) -> Evaluation | None:
    """metrics.json of a set; None where it is missing or not valid."""
    document = directory.document(METRICS)
    try:
        return None if document is None else Evaluation.model_validate_json(document)
    except ValidationError:
        return None

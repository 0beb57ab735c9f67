"""What `find` returns: frozen records, the same for the command, the API, the pages and the assistant's tools."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from clusterpaths.explore.records import ExampleRow, Interval, Lift
from clusterpaths.records import Record

Kind = Literal["label-errors", "near-duplicates", "under-covered"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LABEL_ERRORS, NEAR_DUPLICATES, UNDER_COVERED = KINDS  # the last one is the one kind that is by a layer


class LabelError(Record):
    """An example whose label is likely wrong."""

    example: ExampleRow
    suggested: str = Field(description="the most probable other class, by path and model")
    confidence: float = Field(description="1 minus the probability of the label: path and model, averaged")
    path_share: float = Field(
        description="probability of the label by the other examples on its path; rare paths back off to suffixes"
    )
    model_share: float | None = Field(description="the model's own probability of the label; None: not known")
    path_others: int = Field(description="other examples with a label on the same path")


class LabelErrors(Record):
    """A piece of the list of likely label errors, most confident first."""

    kind: Literal["label-errors"] = "label-errors"
    total: int
    limit: int
    offset: int
    labelled: int = Field(description="examples with a label: all that were looked at")
    note: str = Field(description="how the list was made")
    entries: tuple[LabelError, ...]


class DuplicateGroup(Record):
    """Examples that are the same picture, or nearly."""

    exact: bool = Field(description="their files have the same content")
    distance: float = Field(
        description="0: identical; the largest of the distances that join the group, in units of the median distance to the "
        "nearest neighbour in that layer"
    )
    count: int
    splits: tuple[str, ...] = Field(description="parts of the data set that they are in")
    across_splits: bool = Field(description="in more than one part: leakage, if one of them is for testing")
    labels_differ: bool = Field(description="they have different labels")
    examples: tuple[ExampleRow, ...] = Field(description="the first ones")


class NearDuplicates(Record):
    """A piece of the list of groups: across splits first, then identical ones, then the nearest."""

    kind: Literal["near-duplicates"] = "near-duplicates"
    total: int
    limit: int
    offset: int
    examples: int = Field(description="examples in all groups")
    across_splits: int = Field(description="groups with examples in more than one part of the data set")
    note: str = Field(description="how the list was made")
    entries: tuple[DuplicateGroup, ...]


class Region(Record):
    """Examples that share the last clusters of their path, in a part of a layer with few neighbours."""

    path: str = Field(description="the shared clusters up to the layer, * for any before them: a filter of examples")
    count: int
    share: float = Field(description="of the set's examples")
    sparse: int = Field(description="of them in the sparsest tenth of the set")
    sparse_share: float
    sparse_interval: Interval = Field(description="95%, Wilson")
    distance: float = Field(
        description="median distance to the 10th neighbour, in units of the set's median; in a set of more than 20,000 examples, "
        "neighbours are those in a random sample of 20,000"
    )
    errors: int | None = Field(description="wrong predictions; None: not known")
    known: int = Field(description="examples of which it is known whether the prediction is correct")
    error_share: float | None
    error_interval: Interval | None = Field(description="95%, Wilson")
    lifts: tuple[Lift, ...] = Field(description="what is over-represented: clear ones only, largest first")
    exemplars: tuple[ExampleRow, ...] = Field(description="farthest from their neighbours first")


class UnderCovered(Record):
    """A piece of the list of under-covered regions; the surest first."""

    kind: Literal["under-covered"] = "under-covered"
    total: int
    limit: int
    offset: int
    layer: str = Field(description="whose neighbours were counted")
    error_share: float | None = Field(description="wrong predictions in the set, for comparison; None: not known")
    note: str = Field(description="how the list was made")
    entries: tuple[Region, ...]


Found = LabelErrors | NearDuplicates | UnderCovered

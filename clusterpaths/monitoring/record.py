"""window.json: what was observed in one window of a series, and the verdict.

Belongs here: the record and its parts. `judge.py` makes it, `series.py` stores it.
"""

from __future__ import annotations

import datetime
import math
from pathlib import PurePath
from typing import Literal

from pydantic import Field

from clusterpaths.monitoring.verdict import Verdict
from clusterpaths.records import Record

MONITOR = "monitor"  # directory beside a set: of its series, and of what they are compared with
Interval = tuple[float, float]


class Reference(Record):
    """The set that a window was compared with."""

    name: str = Field(description="NAME/set_NN")
    fingerprint: str
    model: str = Field(description="SHA-256 of its model")
    num_examples: int


class LayerCounts(Record):
    """Examples in each cluster of one layer, by cluster id."""

    layer: str
    reference: tuple[int, ...]
    window: tuple[int, ...]


class ClassCounts(Record):
    """What the model predicted as one class, in reference and window."""

    index: int
    name: str
    reference: int = Field(description="examples")
    window: int
    new_paths: int = Field(description="examples of the window whose path no example of the reference took")
    ood_reference: float | None = Field(description="median OOD score; None: no examples")
    ood_window: float | None


class Quantiles(Record):
    """Of OOD scores: 5%, 25%, 50%, 75% and 95%."""

    reference: tuple[float, float, float, float, float]
    window: tuple[float, float, float, float, float]


class NewImage(Record):
    """An image of the window."""

    name: str = Field(description="of the file, or of the log's row")
    picture: str = Field(default="", description="JPEG in the window's directory; empty: the image is not there")
    path: tuple[int, ...]
    prediction: str = Field(description="class; empty: none")
    ood_score: float


class Growth(Record):
    """A cluster or path with a larger share of the window than of the reference."""

    kind: Literal["cluster", "path"]
    key: str = Field(description="conv3/2: cluster 2 of layer conv3; 0-1-4: a path")
    name: str = Field(description="what it is called; empty: it has no name")
    reference: int = Field(description="examples in it")
    window: int
    share_reference: float
    share_window: float
    ratio: float | None = Field(description="of the shares; None: not in the reference")
    ratio_low: float = Field(
        description="lower end of its interval, 95% jointly for all clusters and paths that occur (Bonferroni)"
    )
    exemplars_reference: tuple[int, ...] = Field(
        description="ids of the reference's examples, nearest to the centroid first"
    )
    exemplars_window: tuple[NewImage, ...] = Field(description="as these, of the window")


class WindowRecord(Record):
    """The document."""

    version: Literal[1] = 1
    series: str = Field(description="empty: a window by hand")
    number: int = Field(description="from 1; 0: a window by hand")
    size: str = Field(description="of the series' windows: 200, or 1h; empty: a window by hand")
    reference: Reference
    source: str = Field(description="directory, bucket or file of the images or of the log")
    start: str = Field(description="ISO time, UTC")
    end: str = Field(description="ISO time, UTC; of windows of time excluded")
    num_images: int = Field(description="in the tests")
    duplicates: int = Field(description="images, or rows of a log, that had been observed before: not in the tests")
    unusable: int = Field(description="no image, or without finite activations: not in the tests")
    late: int = Field(description="of a time whose window was closed before they came: not in the tests")
    verdict: Verdict
    layers: tuple[LayerCounts, ...]
    classes: tuple[ClassCounts, ...] = Field(description="in the order of their index; none without predictions")
    paths_window: int = Field(description="occupied ones")
    new_paths: int = Field(description="examples of the window whose path no example of the reference took")
    new_paths_interval: Interval = Field(description="of their share, 95%, Wilson")
    ood: Quantiles | None = Field(description="None: no images")
    growth: tuple[Growth, ...] = Field(default=(), description="what grew most, the largest difference of shares first")
    created: str = Field(description="ISO time, UTC")

    @property
    def drifted(self) -> bool:
        """The verdict."""
        return self.verdict.drifted

    @property
    def source_name(self) -> str:
        """The source for who is not on this machine: a directory or file without where it is."""
        return self.source if "://" in self.source else PurePath(self.source).name

    def require_consistent(self, number: int) -> None:
        """Check that the record is the window of this number, its times are times, and its numbers are finite.

        Raises:
            ValueError: it is not.
        """
        if self.number != number:
            raise ValueError(f"its number is {self.number}, expected {number}")
        for time in (self.start, self.end):
            if datetime.datetime.fromisoformat(time).tzinfo is None:
                raise ValueError(f"the time {time!r} has no time zone")
        if not _is_finite(self):
            raise ValueError("one of its numbers is not finite")


def _is_finite(value: object) -> bool:
    """Whether all numbers of a record are."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Record):
        return all(_is_finite(one) for _, one in value)
    return all(map(_is_finite, value)) if isinstance(value, tuple) else True

"""Options of a monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clusterpaths.config import IMAGES, CacheRoot, available_cores
from clusterpaths.monitoring.windows import Size, Span, WindowSize, parse_size, parse_span

ALPHA, HORIZON = 0.05, 100
LEAST_LEVEL = 1e-6  # of one window


class MonitorConfig(BaseModel):
    """Compare new images with a set: one window by hand, or the windows of a series that are complete since the last time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str = Field(
        description="the set to compare with: NAME/set_NN, or NAME for the accepted set of that name (its newest before any was "
        "accepted)"
    )
    data_root: Annotated[CacheRoot | None, IMAGES] = Field(
        None, description="the new images: a directory, s3://BUCKET/PREFIX, or what --dataset needs"
    )
    logs: CacheRoot | None = Field(
        None,
        description="instead of images, the prediction log that a service wrote with the path model: a parquet or CSV file, a "
        "directory of them, or s3://BUCKET/PREFIX",
    )
    dataset: str = Field("folder", description="how the directory of new images is read, as of `clusterpaths run`")
    series: str | None = Field(
        None, description="record windows under this name; without, all images are one window and nothing is written"
    )
    window: WindowSize | None = Field(
        None, description="size of a series' windows: a number of images such as 200, or a time such as 15m, 1h, 1d"
    )
    grace: Span = Field("0", description="how long after its end a window of time waits for late images, such as 5m")
    alpha: float = Field(
        ALPHA,
        gt=0,
        lt=1,
        description="probability of a false alarm: in the one window by hand; of a series, in any --horizon consecutive windows",
    )
    horizon: int = Field(
        HORIZON, ge=1, description="windows of a series for which --alpha holds: each is tested at alpha / horizon"
    )
    seed: int = Field(0, ge=0, description="of the tests' random draws")
    model: Path | None = Field(None, description="the set's classifier [where it was when the set was made]")
    cache_root: CacheRoot | None = Field(
        None, description="directory of results, one subdirectory per name [activation_cache]"
    )
    workers: int = Field(default_factory=available_cores, ge=1, description="threads that decode and run images")
    wait: float = Field(0, ge=0, description="seconds to wait for another run of the same series")

    @property
    def size(self) -> Size | None:
        """Of a series' windows."""
        return parse_size(self.window) if self.window else None

    @property
    def lateness(self) -> int:
        """`grace` in microseconds."""
        return parse_span(self.grace)

    @model_validator(mode="after")
    def _one_source(self) -> MonitorConfig:
        if (self.data_root is None) == (self.logs is None):
            raise ValueError("give either --images, a directory of new images, or --logs, a prediction log")
        if self.series is not None and self.window is None:
            raise ValueError("--series needs the size of its windows: --window 200 for images, --window 1h for time")
        if self.series is not None and self.alpha / self.horizon < LEAST_LEVEL:
            raise ValueError(
                f"--alpha {self.alpha:g} over --horizon {self.horizon:,} windows tests each at {self.alpha / self.horizon:.1g}, "
                f"which takes too many random draws; at least {LEAST_LEVEL:g} is expected: a larger alpha, or a smaller horizon"
            )
        if self.series is None and self.window is not None:
            raise ValueError("--window is of a series: give it a name with --series, or leave --window out")
        return self

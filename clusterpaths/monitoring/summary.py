"""Windows and series in a few numbers: for time lines, lists and metrics.

Belongs here: the records, and how they follow from a window's complete record. Reading is `history.py`'s.
"""

from __future__ import annotations

from pydantic import Field

from clusterpaths.monitoring.record import Interval, Quantiles, WindowRecord
from clusterpaths.records import Record

CLASSES = 7  # the most frequent ones of the reference; all others are one share


class PredictionShare(Record):
    """One class among the predictions."""

    name: str = Field(description="of the class; empty: all others together")
    reference: float
    window: float


class WindowSummary(Record):
    """One window."""

    number: int
    start: str = Field(description="ISO time, UTC")
    end: str = Field(description="ISO time, UTC; of windows of time excluded")
    num_images: int = Field(description="in the tests")
    drifted: bool
    p_value: float = Field(description="smallest one of the tests, corrected for their number")
    alpha: float = Field(description="drifted: p_value <= alpha")
    effect: float | None = Field(
        description="Jensen-Shannon distance of the path distributions, in 0..1; None: no images"
    )
    effect_by_chance: float | None = Field(description="its mean without drift")
    first_layer: str | None = Field(description="first layer whose clusters differ")
    new_paths: float | None = Field(description="share of the images on paths that no example of the reference took")
    new_paths_interval: Interval = Field(description="95%, Wilson")
    ood: Quantiles | None = Field(description="OOD scores: 5%, 25%, 50%, 75% and 95%; None: no images")
    predictions: tuple[PredictionShare, ...] = Field(
        description=f"shares of the {CLASSES} most frequent classes of the reference, then of all others; none without images"
    )
    duplicates: int = Field(description="observed before: not in the tests")
    unusable: int = Field(description="no images, or without finite activations: not in the tests")
    late: int = Field(description="of a time whose window was closed before they came: not in the tests")

    @property
    def left_out(self) -> int:
        """Items that are not in the tests."""
        return self.duplicates + self.unusable + self.late


class UnreadableWindow(Record):
    """A window whose record is corrupted."""

    number: int
    problem: str = Field(description="what is wrong, and what to do")


class SeriesSummary(Record):
    """A series of windows."""

    series: str
    windows: int = Field(description="number of them")
    last: WindowSummary | None = Field(description="the newest window; None: there is none, or it cannot be read")
    problem: str = Field(description="why the newest window cannot be read; empty: it can")


class WindowPage(Record):
    """Windows of a series, the newest last."""

    series: str
    total: int
    offset: int = Field(description="newer windows that were skipped")
    windows: tuple[WindowSummary, ...]
    unreadable: tuple[UnreadableWindow, ...] = Field(description="those of the same range whose record is corrupted")

    @property
    def by_number(self) -> list[WindowSummary | UnreadableWindow]:
        """All of them, readable or not, the newest last."""
        found: list[WindowSummary | UnreadableWindow] = [*self.windows, *self.unreadable]
        return sorted(found, key=lambda one: one.number)


def summarise(record: WindowRecord) -> WindowSummary:
    """The summary of a window."""
    verdict, n = record.verdict, record.num_images
    return WindowSummary(
        number=record.number,
        start=record.start,
        end=record.end,
        num_images=n,
        drifted=record.drifted,
        p_value=verdict.p_value,
        alpha=verdict.alpha,
        effect=verdict.effect,
        effect_by_chance=verdict.effect_by_chance,
        first_layer=verdict.first_layer,
        new_paths=record.new_paths / n if n else None,
        new_paths_interval=record.new_paths_interval,
        ood=record.ood,
        predictions=prediction_shares(record),
        duplicates=record.duplicates,
        unusable=record.unusable,
        late=record.late,
    )


def prediction_shares(record: WindowRecord) -> tuple[PredictionShare, ...]:
    """Shares of the reference's most frequent classes, then of all others; none without predictions of the window."""
    reference, window = (sum(getattr(one, side) for one in record.classes) for side in ("reference", "window"))
    if not (reference and window):
        return ()
    by_frequency = sorted(record.classes, key=lambda one: (-one.reference, one.index))
    found = [
        PredictionShare(name=one.name, reference=one.reference / reference, window=one.window / window)
        for one in by_frequency[:CLASSES]
    ]
    if others := by_frequency[CLASSES:]:
        sides = (sum(one.reference for one in others) / reference, sum(one.window for one in others) / window)
        found.append(PredictionShare(name="", reference=sides[0], window=sides[1]))
    return tuple(found)

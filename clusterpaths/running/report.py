"""What a run shows beside its log and its documents. Prefect's artifacts are tasks/report.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clusterpaths.running.progress import Tracker, What, terminal, tracking

if TYPE_CHECKING:
    from clusterpaths.clustering.choice import Choice
    from clusterpaths.comparison.record import Comparison
    from clusterpaths.config import RunConfig
    from clusterpaths.evaluation.record import Evaluation
    from clusterpaths.extraction.extract import ExtractionJob
    from clusterpaths.extraction.plan import ExtractionPlan
    from clusterpaths.preprocessing.check import PreprocessingCheck
    from clusterpaths.records import ModelRecord, Preprocessing, StageTime
    from clusterpaths.sets.published import PublishedSet


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        published: the set with this identity; None where only a plan was asked for.
        new: whether this run made it; else it was there.
        job: what filled the cache, as `evaluate_set` takes it.
        plan: which examples were cached and which were extracted.
        preprocessing: how images were prepared.
        check: of the preprocessing, where it was made.
        choice: of k, distance and layers, where something was "auto".
        report: report.html.
        stages: how long each took.
    """

    published: PublishedSet | None
    new: bool
    job: ExtractionJob
    plan: ExtractionPlan
    preprocessing: Preprocessing
    check: PreprocessingCheck | None = None
    choice: Choice | None = None
    report: Path | None = None
    stages: tuple[StageTime, ...] = ()


class Report:
    """Shows a progress bar where stderr is a terminal, and nothing else; the methods are for others to override."""

    def progress(
        self, what: What, directory: str, sizes: Mapping[str, int], examples: int
    ) -> contextlib.AbstractContextManager[Tracker]:
        """Show progress while inside."""
        return tracking(what, directory, sizes, examples, terminal())

    def model(self, config: RunConfig, model: ModelRecord) -> None:
        """The model was checked."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """A set was evaluated."""

    def comparison(self, comparison: Comparison, page: Path, alert_below: float) -> None:
        """A new set was compared with an earlier one."""

    def outcome(self, outcome: Outcome) -> None:
        """The run has ended."""

"""What a run shows besides its log and its documents. tasks/report.py shows Prefect artifacts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clusterpaths.running.progress import Tracker, What, terminal, tracking

if TYPE_CHECKING:
    from rich.console import Console

    from clusterpaths.clustering.choice import Choice
    from clusterpaths.comparison.record import Comparison
    from clusterpaths.config import RunConfig
    from clusterpaths.evaluation.record import Evaluation
    from clusterpaths.extraction.job import ExtractionJob
    from clusterpaths.extraction.plan import ExtractionPlan
    from clusterpaths.preprocessing.check import PreprocessingCheck
    from clusterpaths.records import ModelRecord, Preprocessing, StageTime
    from clusterpaths.running.view import View
    from clusterpaths.sets.published import PublishedSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        published: the set with this identity; None for a plan only.
        new: whether this run published it.
        job: the extraction job, as `evaluate_set` takes it.
        plan: which examples were cached and which were extracted.
        preprocessing: how images were prepared.
        check: of the preprocessing, if it was run.
        choice: of k and distance, if one was "auto".
        report: report.html.
        stages: how long each took.
        advice: what to do where many examples are alone on their path.
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
    advice: str = ""


class Report:
    """Shows a run: its stages and its result in a view; without one, a progress bar if stderr is a terminal.

    Subclasses override the methods.
    """

    def __init__(self, view: View | None = None) -> None:
        self.view = view
        self._comparison: Path | None = None

    def stage(self, name: str) -> contextlib.AbstractContextManager[Callable[[StageTime], None] | None]:
        """Show a stage while inside."""
        return self.view.stage(name) if self.view else contextlib.nullcontext()

    def progress(
        self, what: What, directory: str, sizes: Mapping[str, int], examples: int
    ) -> contextlib.AbstractContextManager[Tracker]:
        """Show progress while inside."""
        if self.view:
            return self.view.tracking(what, directory, sizes, examples)
        return tracking(what, directory, sizes, examples, self.console())

    def console(self) -> Console | None:
        """Where bars are drawn without a view."""
        return terminal()

    def model(self, config: RunConfig, model: ModelRecord) -> None:
        """The model was checked."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """A set was evaluated."""

    def comparison(self, comparison: Comparison, page: Path, alert_below: float) -> None:  # noqa: ARG002 - for subclasses
        """A new set was compared with an earlier one."""
        self._comparison = page

    def outcome(self, outcome: Outcome) -> None:
        """The run has ended, or was only planned."""
        from clusterpaths.report import terminal  # imported by then: here, the first line of a run need not wait for it
        from clusterpaths.report.markdown import in_one_sentence

        published = outcome.published
        if self.view:
            self.view.ending()
        if published is None:
            if self.view:
                self.view.result(terminal.plan_rows(outcome.plan), terminal.PLANNED)
            return
        if outcome.advice:
            log.warning(outcome.advice)
        log.info("%s Report: %s", in_one_sentence(published), outcome.report)
        if self.view:
            rows = terminal.result_rows(published, outcome.report, new=outcome.new, seconds=self.view.seconds())
            rows |= {"comparison": str(self._comparison)} if self._comparison else {}
            self.view.result(rows, terminal.next_steps(published))

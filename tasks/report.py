"""Artifacts of a run in the Prefect UI, made of the Markdown and rows of clusterpaths/report."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from rich.console import Console

from clusterpaths.comparison.record import Comparison
from clusterpaths.config import RunConfig
from clusterpaths.evaluation.record import Evaluation
from clusterpaths.models.inspect import inspect_model
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.words import headline as headline_of_window
from clusterpaths.records import ModelRecord
from clusterpaths.report import markdown
from clusterpaths.report.comparison import headline
from clusterpaths.running.progress import Tracker, What
from clusterpaths.running.report import Outcome, Report
from tasks.comparison_events import announce_comparison
from tasks.progress import log_console, progress_artifact


class PrefectReport(Report):
    """Artifacts of a flow run; to be used inside it."""

    def progress(
        self, what: What, directory: str, sizes: Mapping[str, int], examples: int
    ) -> contextlib.AbstractContextManager[Tracker]:
        return progress_artifact(what, examples, super().progress(what, directory, sizes, examples))

    def console(self) -> Console | None:
        return log_console()

    def model(self, config: RunConfig, model: ModelRecord) -> None:
        inspection = inspect_model(
            Path(model.path), config.layers, config.logits, config.size or model.size, model.sha256, config.output_kind
        )
        create_markdown_artifact(markdown.inspection(inspection), key="model", description=Path(inspection.file).name)

    def evaluation(self, evaluation: Evaluation) -> None:
        rows = markdown.evaluation_rows(evaluation)
        create_table_artifact(rows, key="path-metrics", description=f"Metrics of {evaluation.set}")

    def comparison(self, comparison: Comparison, page: Path, alert_below: float) -> None:
        super().comparison(comparison, page, alert_below)
        show_comparison(comparison, page)
        announce_comparison(comparison, alert_below)

    def outcome(self, outcome: Outcome) -> None:
        if outcome.published is None:
            super().outcome(outcome)
            return
        if self.view:
            self.view.ending()
        rows = markdown.stage_rows(outcome.stages, outcome.job.storage)
        create_table_artifact(rows, key="stage-times", description="How long each stage took")
        published, report, check = outcome.published, outcome.report, outcome.check
        if report:
            create_markdown_artifact(
                markdown.published_set(published, report, outcome.advice),
                key="cluster-paths", description=published.record.set,
            )  # fmt: skip
        if choice := outcome.choice:
            create_table_artifact(
                markdown.choice_rows(choice), key="choice", description=f"{choice.sentence} {choice.advice}".strip()
            )
        if check:
            create_markdown_artifact(
                markdown.preprocessing(check, outcome.preprocessing), key="preprocessing", description=check.verdict
            )
        super().outcome(outcome)


def show_comparison(comparison: Comparison, page: Path) -> None:
    """Markdown artifact with what changed, table artifact with a row for each layer."""
    create_markdown_artifact(markdown.comparison(comparison, page), key="comparison", description=headline(comparison))
    create_table_artifact(
        markdown.comparison_rows(comparison), key="comparison-layers", description="Each layer; clusters before→after"
    )


def show_windows(windows: Sequence[WindowRecord]) -> None:
    """Table artifact with a row for each new window, Markdown artifact of the last one that drifted, else of the last one."""
    if not windows:
        return
    shown = next((one for one in reversed(windows) if one.drifted), windows[-1])
    create_table_artifact(
        markdown.window_rows(windows), key="windows", description=f"New windows of {shown.reference.name}"
    )
    create_markdown_artifact(markdown.window(shown), key="window", description=headline_of_window(shown))

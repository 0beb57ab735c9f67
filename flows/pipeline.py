"""The pipeline as flows run it: its stages are Prefect tasks, its report is artifacts."""

from __future__ import annotations

from pathlib import Path

import scipy.optimize  # noqa: F401 - the library imports both where it needs them; here, while a server starts
import sklearn.cluster  # noqa: F401

from clusterpaths import pipeline
from clusterpaths.config import RunConfig
from clusterpaths.running.report import Outcome
from flows.console import showing, view
from flows.shell import set_up_logging
from tasks.report import PrefectReport
from tasks.runner import PrefectRunner
from tasks.time_limit import in_one_paragraph


def cluster_paths(config: RunConfig) -> Outcome:
    """Run all stages; to be called inside a flow."""
    set_up_logging()
    with in_one_paragraph():
        return pipeline.run(config, PrefectRunner(config, set_up_logging, showing()), PrefectReport(view()))


def path_of(outcome: Outcome) -> Path | None:
    """The set's directory: what a flow returns."""
    return outcome.published.path if outcome.published else None

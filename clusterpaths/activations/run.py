"""Cluster paths of activations that are there: `from_activations`, which `clusterpaths activations` calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clusterpaths.activations.config import ActivationsConfig
from clusterpaths.activations.take import take_activations
from clusterpaths.common.malloc import share_arenas
from clusterpaths.pipeline import Prepared, cluster_prepared, log
from clusterpaths.running.report import Outcome, Report
from clusterpaths.running.runner import InProcess
from clusterpaths.running.timer import StageTimer
from clusterpaths.sets.published import PublishedSet


def from_activations(
    source: str | Path | Mapping[str, NDArray[Any]],
    *,
    predictions: NDArray[Any] | None = None,
    labels: NDArray[Any] | None = None,
    **options: Any,
) -> PublishedSet:
    """Publish the set of activations that are there, or find it if it was published before.

    Args:
        source: a directory or file of arrays, read where they are; or arrays by layer, (n, …) each, which are written to the
            cache.
        predictions: (n,) class numbers or (n, classes) scores; else a file, see `ActivationsConfig`.
        labels: (n,) class numbers; else a file.
        options: fields of `ActivationsConfig`, such as name, layers, k, distance and images.

    Raises:
        ClusterPathsError: activations or what describes them cannot be used; the message says why.
        pydantic.ValidationError: an option that does not exist or does not hold.
    """
    where = source if isinstance(source, Mapping) else Path(source)
    config = ActivationsConfig(**{"name": "activations" if isinstance(source, Mapping) else None} | options)
    outcome = run_activations(where, config, predictions=predictions, labels=labels)
    assert outcome.published is not None  # nothing is only planned
    return outcome.published


def run_activations(
    source: Path | Mapping[str, NDArray[Any]],
    config: ActivationsConfig,
    *,
    predictions: NDArray[Any] | None = None,
    labels: NDArray[Any] | None = None,
    report: Report | None = None,
) -> Outcome:
    """As `from_activations`, of a configuration; with what the stages did."""
    share_arenas()
    if isinstance(source, Path):
        source = source.expanduser().absolute()
    run = config.run_config(source.stem if isinstance(source, Path) else "activations")
    runner, report, results = InProcess(config.workers), report or Report(), run.cache_dir
    timer = StageTimer(report.stage)
    with results.lock(config.wait, log.warning), ExitStack() as until_done:
        with timer("check"):
            model, plan, job = take_activations(source, config, run, report.progress, predictions, labels)
        prepared = Prepared(model, plan, job)
        outcome = cluster_prepared(run, prepared, until_done.enter_context(runner), report, timer)

    report.outcome(outcome)
    return outcome

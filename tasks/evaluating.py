"""The stage evaluate as a Prefect task, and its table. Cache policy: none, for the reason in stages.py."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from clusterpaths.errors import DamagedShardError
from clusterpaths.evaluation import evaluate
from clusterpaths.evaluation.record import Evaluation
from clusterpaths.extraction.extract import ExtractionJob
from clusterpaths.report.evaluation import evaluation_rows
from clusterpaths.sets.published import PublishedSet


@task(name="evaluate", task_run_name="evaluate", cache_policy=NO_CACHE)
def evaluate_set(published: PublishedSet, job: ExtractionJob) -> Evaluation | int:
    """What the paths are worth: metrics.json in the set's folder, and a table artifact.

    Returns the index of a shard instead where its bytes turn out damaged.
    """
    log = get_run_logger()
    try:
        evaluation = evaluate.evaluate_set(published, job)
    except DamagedShardError as damage:
        log.warning(str(damage))
        return damage.shard
    for note in evaluation.notes:
        log.info(note)
    rows: list[dict[str, Any]] = [
        {
            "about": group.title,
            "measure": row.name,
            "value": round(row.value, 4),
            "95% interval": row.interval,
            "examples": row.n,
        }
        for group in evaluation_rows(evaluation)
        for row in group.rows
    ]
    create_table_artifact(rows, key="path-metrics", description=f"What the paths of {evaluation.set} are worth")
    if evaluation.alignment:
        daf, knn = evaluation.alignment.daf, evaluation.alignment.deep_knn
        log.info(
            "Decision alignment %.3f [%.3f, %.3f] on %d examples kept aside; nearest neighbours in the last layer %.3f",
            daf.value, daf.low, daf.high, daf.n, knn.value,
        )  # fmt: skip
    return evaluation

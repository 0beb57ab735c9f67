"""Events for automations: two sets were compared, or differ by more than a threshold."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from clusterpaths.comparison.compare import ALERT_BELOW
from clusterpaths.comparison.record import Comparison
from clusterpaths.report.comparison import headline

COMPARED = "cluster-paths.compared"
DIVERGED = "cluster-paths.diverged"


@task(name="announce comparison", task_run_name="announce comparison", cache_policy=NO_CACHE)
def announce_comparison(comparison: Comparison, alert_below: float = ALERT_BELOW) -> None:
    """Emit the events; a trigger cannot compare numbers, so a second event reports a value below the threshold."""
    first, second = comparison.first.name, comparison.second.name
    log = get_run_logger()
    events = [COMPARED]
    if not comparison.same_k:
        log.info("No %s is raised: the sets have different numbers of clusters, so their paths differ anyway", DIVERGED)
    elif comparison.path_agreement < alert_below:
        events.append(DIVERGED)
        log.warning("Path agreement %.3f is under %.3f: raising %s", comparison.path_agreement, alert_below, DIVERGED)
    for event in events:
        emit_event(
            event=event,
            resource={
                "prefect.resource.id": f"cluster-paths.{second.replace('/', '.')}",
                "prefect.resource.name": second,
                "cluster-paths.compared-with": first,
            },
            payload={
                "path_agreement": comparison.path_agreement,
                "same_k": comparison.same_k,
                "alert_below": alert_below,
                "first": first,
                "second": second,
                "headline": headline(comparison),
                "examples": comparison.num_examples,
                "decisions_changed": comparison.decisions.changed if comparison.decisions else None,
            },
        )

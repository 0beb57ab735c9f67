"""What a gate decided about a model of a registry, as a Prefect task; the work is done in clusterpaths/gate/registry.py."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from clusterpaths.gate.registry import Registry, RegistryAwayError, parse_version
from clusterpaths.gate.run import Decided


async def _server_may_return(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(await state.aresult(raise_on_failure=False), RegistryAwayError)


@task(
    name="report to registry",
    task_run_name="report to registry",
    cache_policy=NO_CACHE,
    retries=6,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_jitter_factor=0.5,
    retry_condition_fn=_server_may_return,
)
def report_to_registry(registered: str, decided: Decided | None, reason: str = "") -> None:
    """Tag the version and log the set's documents to its run; nothing for a model of no registry."""
    found = parse_version(registered)
    if found is None:
        return
    registry = Registry()
    version = registry.version(*found)
    if version is None:
        get_run_logger().warning("%s is no longer in the registry at %s: it is not tagged.", registered, registry.shown)
        return
    registry.report(version, decided, reason)

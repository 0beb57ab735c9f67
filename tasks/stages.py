"""The stages as Prefect tasks: names, retries and the library's function of the same name.

Cache policy: none, on every task. Results of a stage are on disk with their own record, which the library checks first;
a stored Prefect result would not prove that the files still exist. A retried run goes through all stages again, and each
completes in milliseconds if its work is done. Every task has a time limit, which a run may set (`time_limit.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import exponential_backoff

from clusterpaths.config import TIME_LIMIT
from clusterpaths.errors import ClusterPathsError, DownloadError, OfflineError
from clusterpaths.monitoring import monitor
from clusterpaths.running import stages
from tasks.time_limit import in_own_thread

P = ParamSpec("P")
R = TypeVar("R")


async def network_may_recover(_task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Retry a download after network errors, not after errors that a user has to correct; without a network, once."""
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, DownloadError) and not (isinstance(error, OfflineError) and run.run_count > 1)


async def machine_may_recover(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Retry after errors of the disk or the machine, not after expected errors, which would recur, or a disk that hangs."""
    return not isinstance(await state.aresult(raise_on_failure=False), (ClusterPathsError, TaskRunTimeoutError))


def _task(function: Callable[P, R], name: str, **options: Any) -> Task[P, R]:
    return Task(
        in_own_thread(function),
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        timeout_seconds=TIME_LIMIT,
        **options,
    )


def _on_machine(function: Callable[P, R], name: str) -> Task[P, R]:
    """A task that works on files of this machine."""
    return _task(
        function,
        name,
        retries=2,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=machine_may_recover,
    )


check_model = _task(stages.check_model, "check model")
download = _task(
    stages.download,
    "download",
    retries=4,
    retry_delay_seconds=[3, 20, 40, 80],  # the first is short: it is the only one where a host's name does not resolve
    retry_jitter_factor=0.5,
    retry_condition_fn=network_may_recover,
)
find_sets = _task(stages.find_sets, "find sets")
compare_sets = _task(stages.compare_sets, "compare sets")
write_comparison = _task(stages.write_comparison, "write comparison")

observe = _on_machine(monitor.observe, "judge windows")

_TASKS: list[Task[..., Any]] = [
    check_model,
    download,
    _task(stages.instrument, "instrument"),
    _on_machine(stages.check_preprocessing, "check preprocessing"),
    _on_machine(stages.make_plan, "plan"),
    _on_machine(stages.extract_shard, "extract shard"),
    _on_machine(stages.choose_settings, "choose"),
    _task(stages.find_set, "find set"),
    _on_machine(stages.fit_layer, "fit"),
    _on_machine(stages.assign_shard, "assign shard"),
    _on_machine(stages.run_again, "run again"),
    _on_machine(stages.trace_paths, "trace"),
    _on_machine(stages.publish_set, "publish"),
    _on_machine(stages.add_maps, "maps"),
    _on_machine(stages.show_points, "map"),
    _task(stages.evaluate_set, "evaluate"),
    find_sets,
    compare_sets,
    write_comparison,
    _on_machine(stages.write_report, "report"),
]
TASKS: dict[Callable[..., Any], Task[..., Any]] = {inspect.unwrap(task.fn): task for task in _TASKS}  # by stage

"""Runs the pipeline's stages as Prefect tasks, in threads of this process or on Dask workers.

Belongs here: from a stage to its task, starting and ending a Dask task runner inside a flow run, and the logging
of its workers. The tasks are the same on either.

The Dask runner is started inside the flow, not at its decorator, so that the configuration of a run chooses it, from a
shell and from a deployment. Dask workers need this package, the directories of the run under the same paths, and,
on other machines, PREFECT_API_URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from prefect import get_run_logger
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.futures import PrefectFuture, as_completed
from prefect.logging.configuration import ensure_logging_setup
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import get_call_parameters

from clusterpaths.common.extras import require_extra
from clusterpaths.config import RunConfig
from clusterpaths.datasets import clear_caches
from clusterpaths.errors import ConfigError
from clusterpaths.running.runner import Future
from tasks.stages import TASKS
from tasks.worker_log import Show, hand_over_warnings, receive_warnings

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

Result = TypeVar("Result")
WORKERS_WITHIN = 30.0  # seconds for an address to answer, and for the first worker behind it


class PrefectRunner:
    """Runs stages as Prefect tasks; to be used inside a flow.

    Args:
        config: `engine`, `dask_address`, and `workers`: by default, the threads of an existing cluster.
        set_up_worker: called in every Dask worker process before its first task; must be importable there.
        show: shows warnings of Dask workers; they print theirs if left out.
    """

    def __init__(
        self, config: RunConfig, set_up_worker: Callable[[], None] | None = None, show: Show | None = None
    ) -> None:
        self.workers = config.workers
        self._config, self._set_up_worker, self._show = config, set_up_worker, show
        self._dask: DaskTaskRunner | None = None
        self._until_done = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Raises:
        ConfigError: Dask is not installed, or its address does not answer.
        """
        if self._config.engine == "dask":
            _require_dask()
            with contextlib.ExitStack() as stack:
                self._dask, threads = _start(self._config, stack, self._set_up_worker, self._show)
                if self._config.dask_address and "workers" not in self._config.model_fields_set:
                    self.workers = threads
                self._until_done = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._until_done.close()
        self._dask = None

    def run(self, stage: Callable[..., Result], *args: Any) -> Result:
        return cast(Result, TASKS[stage].with_options(timeout_seconds=self._config.time_limit)(*args))

    def submit(self, stage: Callable[..., Result], *args: Any, name: str = "") -> Future[Result]:
        own = name.replace("{", "{{").replace("}", "}}")
        task = TASKS[stage].with_options(task_run_name=own, timeout_seconds=self._config.time_limit)
        if self._dask:
            return self._dask.submit(task, get_call_parameters(task.fn, args, {}))
        return task.submit(*args)

    def first_done(self, running: list[Future[Result]]) -> Future[Result]:
        return next(as_completed(cast(list[PrefectFuture[Result]], running)))

    def everywhere(self, function: Callable[[], None]) -> None:
        function()
        if self._dask:
            self._dask.client.run(function, on_error="ignore")  # a lost worker has nothing to run


def _require_dask() -> None:
    require_extra(
        "--engine dask, here and where the workers run,", "dask", "prefect_dask", "distributed",
        otherwise="leave out --engine",
    )  # fmt: skip


def _start(
    config: RunConfig, stack: contextlib.ExitStack, set_up: Callable[[], None] | None, show: Show | None
) -> tuple[DaskTaskRunner, int]:
    """A started runner with workers, and their number of threads."""
    from prefect_dask.task_runners import DaskTaskRunner

    flow_run = FlowRunContext.get()
    if flow_run is None:
        raise RuntimeError("A Dask task runner was started outside a flow run.")
    if PREFECT_API_URL.value() is None:  # a temporary server: local workers use it instead of starting their own
        stack.enter_context(temporary_settings({PREFECT_API_URL: str(flow_run.client.api_url)}))
        stack.callback(_wait_for_events)
    local = {"n_workers": config.workers, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    where = {"address": config.dask_address} if config.dask_address else {"cluster_kwargs": local}
    runner = stack.enter_context(DaskTaskRunner(client_kwargs={"timeout": WORKERS_WITHIN}, **where))
    at = f"The Dask scheduler at {config.dask_address}" if config.dask_address else "The local Dask cluster"
    own = config.dask_address is None
    if own:
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # workers inherit it
        _quiet(logging.WARNING)
    try:
        client = runner.client
    except (OSError, ValueError) as error:  # no connection; not an address
        raise ConfigError(
            f"{at} does not answer ({type(error).__name__}: {error}). Expected a scheduler such as tcp://10.0.0.5:8786: "
            "start one with `dask scheduler`, correct --dask-address, or leave it out for workers on this machine."
        ) from error
    try:
        client.wait_for_workers(1, timeout=WORKERS_WITHIN)
    except TimeoutError as error:
        raise ConfigError(
            f"{at} has no workers, and had none within {WORKERS_WITHIN:.0f} s. Start some with "
            f"`dask worker {config.dask_address}`, in an environment with this package."
        ) from error
    topic = f"clusterpaths of {flow_run.flow_run.id}" if show and flow_run.flow_run else ""
    if topic and show:
        receive_warnings(client, topic, show)
    client.register_plugin(_plugin(set_up, own, topic), name="clusterpaths")
    stack.callback(lambda: client.run(_finish_worker, own, on_error="ignore"))
    if own:
        stack.callback(_quiet, logging.CRITICAL)  # as workers are stopped, some complain that the scheduler is gone
    workers = client.nthreads()
    stack.callback(lambda: _warn_of_lost(workers, client.nthreads()))
    get_run_logger().info("%s: %d workers with %d threads", at, len(workers), sum(workers.values()))
    return runner, sum(workers.values())


def _plugin(set_up: Callable[[], None] | None, own: bool, topic: str) -> Any:
    """A Dask worker plugin: prepares each worker process for this run, also those that join later."""
    from distributed import WorkerPlugin

    class Setup(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            clear_caches()  # a worker that lives on sees the directories as they are now
            ensure_logging_setup()
            if own:
                _quiet(logging.WARNING)
            if set_up:
                set_up()
            if topic:
                hand_over_warnings(worker, topic)

    return Setup()


def _wait_for_events() -> None:
    EventsWorker.instance().wait_until_empty()


async def _finish_worker(own: bool) -> None:
    """In a worker: states and log lines of its tasks reach the server before the process may end."""
    await asyncio.to_thread(EventsWorker.drain_all)
    await asyncio.to_thread(APILogHandler().flush)
    if own:
        _quiet(logging.CRITICAL)


def _warn_of_lost(before: dict[str, int], after: dict[str, int]) -> None:
    if lost := sorted(set(before) - set(after)):
        get_run_logger().warning(
            "%d of %d Dask workers were lost (%s): their unfinished tasks were run again elsewhere",
            len(lost), len(before), ", ".join(lost),
        )  # fmt: skip


def _quiet(level: int) -> None:
    """Set the level of Dask's loggers: the logs of a local cluster are mostly noise."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "distributed":
            logging.getLogger(name).setLevel(level)

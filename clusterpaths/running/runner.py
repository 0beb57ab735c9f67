"""Runners of the pipeline's stages: one at a time, or many pieces concurrently, in this process or elsewhere.

Belongs here: the protocol, and the runner of this process. tasks/runner.py runs Prefect tasks and Dask workers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent import futures
from typing import Any, Protocol, Self, TypeVar, cast

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Key = TypeVar("Key", bound=Hashable)


class Future(Protocol[Result_co]):
    """The result of a submitted piece of work."""

    def result(self) -> Result_co:
        """Wait for the result; raises what the work raised."""


class Runner(Protocol):
    """Runs stages. A context manager: workers start and end with it, `submit` needs it.

    Attributes:
        workers: number of concurrent pieces.
    """

    @property
    def workers(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, stage: Callable[..., Result], *args: Any) -> Result:
        """Run a stage to its end."""

    def submit(self, stage: Callable[..., Result], *args: Any, name: str = "") -> Future[Result]:
        """Start a piece; `name` is its name in lists of runs."""

    def first_done(self, running: list[Future[Result]]) -> Future[Result]:
        """Wait for one of these to end, and return it."""

    def everywhere(self, function: Callable[[], None]) -> None:
        """Call a function in every process that runs pieces."""


class InProcess:
    """Runs stages in this process, many pieces in threads: for scripts, notebooks and benchmarks.

    Args:
        workers: threads.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._pool: futures.ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        self._pool = futures.ThreadPoolExecutor(self.workers, thread_name_prefix="clusterpaths")
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown()
            self._pool = None

    def run(self, stage: Callable[..., Result], *args: Any) -> Result:
        return stage(*args)

    def submit(self, stage: Callable[..., Result], *args: Any, name: str = "") -> Future[Result]:  # noqa: ARG002 - no list of runs
        if self._pool is None:
            raise RuntimeError("submit() was called outside the runner's context.")
        return self._pool.submit(stage, *args)

    def first_done(self, running: list[Future[Result]]) -> Future[Result]:
        of_pool = cast(list[futures.Future[Result]], running)
        return futures.wait(of_pool, return_when=futures.FIRST_COMPLETED).done.pop()

    def everywhere(self, function: Callable[[], None]) -> None:
        function()


def run_pieces(
    runner: Runner, calls: Mapping[Key, Callable[[], Future[Result]]], ended: Callable[[Key, Future[Result]], None]
) -> None:
    """Submit pieces, never more than `runner.workers` at a time; `ended` is called with each key and future as it ends.

    If `ended` raises, no more are submitted; running pieces are waited for, so that nothing writes after the caller
    returned.
    """
    waiting = list(calls.items())[::-1]
    running: dict[Key, Future[Result]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < runner.workers:
                key, submit = waiting.pop()
                running[key] = submit()
            done = runner.first_done(list(running.values()))
            key = next(key for key, future in running.items() if future is done)
            del running[key]
            ended(key, done)
    finally:
        while running:
            done = runner.first_done(list(running.values()))
            running = {key: future for key, future in running.items() if future is not done}

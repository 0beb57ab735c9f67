"""Dynamic batching: what many requests wait for is done together, in one thread.

Belongs here: collecting and handing back. The model and the prediction log each have a batcher; how many requests may wait is
`admission.py`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Runs a function on what has arrived, as soon as the last run has ended.

    While a run goes on, items gather. An item that finds the function idle waits for others, but not longer than `patience`
    and not once there are `most`.

    Args:
        function: items, at least one and at most `most`, to as many results; called in one thread of its own.
        most: items of a run.
        patience: seconds.
        watch: called after each run with the number of items, the longest wait and the time of the run, in seconds.
        name: of the thread.
    """

    def __init__(
        self,
        function: Callable[[list[T]], Sequence[R]],
        most: int,
        patience: float,
        watch: Callable[[int, float, float], None],
        name: str,
    ) -> None:
        self._function, self._most, self._patience, self._watch = function, most, patience, watch
        self._waiting: deque[tuple[T, asyncio.Future[R], float]] = deque()
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._running = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._task = asyncio.create_task(self._work())

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    async def run(self, items: Sequence[T]) -> list[R]:
        """The results of these items; raises what the function raised."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        futures: list[asyncio.Future[R]] = [loop.create_future() for _ in items]
        self._waiting.extend((item, future, now) for item, future in zip(items, futures, strict=True))
        self._arrived.set()
        if len(self._waiting) >= self._most:
            self._full.set()
        return list(await asyncio.gather(*futures)) if len(futures) > 1 else [await futures[0]]

    async def close(self) -> None:
        """Do what still waits, and end the thread."""
        while self._waiting or self._running:
            await asyncio.sleep(0.01)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def _work(self) -> None:
        loop, busy = asyncio.get_running_loop(), False
        while True:
            if not self._waiting:
                busy = False
                self._arrived.clear()
                await self._arrived.wait()
            if not busy:
                await self._gather()
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            started, self._running = time.monotonic(), True
            try:
                results = await loop.run_in_executor(self._thread, self._function, [item for item, _, _ in batch])
            except Exception as error:  # noqa: BLE001 - each request answers with it
                for _, future, _ in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future, _), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
            busy, self._running = True, False
            self._watch(len(batch), started - batch[0][2], time.monotonic() - started)

    async def _gather(self) -> None:
        """Wait for more items."""
        left = self._waiting[0][2] + self._patience - time.monotonic()
        if len(self._waiting) >= self._most or left <= 0:
            return
        self._full.clear()
        try:
            await asyncio.wait_for(self._full.wait(), left)
        except TimeoutError:
            return

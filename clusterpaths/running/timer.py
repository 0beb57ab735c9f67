"""How long each stage took, for logs, artifacts and the set's record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from clusterpaths.records import StageTime


class StageTimer:
    """`with timer("extract") as details:` measures a stage; what is appended to `details` says what it did."""

    def __init__(self) -> None:
        self._stages: list[StageTime] = []

    @property
    def stages(self) -> tuple[StageTime, ...]:
        return tuple(self._stages)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[list[str]]:
        details: list[str] = []
        started = time.perf_counter()
        yield details
        self._stages.append(StageTime(stage=stage, seconds=time.perf_counter() - started, detail="; ".join(details)))

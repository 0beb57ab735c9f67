"""How long each stage took, for logs, artifacts and the set's record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from clusterpaths.records import StageTime


class StageTimer:
    """`with timer("extract") as details:` measures a stage; what is appended to `details` says what it did.

    A stage that is entered again, after damage was repaired, counts as one.
    """

    def __init__(self) -> None:
        self._stages: dict[str, StageTime] = {}

    @property
    def stages(self) -> tuple[StageTime, ...]:
        return tuple(self._stages.values())

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[list[str]]:
        details: list[str] = []
        started = time.perf_counter()
        yield details
        before = self._stages.get(stage, StageTime(stage=stage, seconds=0.0))
        self._stages[stage] = StageTime(
            stage=stage,
            seconds=before.seconds + time.perf_counter() - started,
            detail="; ".join(filter(None, [before.detail, *details])),
        )

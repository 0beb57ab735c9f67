"""How long each stage took, for logs, artifacts and the set's record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from clusterpaths.records import StageTime


@dataclass
class Did:
    """What a stage did.

    Attributes:
        detail: for people.
        images: how many images it went through; 0 where it does not go image by image.
    """

    detail: str = ""
    images: int = 0


class StageTimer:
    """`with timer("extract") as did:` measures a stage, which tells in `did` what it did.

    A stage that is entered again, after damage was repaired, counts as one.

    Args:
        showing: shows a stage of this name while inside; what it yields is called with the time when the stage has ended.
    """

    def __init__(
        self, showing: Callable[[str], AbstractContextManager[Callable[[StageTime], None] | None]] | None = None
    ) -> None:
        self._stages: dict[str, StageTime] = {}
        self._showing = showing or (lambda _: nullcontext())

    @property
    def stages(self) -> tuple[StageTime, ...]:
        return tuple(self._stages.values())

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[Did]:
        did = Did()
        with self._showing(stage) as ended:
            started = time.perf_counter()
            yield did
            seconds = time.perf_counter() - started
            if ended:
                ended(StageTime(stage=stage, seconds=seconds, detail=did.detail, images=did.images))
        before = self._stages.get(stage, StageTime(stage=stage, seconds=0.0))
        self._stages[stage] = StageTime(
            stage=stage,
            seconds=before.seconds + seconds,
            detail="; ".join(filter(None, [before.detail, did.detail])),
            images=before.images + did.images,
        )

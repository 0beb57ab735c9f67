"""What the path service does between a request's images and its answer: decode, batch, run, log.

Belongs here: the stages and their threads, start and end. HTTP is `app.py`'s.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException

from clusterpaths.errors import RefusedImageError
from deployments.path_service.admission import RETRY_AFTER, Admission
from deployments.path_service.answer import confidence, describe
from deployments.path_service.batching import Batcher
from deployments.path_service.images import Encoded, numbered
from deployments.path_service.metrics import Metrics
from deployments.path_service.model import PathModel, Pixels, Routed
from deployments.path_service.prediction_log import PredictionLog, Row
from deployments.path_service.settings import ServiceConfig

LOGGER = logging.getLogger("clusterpaths.server")
_TEND = 1.0  # seconds between looks at the log's files
_LOG_ROWS = 4096  # per write


class PathService:
    """A path model with its threads; `start` and `close` are called in the event loop.

    Args:
        config: the options.
        model: loaded.
        log: None: no row is written.
    """

    def __init__(self, config: ServiceConfig, model: PathModel, log: PredictionLog | None) -> None:
        self.config, self.model, self.log = config, model, log
        self.metrics = Metrics(model.note)
        self.admission = Admission(config.max_pending, int(config.max_pending_mb * 1_000_000))
        self.ready = False

    async def start(self) -> None:
        """Run the model once, and start the threads."""
        config, metrics = self.config, self.metrics
        self._decoders = ThreadPoolExecutor(config.decoders, thread_name_prefix="decode")
        most = self.model.batch or config.max_batch
        self._model = Batcher[Pixels, Routed](
            self.model.run, most, config.max_wait_ms / 1000, self._watch_model, "model"
        )
        self._log = Batcher[Row, bool](self._append, _LOG_ROWS, 0, self._watch_log, "log")
        metrics.watch(lambda: len(self._model), lambda: self.admission.requests)
        self._tending = asyncio.create_task(self._tend())
        self.ready = True

    async def close(self) -> None:
        """Finish what was begun; the log's rows are in complete files then."""
        self.ready = False
        self._tending.cancel()
        await asyncio.gather(self._tending, return_exceptions=True)
        await self._model.close()
        await self._log.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)  # an image may take long to decode
        if self.log is not None:
            await asyncio.to_thread(self.log.close)

    async def answer(self, images: list[Encoded], request_id: str) -> dict[str, Any]:
        """The fields of an `Answer`.

        Raises:
            RefusedImageError: one of them is no image, or too large; the answer of the model is not finite (422).
            HTTPException: 503, the log is required and cannot be written.
        """
        self._require_log()
        started = time.monotonic()
        prepared = await self._decode(images)
        self.metrics.stage["decode"](time.monotonic() - started)
        routed = await self._model.run([pixels for pixels, _ in prepared])
        for at, one in enumerate(routed):
            if not one.finite:
                reason = "The model's output is not finite (inf or NaN) for this image. Check the model with it."
                raise numbered(RefusedImageError(reason, 422), at, images)
        now = datetime.now(UTC)
        rows = [
            Row(
                now,
                f"{request_id}-{at}",
                digest,
                one.path,
                one.distances,
                one.ood_score,
                one.prediction,
                confidence(one),
            )
            for at, (one, (_, digest)) in enumerate(zip(routed, prepared, strict=True))
        ]
        logged = self.log is not None and all(await self._log.run(rows))
        if not logged and self.log is not None and self.config.log_failure == "refuse":
            raise self._log_refused()
        described = [
            describe(self.model, one, row.id, image.file, row.image)
            for one, row, image in zip(routed, rows, images, strict=True)
        ]
        self._count(described)
        note = self.model.note
        return {"set": note.set, "fingerprint": note.fingerprint, "logged": logged, "images": described}

    async def _decode(self, images: list[Encoded]) -> list[tuple[Pixels, str]]:
        """Pixels of each image, and the SHA-256 of its bytes."""
        loop = asyncio.get_running_loop()
        read = functools.partial(_read, self.model, self.config.max_pixels)
        waiting = [loop.run_in_executor(self._decoders, read, image.content) for image in images]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        prepared = []
        for at, one in enumerate(found):
            if isinstance(one, RefusedImageError):
                raise numbered(one, at, images)
            if isinstance(one, BaseException):
                raise one
            prepared.append(one)
        return prepared

    def _append(self, rows: list[Row]) -> Sequence[bool]:
        assert self.log is not None
        taken = self.log.append(rows)
        (self.metrics.log_rows if taken else self.metrics.log_lost).inc(len(rows))
        return [taken] * len(rows)

    def _require_log(self) -> None:
        if self.config.log_failure == "refuse" and self.log is not None and self.log.failing:
            raise self._log_refused()

    def _log_refused(self) -> HTTPException:
        assert self.log is not None
        return HTTPException(
            503,
            f"the prediction log cannot be written ({self.log.failure}), and without it no image is answered (--log-failure "
            "refuse); free some room, and send the image again",
            {"Retry-After": RETRY_AFTER},
        )

    def _count(self, described: Sequence[dict[str, Any]]) -> None:
        metrics = self.metrics
        metrics.images.inc(len(described))
        for one in described:
            metrics.ood.observe(one["ood_percentile"])
            if not one["path_count"]:
                metrics.unseen.inc()
            if one["contrary"]:
                metrics.contrary.inc()

    def _watch_model(self, images: int, waited: float, ran: float) -> None:
        self.metrics.batch.observe(images)
        self.metrics.stage["queue"](waited)
        self.metrics.stage["model"](ran)

    def _watch_log(self, _: int, waited: float, ran: float) -> None:
        self.metrics.stage["log"](waited + ran)

    async def _tend(self) -> None:
        while self.log is not None:
            try:
                self.metrics.log_stuck.set(await asyncio.to_thread(self.log.tend))
            except OSError:
                LOGGER.exception("The prediction log could not be tended; it is tried again.")
            self.metrics.log_ok.set(not self.log.failure)
            await asyncio.sleep(_TEND)


def _read(model: PathModel, max_pixels: int, content: bytes) -> tuple[Pixels, str]:
    return model.read(content, max_pixels), hashlib.sha256(content).hexdigest()

"""Options of the path service: one description of each.

Belongs here: names, defaults and validation. Each option is read from the environment too: --max-batch from
CLUSTERPATHS_SERVICE_MAX_BATCH.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from clusterpaths.records import Record

EXACT_MEGAPIXELS = 25  # larger images are halved before they are resized, which the library's extraction does not do


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ServiceConfig(Record):
    """Options of the path service."""

    host: str = Field("127.0.0.1", description="address to bind; there is no login: bind others behind a gateway only")
    port: int = Field(8080, ge=0, le=65535, description="port to bind; 0: a free one")
    log_dir: Path | None = Field(
        None, description="directory of the prediction log; several services may share it [no log]"
    )
    log_rows: int = Field(100_000, ge=1, description="rows after which a log file is complete")
    log_seconds: float = Field(300, gt=0, description="seconds after its first row when a log file is complete")
    log_fsync: Literal["batch", "never"] = Field(
        "batch",
        description="when rows are flushed to the disk: before their requests are answered, or when the system does it. "
        "With never a crash of the service loses no row, a power cut may",
    )
    log_failure: Literal["serve", "refuse"] = Field(
        "serve",
        description="what happens while the log cannot be written: images are answered without it, or refused (503)",
    )
    log_keep_days: float = Field(0, ge=0, description="days after which complete log files are deleted; 0: never")
    max_batch: int = Field(32, ge=1, description="images per run of the model; a fixed batch of the model replaces it")
    max_wait_ms: float = Field(
        2, ge=0, description="milliseconds that an image waits for others while the model is idle"
    )
    threads: int = Field(0, ge=0, description="threads of the model [0: half of the cores: the others decode]")
    decode_threads: int = Field(
        0, ge=0, description="images that are decoded at a time [0: as many as cores, at most 4]"
    )
    max_pending: int = Field(256, ge=1, description="requests that are being answered; beyond, the answer is 503")
    max_pending_mb: float = Field(128, gt=0, description="bytes of their bodies, in MB; beyond, the answer is 503")
    max_images: int = Field(32, ge=1, description="images per request")
    max_upload_mb: float = Field(20, gt=0, description="size limit of a request, in MB")
    max_megapixels: float = Field(
        EXACT_MEGAPIXELS, gt=0, le=EXACT_MEGAPIXELS, description="size limit of decoded images, in millions of pixels"
    )
    grace: float = Field(
        30, ge=0, description="seconds for requests that are being answered when the service is stopped"
    )

    @property
    def max_upload(self) -> int:
        """Bytes."""
        return int(self.max_upload_mb * 1_000_000)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1_000_000)

    @property
    def model_threads(self) -> int:
        return self.threads or max(1, cores() // 2)

    @property
    def decoders(self) -> int:
        return self.decode_threads or min(4, cores())

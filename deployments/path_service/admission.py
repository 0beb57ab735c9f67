"""How much is let in at a time: the bound of the service's queue and memory.

Belongs here: counting requests and the bytes of their bodies. The limit of one body is `server/middleware/body_limit.py`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastapi import HTTPException

RETRY_AFTER = "1"  # seconds


class Admission:
    """Requests that are being answered, and the bytes of their bodies; not thread-safe, of one event loop."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.requests = self.bytes = self.images = 0

    @contextlib.contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Let a request in whose body has this many bytes; one that is larger than the bound is let in alone.

        Raises:
            HTTPException: 503, the queue is full.
        """
        if self.requests >= self.most or (self.requests and self.bytes + size > self.most_bytes):
            raise HTTPException(
                503,
                f"{self.requests} requests with {self.bytes / 1e6:.3g} MB are being answered, which is what the service takes "
                f"(--max-pending {self.most}, --max-pending-mb {self.most_bytes / 1e6:.3g}); send it again in a moment",
                {"Retry-After": RETRY_AFTER},
            )
        self.requests += 1
        self.bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size

    @contextlib.contextmanager
    def hold(self, images: int) -> Iterator[None]:
        """Hold this many images, which take more memory than their bytes; more than the bound are held alone.

        Raises:
            HTTPException: 503, others are held.
        """
        if self.images and self.images + images > self.most:
            raise HTTPException(
                503,
                f"{self.images} images are being answered, and {images} more would exceed what the service takes (--max-pending "
                f"{self.most}); send the request again in a moment",
                {"Retry-After": RETRY_AFTER},
            )
        self.images += images
        try:
            yield
        finally:
            self.images -= images

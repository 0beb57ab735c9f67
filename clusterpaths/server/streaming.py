"""Large responses, sent in chunks without a copy per client.

Belongs here: how bytes are sent, not what they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clusterpaths.errors import NotFoundError

Parts = tuple[bytes | memoryview, ...]
PIECE = 256 << 10  # bytes: small enough for a core's cache


class Pieces(Response):
    """JSON in several parts, each of which may be shared between responses."""

    media_type = "application/json"

    def __init__(self, *parts: bytes | memoryview, headers: dict[str, str] | None = None) -> None:
        self.parts = parts
        super().__init__(headers={"Content-Length": str(sum(map(len, parts))), **(headers or {})})

    def pieces(self) -> Iterator[bytes | memoryview]:
        """All parts in chunks, in order."""
        if sum(map(len, self.parts)) <= PIECE:
            yield b"".join(self.parts)
            return
        for part in self.parts:
            view = memoryview(part)
            yield from (view[at : at + PIECE] for at in range(0, len(view), PIECE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self.pieces():  # each waits until the previous one is sent
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class FileWithin(Pieces):
    """A file between two pieces of text, read while it is sent: 8 MB of centroids are never in memory at once."""

    def __init__(self, before: bytes, path: Path, after: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise NotFoundError(f"{path.name} no longer exists: the set was deleted meanwhile.") from error
        self.length = os.fstat(self.file.fileno()).st_size
        length = str(len(before) + self.length + len(after))
        super().__init__(before, after, headers={**(headers or {}), "Content-Length": length})

    def pieces(self) -> Iterator[bytes | memoryview]:
        before, after = self.parts
        yield before
        left = self.length
        with self.file:
            while left and (piece := self.file.read(min(PIECE, left))):  # from the page cache: faster than a thread
                left -= len(piece)
                yield piece
        yield after

"""How much a request may send, and an image that is sent to be explained.

Belongs here: the limit of every body, and the form field `image`. Whether its bytes are an image is `explore/dropped.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.explanation.uploaded import Explained, Explainer
from clusterpaths.server.errors import answered

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex

FORM_BYTES = 100_000  # around the file: boundaries, field names
PATIENCE = 8  # seconds that an image waits for the ones before it
SECONDS_BETWEEN_PIECES = 20  # a client that goes silent in the middle of a body is let go


class BodyLimit:
    """ASGI middleware: no body beyond the limit, counted while it is read, whatever its Content-Length says."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced[:18]) > self.limit:
            refusal = await answered(Request(scope), 413, self._too_large())
            await refusal(scope, receive, send)
            return
        read = 0
        complete = False

        async def counted() -> Message:
            nonlocal read, complete
            if complete:
                return await receive()  # waits for the client to leave, however long the answer takes
            try:
                message = await asyncio.wait_for(receive(), SECONDS_BETWEEN_PIECES)
            except TimeoutError as error:
                raise HTTPException(408, "the body of the request did not arrive in time") from error
            complete = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self.limit:
                raise HTTPException(413, self._too_large())
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> str:
        return f"at most {self.limit / 1e6:.3g} MB can be sent; send a smaller image, or raise --max-upload-mb"


async def explain_upload(request: Request, index: SetIndex, image: UploadFile) -> Explained:
    """What a set says of the image in a form; for the API and for the page.

    Raises:
        RefusedImageError: no image, or too many pixels.
        ModelError: the set's model is gone or has changed.
        HTTPException: 413, too many bytes; 503, too many at once.
    """
    limit = request.app.state.settings.max_upload
    content = await image.read(limit + 1)
    if len(content) > limit:
        raise HTTPException(413, f"an image of at most {limit / 1e6:.3g} MB is explained; send a smaller one")
    explainer: Explainer = request.app.state.explainer
    turn: asyncio.Semaphore = request.app.state.explaining  # waiting here takes no thread away from other requests
    try:
        await asyncio.wait_for(turn.acquire(), PATIENCE)
    except TimeoutError as error:
        busy = "other images are being explained; try again in a moment"
        raise HTTPException(503, busy, {"Retry-After": "5"}) from error
    try:
        return await run_in_threadpool(explainer.explain, index, content, image.filename or "")
    finally:
        turn.release()

"""Limits the size of request bodies and the time to send them."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.server.errors import error_response

FORM_BYTES = 100_000  # multipart boundaries and field names around the file
SECONDS_BETWEEN_PIECES = 20  # timeout for a client that stops sending


class BodyLimit:
    """ASGI middleware: rejects bodies beyond the limit, counted while reading, whatever Content-Length says."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced[:18]) > self.limit:
            refusal = await error_response(Request(scope), 413, self._too_large())
            await refusal(scope, receive, send)
            return
        read = 0
        complete = False

        async def counted() -> Message:
            nonlocal read, complete
            if complete:
                return await receive()  # waits for the client to disconnect, however long the response takes
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

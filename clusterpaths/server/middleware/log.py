"""One log line per request: client, method, path, status, milliseconds, bytes.

Belongs here: the format of the log. Queries are not logged, as they may be private; tokens are never part of an address.
Text of a request is escaped against log injection.
"""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGGER = logging.getLogger("clusterpaths.server")
_LONGEST = 300
_NEVER_SENT = 499  # as nginx: the client closed the connection before the response


class RequestLog:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not LOGGER.isEnabledFor(logging.INFO):
            await self.app(scope, receive, send)
            return
        began, status, size = time.perf_counter(), _NEVER_SENT, 0

        async def counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            client = scope["client"][0] if scope.get("client") else "-"
            passed = 1000 * (time.perf_counter() - began)
            LOGGER.info(
                "%s %s %s %d %.1f ms %d B", client, printable(scope["method"]), shown(scope), status, passed, size
            )


def shown(scope: Scope) -> str:
    """The requested path, escaped and truncated; a query is shown as ?…"""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return printable(raw.partition(b"?")[0].decode("latin-1")) + ("?…" if scope.get("query_string") else "")


def printable(text: str) -> str:
    """Escapes control characters, quotes and line breaks; at most 300 characters."""
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return "".join(c if c.isprintable() and c not in '\\"' else c.encode("unicode_escape").decode() for c in cut)

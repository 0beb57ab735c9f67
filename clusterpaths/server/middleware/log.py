"""One log line per request: client, method, path, status, milliseconds, bytes; and its part in the metrics.

Belongs here: measuring requests, and the format of the log. Queries are not logged, as they may be private; tokens are never
part of an address. Text of a request is escaped against log injection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.common.disclosure import printable

LOGGER = logging.getLogger("clusterpaths.server")
_NEVER_SENT = 499  # as nginx: the client closed the connection before the response


class RequestLog:
    """ASGI middleware, the outermost.

    `observe` is called with method, scope, status and seconds of each request.
    """

    def __init__(self, app: ASGIApp, observe: Callable[[str, Scope, int, float], None]) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
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
            passed = time.perf_counter() - began
            self.observe(scope["method"], scope, status, passed)
            if LOGGER.isEnabledFor(logging.INFO):
                client = scope["client"][0] if scope.get("client") else "-"
                method, path = printable(scope["method"]), shown(scope)
                LOGGER.info("%s %s %s %d %.1f ms %d B", client, method, path, status, 1000 * passed, size)


def shown(scope: Scope) -> str:
    """The requested path, escaped and truncated; a query is shown as ?…"""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return printable(raw.partition(b"?")[0].decode("latin-1")) + ("?…" if scope.get("query_string") else "")

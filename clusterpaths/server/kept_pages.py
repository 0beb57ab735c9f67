"""Pages that are asked for again are not drawn again while all sets are as they were.

Belongs here: keeping whole pages. A page says what sets there are, so a new or replaced set makes all of them old; what else
it may show (metrics that are measured after a set was published, say) is at most some seconds behind.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.server.answers import has, not_modified
from clusterpaths.server.errors import is_page

if TYPE_CHECKING:
    from clusterpaths.explore.library import Library

BUDGET = 24 << 20  # bytes of pages kept
LARGEST = 1 << 20  # of one that is kept
SECONDS = 10.0  # that a page is kept at most


@dataclass(frozen=True)
class _Page:
    state: Any
    made: float
    content: bytes
    tag: str


class KeptPages:
    """ASGI middleware, the innermost: who gets here may see the page."""

    def __init__(self, app: ASGIApp, library: Library, budget: int = BUDGET) -> None:
        self.app, self.library, self.budget = app, library, budget
        self._kept: OrderedDict[str, _Page] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not is_page(scope["path"]):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        key = f"{scope['path']}?{request.url.query}"
        state = await run_in_threadpool(self._state)
        page = self._find(key, state)
        if page is None:
            page = await self._draw(key, state, scope, receive, send)
        if page is not None:
            answer = not_modified(page.tag) if has(request, page.tag) else _answer(page)
            await answer(scope, receive, send)

    def _state(self) -> Any:
        return tuple(
            (model.name, model.problems, tuple((one.set, one.version) for one in model.sets))
            for model in self.library.models()
        )

    def _find(self, key: str, state: Any) -> _Page | None:
        with self._lock:
            page = self._kept.get(key)
            if page is None or page.state != state or time.monotonic() - page.made > SECONDS:
                return None
            self._kept.move_to_end(key)
            return page

    async def _draw(self, key: str, state: Any, scope: Scope, receive: Receive, send: Send) -> _Page | None:
        """The page, kept from now on; None where the answer is something else and has been sent already."""
        start: Message | None = None
        pieces: list[bytes] = []
        sent = False

        async def gather(message: Message) -> None:
            nonlocal start, sent
            if message["type"] == "http.response.start" and _is_whole_page(message):
                start = message
            elif start is not None and not sent and message["type"] == "http.response.body":
                pieces.append(message.get("body", b""))
                if message.get("more_body", False) and sum(map(len, pieces)) > LARGEST:
                    sent = True
                    await send(start)
                    await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
            else:
                await send(message)

        await self.app(scope, receive, gather)
        if start is None or sent:
            return None
        content = b"".join(pieces)
        tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
        page = _Page(state, time.monotonic(), content, tag)
        if len(content) <= LARGEST:
            with self._lock:
                old = self._kept.pop(key, None)
                self._bytes += len(content) - (len(old.content) if old else 0)
                self._kept[key] = page
                while self._bytes > self.budget:
                    self._bytes -= len(self._kept.popitem(last=False)[1].content)
        return page


def _is_whole_page(start: Message) -> bool:
    headers = dict(start.get("headers", ()))
    plain = {b"content-length", b"content-type"}
    return (
        start["status"] == 200 and set(headers) <= plain and headers.get(b"content-type", b"").startswith(b"text/html")
    )


def _answer(page: _Page) -> Response:
    return Response(
        page.content, media_type="text/html", headers={"ETag": page.tag, "Cache-Control": "private, no-cache"}
    )

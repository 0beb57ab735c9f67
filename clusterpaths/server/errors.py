"""Error responses, as JSON and as a page.

Belongs here: exception handlers, and JSON or page. Statuses and texts of expected errors are `common/disclosure.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.common.disclosure import describe, printable, reference
from clusterpaths.errors import ClusterPathsError
from clusterpaths.records import Record
from clusterpaths.server.addresses import is_page
from clusterpaths.server.middleware.log import LOGGER, shown
from clusterpaths.storage.atomic import of_machine

_PLAIN = {  # instead of the framework's own words
    404: "no such address; the pages start at /, the endpoints are listed in /api/v1/openapi.json",
    405: "this address does not support the method",
}


class Problem(Record):
    """An error."""

    detail: str = Field(description="what happened, what was expected, and what to do")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors that an endpoint may answer, for its OpenAPI entry."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


def install(app: FastAPI, error_page: Callable[[Request, int, str], Response]) -> None:
    """Register the exception handlers; `error_page` renders a page from status and text."""
    app.state.error_page = error_page

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, ClusterPathsError)
        status, text = describe(error)
        return await error_response(request, status, text)

    async def of_the_machine(request: Request, error: Exception) -> Response:
        found = of_machine(error)
        if found is None:
            raise error
        status, text = describe(found)
        return await error_response(request, status, text)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        framework = error.detail == HTTPStatus(error.status_code).phrase
        text = _PLAIN.get(error.status_code, error.detail) if framework else error.detail
        return await error_response(request, error.status_code, str(text), error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await error_response(request, 422, what_is_invalid(error.errors()))

    app.add_exception_handler(ClusterPathsError, known)
    for kind in (OSError, MemoryError):
        app.add_exception_handler(kind, of_the_machine)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)


async def error_response(request: Request, status: int, text: str, headers: Any = None) -> Response:
    """An error as a page or as JSON; the page is rendered in a thread, as it reads the disk."""
    if not _wants_page(request):
        return JSONResponse({"detail": text}, status, headers)
    page: Response = await run_in_threadpool(request.app.state.error_page, request, status, text)
    page.headers.update(headers or {})
    return page


def _wants_page(request: Request) -> bool:
    """Whether the answer is a page: at addresses of pages, and in a browser at those that no endpoint has."""
    path = request.url.path
    if is_page(path):
        return True
    unknown = "endpoint" not in request.scope and not path.startswith(("/api/", "/static/"))
    return unknown and "text/html" in request.headers.get("accept", "")


def what_is_invalid(errors: Sequence[Any]) -> str:
    """Each invalid field, in one sentence."""
    found = []
    for entry in errors:
        place, *names = (str(part) for part in entry["loc"])
        name = ".".join(names) or f"the {place}"
        if entry["type"] == "extra_forbidden":
            found.append(f"{name}: unknown parameter")
        else:
            found.append(f"{name}: {entry['msg'].removeprefix('Value error, ')[0:200]}{_got(entry)}")
    return "; ".join(found)


def _got(entry: Any) -> str:
    value = entry.get("input")
    return f", got {printable(repr(value)[:80])}" if isinstance(value, str | int | float) else ""


class UnexpectedErrors:
    """ASGI middleware: logs unexpected exceptions with traceback, and answers 500 with a reference into the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            number = reference()
            LOGGER.exception("[%s] %s %s", number, printable(scope["method"]), shown(scope))
            if started:
                raise  # the server closes the connection: a partial response must not look complete
            text = f"internal error, see the server's log at {number}"
            try:
                response = await error_response(Request(scope), 500, text)
            except Exception:  # noqa: BLE001  # the error page may fail for the same reason
                LOGGER.exception("[%s] rendering the error page failed", number)
                response = JSONResponse({"detail": text}, 500)
            await response(scope, receive, send)

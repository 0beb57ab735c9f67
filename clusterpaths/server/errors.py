"""What a failed request is answered: in one place, the same words as JSON and as a page.

Belongs here: which error is which status, and what of its message may leave this machine. Messages of the library name
files; such a message goes to the log, and the answer says in general words what is wrong.
"""

from __future__ import annotations

import logging
import re
import secrets
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

from clusterpaths.errors import (
    CacheError,
    ClusterPathsError,
    ConfigError,
    DatasetError,
    InputError,
    ModelError,
    NotFoundError,
    RefusedImageError,
)
from clusterpaths.records import Record
from clusterpaths.server.addresses import is_page
from clusterpaths.server.middleware.log import LOGGER, printable, shown

# An absolute path with two parts or more, in the way of POSIX or Windows, or one below the home folder
_FILE = re.compile(r"(?:(?<![\w.<:/])(?:~|\.\.?)?/[^\s/'\"]+/|[A-Za-z]:\\|\\\\)[^\s'\"]")
_STATUS: tuple[tuple[type[ClusterPathsError], int], ...] = (  # the first that fits
    (NotFoundError, 404),
    (RefusedImageError, 422),
    (ConfigError, 422),
    (ModelError, 409),
    (DatasetError, 409),
    (CacheError, 503),
    (InputError, 503),
)
_GENERAL = {
    404: "there is nothing of that name here",
    409: "the set's model or its images are no longer where they were when the set was made, or have changed since",
    422: "this cannot be answered as it was asked",
    503: "the set cannot be read now: it is damaged, or is just being replaced; try again, or publish it again",
}
_PLAIN = {  # instead of the framework's own words
    404: "there is no such address here; the pages start at /, the endpoints are listed in /api/v1/openapi.json",
    405: "this address cannot be asked in this way",
}


class Problem(Record):
    """What went wrong, in words for a person."""

    detail: str = Field(description="what happened, what was expected, and what to do")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors that an endpoint may answer, for its OpenAPI entry."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


def names_file(text: str) -> bool:
    """Whether a message says where a file lies on this machine."""
    return _FILE.search(text) is not None


def install(app: FastAPI, error_page: Callable[[Request, int, str], Response]) -> None:
    """Make the application answer errors this way; `error_page` renders one for a person, by status and text."""
    app.state.error_page = error_page

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, ClusterPathsError)
        status, text = describe(error)
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
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)


def describe(error: ClusterPathsError) -> tuple[int, str]:
    """Status and text of an error that was raised on purpose; what the text leaves out is logged."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
    if isinstance(error, RefusedImageError):
        status = error.status
    text = str(error)
    if status == 503 or names_file(text):
        reference = _reference()
        LOGGER.log(logging.INFO if status == 404 else logging.WARNING, "[%s] %s", reference, printable(text))
        return status, f"{_GENERAL[status]} (the server's log says more, at {reference})"
    return status, text


async def error_response(request: Request, status: int, text: str, headers: Any = None) -> Response:
    """An error as a page for a person, else as JSON; the page is rendered in a thread, as it looks at the disk."""
    if not is_page(request.url.path):
        return JSONResponse({"detail": text}, status, headers)
    page: Response = await run_in_threadpool(request.app.state.error_page, request, status, text)
    page.headers.update(headers or {})
    return page


def what_is_invalid(errors: Sequence[Any]) -> str:
    """Each field that is wrong, in one sentence."""
    found = []
    for entry in errors:
        place, *names = (str(part) for part in entry["loc"])
        name = ".".join(names) or f"the {place}"
        if entry["type"] == "extra_forbidden":
            found.append(f"{name}: there is no such parameter")
        else:
            found.append(f"{name}: {entry['msg'].removeprefix('Value error, ')[0:200]}{_got(entry)}")
    return "; ".join(found)


def _got(entry: Any) -> str:
    value = entry.get("input")
    return f", got {printable(repr(value)[:80])}" if isinstance(value, str | int | float) else ""


def _reference() -> str:
    return secrets.token_hex(4)


class UnexpectedErrors:
    """ASGI middleware: a bug is logged with its traceback, and answered with a reference into the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            reference = _reference()
            LOGGER.exception("[%s] %s %s", reference, printable(scope["method"]), shown(scope))
            if started:
                raise  # the server cuts the connection: half an answer must not look like a complete one
            text = f"internal error, see the server's log at {reference}"
            try:
                response = await error_response(Request(scope), 500, text)
            except Exception:  # noqa: BLE001  # what broke the page may break the page about it; it is logged
                LOGGER.exception("[%s] the page about it", reference)
                response = JSONResponse({"detail": text}, 500)
            await response(scope, receive, send)

"""The application."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from clusterpaths.common import roots
from clusterpaths.common.threads import one_thread
from clusterpaths.errors import ClusterPathsError
from clusterpaths.explanation.uploaded import Explainer
from clusterpaths.explore.documents import Documents
from clusterpaths.explore.images import Images
from clusterpaths.explore.library import Library
from clusterpaths.explore.routes import routes
from clusterpaths.monitoring.history import History
from clusterpaths.naming.resolve import names_of
from clusterpaths.server import errors, metrics, static_files
from clusterpaths.server.answers import answer_cache
from clusterpaths.server.api import find as find_api
from clusterpaths.server.api import maps as maps_api
from clusterpaths.server.api import monitoring as monitoring_api
from clusterpaths.server.api import names as names_api
from clusterpaths.server.api import selections as selections_api
from clusterpaths.server.api import v1 as api
from clusterpaths.server.contract import dashboards as contract
from clusterpaths.server.middleware import security
from clusterpaths.server.middleware.body_limit import FORM_BYTES, BodyLimit
from clusterpaths.server.middleware.head import HeadAsGet
from clusterpaths.server.middleware.log import RequestLog
from clusterpaths.server.pages import alike, ask, compare, find, home, image, login, monitoring, names, sets
from clusterpaths.server.pages import map as map_page
from clusterpaths.server.pages.errors import error_page
from clusterpaths.server.pages.rendering import compile_templates
from clusterpaths.server.settings import ServeConfig

# Concurrent requests; others are queued. More threads than cores only compete for the GIL: with 40, starlette's default,
# pages took 50% longer under 20 clients (benchmarks/load.py).
AT_ONCE = (os.cpu_count() or 1) + 1


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    """Lifespan of the server. Warms up in the background, concurrently with the first requests."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = AT_ONCE
    threading.Thread(target=_prepare, args=(app.state.library,), daemon=True).start()
    with one_thread():  # of BLAS: requests run side by side already, and its threads wait for each other by spinning
        yield


def _prepare(library: Library) -> None:
    compile_templates()
    with contextlib.suppress(ClusterPathsError):  # there is none, or it is corrupted: reported on request
        index = library.default()
        routes(index)
        names_of(index).clusters  # noqa: B018 - computed now


def create_app(settings: ServeConfig) -> FastAPI:
    """The server as an ASGI application."""
    app = FastAPI(
        title="ClusterPaths",
        summary="Which route each image takes through the layers of a model.",
        version=version("clusterpaths"),
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # these pages load scripts from another host
        redoc_url=None,
        lifespan=_running,
        responses=errors.documented(400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503),
    )
    app.state.settings = settings
    app.state.library = Library(settings.cache_root or roots.cache_root())
    app.state.explainer = Explainer(settings.max_pixels)
    app.state.images = Images(app.state.library)
    app.state.answers = answer_cache()
    app.state.documents = Documents()
    app.state.history = History()
    app.state.metrics = metrics.Metrics(app.state.library, app.state.history)
    app.state.explaining = asyncio.Semaphore(1)
    app.state.finding = asyncio.Semaphore(1)
    app.include_router(contract.router)
    app.include_router(selections_api.router)
    app.include_router(api.router)
    app.include_router(find_api.router)
    app.include_router(maps_api.router)
    app.include_router(names_api.router)
    app.include_router(monitoring_api.router)
    app.include_router(metrics.router)
    for pages in (login, home, ask, alike, compare, find, image, map_page, names, monitoring, sets):
        app.include_router(pages.router, include_in_schema=False)
    app.include_router(static_files.router)
    app.mount("/static", static_files.VersionedFiles())
    errors.install(app, error_page)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limit=settings.max_upload + FORM_BYTES)
    app.add_middleware(security.Gate, settings=settings)
    app.add_middleware(errors.UnexpectedErrors)
    if settings.origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origin,
            allow_methods=["GET", "POST", *(["PUT"] if settings.edit else [])],
            allow_headers=["authorization", "content-type", "if-none-match"],
            expose_headers=["etag"],
            allow_credentials=False,  # other sites send the token; session cookies are not shared with them
        )
    app.add_middleware(security.SecurityHeaders, by_origin=bool(settings.origin))
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestLog, observe=app.state.metrics.observe)
    return app

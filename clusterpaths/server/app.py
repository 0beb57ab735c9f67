"""The application: its parts put together."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from clusterpaths import roots
from clusterpaths.explore.library import Library
from clusterpaths.server import api, contract, pages
from clusterpaths.server.settings import ServeConfig


def create_app(settings: ServeConfig) -> FastAPI:
    """The server as an ASGI application."""
    app = FastAPI(title="ClusterPaths", openapi_url="/api/v1/openapi.json", docs_url=None, redoc_url=None)
    app.state.settings = settings
    app.state.library = Library((settings.cache_root or roots.cache_root()).expanduser().absolute())
    app.include_router(contract.router)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=str(resources.files("clusterpaths.server").joinpath("static"))))
    return app

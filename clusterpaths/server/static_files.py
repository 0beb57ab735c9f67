"""Static files, from three packages: this one, the report's stylesheet, plotly.

Belongs here: versioned addresses, and cache headers.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib import metadata, resources

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

router = APIRouter(include_in_schema=False)


@cache
def static_url(name: str) -> str:
    """The versioned address of a file, which browsers cache indefinitely."""
    if name == "plotly.min.js":
        return f"/static/{name}?v={metadata.version('plotly')}"
    package = "clusterpaths.report" if name == "report.css" else "clusterpaths.server.static"
    try:
        content = resources.files(package).joinpath(name).read_bytes()
    except FileNotFoundError:
        return f"/static/{name}"
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


def cache_control(name: str, version: str | None) -> str:
    """Immutable if the address has the file's version, else to be revalidated."""
    current = version and static_url(name) == f"/static/{name}?v={version}"
    return "public, max-age=31536000, immutable" if current else "public, no-cache"


class VersionedFiles(StaticFiles):
    """The files of static/."""

    def __init__(self) -> None:
        super().__init__(directory=str(resources.files("clusterpaths.server").joinpath("static")))

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = cache_control(path, Request(scope).query_params.get("v"))
        return response


@router.get("/static/report.css")
def report_css(request: Request) -> Response:
    """The report's stylesheet, which the explorer extends."""
    content = resources.files("clusterpaths.report").joinpath("report.css").read_bytes()
    return _file(request, "report.css", content, "text/css; charset=utf-8", hashlib.sha256(content).hexdigest()[:16])


@router.get("/static/plotly.min.js")
def plotly(request: Request) -> Response:
    """plotly.js of the installed Python package; 404 if not installed: pages then show the static figure."""
    found = _plotly()
    if found is None:
        return Response("plotly is not installed", 404, media_type="text/plain")
    content, tag = found
    return _file(request, "plotly.min.js", content, "text/javascript; charset=utf-8", tag, gzipped=True)


@cache
def _plotly() -> tuple[bytes, str] | None:
    """Compressed content and its tag; None if not installed."""
    try:
        content = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        return None
    return gzip.compress(content, 6), hashlib.sha256(content).hexdigest()[:16]


def _file(request: Request, name: str, content: bytes, kind: str, tag: str, *, gzipped: bool = False) -> Response:
    headers = {
        "ETag": f'"{tag}"',
        "Cache-Control": cache_control(name, request.query_params.get("v")),
        "Vary": "Accept-Encoding",
    }
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if gzipped and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(content, media_type=kind, headers=headers | {"Content-Encoding": "gzip"})
    return Response(gzip.decompress(content) if gzipped else content, media_type=kind, headers=headers)

"""/api/v1/…/map: what the map of a set shows, as JSON; its points and columns, as raw arrays.

Belongs here: addresses and answers. `explore/maps.py` has the arrays.

Arrays are sent as they are: on one machine, and over a fast network, compressing takes longer than sending
(docs/map.md has the figures).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.maps import Column, MapInfo, map_column, map_info, map_points
from clusterpaths.records import Record
from clusterpaths.server.answers import has, not_modified, of_set, tag_of
from clusterpaths.server.api.v1 import OF_SET, Model, None_, Set, sane
from clusterpaths.server.dependencies import LibraryOf

router = APIRouter(prefix="/api/v1", dependencies=[Depends(sane)])
_ARRAY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a little-endian array",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_VERSION = Field(
    "",
    max_length=200,
    description="version of /map: the answer may then be cached for an hour; 409 if the set was replaced",
)


class OfLayer(Record):
    """Which layer."""

    layer: str = Field(max_length=255, description="one of the set's layers")
    v: str = _VERSION


class OfColumn(Record):
    """Which column."""

    name: str = Field(max_length=300, description="one of `columns` of /map")
    v: str = _VERSION


@router.get(f"{OF_SET}/map", tags=["map"], response_model=MapInfo)
def the_map(request: Request, model: Model, set: Set, _: None_) -> Response:  # noqa: A002
    """What the map shows: layers, columns, names of classes, splits and attributes."""
    return of_set(request, model, set, map_info, before=lambda index: index.confidence)


@router.get(f"{OF_SET}/map/points", tags=["map"], response_class=Response, responses=_ARRAY)
def points(
    request: Request,
    library: LibraryOf,
    model: Model,
    set: Set,  # noqa: A002
    asked: Annotated[OfLayer, Query()],
) -> Response:
    """Where each example lies on the map of a layer: (n, 2) float32, by id."""
    return _array(request, library.set(model, set), asked.v, lambda index: map_points(index, asked.layer))


@router.get(f"{OF_SET}/map/columns", tags=["map"], response_class=Response, responses=_ARRAY)
def columns(
    request: Request,
    library: LibraryOf,
    model: Model,
    set: Set,  # noqa: A002
    asked: Annotated[OfColumn, Query()],
) -> Response:
    """One column: (n,) of the type that /map lists, by id."""
    return _array(request, library.set(model, set), asked.v, lambda index: map_column(index, asked.name))


def _array(request: Request, index: SetIndex, version: str, make: Callable[[SetIndex], Column]) -> Response:
    """An array's bytes; not cached here, as they are views of arrays in memory.

    Raises:
        HTTPException: 409, as rows of another version belong to other examples.
    """
    known = index.summary.version
    if version not in ("", known):
        raise HTTPException(409, f"The set was replaced: v is {version[:80]!r}, expected {known!r}; get /map again.")
    cache = "private, max-age=3600" if version else "private, no-cache"
    tag = tag_of(known, str(index.folder), request.url.path, request.url.query)
    if has(request, tag):
        return not_modified(tag, cache)
    headers = {"ETag": tag, "Cache-Control": cache}
    return Response(make(index).tobytes(), media_type="application/octet-stream", headers=headers)

"""/api/v1/…/find: likely label errors, near duplicates and under-covered regions.

Belongs here: addresses and answers. `clusterpaths/find` makes the lists; they are computed at first use, which takes seconds for
a large set.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.find.export import csv_lines, fiftyone_lines
from clusterpaths.find.find import find
from clusterpaths.find.record import Found, Kind
from clusterpaths.records import Record
from clusterpaths.server.answers import of_set
from clusterpaths.server.api.v1 import OF_SET, Limit, Model, Offset, Set, sane
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.slow_lists import compute_in_turn

router = APIRouter(prefix="/api/v1", dependencies=[Depends(sane)])
Kinds = Annotated[Kind, Path(description="what to look for")]
_HEADERS = {"Cache-Control": "private, no-cache"}


class ByLayer(Record):
    """The complete list."""

    layer: str = Field(
        "", max_length=255, description="of under-covered: whose neighbours count; by default the last one's"
    )


class Piece(ByLayer):
    """A piece of a list."""

    limit: Limit = 50
    offset: Offset = 0


@router.get(
    f"{OF_SET}/find/{{kind}}.csv",
    tags=["find"],
    response_class=StreamingResponse,
    responses={200: {"description": "the complete list, one row per example", "content": {"text/csv": {}}}},
)
async def found_csv(
    request: Request,
    library: LibraryOf,
    model: Model,
    set: Set,  # noqa: A002
    kind: Kinds,
    wanted: Annotated[ByLayer, Query()],
) -> Response:
    """A complete list as CSV."""
    index = await _computed(
        request, library, model, set, kind, wanted.layer
    )  # errors are raised here, before the response starts
    return StreamingResponse(
        csv_lines(index, kind, wanted.layer),
        media_type="text/csv; charset=utf-8",
        headers=_HEADERS | _attachment(f"{index.summary.model}_{index.summary.set}_{kind}.csv"),
    )


@router.get(
    f"{OF_SET}/find/{{kind}}/fiftyone",
    tags=["find"],
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "what FiftyOne's Dataset.from_json reads",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
)
async def found_fiftyone(
    request: Request,
    library: LibraryOf,
    model: Model,
    set: Set,  # noqa: A002
    kind: Kinds,
    wanted: Annotated[ByLayer, Query()],
) -> Response:
    """A complete list as a document for FiftyOne; file names are relative to the images."""
    index = await _computed(request, library, model, set, kind, wanted.layer)
    return StreamingResponse(
        fiftyone_lines(index, kind, wanted.layer),
        media_type="application/json",
        headers=_HEADERS | _attachment(f"{index.summary.model}_{index.summary.set}_{kind}_fiftyone.json"),
    )


@router.get(f"{OF_SET}/find/{{kind}}", tags=["find"], response_model=Found)
async def found(
    request: Request,
    library: LibraryOf,
    model: Model,
    set: Set,  # noqa: A002
    kind: Kinds,
    piece: Annotated[Piece, Query()],
) -> Response:
    """Likely label errors, near duplicates or under-covered regions, page by page."""
    await _computed(request, library, model, set, kind, piece.layer)
    made: list[Found] = []
    return await run_in_threadpool(
        of_set,
        request,
        model,
        set,
        lambda _: made[0],
        before=lambda index: made.append(find(index, kind, layer=piece.layer, limit=piece.limit, offset=piece.offset)),
    )


async def _computed(request: Request, library: Library, model: str, set_name: str, kind: str, layer: str) -> SetIndex:
    """The set, once its list is computed."""
    index = await run_in_threadpool(library.set, model, set_name)
    await compute_in_turn(request, index, kind, layer)
    return index


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}

"""…/examples/ID/alike: the examples nearest to one, at a depth of the network that a slider chooses.

Belongs here: the depths of the links and the page. `explore/alike.py` measures distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from clusterpaths.explore.alike import alike, prepare_alike
from clusterpaths.explore.index import SetIndex
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.pages.lists import list_of
from clusterpaths.server.pages.rendering import render_once
from clusterpaths.server.pages.set_view import set_view

SHOWN = 36
STEPS = 20  # of the slider between two layers

router = APIRouter()
Depth = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class Stop:
    """A layer on the way from the first to the last one."""

    name: str
    link: str
    weight: float  # of its distances in the list


@router.get("/explore/{model}/{name}/examples/{example:int}/alike")
async def alike_page(
    request: Request, library: LibraryOf, model: str, name: str, example: int, depth: Depth = 0.0
) -> HTMLResponse:
    """The examples nearest to one; without script by links, one per layer, and a form."""
    index = await run_in_threadpool(library.set, model, name)
    given = [pair for pair in request.query_params.multi_items() if pair[0] != "depth"]
    query = await list_of(request, index, urlencode(given), example)
    return await run_in_threadpool(_page, request, index, example, depth, given, query)


def _page(
    request: Request, index: SetIndex, example: int, depth: float, given: list[tuple[str, str]], query: str
) -> HTMLResponse:
    def values() -> dict[str, Any]:
        found = alike(index, example, depth, count=SHOWN)
        weights = {one.layer: one.weight for one in found.layers}
        last = max(len(index.layers) - 1, 1)
        return {
            "found": found,
            "example": index.examples(np.array([index.row_of(example)]))[0],
            "depth": depth,
            "list_query": query,
            "list_fields": given if query else (),
            "step": 1 / (STEPS * last),
            "stops": [
                Stop(layer, set_view(index).alike_url(example, i / last, query), weights.get(layer, 0.0))
                for i, layer in enumerate(index.layers)
            ],
        }

    return render_once(
        request, index, "alike.html", values, before=lambda: prepare_alike(index, example, depth, count=SHOWN)
    )

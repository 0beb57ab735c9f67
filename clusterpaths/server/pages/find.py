"""…/find/KIND: likely label errors, near duplicates and under-covered regions, as lists with pictures.

Belongs here: the values of the template. `clusterpaths/find` makes the lists.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.find.find import find, prepare
from clusterpaths.find.record import KINDS, LABEL_ERRORS, NEAR_DUPLICATES, UNDER_COVERED, Found, Region, UnderCovered
from clusterpaths.find.text import headline, lift_text
from clusterpaths.find.under_covered import layer_at
from clusterpaths.server.addresses import api_url, encoded
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.pages.lists import FOUND, found_url, list_query
from clusterpaths.server.pages.rendering import render_once
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.pages.sets import PageNumber
from clusterpaths.server.slow_lists import compute_in_turn

TITLES: dict[str, str] = {
    LABEL_ERRORS: "Label errors",
    NEAR_DUPLICATES: "Near duplicates",
    UNDER_COVERED: "Under-covered regions",
}
NOTHING: dict[str, str] = {
    LABEL_ERRORS: "No label is improbable enough to be called an error.",
    NEAR_DUPLICATES: "No two examples of this set are the same picture, or nearly.",
    UNDER_COVERED: "No group of examples has clearly more sparse examples than the set.",
}
ENTRIES: dict[str, str] = {LABEL_ERRORS: "likely errors", NEAR_DUPLICATES: "groups", UNDER_COVERED: "regions"}

router = APIRouter(default_response_class=HTMLResponse)


@router.get("/explore/{model}/{name}/find")
def first_kind(library: LibraryOf, model: str, name: str) -> Response:
    """To the first kind."""
    return RedirectResponse(f"{set_view(library.set(model, name)).url}/find/{KINDS[0]}", 303)


@router.get("/explore/{model}/{name}/find/{kind}")
async def find_page(
    request: Request, library: LibraryOf, model: str, name: str, kind: str, page: PageNumber = 1, layer: str = ""
) -> Response:
    """One kind's list; why there is none, where the set lacks what it needs."""
    index = await run_in_threadpool(library.set, model, name)
    layer_at(index, layer)
    with contextlib.suppress(NotFoundError):  # the page says so
        await compute_in_turn(request, index, kind, layer)
    return await run_in_threadpool(_page, request, index, kind, layer, page)


def _page(request: Request, index: SetIndex, kind: str, layer: str, page: int) -> Response:
    view = set_view(index)
    problem, total = "", 0
    try:
        total = prepare(index, kind, layer)  # before rendering, which holds a lock
    except NotFoundError as error:
        if kind not in KINDS:
            raise
        problem = str(error)
    size = FOUND[kind]
    last = max(1, -(-total // size))
    if page > last:
        return RedirectResponse(found_url(index, kind, layer, last), 303)

    found: Found | None = None

    def before() -> None:
        nonlocal found
        found = None if problem else find(index, kind, layer=layer, limit=size, offset=(page - 1) * size)

    def values() -> dict[str, Any]:
        return {
            "kind": kind,
            "kinds": [(TITLES[one], f"{view.url}/find/{one}", one == kind) for one in KINDS],
            "found": found,
            "problem": problem,
            "headline": headline(found) if found else TITLES[kind],
            "nothing": NOTHING[kind],
            "entries": ENTRIES[kind],
            "export": f"{api_url(view.summary)}/find/{kind}",
            "page": page,
            "last": last,
            "layers": [
                (one, found_url(index, kind, "" if one == index.layers[-1] else one), one == found.layer)
                for one in index.layers
                if isinstance(found, UnderCovered)
            ],
            "query": f"?layer={encoded(layer)}" if layer else "",
            "before": found_url(index, kind, layer, page - 1) if page > 1 else "",
            "after": found_url(index, kind, layer, page + 1) if page < last else "",
            "first": found_url(index, kind, layer) if page > 1 else "",
            "end": found_url(index, kind, layer, last) if page < last else "",
            "lift_text": lift_text,
            "steps_of": steps_of,
            "list_query": list_query(kind, [("layer", layer)] if layer else ()),
        }

    return render_once(request, index, "find.html", values, before=before)


def steps_of(region: Region) -> list[int | None]:
    """The cluster of each layer; None: any."""
    return [None if step == "*" else int(step) for step in region.path.split("-")]

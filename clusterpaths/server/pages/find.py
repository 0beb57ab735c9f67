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
from clusterpaths.find.record import KINDS, Found, Region
from clusterpaths.find.text import headline, lift_text
from clusterpaths.server.addresses import api_url
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.pages.lists import LABEL_ERRORS, SUSPECTS, list_query
from clusterpaths.server.pages.rendering import render_once
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.pages.sets import PageNumber
from clusterpaths.server.slow_lists import compute_in_turn

PAGE_SIZE = {LABEL_ERRORS: SUSPECTS, "near-duplicates": 25, "under-covered": 15}
TITLES = {
    "label-errors": "Label errors",
    "near-duplicates": "Near duplicates",
    "under-covered": "Under-covered regions",
}
NOTHING = {
    "label-errors": "No label is improbable enough to be called an error.",
    "near-duplicates": "No two examples of this set are the same picture, or nearly.",
    "under-covered": "No group of examples has clearly more sparse examples than the set.",
}

router = APIRouter(default_response_class=HTMLResponse)


@router.get("/explore/{model}/{name}/find")
def first_kind(library: LibraryOf, model: str, name: str) -> Response:
    """To the first kind."""
    return RedirectResponse(f"{set_view(library.set(model, name)).url}/find/{KINDS[0]}", 303)


@router.get("/explore/{model}/{name}/find/{kind}")
async def find_page(
    request: Request, library: LibraryOf, model: str, name: str, kind: str, page: PageNumber = 1
) -> Response:
    """One kind's list; why there is none, where the set lacks what it needs."""
    index = await run_in_threadpool(library.set, model, name)
    with contextlib.suppress(NotFoundError):  # the page says so
        await compute_in_turn(request, index, kind)
    return await run_in_threadpool(_page, request, index, kind, page)


def _page(request: Request, index: SetIndex, kind: str, page: int) -> Response:
    view = set_view(index)
    problem, total = "", 0
    try:
        total = prepare(index, kind)  # before rendering, which holds a lock
    except NotFoundError as error:
        if kind not in KINDS:
            raise
        problem = str(error)
    url, size = f"{view.url}/find/{kind}", PAGE_SIZE[kind]
    last = max(1, -(-total // size))
    if page > last:
        return RedirectResponse(f"{url}?page={last}" if last > 1 else url, 303)

    def values() -> dict[str, Any]:
        found: Found | None = None if problem else find(index, kind, limit=size, offset=(page - 1) * size)
        return {
            "kind": kind,
            "kinds": [(TITLES[one], f"{view.url}/find/{one}", one == kind) for one in KINDS],
            "found": found,
            "problem": problem,
            "headline": headline(found) if found else TITLES[kind],
            "nothing": NOTHING[kind],
            "export": f"{api_url(view.summary)}/find/{kind}",
            "page": page,
            "last": last,
            "url": url,
            "lift_text": lift_text,
            "steps_of": steps_of,
            "list_query": list_query(LABEL_ERRORS, ()),
        }

    return render_once(request, index, "find.html", values)


def steps_of(region: Region) -> list[int | None]:
    """The cluster of each layer; None: any."""
    return [None if step == "*" else int(step) for step in region.path.split("-")]

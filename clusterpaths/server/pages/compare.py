"""/compare: two sets side by side.

Belongs here: choosing the two, and links of the page. `comparison/compare.py` computes the numbers,
`report/comparison.py` the sentences.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from clusterpaths.common.disclosure import describe
from clusterpaths.comparison.cached import compare_cached
from clusterpaths.errors import ClusterPathsError, NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.explore.records import ModelSummary, SetSummary
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.pages.rendering import render

SUGGESTED = 6

router = APIRouter()


@router.get("/compare", response_class=HTMLResponse)
def compare_page(request: Request, library: LibraryOf) -> Response:
    """The form, and the comparison if two sets are given."""
    models = library.models()
    query = {name: request.query_params.get(name, "").strip() for name in ("first", "second")}
    given = {name: value for name, value in query.items() if value}
    if list(given.items()) != request.query_params.multi_items():
        return RedirectResponse("/compare" + (f"?{_encoded(given)}" if given else ""), status_code=303)
    values: dict[str, Any] = {"first": query["first"], "second": query["second"], "problem": ""}
    status = 200
    if len(given) == 2:
        try:
            values |= _answer(library, query["first"], query["second"])
        except ClusterPathsError as error:
            status, values["problem"] = describe(error)
    return render(
        request,
        "compare.html",
        status=status,
        offered=tuple(_name(s) for model in models for s in model.sets),
        suggested=_suggested(models),
        **{"c": None} | values,
    )


def _answer(library: Library, first: str, second: str) -> dict[str, Any]:
    """What the template shows of the comparison.

    Raises:
        NotFoundError, ConfigError, CacheError, DatasetError: see `compare_cached`.
    """
    from clusterpaths.report.comparison import comparison_page  # imports scipy

    one, other = (_set(library, name) for name in (first, second))
    comparison = compare_cached(one, other)
    return {
        "c": comparison,
        "page": comparison_page(comparison),
        "sides": (one.summary, other.summary),
        "swapped": f"/compare?{_encoded({'first': second, 'second': first})}",
        "shown": _shown(one, other),
    }


def _set(library: Library, name: str) -> SetIndex:
    model, slash, set_name = name.rpartition("/")
    if not slash:
        raise NotFoundError(
            f"There is no set {name!r}. Expected MODEL/SET, such as SampleFaces/set_01; choose from the list."
        )
    return library.set(model, set_name)


def _shown(one: SetIndex, other: SetIndex) -> SetSummary | None:
    """The set whose images are shown; None: neither set has any."""
    return next((index.summary for index in (other, one) if index.summary.dataset), None)


def _suggested(models: tuple[ModelSummary, ...]) -> tuple[tuple[str, str, str], ...]:
    """(first, second, address) of each model's last two sets; whether two models have the same images is not known here."""
    pairs = [(_name(m.sets[-2]), _name(m.sets[-1])) for m in models if len(m.sets) > 1 and m.sets[-1].dataset]
    return tuple((a, b, f"/compare?{_encoded({'first': a, 'second': b})}") for a, b in pairs[:SUGGESTED])


def _name(summary: SetSummary) -> str:
    return f"{summary.model}/{summary.set}"


def _encoded(values: dict[str, str]) -> str:
    return urlencode(values, quote_via=quote, safe="/")

"""…/ask: a form, and the selected examples of a set.

Belongs here: the form, the list and its pages. `explore/ask.py` selects, `selection.py` has what the examples share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from clusterpaths.common.disclosure import describe
from clusterpaths.errors import ConfigError, NotFoundError
from clusterpaths.explore.ask import choices, prepare, select
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import Choices, ExamplePage, Question
from clusterpaths.explore.summary import summarise_selection
from clusterpaths.server.addresses import query_of, set_url
from clusterpaths.server.answers import ONE_AT_A_TIME
from clusterpaths.server.api.v1 import MANY
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.pages.lists import ASKED, list_query
from clusterpaths.server.pages.plots import lift_plot
from clusterpaths.server.pages.rendering import listed_models, render
from clusterpaths.server.pages.selection import Part, confused, frequent_paths, matrix, most_frequent, most_unusual
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.questions import (
    ONE,
    ORDERS,
    Filter,
    Pairs,
    filters_of,
    question_of,
    tidy,
    value_in_words,
    without,
)

FEW = 12  # up to here classes are checkboxes; beyond, a text field
TRIED = 12  # filters that are removed one by one for suggestions
BY_DISTANCE = ("near", "far", "strange")

router = APIRouter()


@dataclass(frozen=True)
class Pager:
    """Position in the list; addresses are empty if there is no such page."""

    page: int
    pages: int
    first: int
    last: int
    before: str
    after: str
    start: str
    end: str


@router.get("/explore/{model}/{set_name}/ask", response_class=HTMLResponse)
def ask_page(request: Request, library: LibraryOf, model: str, set_name: str) -> Response:
    """The form with its result; redirects to the canonical address, without empty fields."""
    index = library.set(model, set_name)
    given = [(name, value.strip()) for name, value in request.query_params.multi_items()]
    try:
        pairs = tidy(given, index.layers)
    except ConfigError as error:
        return _page(request, index, [], problem=str(error), status=422)
    if sorted(pairs) != sorted(request.query_params.multi_items()):  # the order does not matter
        return RedirectResponse(_address(index, pairs), status_code=303)
    try:
        question, page = question_of(pairs)
    except ConfigError as error:
        return _page(request, index, pairs, problem=str(error), status=422)
    try:
        return _page(request, index, pairs, question=question, page=page)
    except NotFoundError as error:
        return _page(request, index, pairs, problem=describe(error)[1], status=404)


def _page(
    request: Request,
    index: SetIndex,
    pairs: Pairs,
    *,
    question: Question | None = None,
    page: int = 1,
    problem: str = "",
    status: int = 200,
) -> HTMLResponse:
    listed = listed_models(request)  # reads the disk
    prepare(index, question or Question())
    with ONE_AT_A_TIME:
        offered = choices(index)
        asked = [(name, value) for name, value in pairs if name != "page"]
        answer = _answer(index, question, page) if question else None
        filters = () if problem else filters_of(asked)
        html: HTMLResponse = render(
            request,
            "ask.html",
            status=status,
            index=index,
            summary=index.summary,
            offered=offered,
            form=_Form(index, offered, asked),
            filters=[(one, _address(index, without(asked, one))) for one in filters],
            order=next((value for name, value in asked if name == "order"), "id"),
            answer=answer,
            pager=_pager(index, asked, page, answer) if answer else None,
            suggestions=_suggestions(index, asked, filters) if answer and not answer.total and len(filters) > 1 else (),
            everything=_address(index, []),
            csv=set_view(index).csv_url() + query_of(asked),
            list_query=list_query("ask", asked),
            shown=value_in_words,
            problem=problem,
            listed=listed,
            **(_common(index, question, asked, offered) if question and answer and answer.examples else {}),
        )
        return html


def _common(index: SetIndex, question: Question, asked: Pairs, offered: Choices) -> dict[str, Any]:
    """What the selected examples have in common."""
    found = summarise_selection(index, question)

    def address(pairs: Iterable[tuple[str, str]]) -> str:
        return _address(index, tidy(list(pairs), index.layers))

    table = matrix(asked, found, offered.predictions, address)
    return {
        "found": found,
        "others": found.compared if found.compared + found.total < len(index) else None,
        "classes": most_frequent(asked, found, bool(offered.predictions), address),
        "paths": frequent_paths(asked, found, address),
        "unusual": most_unusual(asked, found, address),
        "plot": lift_plot(found.lifts),
        "cluster_plot": lift_plot(found.clusters),
        "matrix": table,
        "confused": () if table else confused(asked, found, address),
    }


def _answer(index: SetIndex, question: Question, page: int) -> ExamplePage:
    """One page of the selection."""
    rows = select(index, question)
    start = (page - 1) * ASKED
    shown = index.examples(rows[start : start + ASKED])
    return ExamplePage(total=len(rows), limit=ASKED, offset=start, examples=shown)


class _Form:
    """The form's state."""

    def __init__(self, index: SetIndex, offered: Choices, asked: Pairs) -> None:
        self.values = {name: tuple(value for n, value in asked if n == name) for name in (*MANY, *ONE)}
        absent = [*(BY_DISTANCE if index.overall is None else ()), *(() if offered.confidence else ("unsure",))]
        self.orders = {name: words for name, words in ORDERS.items() if name not in absent}
        self.few_predictions, self.few_labels = len(offered.predictions) <= FEW, len(offered.labels) <= FEW
        self.spans = index.once("spans", lambda: _spans(index))
        self.unlabelled = bool(offered.labels) and bool((index.labels < 0).any())
        self.steps = self._steps(index)

    @property
    def distances(self) -> bool:
        """Whether the set has distances to centroids."""
        return "" in self.spans

    def one(self, name: str) -> str:
        """The value of a field that has one at most; empty: none."""
        return next(iter(self.values[name]), "")

    def ends(self, name: str) -> tuple[str, str]:
        """Both ends of a range; empty: open, or the field is not given or no range."""
        low, _, high = self.one(name).partition("..")
        return low, high

    def _steps(self, index: SetIndex) -> tuple[str, ...]:
        """The cluster asked for in each layer, by path or by cluster; 3,5: either; empty: any."""
        path = [step if step != "*" else "" for step in self.one("path").split("-")]
        clusters: dict[str, list[str]] = {layer: [] for layer in index.layers}
        for one in self.values["cluster"]:
            layer, _, cluster = one.rpartition(":")
            clusters.setdefault(layer, []).append(cluster)
        by_path = dict(zip(index.layers, path, strict=False))
        return tuple(by_path.get(layer) or ",".join(clusters[layer]) for layer in index.layers)


def _spans(index: SetIndex) -> dict[str, tuple[str, str]]:
    """Smallest and largest distance in each layer, and OOD score as the layer ""; empty without distances."""
    if index.distances is None or index.ood is None:
        return {}
    columns = {"": index.ood, **dict(zip(index.layers, index.distances.T, strict=True))}
    return {name: (f"{values.min():.3g}", f"{values.max():.3g}") for name, values in columns.items()}


def _pager(index: SetIndex, asked: Pairs, page: int, answer: ExamplePage) -> Pager:
    pages = max(1, -(-answer.total // ASKED))

    def at(number: int) -> str:
        return _address(index, [*asked, ("page", str(number))] if number > 1 else asked)

    return Pager(
        page=page,
        pages=pages,
        first=answer.offset + 1,
        last=answer.offset + len(answer.examples),
        before=at(min(page - 1, pages)) if page > 1 else "",
        after=at(page + 1) if page < pages else "",
        start=at(1) if page > 1 else "",
        end=at(pages) if page != pages else "",
    )


def _suggestions(index: SetIndex, asked: Pairs, filters: Sequence[Filter]) -> tuple[Part, ...]:
    """Filters whose removal leaves examples; most examples first."""
    found = []
    for one in filters[:TRIED]:
        others = without(asked, one)
        count = len(select(index, question_of(others)[0]))
        if count:
            found.append(Part(f"{one.name} {one.value}", count, 0.0, _address(index, others)))
    return tuple(sorted(found, key=lambda part: -part.count))


def _address(index: SetIndex, pairs: Iterable[tuple[str, str]]) -> str:
    return f"{set_url(index.summary)}/ask{query_of(pairs)}"

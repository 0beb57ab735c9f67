"""…/ask: a form, and the selected examples of a set.

Belongs here: from the address to a Question and back, and the summary beside the examples. `explore/ask.py` selects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from numpy.typing import NDArray

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.ask import NONE, choices, prepare, select
from clusterpaths.explore.index import SetIndex, class_shares
from clusterpaths.explore.records import Choices, ExamplePage, Question
from clusterpaths.server.addresses import query_of
from clusterpaths.server.answers import ONE_AT_A_TIME
from clusterpaths.server.api.v1 import MANY, refusal
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.errors import describe
from clusterpaths.server.pages.rendering import listed_models, render
from clusterpaths.server.pages.set_view import set_view

PAGE_SIZE = 36
FEW = 12  # up to here classes are checkboxes; beyond, a text field
LISTED = 5  # classes and paths in the summary
TRIED = 12  # filters that are removed one by one for suggestions
ORDERS = {
    "id": "by id",
    "rare": "rare paths first",
    "common": "common paths first",
    "near": "nearest to their centroids first",
    "far": "farthest from their centroids first",
    "strange": "highest OOD score first",
    "unsure": "lowest confidence first",
}
BY_DISTANCE = ("near", "far", "strange")
_ONE = ("right", "path", "ood", "confidence", "order")
_ENDS = ("ood", "confidence", "distance")  # ranges: two fields of the form each
_FORM = ("step", "page", "distance.layer", *(f"{name}.{end}" for name in _ENDS for end in ("low", "high")))

router = APIRouter()
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Filter:
    """One active filter; `without`: the address without it."""

    name: str
    value: str
    without: str


@dataclass(frozen=True)
class Part:
    """One line of the summary; `link`: the selection narrowed to it."""

    text: str
    count: int
    share: float
    link: str
    path: tuple[int, ...] = ()


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


class _BadAddressError(Exception):
    """An invalid query."""


@router.get("/explore/{model}/{set_name}/ask", response_class=HTMLResponse)
def ask_page(request: Request, library: LibraryOf, model: str, set_name: str) -> Response:
    """The form with its result; redirects to the canonical address, without empty fields."""
    index = library.set(model, set_name)
    given = [(name, value.strip()) for name, value in request.query_params.multi_items()]
    try:
        tidy = _tidy(given, index.layers)
    except _BadAddressError as error:
        return _page(request, index, [], problem=str(error), status=422)
    if sorted(tidy) != sorted(request.query_params.multi_items()):  # the order does not matter
        return RedirectResponse(_address(index, tidy), status_code=303)
    try:
        question, page = _question(tidy)
    except _BadAddressError as error:
        return _page(request, index, [], problem=str(error), status=422)
    try:
        return _page(request, index, tidy, question=question, page=page)
    except NotFoundError as error:
        return _page(request, index, tidy, problem=describe(error)[1], status=404)


def _tidy(given: Pairs, layers: Sequence[str]) -> Pairs:
    """The same query without empty, repeated and default fields, and with clusters per layer as a path.

    Raises:
        _BadAddressError: an unknown field, a repeated field, or too many.
    """
    unknown = [name for name, _ in given if name not in (*MANY, *_ONE, *_FORM)]
    if unknown:
        raise _BadAddressError(
            f"Unknown parameter {unknown[0]!r}. Expected one of {', '.join((*MANY, *_ONE, 'page'))}; remove it."
        )
    pairs: Pairs = []
    for name, value in given:
        values = value.replace(",", " ").split() if name == "id" else [value]
        if name != "step":
            pairs += [(name, one) for one in values if one and (name, one) not in (("order", "id"), ("page", "1"))]
    steps = [value for name, value in given if name == "step"]
    if steps:
        lead = next((i for i, step in enumerate(steps) if not step), len(steps))
        pairs = [(name, value) for name, value in pairs if name not in ("path", "cluster")]
        pairs += [("path", "-".join(steps[:lead]))] if lead else []
        pairs += [
            ("cluster", f"{layers[i]}:{step}") for i, step in enumerate(steps[: len(layers)]) if i > lead and step
        ]
    pairs = _with_ranges(pairs)
    order = {name: place for place, name in enumerate((*Question.model_fields, "page"))}
    tidy = sorted(dict.fromkeys(pairs), key=lambda pair: order[pair[0]])
    if wrong := refusal(tidy):
        raise _BadAddressError(wrong)
    return tidy


def _with_ranges(pairs: Pairs) -> Pairs:
    """The fields of the form for both ends of a range as one."""
    form = {name: value for name, value in pairs if name in _FORM}
    pairs = [(name, value) for name, value in pairs if name not in _FORM or name == "page"]
    for name in _ENDS:
        low, high = form.get(f"{name}.low", ""), form.get(f"{name}.high", "")
        if low or high:
            layer = f"{form.get('distance.layer', '')}:" if name == "distance" else ""
            pairs = [*(pair for pair in pairs if pair[0] != name or name in MANY), (name, f"{layer}{low}..{high}")]
    return pairs


def _question(pairs: Pairs) -> tuple[Question, int]:
    """The query, and the page, from 1.

    Raises:
        _BadAddressError: an invalid field.
    """
    fields: dict[str, Any] = {name: [v for n, v in pairs if n == name] for name in MANY}
    fields |= {name: value for name, value in pairs if name in _ONE}
    pages = [value for name, value in pairs if name == "page"]
    if pages and not re.fullmatch("0{0,9}[1-9][0-9]{0,7}", pages[0]):
        raise _BadAddressError(f"There is no page {pages[0][:80]!r}. Expected a number from 1 on.")
    try:
        return Question.model_validate(fields), int(pages[0]) if pages else 1
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        expected = {"right": "right or wrong", "order": ", ".join(ORDERS), "id": "integers, such as 16"}
        name = str(first["loc"][0])
        what = f"Expected {expected[name]}" if name in expected else first["msg"].removeprefix("Value error, ")
        given = first["input"]
        value = str(given[0] if isinstance(given, list) and len(given) == 1 else given)
        raise _BadAddressError(f"{name} is {value[:80]!r}. {what}.") from error


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
        rows: NDArray[np.integer] = select(index, question) if question else np.empty(0, np.int64)
        answer = _answer(index, rows, page) if question else None
        filters = () if problem else tuple(_filter(index, asked, group) for group in _groups(asked))
        html: HTMLResponse = render(
            request,
            "ask.html",
            status=status,
            index=index,
            summary=index.summary,
            offered=offered,
            form=_Form(index, offered, asked),
            filters=filters,
            order=next((value for name, value in asked if name == "order"), "id"),
            answer=answer,
            pager=_pager(index, asked, page, answer) if answer else None,
            classes=_classes(index, asked, rows, offered),
            paths=_paths(index, asked, rows),
            suggestions=_suggestions(index, asked) if answer and not answer.total and len(filters) > 1 else (),
            everything=_address(index, []),
            csv=set_view(index).csv_url() + query_of(asked),
            shown=_shown,
            problem=problem,
            listed=listed,
        )
        return html


def _answer(index: SetIndex, rows: NDArray[np.integer], page: int) -> ExamplePage:
    """One page of the selection."""
    start = (page - 1) * PAGE_SIZE
    shown = index.examples(rows[start : start + PAGE_SIZE])
    return ExamplePage(total=len(rows), limit=PAGE_SIZE, offset=start, examples=shown)


class _Form:
    """The form's state."""

    def __init__(self, index: SetIndex, offered: Choices, asked: Pairs) -> None:
        self.values = {name: tuple(value for n, value in asked if n == name) for name in (*MANY, *_ONE)}
        absent = [*(BY_DISTANCE if index.overall is None else ()), *(() if offered.confidence else ("unsure",))]
        self.orders = {name: words for name, words in ORDERS.items() if name not in absent}
        self.few_predictions, self.few_labels = len(offered.predictions) <= FEW, len(offered.labels) <= FEW
        self.distances, self.first_layer = index.distances is not None, index.layers[0]
        self.unlabelled = bool(offered.labels) and bool((index.labels < 0).any())
        self.steps = self._steps(index)

    def one(self, name: str) -> str:
        """The value of a field that has one at most; empty: none."""
        return next(iter(self.values[name]), "")

    def ends(self, name: str) -> tuple[str, str]:
        """Both ends of a range; empty: open, or the field is not given or no range."""
        low, _, high = self.one(name).partition("..")
        return low, high

    def _steps(self, index: SetIndex) -> tuple[str, ...]:
        """The cluster asked for in each layer, by path or by cluster; empty: any."""
        path = [step if step != "*" else "" for step in self.one("path").split("-")]
        steps = [*path, *[""] * len(index.layers)][: len(index.layers)]
        for one in self.values["cluster"]:
            layer, _, cluster = one.rpartition(":")
            if layer in index.layers and not steps[index.layers.index(layer)]:
                steps[index.layers.index(layer)] = cluster
        return tuple(steps)


def _pager(index: SetIndex, asked: Pairs, page: int, answer: ExamplePage) -> Pager:
    pages = max(1, -(-answer.total // PAGE_SIZE))

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


def _classes(index: SetIndex, asked: Pairs, rows: NDArray[np.integer], offered: Choices) -> tuple[Part, ...]:
    """The most frequent predictions of the selection, else its labels; of examples with a known class."""
    source, column, name = (
        ("prediction", index.predictions, index.class_name)
        if offered.predictions
        else ("label", index.labels, index.label_name)
    )
    shares = class_shares(column if len(rows) == len(column) else column.take(rows), name)[:LISTED]
    others = [pair for pair in asked if pair[0] != source]
    return tuple(Part(one.name, one.count, one.share, _address(index, [*others, (source, one.name)])) for one in shares)


def _paths(index: SetIndex, asked: Pairs, rows: NDArray[np.integer]) -> tuple[Part, ...]:
    """The most frequent paths of the selection."""
    if not len(rows):
        return ()
    counts = index.paths.counts if len(rows) == len(index) else np.bincount(index.paths.of_example.take(rows))
    parts = []
    for i in np.argsort(-counts, kind="stable")[:LISTED].tolist():
        if counts[i]:
            path = tuple(index.paths.paths[i].tolist())
            text = "-".join(map(str, path))
            narrowed = [*(p for p in asked if p[0] not in ("path", "cluster")), ("path", text)]
            parts.append(Part(text, int(counts[i]), int(counts[i]) / len(rows), _address(index, narrowed), path))
    return tuple(parts)


def _groups(asked: Pairs) -> list[Pairs]:
    """Filters that are removed together: each by itself, all ids at once."""
    ids = [pair for pair in asked if pair[0] == "id"]
    return [[pair] for pair in asked if pair[0] not in ("id", "order")] + ([ids] if ids else [])


def _others(asked: Pairs, group: Pairs) -> Pairs:
    taken = set(group)
    return [pair for pair in asked if pair not in taken]


def _filter(index: SetIndex, asked: Pairs, group: Pairs) -> Filter:
    name, value = group[0]
    without = _address(index, _others(asked, group))
    if name == "id":
        listed = ", ".join(value for _, value in group[:LISTED])
        more = f" and {len(group) - LISTED:,} more" if len(group) > LISTED else ""
        return Filter("id" if len(group) == 1 else "ids", listed + more, without)
    return Filter(_word(name, value), _shown(name, value), without)


def _suggestions(index: SetIndex, asked: Pairs) -> tuple[Part, ...]:
    """Filters whose removal leaves examples; most examples first."""
    found = []
    for group in _groups(asked)[:TRIED]:
        count = len(select(index, _question(_others(asked, group))[0]))
        if count:
            one = _filter(index, asked, group)
            found.append(Part(f"{one.name} {one.value}", count, 0.0, one.without))
    return tuple(sorted(found, key=lambda part: -part.count))


def _word(name: str, value: str) -> str:
    """The name of a filter, before its value."""
    if name == "attribute":
        return "without" if value.startswith("-") else "with"
    words = {"right": "prediction is", "ood": "OOD score", "distance": "distance in", "within": "region of the map of"}
    return words.get(name, name)


def shown_range(text: str) -> str:
    """LOW..HIGH in words."""
    low, _, high = text.partition("..")
    return f"{low} to {high}" if low and high else f"{low} or more" if low else f"{high} or less"


def _shown(name: str, value: str) -> str:
    if name == "attribute":
        return value.removeprefix("-").replace("_", " ")
    if name == "label" and value == NONE:
        return "missing"
    if name == "right":
        return {"right": "correct", "wrong": "incorrect"}.get(value, value)
    if name in ("ood", "confidence"):
        return shown_range(value)
    if name in ("distance", "within"):
        layer, _, rest = value.rpartition(":")
        return f"{layer}: {shown_range(rest)}" if name == "distance" else f"{layer}, {rest.count(';') + 1} corners"
    return value.rpartition(":")[0] + " " + value.rpartition(":")[2] if name == "cluster" else value


def _address(index: SetIndex, pairs: Iterable[tuple[str, str]]) -> str:
    return f"{set_view(index).url}/ask{query_of(pairs)}"

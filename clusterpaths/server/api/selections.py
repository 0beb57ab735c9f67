"""/api/v1/…/examples, examples.csv, summary and choices: selections of a set's examples.

Belongs here: addresses and parameters. `explore/ask.py` selects, `explore/summary.py` summarises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from clusterpaths.explore.ask import ask, ask_csv, choices, prepare
from clusterpaths.explore.records import Choices, ExamplePage, Question, SelectionSummary
from clusterpaths.explore.summary import summarise_selection
from clusterpaths.naming.resolve import all_path_names, names_of
from clusterpaths.server.answers import of_set
from clusterpaths.server.api.v1 import LARGEST_INT, MOST_IDS, OF_SET, Limit, Model, None_, Offset, Set, sane
from clusterpaths.server.dependencies import LibraryOf

_PIECE_OF_CSV = 1 << 16

router = APIRouter(prefix="/api/v1", dependencies=[Depends(sane)])


class AskedAll(Question):
    """A complete selection."""

    id: tuple[Annotated[int, Field(ge=0, le=LARGEST_INT)], ...] = Field(
        (), max_length=MOST_IDS, description="one of these ids"
    )

    @property
    def question(self) -> Question:
        return Question.model_validate(self.model_dump(include=set(Question.model_fields)))


class Asked(AskedAll):
    """A selection, and a page of it."""

    limit: Limit = 50
    offset: Offset = 0


@router.get(f"{OF_SET}/examples", tags=["examples"], response_model=ExamplePage)
def examples(request: Request, model: Model, set: Set, asked: Annotated[Asked, Query()]) -> Response:  # noqa: A002
    """Search: examples that match all given filters, page by page."""
    question = asked.question
    return of_set(
        request,
        model,
        set,
        lambda index: ask(index, question, limit=asked.limit, offset=asked.offset),
        before=lambda index: prepare(index, question),
    )


@router.get(f"{OF_SET}/summary", tags=["examples"], response_model=SelectionSummary)
def selection_summary(request: Request, model: Model, set: Set, asked: Annotated[AskedAll, Query()]) -> Response:  # noqa: A002
    """What the examples of the same search have in common, and how they differ from the rest of the set."""
    question = asked.question
    return of_set(
        request,
        model,
        set,
        lambda index: summarise_selection(index, question),
        before=lambda index: prepare(index, question),
    )


@router.get(
    f"{OF_SET}/examples.csv",
    tags=["examples"],
    response_class=StreamingResponse,
    responses={200: {"description": "the selection, one row per example", "content": {"text/csv": {}}}},
)
def examples_csv(
    library: LibraryOf,
    model: Model,
    set: Set,  # noqa: A002
    asked: Annotated[AskedAll, Query()],
) -> Response:
    """The same search, all of it as CSV."""
    index = library.set(model, set)
    question = asked.question
    lines = iter(ask_csv(index, question, all_path_names(names_of(index), index)))
    first = next(lines, "")  # errors are raised here, before the response starts
    name = quote(f"{index.summary.model}_{index.summary.set}.csv", safe="")
    return StreamingResponse(
        _pieces(chain([first], lines)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f"attachment; filename*=UTF-8''{name}", "Cache-Control": "private, no-cache"},
    )


def _pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """Lines in chunks of 64 kB: each chunk is a thread switch."""
    waiting: list[str] = []
    size = 0
    for line in lines:
        waiting.append(line)
        size += len(line)
        if size >= _PIECE_OF_CSV:
            yield "".join(waiting).encode()
            waiting, size = [], 0
    yield "".join(waiting).encode()


@router.get(f"{OF_SET}/choices", tags=["examples"], response_model=Choices)
def all_choices(request: Request, model: Model, set: Set, _: None_) -> Response:  # noqa: A002
    """Available filter values: names of classes, attributes, splits and layers."""
    return of_set(request, model, set, choices, before=lambda index: prepare(index, Question()))

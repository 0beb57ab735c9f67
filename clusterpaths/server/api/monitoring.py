"""/api/v1/…/monitoring: the series of windows that were compared with a set, and their windows.

Belongs here: addresses and answers. `monitoring/history.py` reads windows; the monitor writes them.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.summary import SeriesSummary, WindowPage
from clusterpaths.records import Record
from clusterpaths.server.answers import has, not_modified, of_version, tag_of
from clusterpaths.server.api.v1 import OF_SET, Limit, Model, None_, Offset, Set, sane
from clusterpaths.server.dependencies import HistoryOf, LibraryOf
from clusterpaths.sets.published import PublishedSet

OF_SERIES = f"{OF_SET}/monitoring/{{series}}/windows"
LARGEST = 999_999_999  # number of a window

router = APIRouter(prefix="/api/v1", dependencies=[Depends(sane)], tags=["monitoring"])
SeriesName = Annotated[str, Path(description="one of the set's series", max_length=255)]
Number = Annotated[int, Path(description="of a window, from 1 on", ge=1, le=LARGEST)]


class Windows(Record):
    """A page of a series."""

    limit: Limit = 100
    offset: Offset = 0


@router.get(f"{OF_SET}/monitoring", response_model=tuple[SeriesSummary, ...])
def all_series(request: Request, library: LibraryOf, history: HistoryOf, model: Model, set: Set, _: None_) -> Response:  # noqa: A002
    """Series of windows that were compared with the set, and the newest window of each."""
    index = library.set(model, set)
    published = published_set(index)
    if published is None:
        return of_version(request, index.summary.version, str(index.folder), tuple)
    version = f"{index.summary.version} {history.version(published)}"
    return of_version(request, version, str(index.folder), lambda: history.series(published))


@router.get(OF_SERIES, response_model=WindowPage)
def windows(
    request: Request,
    library: LibraryOf,
    history: HistoryOf,
    model: Model,
    set: Set,  # noqa: A002
    series: SeriesName,
    wanted: Annotated[Windows, Query()],
) -> Response:
    """Windows of a series in a few numbers, page by page: the newest ones, the newest last."""
    index, published = with_series(library.set(model, set), series)
    page = history.windows(published, series, wanted.limit, wanted.offset)
    version = f"{index.summary.version} {history.page_version(published, page)}"
    return of_version(request, version, str(index.folder), lambda: page)


@router.get(f"{OF_SERIES}/{{number}}", response_model=WindowRecord)
def window(
    request: Request,
    library: LibraryOf,
    history: HistoryOf,
    model: Model,
    set: Set,  # noqa: A002
    series: SeriesName,
    number: Number,
    _: None_,
) -> Response:
    """The complete record of one window: its tests, its counts, and what grew."""
    index, published = with_series(library.set(model, set), series)
    version = f"{index.summary.version} {history.version(published, series, number)}"

    def answer() -> WindowRecord:
        found = history.window(published, series, number)
        return found.model_copy(update={"source": found.source_name})  # no path of this machine

    return of_version(request, version, str(index.folder), answer)


@router.get(
    f"{OF_SERIES}/{{number}}/pictures/{{picture}}",
    response_class=Response,
    responses={200: {"description": "a JPEG", "content": {"image/jpeg": {"schema": {"type": "string"}}}}},
)
def window_picture(
    request: Request,
    library: LibraryOf,
    history: HistoryOf,
    model: Model,
    set: Set,  # noqa: A002
    series: SeriesName,
    number: Number,
    picture: Annotated[str, Path(description="as the window's record names it", max_length=255)],
    _: None_,
) -> Response:
    """An image of the window that is in a cluster or on a path that grew, at most 160 pixels."""
    index, published = with_series(library.set(model, set), series)
    tag = tag_of(index.summary.version, request.url.path, history.version(published, series, number))
    if has(request, tag):
        return not_modified(tag)
    content = history.picture(published, series, number, picture)
    return Response(content, media_type="image/jpeg", headers={"ETag": tag, "Cache-Control": "private, no-cache"})


def published_set(index: SetIndex) -> PublishedSet | None:
    """The set that windows can be compared with; None for one of another program."""
    return index.source if isinstance(index.source, PublishedSet) else None


def with_series(index: SetIndex, series: str) -> tuple[SetIndex, PublishedSet]:
    """The same, for an address that names a series.

    Raises:
        NotFoundError: another program made the set, so that it has no series.
    """
    published = published_set(index)
    if published is None:
        raise NotFoundError(f"{index.name} has no series {series[:80]!r}: another program made it.")
    return index, published

"""The pages of monitoring: the series of a set, one series as a time line, one window.

Belongs here: the values of each template. `monitoring/history.py` reads windows, `time_line.py` places their marks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import ExampleRow
from clusterpaths.monitoring.history import History
from clusterpaths.monitoring.record import Growth, LayerCounts, NewImage, WindowRecord
from clusterpaths.monitoring.series import Series
from clusterpaths.monitoring.summary import PredictionShare, SeriesSummary, WindowPage, WindowSummary
from clusterpaths.monitoring.verdict import DriftTest
from clusterpaths.monitoring.words import growth_text, headline, name_of_test, p_text, sentences
from clusterpaths.naming.record import check_key
from clusterpaths.server.addresses import monitoring_url, picture_url, window_url
from clusterpaths.server.api.monitoring import Number, published_set, with_series
from clusterpaths.server.dependencies import HistoryOf, LibraryOf
from clusterpaths.server.pages.rendering import render_once
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.pages.sets import PageNumber
from clusterpaths.server.pages.time_line import Read, kind_of, time_line, words_of
from clusterpaths.sets.published import PublishedSet

STRIP = 20  # windows of a series in the list
WINDOWS = 60  # per page of a series
COUNTING = 0.2  # seconds that one page reads windows that were not counted yet
CLUSTERS = 12  # of a layer, those whose share changed most

router = APIRouter(default_response_class=HTMLResponse)


@dataclass(frozen=True)
class SeriesCard:
    """A series in the list: its newest windows."""

    summary: SeriesSummary
    url: str
    strip: tuple[tuple[Read, str, str], ...]  # window, kind of its mark, words


@dataclass(frozen=True)
class Grown:
    """A cluster or path that grew; `url` is empty for a path that no example of the reference took."""

    growth: Growth
    text: str
    url: str
    steps: tuple[tuple[int, int], ...]  # (layer, cluster)
    before: tuple[ExampleRow, ...]
    now: tuple[tuple[NewImage, str], ...]  # and the address of its picture


@dataclass(frozen=True)
class LayerShares:
    """A layer of a window: the test of its clusters, and their shares.

    `shares`: (cluster, share of the reference, share of the window).
    """

    layer: str
    at: int
    test: DriftTest | None
    differs: bool
    first: bool
    shares: tuple[tuple[int, float, float], ...]
    clusters: int


@router.get("/explore/{model}/{name}/monitoring")
def monitoring(request: Request, library: LibraryOf, history: HistoryOf, model: str, name: str) -> HTMLResponse:
    """The series of a set; or how to start one."""
    index = library.set(model, name)
    published = published_set(index)
    version = history.version(published) if published else ""
    pages = (
        [(one, history.windows(published, one.series, STRIP)) for one in history.series(published)] if published else []
    )

    def values() -> dict[str, Any]:
        return {"series": [_card(index, one, page) for one, page in pages], "native": published is not None}

    return render_once(request, index, "monitoring.html", values, version)


@router.get("/explore/{model}/{name}/monitoring/{series}")
def series(
    request: Request, library: LibraryOf, history: HistoryOf, model: str, name: str, series: str, page: PageNumber = 1
) -> Response:
    """One series: its windows over time, page by page, the newest last."""
    index, published = with_series(library.set(model, name), series)
    found = history.windows(published, series, WINDOWS, (page - 1) * WINDOWS)
    last = max(1, -(-found.total // WINDOWS))
    if page > last:
        return RedirectResponse(monitoring_url(index.summary, series, last), 303)
    summary = history.one_series(published, series)
    totals = history.totals(published, series, time.monotonic() + COUNTING)

    def values() -> dict[str, Any]:
        windows = found.by_number
        return {
            "series": series,
            "summary": summary,
            "drifted": totals.drifted if totals.complete else None,
            "line": time_line(windows, set_view(index).colour) if windows else None,
            "windows": [
                (one, kind_of(one), window_url(index.summary, series, one.number)) for one in reversed(windows)
            ],
            "classes": _classes(found.windows),
            "page": page,
            "last": last,
        }

    version = history.page_version(published, found), history.version(published, series), totals.complete
    return render_once(request, index, "series.html", values, *version)


@router.get("/explore/{model}/{name}/monitoring/{series}/{number}")
def window(
    request: Request, library: LibraryOf, history: HistoryOf, model: str, name: str, series: str, number: Number
) -> HTMLResponse:
    """One window: what its tests found, and what changed."""
    index, published = with_series(library.set(model, name), series)
    record, problem = _record(history, published, series, number)
    before, after = history.neighbours(published, series, number)

    def values() -> dict[str, Any]:
        links = [window_url(index.summary, series, one) if one else "" for one in (before, after)]
        shared = {"series": series, "number": number, "before": links[0], "after": links[1], "problem": problem}
        return shared | ({"record": record} | _of_window(index, record) if record else {"record": None})

    return render_once(request, index, "window.html", values, history.version(published, series, number), before, after)


def _record(history: History, published: PublishedSet, series: str, number: int) -> tuple[WindowRecord | None, str]:
    """The record, or why it cannot be shown.

    Raises:
        NotFoundError: no such series or window.
    """
    try:
        return history.window(published, series, number), ""
    except CacheError as error:
        return None, Series(published, series).without_directory(str(error))


def _card(index: SetIndex, summary: SeriesSummary, page: WindowPage) -> SeriesCard:
    strip = tuple((one, kind_of(one), words_of(one)) for one in page.by_number)
    return SeriesCard(summary, monitoring_url(index.summary, summary.series), strip)


def _classes(windows: Sequence[WindowSummary]) -> list[PredictionShare]:
    """The classes that the chart of predictions shows, those of the reference first."""
    found = {share.name: share for window in windows for share in window.predictions}
    return sorted(found.values(), key=lambda share: (not share.name, -share.reference))


def _of_window(index: SetIndex, record: WindowRecord) -> dict[str, Any]:
    alpha = record.verdict.alpha
    return {
        "headline": headline(record),
        "sentences": list(sentences(record)),
        "tests": [
            (name_of_test(one), p_text(one.p_value), p_text(one.adjusted_p_value), one, one.adjusted_p_value <= alpha)
            for one in record.verdict.tests
        ],
        "layers": list(_layers(index, record)),
        "grown": [_grown(index, record, one) for one in record.growth],
        "totals": [sum(getattr(one, side) for one in record.classes) for side in ("reference", "window")],
    }


def _layers(index: SetIndex, record: WindowRecord) -> Iterator[LayerShares]:
    tests = {one.subject: one for one in record.verdict.tests if one.kind == "clusters"}
    for counts in record.layers:
        if counts.layer not in index.layers:  # of a changed record
            continue
        test, at = tests.get(counts.layer), index.layer_index(counts.layer)
        shares = _shares(counts)[: index.k[at]]
        yield LayerShares(
            layer=counts.layer,
            at=at,
            test=test,
            differs=test is not None and test.adjusted_p_value <= record.verdict.alpha,
            first=counts.layer == record.verdict.first_layer,
            shares=tuple(sorted(sorted(shares, key=lambda one: -abs(one[2] - one[1]))[:CLUSTERS])),
            clusters=len(shares),
        )


def _shares(counts: LayerCounts) -> list[tuple[int, float, float]]:
    before, now = (max(sum(side), 1) for side in (counts.reference, counts.window))
    pairs = zip(counts.reference, counts.window, strict=False)
    return [(cluster, a / before, b / now) for cluster, (a, b) in enumerate(pairs)]


def _grown(index: SetIndex, record: WindowRecord, growth: Growth) -> Grown:
    view = set_view(index)
    steps: tuple[tuple[int, int], ...] = ()
    url = ""
    try:
        key = check_key(growth.key, index.summary.k_per_layer, index.name)
    except NotFoundError:  # of a changed record
        key = ""
    if key and growth.kind == "cluster":
        layer, _, cluster = key.rpartition("/")
        steps = ((index.layer_index(layer), int(cluster)),)
        url = view.cluster_url(*steps[0])
    elif key:
        path = [int(step) for step in key.split("-")]
        steps = tuple(enumerate(path))
        url = view.path_url(path) if growth.reference else ""
    pictures = (
        (one, picture_url(index.summary, record.series, record.number, one.picture) if one.picture else "")
        for one in growth.exemplars_window
    )
    return Grown(growth, growth_text(growth), url, steps, _examples(index, growth.exemplars_reference), tuple(pictures))


def _examples(index: SetIndex, ids: Sequence[int]) -> tuple[ExampleRow, ...]:
    rows = np.flatnonzero(np.isin(index.ids, ids))
    found = {one.id: one for one in index.examples(rows)}
    return tuple(found[one] for one in ids if one in found)

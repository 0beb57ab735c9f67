"""/metrics: the last window of every series, and this server's own requests, as Prometheus reads them.

Belongs here: names of metrics and their labels. Labels are bounded: requests are counted by the template of their route, never by
their path, and of many series the first ones by name are listed.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import NamedTuple

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import Scope

from clusterpaths.common.lru import LRUCache
from clusterpaths.errors import ClusterPathsError
from clusterpaths.explore.library import Library
from clusterpaths.monitoring.history import History, Totals
from clusterpaths.monitoring.summary import SeriesSummary, WindowSummary
from clusterpaths.server.api.v1 import None_
from clusterpaths.server.middleware.log import LOGGER
from clusterpaths.sets.directory import RECORD
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import Storage

MOST_SERIES = 200  # of all sets; of each there are 20 samples
READING = 1.0  # seconds that one answer reads windows that were not counted yet
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)  # seconds
QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95")
_METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS")
_LABELS = ("model", "set", "series")
_OPENED = 256  # records of sets

router = APIRouter()


@router.get("/metrics", include_in_schema=False)  # docs/explorer.md lists them: their format is Prometheus'
def metrics(request: Request, _: None_) -> Response:
    """Metrics for Prometheus: the newest window of every series, and the requests to this server."""
    found: Metrics = request.app.state.metrics
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(found.registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})


class Metrics:
    """The metrics of one server.

    Attributes:
        registry: of prometheus_client.
    """

    def __init__(self, library: Library, history: History) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a time beside each counter: as many samples again
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "clusterpaths_http_requests", "Requests.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "clusterpaths_http_request_duration_seconds",
            "Time from a request to the end of its response.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Monitoring(library, history))
        ProcessCollector(registry=self.registry)

    def observe(self, method: str, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        route = route_of(scope)
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


def route_of(scope: Scope) -> str:
    """The template of the route that answered, such as /api/v1/models/{model}; "none" if no route did."""
    template = getattr(scope.get("route"), "path", None)
    if isinstance(template, str):
        return template
    return "/static" if scope["path"].startswith("/static/") else "none"


class _OfSeries(NamedTuple):
    labels: tuple[str, str, str]
    summary: SeriesSummary
    totals: Totals


class _Monitoring(Collector):
    """Reads the results directory when it is asked."""

    def __init__(self, library: Library, history: History) -> None:
        self._library, self._history = library, history
        self._opened: LRUCache[PublishedSet] = LRUCache(_OPENED)

    def describe(self) -> list[Metric]:
        """None: without, registering would read the results."""
        return []

    def collect(self) -> Iterator[Metric]:
        series, omitted = self._read()
        omissions = GaugeMetricFamily(
            "clusterpaths_monitoring_series_omitted", f"Series beyond the {MOST_SERIES} that are listed."
        )
        omissions.add_metric((), omitted)
        yield omissions
        yield from _last_windows(series)
        yield from _all_windows([one for one in series if one.totals.complete])

    def _read(self) -> tuple[list[_OfSeries], int]:
        found: list[_OfSeries] = []
        omitted, until = 0, time.monotonic() + READING
        for published in self._sets():
            try:
                for name in self._history.names(published):
                    if len(found) == MOST_SERIES:
                        omitted += 1
                        continue
                    labels = published.folder.parent.name, published.folder.name, name
                    summary = self._history.one_series(published, name)
                    found.append(_OfSeries(labels, summary, self._history.totals(published, name, until)))
            except (ClusterPathsError, OSError) as error:  # such as a series that was deleted meanwhile
                LOGGER.warning("metrics lack series of %s: %s", published.name, error)
        return found, omitted

    def _sets(self) -> Iterator[PublishedSet]:
        """Sets of this program, from their records alone: their examples are not read."""
        try:
            listed = self._library.listed()
        except ClusterPathsError as error:
            LOGGER.warning("metrics have no series: %s", error)
            return
        for sets in listed.values():
            for folder in sets.values():
                try:
                    if (published := self._open(folder)) is not None:
                        yield published
                except (ClusterPathsError, OSError):  # reported where the set is shown
                    continue

    def _open(self, folder: Storage) -> PublishedSet | None:
        stamp = folder.stamp(RECORD)
        return self._opened.get(folder, lambda: open_set(folder), version=stamp) if stamp else None


def _last_windows(series: list[_OfSeries]) -> Iterator[Metric]:
    """Gauges; a series whose last window cannot be read has the first only."""
    readable = _gauge("last_window_readable", "Whether the newest window can be read: 1 or 0.")
    numbers = _gauge("last_window_number", "Number of the newest window.")
    ends = _gauge("last_window_end_timestamp_seconds", "End of the newest window.")
    images = _gauge("last_window_images", "Images in the tests of the newest window.")
    drifted = _gauge("last_window_drifted", "Whether the newest window drifted: 1 or 0.")
    p_values = _gauge(
        "last_window_p_value", "Smallest p-value of the newest window's tests, corrected for their number."
    )
    effects = _gauge(
        "last_window_effect",
        "Jensen-Shannon distance of the path distributions of the newest window and the reference.",
    )
    by_chance = _gauge("last_window_effect_by_chance", "Mean of the effect without drift.")
    new_paths = _gauge(
        "last_window_new_path_share",
        "Share of the newest window's images on paths that no example of the reference took.",
    )
    scores = _gauge("last_window_ood_score", "OOD score of the newest window: a quantile.", "quantile")
    for labels, summary, _ in series:
        last = summary.last
        if summary.windows:
            readable.add_metric(labels, last is not None)
        if last is None:
            continue
        values = (
            (numbers, last.number),
            (ends, datetime.datetime.fromisoformat(last.end).timestamp()),
            (images, last.num_images),
            (drifted, last.drifted),
            (p_values, last.p_value),
            (effects, last.effect),
            (by_chance, last.effect_by_chance),
            (new_paths, last.new_paths),
        )
        for family, value in values:
            if value is not None:
                family.add_metric(labels, float(value))
        for quantile, score in zip(QUANTILES, _scores(last), strict=False):
            scores.add_metric((*labels, quantile), score)
    yield from (readable, numbers, ends, images, drifted, p_values, effects, by_chance, new_paths, scores)


def _scores(window: WindowSummary) -> tuple[float, ...]:
    return window.ood.window if window.ood else ()


def _all_windows(series: list[_OfSeries]) -> Iterator[Metric]:
    """Counters over all windows of a series; absent until all of them were read."""
    for field, name, text in (
        ("windows", "windows", "Windows"),
        ("drifted", "drifted_windows", "Windows that drifted"),
        ("unreadable", "unreadable_windows", "Windows whose record is corrupted"),
        ("images", "images", "Images in the tests of all windows"),
        ("duplicates", "duplicates", "Items that had been observed before"),
        ("unusable", "unusable", "Items that are no images, or without finite activations"),
        ("late", "late", "Items whose window was closed before they came"),
    ):
        family = CounterMetricFamily(f"clusterpaths_monitoring_{name}", f"{text}.", labels=_LABELS)
        for labels, _, totals in series:
            family.add_metric(labels, getattr(totals, field))
        yield family


def _gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"clusterpaths_monitoring_{name}", text, labels=(*_LABELS, *more))

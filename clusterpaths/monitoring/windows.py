"""Windows of a series: which observations belong together, by number of images or by time.

Belongs here: cutting. Nothing is read or written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from clusterpaths.monitoring.observations import Observations, Status, join_observations

SECOND = 1_000_000  # in microseconds, as all times here
_UNITS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
_SPAN = re.compile(r"(\d{1,9})\s*([smhd])")
_COUNT = re.compile(r"\d{1,9}")


@dataclass(frozen=True)
class Size:
    """How large windows are: `count` images each, or a `span` of time; one of both."""

    count: int | None = None
    span: int | None = None

    def __str__(self) -> str:
        return str(self.count) if self.count else span_text(self.span or 0)


@dataclass(frozen=True)
class Window:
    """One window: rows, and for windows of time its bounds, end excluded; of counted ones those of its rows."""

    rows: Observations
    start: int
    end: int


def parse_span(text: str) -> int:
    """Microseconds of 30s, 15m, 1h, 1d, or 0.

    Raises:
        ValueError: another text.
    """
    found = _SPAN.fullmatch(text.strip().lower())
    if text.strip() == "0":
        return 0
    if not found:
        raise ValueError(f"should be a number with s, m, h or d, such as 15m; got {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def parse_size(text: str) -> Size:
    """A window's size from 200, or 1h.

    Raises:
        ValueError: another text, or 0.
    """
    text = text.strip().lower()
    try:
        size = Size(count=int(text)) if _COUNT.fullmatch(text) else Size(span=parse_span(text))
    except ValueError:
        size = Size()
    if not (size.count or size.span):
        raise ValueError(f"should be a number of images such as 200, or a time such as 15m, 1h or 1d; got {text!r}")
    return size


def span_text(span: int) -> str:
    """1h, 90m, 10s: in the largest unit that divides it."""
    unit = next((unit for unit in ("d", "h", "m", "s") if span % _UNITS[unit] == 0), "s")
    return f"{span // _UNITS[unit]}{unit}"


WindowSize = Annotated[str, BeforeValidator(lambda value: str(parse_size(str(value))))]
Span = Annotated[str, BeforeValidator(lambda value: span_text(parse_span(str(value))))]
"""Texts of the options, as `parse_size` and `parse_span` read them."""


def mark_duplicates(rows: Observations, contents: NDArray[np.uint64]) -> Observations:
    """The rows, those whose content is among the earlier ones, or is that of a row before, marked as duplicates."""
    status = rows.status.copy()
    routed = np.flatnonzero(status == Status.ROUTED)
    _, first = np.unique(rows.contents[routed], return_index=True)
    again = np.ones(len(routed), np.bool_)
    again[first] = False
    again |= np.isin(rows.contents[routed], contents)
    status[routed[again]] = Status.DUPLICATE
    return rows.with_status(status)


def mark_late(rows: Observations, closed: int | None) -> Observations:
    """The rows, those of a time before `closed`, the end of the last window, marked as late."""
    late = (
        (rows.times < closed) & (rows.status == Status.ROUTED) if closed is not None else np.zeros(len(rows), np.bool_)
    )
    return rows.with_status(np.where(late, Status.LATE, rows.status).astype(np.int8))


def cut(rows: Observations, size: Size, closed: int | None, now: int, grace: int) -> Iterator[Window]:
    """The complete windows of rows that no window has yet, in order of time.

    Windows of time begin at multiples of their span since 1970 (UTC). One is complete when `now` is `grace` after its end; rows
    of a time before `closed` are late: they are in the next window, and not in its tests. A span of time without rows between
    two windows, or between the last one and now, is one window without rows. Counted windows are complete when they have
    their number of routed rows; the rest waits.

    Args:
        rows: by time.
        size: of windows.
        closed: end of the last window; None: there is none.
        now: the time; rows after it wait.
        grace: how long late rows are waited for.
    """
    if size.count:
        yield from _counted(rows, size.count)
    elif size.span:
        yield from _timed(rows.take(rows.times <= now), size.span, closed, now - grace)


def _counted(rows: Observations, count: int) -> Iterator[Window]:
    routed = np.flatnonzero(rows.status == Status.ROUTED)
    start = 0
    for last in routed[count - 1 :: count].tolist():
        part = rows.take(np.arange(start, last + 1))
        yield Window(part, int(part.times[0]), int(part.times[-1]))
        start = last + 1


def _timed(rows: Observations, span: int, closed: int | None, until: int) -> Iterator[Window]:
    if closed is None:
        if not len(rows):
            return
        closed = int(rows.times[0]) // span * span
    rows, late = mark_late(rows, closed), rows.times < closed
    waiting = rows.take(late)
    ahead = rows.take(~late)
    begin, last = closed, (until // span) * span  # all windows up to `last` are complete
    while begin < last:
        at = int(np.searchsorted(ahead.times, begin))
        following = int(ahead.times[at]) // span * span if at < len(ahead) else last
        end = begin + span if following <= begin or len(waiting) else min(following, last)
        own = ahead.take(np.arange(at, int(np.searchsorted(ahead.times, end))))
        yield Window(join_observations([waiting, own]), begin, end)
        waiting, begin = waiting.take(np.zeros(len(waiting), np.bool_)), end

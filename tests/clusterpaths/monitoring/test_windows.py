from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from clusterpaths.monitoring.observations import Status
from clusterpaths.monitoring.windows import SECOND, Size, Window, WindowSize, cut, mark_duplicates, parse_size
from tests.clusterpaths.monitoring.rows import observed

SIZE = TypeAdapter(WindowSize)


def bounds(windows: list[Window]) -> list[tuple[int, int, int]]:
    """Start and end in seconds, and number of rows."""
    return [(one.start // SECOND, one.end // SECOND, len(one.rows)) for one in windows]


def timed(times: list[int], now: int, *, closed: int | None = None, grace: int = 0) -> list[Window]:
    until = None if closed is None else closed * SECOND
    return list(cut(observed(times), Size(span=60 * SECOND), until, now * SECOND, grace * SECOND))


def test_windows_of_time_begin_at_multiples_of_their_span_and_wait_for_their_end() -> None:
    assert bounds(timed([65, 70, 121, 179, 181], now=200)) == [(60, 120, 2), (120, 180, 2)]


def test_a_window_waits_for_late_rows_as_long_as_it_is_told_to() -> None:
    assert bounds(timed([65, 121], now=184, grace=5)) == [(60, 120, 1)]
    assert bounds(timed([65, 121], now=185, grace=5)) == [(60, 120, 1), (120, 180, 1)]


def test_time_without_images_is_one_window_without_rows() -> None:
    assert bounds(timed([65, 600], now=900)) == [(60, 120, 1), (120, 600, 0), (600, 660, 1), (660, 900, 0)]
    assert bounds(timed([], now=200, closed=60)) == [(60, 180, 0)]
    assert bounds(timed([], now=200)) == []


def test_rows_of_a_closed_window_are_late_and_counted_in_the_next_one() -> None:
    (window,) = timed([10, 59, 61], now=120, closed=60)
    assert window.rows.status.tolist() == [Status.LATE, Status.LATE, Status.ROUTED]
    assert bounds([window]) == [(60, 120, 3)]


def test_late_rows_before_a_span_without_images_are_counted_once() -> None:
    windows = timed([10, 300], now=360, closed=60)
    assert bounds(windows) == [(60, 120, 1), (120, 300, 0), (300, 360, 1)]
    assert [one.rows.count(Status.LATE) for one in windows] == [1, 0, 0]


def test_rows_of_the_future_wait_and_close_nothing() -> None:
    assert bounds(timed([65, 5000], now=130)) == [(60, 120, 1)]


def test_a_clock_that_went_back_closes_nothing() -> None:
    assert timed([65, 70], now=30, closed=600) == []


def test_counted_windows_are_complete_with_their_number_of_routed_rows() -> None:
    rows = observed(range(9), status=[0, 1, 0, 0, 2, 0, 0, 0, 0])
    windows = list(cut(rows, Size(count=3), None, 0, 0))
    assert [len(one.rows.routed) for one in windows] == [3, 3]
    assert np.concatenate([one.rows.times for one in windows]).tolist() == [t * SECOND for t in range(8)]


def test_duplicates_are_those_of_earlier_windows_and_of_rows_before() -> None:
    rows = mark_duplicates(observed(range(5), contents=[7, 8, 7, 9, 8]), np.array([9], np.uint64))
    assert rows.status.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("given", "size"), [("200", Size(count=200)), (50, Size(count=50)), ("1h", Size(span=3600 * SECOND))]
)
def test_a_size_is_a_number_or_a_time(given: object, size: Size) -> None:
    assert parse_size(SIZE.validate_python(given)) == size
    assert SIZE.validate_python(str(size)) == str(size)


@pytest.mark.parametrize("given", ["0", "-3", "1 week", "0h", "", "1.5h"])
def test_another_size_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(ValidationError, match="such as 200, or a time such as 15m"):
        SIZE.validate_python(given)

from __future__ import annotations

import pytest

from clusterpaths.report.numbers import percent, seconds


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0, 0, "0%"), (1, 1, "100.0%"), (0.0004, 0, "<1%"), (0.9999, 1, ">99.9%"), (0.934, 0, "93%"), (0.0499, 1, "5.0%")],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share, digits, text):
    assert percent(share, digits) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.42, "0.4 s"), (59.96, "1 min 00 s"), (75, "1 min 15 s"), (4000, "1 h 06 min")]
)
def test_times_read_well(value, text):
    assert seconds(value) == text

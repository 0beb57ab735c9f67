from __future__ import annotations

import pytest

from clusterpaths.datasets.cells import as_attribute, as_numbers, is_missing, is_number, number_text


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "-1", "0"], [1, -1, 0]),  # CelebA's, 0 unknown
        (["1", "-1"], [1, -1]),
        (["1", "0"], [1, -1]),
        (["0", "0"], [-1, -1]),
        (["1", "0", ""], [1, -1, 0]),
        (["1.0", "0.0", ""], [1, -1, 0]),  # pandas', where one is missing
        (["1.0", "-1.0", "0.0", "nan"], [1, -1, 0, 0]),
        (["True", "false", "TRUE"], [1, -1, 1]),
        (["yes", "No", "n/a", "y"], [1, -1, 0, 1]),
        (["t", "f"], [1, -1]),
        (["1", "0", "2"], None),
        (["0.5", "1"], None),
        (["1", "yes"], None),  # which coding is not known
        (["1", "X"], None),
        (["X", "Y"], None),
        (["", "nan"], None),
        ([], None),
    ],
)
def test_a_column_of_yes_and_no_in_every_coding(texts: list[str], expected: list[int] | None) -> None:
    assert as_attribute(texts) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0.0", "11.0", ""], [0.0, 11.0, None]),
        (["3", "-1", "+2", ".5", "1."], [3.0, -1.0, 2.0, 0.5, 1.0]),
        (["nan", "2"], [None, 2.0]),
        (["nan", ""], None),
        (["1", "1_000"], None),
        (["1", "inf"], None),
        (["1", "1e3"], None),
        (["٣"], None),  # a digit, but not of ASCII
        (["1", "cat"], None),
    ],
)
def test_numbers_and_missing_values(texts: list[str], expected: list[float | None] | None) -> None:
    assert as_numbers(texts) == expected


def test_single_cells() -> None:
    assert [number_text(value) for value in (11.0, 0.5, -1.0)] == ["11", "0.5", "-1"]
    assert is_missing("NaN")
    assert not is_missing("0")
    assert is_number("10")
    assert not is_number("10 km")

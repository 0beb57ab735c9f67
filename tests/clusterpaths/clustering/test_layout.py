"""A layer's map by UMAP: its points are repeatable, neighbours stay together, and other rows are placed between neighbours."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.clustering import layout
from clusterpaths.clustering.layout import NEIGHBOURS, Layout, fit_layout

needs_umap = pytest.mark.skipif(find_spec("umap") is None, reason="needs the extra umap")
Rows = NDArray[np.float32]


def groups(each: int = 40, seed: int = 0) -> tuple[Rows, NDArray[np.int64]]:
    """Three groups of rows, in random order, and which group each is of."""
    drawn = np.random.default_rng(seed)
    of = drawn.permutation(np.repeat(np.arange(3), each))
    centres = 8 * np.random.default_rng(99).standard_normal((3, 16))
    return (centres[of] + drawn.standard_normal((len(of), 16))).astype(np.float32), of


def some_layout() -> Layout:
    drawn = np.random.default_rng(1)
    rows = np.unique(drawn.standard_normal((50, 16)).astype(np.float32), axis=0)
    return Layout(rows, drawn.standard_normal((50, 2)).astype(np.float32))


def test_a_fitted_row_is_placed_at_its_own_point() -> None:
    found = some_layout()
    np.testing.assert_array_equal(found.place(found.rows), found.points)


def test_a_row_is_placed_between_its_three_nearest_by_their_inverse_distances() -> None:
    rows = np.array([[0, 0], [4, 0], [0, 2], [9, 9]], np.float32)
    points = np.array([[10, 0], [20, 0], [0, 30], [500, 500]], np.float32)
    found = Layout(rows, points).place(np.array([[1, 0]], np.float32))  # 1, 3 and the root of 5 away
    weights = np.array([1, 1 / 3, 1 / np.sqrt(5)])
    by_hand = (10 * weights[0] + 20 * weights[1], 30 * weights[2]) / weights.sum()
    np.testing.assert_allclose(found, [by_hand], rtol=1e-6)


def test_a_place_depends_on_the_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found, rows = some_layout(), np.random.default_rng(5).standard_normal((23, 16)).astype(np.float32)
    complete = found.place(rows)
    monkeypatch.setattr(layout, "_BLOCK", 7)
    np.testing.assert_array_equal(found.place(rows), complete)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(found.place(row[None])[0], complete[i])


@needs_umap
def test_the_same_rows_in_any_order_give_the_same_bits_and_another_seed_others() -> None:
    rows, _ = groups()
    first, again = fit_layout(rows, seed=3), fit_layout(np.concatenate([rows[::-1], rows[:9]]), seed=3)
    other = fit_layout(rows, seed=4)
    assert first
    assert again
    assert other
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.points, other.points)
    assert len(first.rows) == len(rows)


@needs_umap
def test_groups_stay_together_and_further_rows_come_to_theirs() -> None:
    rows, of = groups()
    found = fit_layout(rows, seed=0)
    assert found
    placed, more = found.place(rows), groups(20, seed=1)
    centres = np.array([placed[of == group].mean(axis=0) for group in range(3)])
    for points, own in ((placed, of), (found.place(more[0]), more[1])):
        nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(axis=1)
        assert (nearest == own).all()


@pytest.mark.parametrize("rows", ["few", "copies", "a line", "zeros"])
def test_without_enough_that_differs_there_is_no_layout(rows: str) -> None:
    some, _ = groups()
    given = {
        "few": some[:NEIGHBOURS],
        "copies": np.repeat(some[:NEIGHBOURS], 5, axis=0),
        "a line": some * np.eye(16, dtype=np.float32)[0],
        "zeros": np.zeros((50, 16), np.float32),
    }[rows]
    assert fit_layout(given, seed=0) is None

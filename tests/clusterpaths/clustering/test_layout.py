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


def test_a_row_is_placed_by_its_neighbours_with_weights_that_sum_up_as_umaps_do() -> None:
    found = some_layout()
    row = np.full(16, 0.1, np.float32)
    distances = np.linalg.norm(found.rows - row, axis=1)
    nearest = np.argsort(distances)[:NEIGHBOURS]
    low, high = 0.0, float(distances.max())
    for _ in range(100):  # the bandwidth with which all but the nearest have log2(15) in sum
        middle = (low + high) / 2
        too_wide = np.exp(-distances[nearest[1:]] / middle).sum() > np.log2(NEIGHBOURS)
        low, high = (low, middle) if too_wide else (middle, high)
    weights = np.exp(-distances[nearest] / high)
    by_hand = (weights[:, None] * found.points[nearest]).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(found.place(row[None])[0], by_hand, rtol=1e-5)


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


@needs_umap
def test_a_row_starts_where_umaps_own_transform_starts() -> None:
    from umap.umap_ import compute_membership_strengths, init_transform, smooth_knn_dist

    found, row = some_layout(), np.full((1, 16), 0.2, np.float32)
    distances, nearest = found._tree.query(row, k=NEIGHBOURS)
    bandwidth, none = smooth_knn_dist(distances.astype(np.float32), float(NEIGHBOURS), local_connectivity=0.0)
    assert none[0] == 0
    *_, weights, _ = compute_membership_strengths(
        nearest.astype(np.int32), distances.astype(np.float32), bandwidth, none, bipartite=True
    )
    own = init_transform(nearest, weights.reshape(1, -1) / weights.sum(), found.points)
    np.testing.assert_allclose(found.place(row), own, rtol=1e-3)


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

"""Shifts, means and random directions, against what a few lines of numpy give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.evaluation.shifts import GroupMeans, choose_targets, random_direction, shifted
from clusterpaths.models.reduce import reduced_axes
from clusterpaths.records import Reduce, Tap

Reduced = Callable[[NDArray[Any]], NDArray[Any]]


def tap(shape: tuple[int, ...], reduce: Reduce) -> Tap:
    reduced = reduced_axes(reduce, shape)
    kept = tuple(size for axis, size in enumerate(shape, 1) if axis not in reduced)
    return Tap(layer="l", tensor="t", shape=kept, full_shape=shape, reduce=reduce, dtype="float32")


@pytest.mark.parametrize(
    ("shape", "reduce", "by_hand"),
    [
        ((5,), "none", lambda x: x),
        ((2, 3, 4), "none", lambda x: x.reshape(len(x), -1)),
        ((2, 3, 4), "gap", lambda x: x.mean(axis=(2, 3))),
        ((2, 3, 4), "max", lambda x: x.max(axis=(2, 3))),
        ((6, 6, 2), "mean", lambda x: x.mean(axis=(1, 2))),  # channels last
        ((7, 3), "tokens-mean", lambda x: x.mean(axis=1)),
        ((7, 3), "cls", lambda x: x[:, 0]),
        ((7, 3), "max", lambda x: x.max(axis=1)),
    ],
)
def test_reduced_rows_move_by_exactly_the_shift(shape: tuple[int, ...], reduce: Reduce, by_hand: Reduced) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, *shape)).astype(np.float32)
    one = tap(shape, reduce)
    by = rng.standard_normal((4, int(np.prod(one.shape)))).astype(np.float32)
    assert np.allclose(by_hand(shifted(values, by, one, None)), by_hand(values) + by, atol=1e-5)


def test_only_the_first_token_moves_with_cls() -> None:
    values, by = np.zeros((1, 3, 2), np.float32), np.array([[1, 2]], np.float32)
    assert shifted(values, by, tap((3, 2), "cls"), None).tolist() == [[[1, 2], [0, 0], [0, 0]]]


def test_values_stay_in_the_range_of_a_layer_behind_a_relu() -> None:
    values, by = np.array([[1, 0, 3]], np.float32), np.array([[-2, 1, -1]], np.float32)
    assert shifted(values, by, tap((3,), "none"), 0.0).tolist() == [[0, 1, 2]]
    assert shifted(values, by, tap((3,), "none"), None).tolist() == [[-1, 1, 2]]
    assert values.tolist() == [[1, 0, 3]]  # as they were


def test_means_of_groups_in_blocks() -> None:
    rows = np.array([[1, 2], [3, 4], [5, 9], [0, 1]], np.float32)
    members = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0]], bool)
    means = GroupMeans(members, 2)
    means.add(slice(0, 3), rows[:3])
    means.add(np.array([3]), rows[3:])
    found = means.groups()
    assert np.array_equal(found.means, [[3, 5.5], [3, 4], [2.25, 4], [np.nan, np.nan]], equal_nan=True)
    assert found.counts.tolist() == [2, 1, 4, 0]
    assert found.low == 0.0
    other = GroupMeans(members[:1], 2)
    other.add(slice(0, 1), rows[:1])
    assert other.groups().low is None


def test_random_directions_have_the_lengths_of_the_shifts_and_no_preference() -> None:
    shifts = np.random.default_rng(0).standard_normal((4000, 3)).astype(np.float32) * 5
    found = random_direction(shifts, np.random.default_rng(1))
    assert np.allclose(np.linalg.norm(found, axis=1), np.linalg.norm(shifts, axis=1), rtol=1e-5)
    units = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert np.abs(units.mean(axis=0)).max() < 0.05
    assert np.abs((units * shifts / np.linalg.norm(shifts, axis=1, keepdims=True)).sum(axis=1).mean()) < 0.05


def test_targets_are_all_other_clusters_that_have_examples_or_some_at_random() -> None:
    rng = np.random.default_rng(0)
    assert choose_targets(np.array([0, 2]), np.array([3, 0, 1, 2]), 7, rng).tolist() == [[2, 3], [0, 3]]
    assert choose_targets(np.array([0, 0]), np.array([9]), 7, rng).shape == (2, 0)
    many = choose_targets(np.zeros(500, np.int64), np.full(12, 4), 7, rng)
    assert many.shape == (500, 7)
    assert all(len(set(row)) == 7 and 0 not in row for row in many.tolist())
    assert np.bincount(many.ravel(), minlength=12)[1:].min() > 250  # of 318 expected

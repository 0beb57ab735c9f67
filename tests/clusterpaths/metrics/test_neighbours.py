from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import KNeighborsClassifier

from clusterpaths.metrics.neighbours import nearest_neighbours, neighbours_vote
from tests.clusterpaths.metrics.memory import peak_memory


def test_neighbours_by_hand() -> None:
    fit = np.array([[1.0, 0], [0, 2], [3, 3], [-1, 0]])  # on the circle at 0, 90, 45 and 180 degrees
    positions, distances = nearest_neighbours(fit, np.array([[5.0, 0]]), 3)
    assert positions.tolist() == [[0, 2, 1]]
    np.testing.assert_allclose(distances, [[0, np.sqrt(2 - np.sqrt(2)), np.sqrt(2)]], atol=1e-7)
    assert neighbours_vote(positions, np.array([4, 1, 1, 0])).tolist() == [1]
    assert neighbours_vote(positions[:, :2], np.array([4, 1, 1, 0])).tolist() == [1]  # a tie of 4 and 1


def test_neighbours_are_those_of_all_distances_sorted() -> None:
    rng = np.random.default_rng(0)
    fit, queries, classes = rng.standard_normal((60, 5)), rng.standard_normal((20, 5)), rng.integers(0, 3, 60)
    unit, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (fit, queries))
    every = cdist(asked, unit)
    positions, distances = nearest_neighbours(fit, queries, 7)
    assert positions.tolist() == every.argsort(axis=1)[:, :7].tolist()
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :7])
    expected = KNeighborsClassifier(7).fit(unit, classes).predict(asked)
    assert neighbours_vote(positions, classes).tolist() == expected.tolist()
    assert nearest_neighbours(fit[:3], queries, 7)[0].shape == (20, 3)


def test_a_row_of_zeros_is_at_cosine_distance_1_of_every_other() -> None:
    rows = np.array([[0.0, 0], [3, 4]])
    _, distances = nearest_neighbours(rows, rows[:1], 2)
    assert distances[0, 0] == 0
    assert distances[0, 1] ** 2 / 2 == pytest.approx(cosine_distances(rows[:1], rows[1:])[0, 0])


def test_memory_is_bounded_where_all_distances_would_not_fit() -> None:
    rng = np.random.default_rng(0)
    fit, queries = rng.standard_normal((20_000, 8)), rng.standard_normal((5_000, 8))
    assert peak_memory(lambda: nearest_neighbours(fit, queries)) < 150e6  # all pairs: 800 MB


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no neighbours": (lambda: nearest_neighbours(np.ones((3, 2)), np.ones((1, 2)), 0), "got 0 and 3"),
    "nothing to be near to": (lambda: nearest_neighbours(np.ones((0, 2)), np.ones((1, 2))), "got 10 and 0"),
    "neighbours in other dimensions": (lambda: nearest_neighbours(np.ones((3, 2)), np.ones((1, 3))), "equally wide"),
    "a neighbour without class": (lambda: neighbours_vote(np.array([[0]]), np.array([-1])), "Leave out"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_arrays_that_do_not_fit_are_rejected(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

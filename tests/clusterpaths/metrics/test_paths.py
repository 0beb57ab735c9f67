from __future__ import annotations

import numpy as np
import pytest

from clusterpaths.metrics.paths import alone, count_paths, largest_class, weighted_purity

PATHS = np.array([[2, 0], [0, 1], [0, 1], [1, 1], [1, 1], [0, 1]], np.int16)


def test_paths_are_counted_most_frequent_first() -> None:
    found = count_paths(PATHS)
    assert found.paths.tolist() == [[0, 1], [1, 1], [2, 0]]
    assert (found.counts.tolist(), found.of_example.tolist()) == ([3, 2, 1], [2, 0, 0, 1, 1, 0])


@pytest.mark.parametrize(
    ("classes", "purity"),
    [
        ([1, 0, 0, 2, 2, 1], 5 / 6),  # 1 of 1, 2 of 3, 2 of 2
        ([0, 0, 0, 0, 0, 0], 1.0),
        ([0, 0, 1, 0, 1, 2], 3 / 6),
        ([-1, 0, -1, 2, -1, 0], 1.0),  # of the three that are known
        ([-1] * 6, None),
    ],
)
def test_weighted_purity_by_hand(classes: list[int], purity: float | None) -> None:
    found = weighted_purity(count_paths(PATHS).of_example, np.array(classes, np.int16))
    assert found == (None if purity is None else pytest.approx(purity))


@pytest.mark.parametrize(
    ("classes", "largest"), [([0, 1, 1], (1, 2 / 3)), ([-1, 4, -1], (4, 1.0)), ([2, 0], (0, 0.5)), ([-1], None)]
)
def test_largest_class_is_the_purity_of_one_path_for_all(classes: list[int], largest: tuple[int, float] | None) -> None:
    values = np.array(classes, np.int16)
    assert largest_class(values) == largest
    assert weighted_purity(np.zeros(len(values), np.int64), values) == (largest[1] if largest else None)


def test_examples_alone_on_their_path_are_counted_among_those_with_a_class() -> None:
    groups = np.array([0, 0, 1, 2, 2])
    assert alone(groups, np.array([1, 1, 0, -1, 3])) == 2

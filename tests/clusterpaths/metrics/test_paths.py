from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

from clusterpaths.metrics.paths import (
    PathComplexity,
    chance_purity,
    count_paths,
    in_majority,
    largest_class,
    path_complexity,
    purity,
    weighted_purity,
)

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


def test_complexity_by_hand() -> None:
    found = path_complexity(np.array([[0], [0], [0], [0], [1], [1], [2], [3]]))
    assert (found.occupied, found.covering) == (4, 4)
    assert found.entropy == pytest.approx(1.75)  # 1/2 · 1 + 1/4 · 2 + 2 · 1/8 · 3
    assert path_complexity(np.repeat([[0], [1]], [19, 1], axis=0)).covering == 1  # exactly 95%
    assert path_complexity(np.zeros((3, 2), int)) == PathComplexity(1, 1, 0.0)
    assert path_complexity(np.empty((0, 2), int)).occupied == 0


def test_entropy_is_that_of_scipy() -> None:
    paths = np.random.default_rng(1).integers(0, 3, (500, 3))
    _, counts = np.unique(paths, axis=0, return_counts=True)
    assert path_complexity(paths).entropy == pytest.approx(entropy(counts, base=2))


@pytest.mark.parametrize(
    ("groups", "classes"),
    [
        ([0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]),
        ([0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 0, 1]),
        ([0, 0, 1, 1, 2, 3], [0, 1, 0, 1, 2, 2]),
        ([0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 2, 2, -1]),
    ],
    ids=["one path", "a path each", "pairs", "one unknown"],
)
def test_chance_is_the_mean_over_all_permutations_of_the_classes(groups: list[int], classes: list[int]) -> None:
    known = [(g, c) for g, c in zip(groups, classes, strict=True) if c >= 0]
    own = [g for g, _ in known]
    every = []
    for order in itertools.permutations([c for _, c in known]):
        every.append(
            sum(max(Counter(c for g, c in zip(own, order, strict=True) if g == at).values()) for at in set(own))
        )
    found = chance_purity(np.array(groups), np.array(classes))
    assert found == pytest.approx(np.mean(every) / len(own), abs=0.03)  # of 100 permutations


def test_a_purity_that_says_nothing_is_no_higher_than_chance() -> None:
    draw = np.random.default_rng(0)
    groups = np.concatenate([np.arange(62), draw.integers(0, 16, 38)])  # 62 paths of 100 photos, most of one example
    found = purity(groups, np.arange(100) % 2)
    assert found is not None
    assert found.value > 0.8
    assert abs(found.value - found.chance) < 0.06
    blocks = np.arange(1000) // 250
    found = purity(blocks, blocks % 2)
    assert found is not None
    assert (found.value, found.chance) == (1, pytest.approx(0.52, abs=0.02))
    assert purity(blocks, np.full(1000, -1)) is None


def test_single_values_of_purity_have_its_mean() -> None:
    groups, classes = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 2, -1, -1])
    assert in_majority(groups, classes).tolist() == [True, True, False, True]
    assert in_majority(groups, classes).mean() == weighted_purity(groups, classes)
    assert len(in_majority(groups, np.full(6, -1))) == 0


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a flat path": (lambda: path_complexity(np.zeros(6, int)), r"should be \(n, L\) integers, got \(6,\)"),
    "purity, fewer classes": (lambda: in_majority(np.zeros(6, int), np.zeros(3, int)), "one per row of groups"),
    "purity, a group below 0": (lambda: in_majority(np.full(6, -1), np.zeros(6, int)), "ids >= 0"),
    "purity of paths": (lambda: weighted_purity(PATHS, np.zeros(6, int)), r"should be \(n,\) integers"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_arrays_that_do_not_fit_are_rejected(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

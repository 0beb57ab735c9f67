"""The rule by which a model without class names gets the order of its classes, on predictions drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.preprocessing.class_order import ClassOrder, find_order

NAMES = ("a", "b", "c", "d", "e")
OTHER = (3, 0, 4, 1, 2)  # class of each output


def found(
    order: tuple[int, ...],
    n: int = 200,
    correct: float = 0.9,
    shares: tuple[float, ...] = (0.2,) * 5,
    chance: float = 0.35,
    seed: int = 0,
) -> ClassOrder:
    """A model that predicts this share of n examples correctly, in this order of classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, n, p=shares)
    classes = np.where(rng.random(n) < correct, labels, rng.integers(0, 5, n))
    output_of: NDArray[np.int64] = np.argsort(order)
    return find_order(output_of[classes], labels, NAMES, chance, np.random.default_rng(1))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [60, 200])
def test_another_order_is_found_where_it_is_clear(n: int, seed: int) -> None:
    order = found(OTHER, n, seed=seed)
    assert (order.verdict, order.order) == ("found", OTHER)
    assert "d, a, e, b, c (found alike on either half of them, measured on the other)" in order.sentence
    assert "%" in order.sentence


def test_two_rare_classes_that_change_places_are_found_if_there_are_enough_examples() -> None:
    swapped, shares = (0, 1, 2, 4, 3), (0.3, 0.3, 0.2, 0.1, 0.1)
    assert found(swapped, 300, shares=shares).order == swapped
    few = found(swapped, 40, shares=shares)
    assert few.verdict == "data set"  # the intervals overlap: nothing refutes the data set's order


@pytest.mark.parametrize("seed", range(5))
def test_the_data_sets_order_is_confirmed(seed: int) -> None:
    order = found((0, 1, 2, 3, 4), seed=seed)
    assert (order.verdict, order.order) == ("data set", ())
    assert "confirms the order" in order.sentence


@pytest.mark.parametrize("seed", range(20))
def test_predictions_that_have_nothing_to_do_with_labels_give_no_order(seed: int) -> None:
    order = found(OTHER, correct=0.0, seed=seed)
    assert (order.verdict, order.order) == ("data set", ())
    assert "does not confirm the order: the names are assumed" in order.sentence


def test_an_order_that_leaves_a_class_open_is_unclear() -> None:
    """No example of class e: which output stands for it cannot be seen, and the data set's order is wrong."""
    order = found(OTHER, shares=(0.4, 0.3, 0.2, 0.1, 0.0), correct=1.0)
    assert (order.verdict, order.order) == ("unclear", ())
    assert "named by numbers" in order.sentence


def test_predictions_of_nan_are_never_correct() -> None:
    labels = np.arange(200) % 5
    order = find_order(np.full(200, -1), labels, NAMES, 0.35, np.random.default_rng(1))
    assert (order.verdict, order.order) == ("data set", ())
    assert "Of 200 labelled examples, 0.0%" in order.sentence

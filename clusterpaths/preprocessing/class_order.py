"""Which class of the data set each output of a model stands for, where the model has no class names.

Belongs here: the rule, on predictions and labels. Running the model is `check.py`; what is made of the order is
`models/outputs.py`'s `decide`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.metrics.intervals import wilson
from clusterpaths.records import Record


class ClassOrder(Record):
    """The order of a model's classes, as labelled examples show it."""

    verdict: Literal["data set", "found", "unclear"]
    order: tuple[int, ...] = Field(default=(), description="class of each output; empty unless found")
    sentence: str = Field(description="for logs and pages: what was measured, and what follows")


def find_order(
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    chance: float,
    rng: np.random.Generator,
) -> ClassOrder:
    """Whether the outputs are in the order of the data set's classes, in another one, or in none that is clear.

    The order with the most correct predictions is fitted to the examples it is measured on. So each half of the examples, with
    half of every class, gives an order, and that is measured on the other half. Another order than the data set's is taken if

    - both halves give the same one, which has an output for every class, and
    - its held-out accuracy lies above the data set's order's, and above chance, by Wilson's 95% intervals.

    If the best order on all examples is above the data set's in that way, but one of these fails, the order is unclear: the
    data set's is refuted and no other one is certain. Otherwise it is the data set's, and the sentence says whether labels
    confirm it.

    Args:
        predicted: (n,) index of the largest score, -1 where there is none.
        labels: (n,) class of the data set.
        names: of the data set's classes, as many as outputs.
        chance: accuracy that the best order reaches on shuffled labels.
        rng: draws the halves.
    """
    shape = len(names), len(names)
    n = len(labels)
    mixed = rng.permutation(n)
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    halves = by_class[::2], by_class[1::2]
    orders = [np.array(best_assignment(predicted[half], labels[half], shape)[1]) for half in halves]
    held_out = sum(
        int((order[predicted[half]] == labels[half])[predicted[half] >= 0].sum())
        for order, half in zip(orders, reversed(halves), strict=True)
    )
    fitted, _ = best_assignment(predicted, labels, shape)
    own = int((predicted == labels).sum())
    to_beat = max(wilson(own, n)[1], chance)
    in_own = f"Of {n} labelled examples, {own / n:.1%} are classified correctly in the data set's order"
    complete = sorted(orders[0].tolist()) == list(range(len(names)))
    if complete and np.array_equal(orders[0], orders[1]) and wilson(held_out, n)[0] > to_beat:
        order = tuple(orders[0].tolist())
        return ClassOrder(
            verdict="found",
            order=order,
            sentence=(
                f"The model has no class names, and its classes are in another order than the data set's. {in_own}, "
                f"{held_out / n:.1%} in the order {_listed(names, order)} (found alike on either half of them, measured on the "
                "other). Predictions are named by this order."
            ),
        )
    if wilson(fitted, n)[0] > to_beat:
        return ClassOrder(
            verdict="unclear",
            sentence=(
                f"The model has no class names, and its classes are not in the data set's order. {in_own}, {fitted / n:.1%} in "
                "the best one, which is not certain: too few examples of some class. Predictions are named by numbers; give "
                'the model its names as the metadata entry "clusterpaths.classes".'
            ),
        )
    confirmed = wilson(own, n)[0] > chance
    return ClassOrder(
        verdict="data set",
        sentence=(
            "The model has no class names: its predictions are named by the data set's classes in their order. "
            f"Of {n} labelled examples, {own / n:.1%} are classified correctly then, which "
            + ("confirms the order." if confirmed else "does not confirm the order: the names are assumed.")
        ),
    )


def best_assignment(
    outputs: NDArray[np.int64], labels: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[int, list[int]]:
    """Number of correct examples under the best one-to-one assignment, and the class of each output (-1: none).

    `outputs` and `labels` are (n,); `shape` is the number of outputs and of classes, which may differ. Of equally good
    assignments, the one closer to the original order. An output that no example of its class goes to has class -1.
    """
    from scipy.optimize import linear_sum_assignment  # takes 0.2 s, which a dry run need not wait for

    labels, outputs = labels[outputs >= 0], outputs[outputs >= 0]  # a prediction of -1 is never correct
    counts = np.bincount(outputs * shape[1] + labels, minlength=shape[0] * shape[1]).reshape(shape)
    rows, columns = linear_sum_assignment(counts * (min(shape) + 1) + np.eye(*shape, dtype=np.int64), maximize=True)
    assigned = [-1] * shape[0]
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        assigned[row] = column if counts[row, column] else -1
    return int(counts[rows, columns].sum()), assigned


def _listed(names: tuple[str, ...], order: tuple[int, ...], most: int = 10) -> str:
    return ", ".join(names[label] for label in order[:most]) + (" …" if len(order) > most else "")

"""What a model's output rows mean: predictions, probabilities and energy, by the kind of the output.

Belongs here: the one function that turns raw rows into decisions, and the check of a kind on real rows. numpy only: the
explorer imports this module. Which output of a graph it is, and of which kind, is `find_outputs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import ModelError
from clusterpaths.records import ModelOutputs

NO_LOGITS = "none"
Rows = NDArray[np.floating[Any]]
THRESHOLD = 0.5  # of a sigmoid: binary and multi-label decisions


@dataclass(frozen=True)
class Decisions:
    """What n output rows say.

    Attributes:
        predictions: (n,) int64 index of the predicted class, -1 where there is none: in multi-label outputs, which decide
            on a set of labels, in rows of NaN, and where the output is no class score.
        outputs: of which kind the rows are.
        probabilities: (n, classes) float64; of several labels each on its own. None where the output is no class score.
        energy: (n,) float64 logsumexp of the logits (Liu et al., arXiv 2010.03759; higher is more certain). None where
            the model outputs no logits.
    """

    outputs: ModelOutputs
    predictions: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None
    energy: NDArray[np.float64] | None


def decide(outputs: ModelOutputs, rows: Rows) -> Decisions:
    """Predictions, probabilities and energy of (n, width) raw output rows.

    Probabilities are those that the model states: a softmax or a sigmoid is applied only if the graph has none. Classes are
    in the data set's order, where another one was found in the outputs.
    """
    found = _decide(outputs, rows)
    if not outputs.order or found.probabilities is None:
        return found
    order = np.array(outputs.order, np.int64)
    probabilities = np.empty_like(found.probabilities)
    probabilities[:, order] = found.probabilities
    predictions = np.where(found.predictions >= 0, order[found.predictions], -1)
    return replace(found, predictions=predictions, probabilities=probabilities)


def _decide(outputs: ModelOutputs, rows: Rows) -> Decisions:
    """By the outputs' own index."""
    values = np.asarray(rows, np.float64)
    none: NDArray[np.int64] = np.full(len(values), -1, np.int64)
    if not outputs.has_scores or not values.shape[1]:
        return Decisions(outputs, none, None, None)
    energy = None
    with np.errstate(invalid="ignore", over="ignore"):  # rows of NaN remain NaN
        if outputs.kind in ("logits", "log-probabilities"):
            shifted = values - values.max(axis=1, keepdims=True)
            powers = np.exp(shifted)
            total = powers.sum(axis=1, keepdims=True)
            probabilities = powers / total
            if outputs.kind == "logits":
                energy = values.max(axis=1) + np.log(total[:, 0])
        elif outputs.kind in ("binary-logit", "multi-label-logits"):
            probabilities = _sigmoid(values)
        else:
            probabilities = values
    known = ~np.isnan(values).any(axis=1)
    if outputs.is_binary:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)  # of "not", and of the class
        # >=: at the threshold a binary classifier says yes
        return Decisions(
            outputs, np.where(known, probabilities[:, 1] >= THRESHOLD, -1).astype(np.int64), probabilities, None
        )
    if outputs.is_multi_label:
        return Decisions(outputs, none, probabilities, None)
    return Decisions(outputs, np.where(known, values.argmax(axis=1), -1), probabilities, energy)


def join_decisions(parts: Sequence[Decisions]) -> Decisions:
    """Those of several batches (at least one), in order."""
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    energy = [part.energy for part in parts if part.energy is not None]
    return Decisions(
        parts[0].outputs,
        np.concatenate([part.predictions for part in parts]),
        np.concatenate(probabilities) if probabilities else None,
        np.concatenate(energy) if energy else None,
    )


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without overflow for large negative values."""
    small = np.exp(-np.abs(values))
    result: NDArray[np.float64] = np.where(values >= 0, 1 / (1 + small), small / (1 + small))
    return result


def labels_over_threshold(outputs: ModelOutputs, probabilities: Rows) -> NDArray[np.int64]:
    """The decision of a multi-label model on one image: indices of its (labels,) at 0.5 or more, most probable first."""
    order = np.argsort(-probabilities, kind="stable") if outputs.is_multi_label else np.empty(0, np.int64)
    return order[probabilities[order] >= THRESHOLD].astype(np.int64)


def as_rows(outputs: ModelOutputs, value: NDArray[Any], images: int) -> NDArray[np.float32]:
    """(images, width) float32 of an output in any of the layouts of scores: (N, C), (N, C, 1, 1), (N, 1, 1, C), (N,) or (C,).

    Raises:
        ModelError: it has not one row of scores per image.
    """
    squeezed = images == 1 and value.ndim == 1  # (C,) of one image
    if not squeezed and (not value.ndim or len(value) != images or sum(size > 1 for size in value.shape[1:]) > 1):
        raise ModelError(
            f"The output {outputs.name!r} has shape {value.shape} for {images} images. Expected class scores: one row per "
            "image, of one axis. Name another output with --logits, or --logits none."
        )
    return np.ascontiguousarray(value.reshape(images, -1), np.float32)


def not_finite(outputs: ModelOutputs, rows: Rows) -> NDArray[np.bool_]:
    """(n,) whether a row holds NaN or infinity; -inf is the logarithm of a probability of 0, if another class has some."""
    infinite = np.isnan(rows) | np.isposinf(rows)
    if outputs.kind in ("logits", "log-probabilities"):
        return np.asarray(infinite.any(axis=1) | np.isneginf(rows).all(axis=1), np.bool_)
    return np.asarray((infinite | np.isneginf(rows)).any(axis=1), np.bool_)


def check_on_rows(outputs: ModelOutputs, rows: Rows) -> ModelOutputs:
    """The description after a look at (n, width) rows of real images.

    Rows that are non-negative and sum to 1 are probabilities, however the graph computes them. Rows that all have length 1
    are an embedding on the sphere. An embedding of any length cannot be distinguished from logits: name it with
    --output-kind.

    Raises:
        ModelError: a kind that was asked for does not hold.
    """
    values = np.asarray(rows, np.float64)
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        return outputs
    if outputs.kind == "logits" and not outputs.asked and values.shape[1] > 1:
        if sums_to_one(values):
            reason = "its rows are non-negative and sum to 1"
            return outputs.model_copy(update={"kind": "probabilities", "reason": reason})
        if np.allclose(np.linalg.norm(values, axis=1), 1, atol=1e-3):
            reason = "its rows all have length 1, as an embedding's do"
            return outputs.model_copy(update={"kind": "values", "classes": 0, "reason": reason})
    if outputs.asked and (problem := _contradiction(outputs, values)):
        raise ModelError(
            f"The output {outputs.name!r} is not of kind {outputs.kind}: {problem}. "
            "Name the right kind with --output-kind, or leave it out."
        )
    return outputs


def sums_to_one(values: NDArray[np.float64], by: float = 1e-3) -> bool:
    """Whether rows are distributions over classes, up to rounding."""
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=by))


def _contradiction(outputs: ModelOutputs, values: NDArray[np.float64]) -> str:
    low, high = float(values.min()), float(values.max())
    if outputs.kind in ("binary-sigmoid", "multi-label") and (low < -1e-3 or high > 1 + 1e-3):
        return f"its values go from {low:.3g} to {high:.3g}, expected 0 to 1"
    if outputs.kind == "probabilities" and not sums_to_one(values, 0.1):  # of 8 bits they sum to about 1
        sums = values.sum(axis=1)
        return f"its rows sum to {sums.min():.3g} to {sums.max():.3g}, expected non-negative values that sum to 1"
    if outputs.kind == "log-probabilities" and high > 1e-3:
        return f"its values go up to {high:.3g}, expected at most 0"
    return ""

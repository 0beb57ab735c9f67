"""Decision alignment: how often the model's decision follows from the cluster path. Pure functions on integer arrays.

Belongs here: the split into fit and held-out examples, decision alignment, the majority baseline. The deep k-NN baseline
is `neighbours.py`. Which examples are measured is `evaluation/evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.checks import Ints, require_classes, require_equal_width, require_paths
from clusterpaths.metrics.paths import count_paths, largest_class, majority_classes

_BLOCK_CELLS = 1 << 22  # of a distance matrix, at a time


def split_fit_eval(n: int, share: float = 0.2, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions 0 … n - 1 split at random into fit and held-out ones; both ascending.

    `share` of them, rounded, are held out; from n = 2 on at least one on either side.
    """
    num_held_out = int(np.clip(round(n * share), min(1, n - 1) if n > 1 else 0, max(n - 1, 0)))
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])


@dataclass(frozen=True)
class DecisionAlignment:
    """How often a path's majority class is the model's decision.

    Attributes:
        daf: share of eval examples (of a known class) whose path's majority class is their own; None where there are
            none, or nothing was fitted.
        coverage: share of them on a path that was seen in fit; None likewise.
        daf_seen: daf of those only; None where there are none.
        predicted: (m,) int64, the class predicted by each eval example's path; -1 where nothing was fitted.
        seen: (m,) bool, whether the path was seen in fit.
    """

    daf: float | None
    coverage: float | None
    daf_seen: float | None
    predicted: NDArray[np.int64]
    seen: NDArray[np.bool_]


def decision_alignment(fit_paths: Ints, fit_classes: Ints, eval_paths: Ints, eval_classes: Ints) -> DecisionAlignment:
    """Decision-alignment faithfulness (arXiv 2510.06541): does the path predict the model's decision?

    A path predicts the most frequent class of the fit examples on it. For a path without fit examples, the seen paths
    at the smallest Hamming distance vote for their classes, each with as many votes as it has fit examples. (The paper
    leaves unseen paths open; this is our choice.) Ties, in a path as in a vote, go to the lowest class. Examples of
    class -1 are left out, in fit and of the shares; `predicted` is given for all.

    Args:
        fit_paths: (n, L) cluster ids >= 0.
        fit_classes: (n,) the model's own predictions, -1 for none.
        eval_paths: (m, L).
        eval_classes: (m,).

    Raises:
        ValueError: shapes that do not match, ids or classes below those.
    """
    for side, paths, classes in (("fit", fit_paths, fit_classes), ("eval", eval_paths, eval_classes)):
        require_paths(f"{side}_paths", paths)
        require_classes(f"{side}_classes", classes, f"{side}_paths", len(paths))
    require_equal_width("fit_paths", fit_paths, "eval_paths", eval_paths)
    known = fit_classes >= 0
    m = len(eval_paths)
    if not known.any():
        return DecisionAlignment(None, None, None, np.full(m, -1, np.int64), np.zeros(m, np.bool_))
    both = count_paths(np.concatenate([fit_paths[known], eval_paths]))
    n = int(known.sum())
    stands_for, _, votes = majority_classes(both.of_example[:n], fit_classes[known], len(both.counts))
    wanted = np.unique(both.of_example[n:])
    unseen = wanted[votes[wanted] == 0]
    stands_for[unseen] = _vote(both.paths[unseen], both.paths[votes > 0], stands_for[votes > 0], votes[votes > 0])
    predicted, seen = stands_for[both.of_example[n:]], votes[both.of_example[n:]] > 0
    counted = eval_classes >= 0
    correct = predicted == eval_classes
    return DecisionAlignment(
        _mean(correct[counted]), _mean(seen[counted]), _mean(correct[counted & seen]), predicted, seen
    )


def majority_baseline(fit_classes: Ints, m: int) -> NDArray[np.int64]:
    """Always the most frequent class of fit (the lowest on a tie; -1 where none is known), m times."""
    largest = largest_class(fit_classes)
    return np.full(m, -1 if largest is None else largest[0], np.int64)


def _vote(
    unseen: NDArray[np.int64], seen: NDArray[np.int64], stands_for: NDArray[np.int64], votes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The class that the seen paths (s, L) at the smallest Hamming distance give to each of (u, L) unseen ones: (u,)."""
    result = np.empty(len(unseen), np.int64)
    step = max(1, _BLOCK_CELLS // max(len(seen), 1))
    for start in range(0, len(unseen), step):
        block = unseen[start : start + step]
        hamming = np.zeros((len(block), len(seen)), np.int16)
        for mine, theirs in zip(block.T, seen.T, strict=True):
            hamming += mine[:, None] != theirs
        closest = hamming == hamming.min(axis=1, keepdims=True)
        for row, voting in enumerate(closest):
            result[start + row] = np.bincount(stands_for[voting], weights=votes[voting]).argmax()
    return result


def _mean(values: NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None

"""Decision alignment: how often the model's decision follows from the cluster path. Pure functions on integer arrays.

Belongs here: the split into fit and held-out examples, decision alignment, the majority baseline. The deep k-NN baseline
is `neighbours.py`. Which examples are measured is `evaluation/evaluate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.threads import ignore_warnings
from clusterpaths.metrics.checks import Ints, require_classes, require_equal_width, require_paths
from clusterpaths.metrics.paths import count_paths, largest_class, majority_classes

UnseenRule = Literal["hamming", "back-off"]
SUFFIX_EXAMPLES = 8  # that took a suffix, for the suffix to predict
_FOLDS = 5
_MAX_FOLDED = 20_000  # examples whose paths are cross-validated
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


def decision_alignment(
    fit_paths: Ints, fit_classes: Ints, eval_paths: Ints, eval_classes: Ints, unseen_rule: UnseenRule = "hamming"
) -> DecisionAlignment:
    """Decision-alignment faithfulness (arXiv 2510.06541): does the path predict the model's decision?

    A path predicts the most frequent class of the fit examples on it. The paper leaves paths without fit examples open.
    Here, the seen paths at the smallest Hamming distance vote for their classes, each with as many votes as it has fit
    examples; or with "back-off", `back_off` predicts. Ties, in a path as in a vote, go to the lowest class. Examples of
    class -1 are left out, in fit and of the shares; `predicted` is given for all.

    Args:
        fit_paths: (n, L) cluster ids >= 0.
        fit_classes: (n,) the model's own predictions, -1 for none.
        eval_paths: (m, L).
        eval_classes: (m,).
        unseen_rule: for paths without fit examples; `choose_unseen_rule` chooses it.

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
    if unseen_rule == "hamming":
        stands_for[unseen] = _vote(both.paths[unseen], both.paths[votes > 0], stands_for[votes > 0], votes[votes > 0])
    else:
        stands_for[unseen] = back_off(fit_paths[known], fit_classes[known], both.paths[unseen])[0]
    predicted, seen = stands_for[both.of_example[n:]], votes[both.of_example[n:]] > 0
    counted = eval_classes >= 0
    correct = predicted == eval_classes
    return DecisionAlignment(
        _mean(correct[counted]), _mean(seen[counted]), _mean(correct[counted & seen]), predicted, seen
    )


def back_off(
    fit_paths: Ints, fit_classes: Ints, paths: Ints, least: int = SUFFIX_EXAMPLES
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The class that each path's longest suffix with at least `least` fit examples predicts, and its length; both (m,).

    Later layers are nearer to the decision, so the first ones are left out first (as the oldest words in Katz's back-off,
    IEEE Transactions on Acoustics, Speech and Signal Processing 35, 1987). A suffix predicts its most frequent class; without
    any, length 0, that is the most frequent class of all. Ties go to the lowest class; -1 where nothing is known.

    Args:
        fit_paths: (n, L) cluster ids >= 0.
        fit_classes: (n,), -1 for none: left out.
        paths: (m, L).
        least: examples.
    """
    known = fit_classes >= 0
    seen, classes, n = fit_paths[known], fit_classes[known], int(known.sum())
    predicted, length = majority_baseline(fit_classes, len(paths)), np.zeros(len(paths), np.int64)
    for layers in range(1, paths.shape[1] + 1):  # longer ones overwrite
        both = count_paths(np.concatenate([seen[:, -layers:], paths[:, -layers:]]))
        best, _, counts = majority_classes(both.of_example[:n], classes, len(both.counts))
        own = both.of_example[n:]
        often = counts[own] >= least
        predicted[often], length[often] = best[own[often]], layers
    return predicted, length


def choose_unseen_rule(paths: Ints, classes: Ints, seed: int = 0) -> UnseenRule:
    """How unseen paths predict: "back-off" where that is right more often in cross-validation, else "hamming".

    Both are tried on those of these examples, a fifth at a time and 20,000 at most, whose paths the others do not have.

    Args:
        paths: (n, L).
        classes: (n,), -1 for none: left out.
        seed: of the folds.
    """
    order = np.random.default_rng([seed, 8]).permutation(np.flatnonzero(classes >= 0))[:_MAX_FOLDED]
    gain = 0
    for fold in np.array_split(order, _FOLDS):
        fit = np.setdiff1d(order, fold)
        if not len(fold) or not len(fit):
            continue
        known = paths[fit], classes[fit]
        similar = decision_alignment(*known, paths[fold], classes[fold])
        unseen = fold[~similar.seen]
        gain += int((back_off(*known, paths[unseen])[0] == classes[unseen]).sum())
        gain -= int((similar.predicted[~similar.seen] == classes[unseen]).sum())
    return "back-off" if gain > 0 else "hamming"


def graded_predictions(
    fit: NDArray[np.floating[Any]], fit_classes: Ints, queries: NDArray[np.floating[Any]]
) -> NDArray[np.int64]:
    """The class that a logistic regression predicts from graded paths: distances to all centroids of some layers; (m,).

    Args:
        fit: (n, d).
        fit_classes: (n,) all known (>= 0).
        queries: (m, d).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(fit_classes)) < 2:
        return majority_baseline(fit_classes, len(queries))
    with ignore_warnings(ConvergenceWarning):  # a few more steps change no prediction that matters
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(fit, fit_classes)
    predicted: NDArray[np.int64] = model.predict(queries).astype(np.int64)
    return predicted


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

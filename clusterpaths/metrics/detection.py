"""OOD detection: how well a score separates other images from the data set's own; higher means farther.

Belongs here: AUROC, FPR at 95% TPR, and their intervals. The scores themselves are `ood.py` and `neighbours.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from clusterpaths.metrics.intervals import RESAMPLES

Floats = NDArray[np.floating[Any]]
Interval = tuple[float, float]


def auroc(own: Floats, others: Floats) -> float:
    """Area under the ROC curve: how often another image has a higher score than an own one, ties half."""
    return float(roc_auc_score(*_labelled(own, others)))


def fpr95(own: Floats, others: Floats) -> float:
    """Share of OOD images accepted at the threshold that accepts 95% of the own ones (ODIN, Liang 2018).

    Own images are the positives; a lower score means more similar to them.
    """
    is_other, scores = _labelled(own, others)
    false, true, _ = roc_curve(1 - is_other, -scores, drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


def bootstrap_detection(own: Floats, others: Floats, seed: int) -> tuple[Interval, Interval]:
    """95% intervals of `auroc` and of `fpr95`, by the percentile bootstrap; each side is resampled separately.

    Both from the same 1,000 resamples of ranks: scipy.stats.bootstrap would sort every resample again for each measure.
    """
    rng = np.random.default_rng(seed)
    different, place = np.unique(np.concatenate([own, others]), return_inverse=True)
    areas, rates = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        a = np.bincount(place[rng.integers(len(own), size=len(own))], minlength=len(different))
        picked = place[len(own) + rng.integers(len(others), size=len(others))]
        b = np.bincount(picked, minlength=len(different))
        areas[draw], rates[draw] = _from_counts(a, b)
    (low, high), (low_rate, high_rate) = np.percentile(areas, [2.5, 97.5]), np.percentile(rates, [2.5, 97.5])
    return (float(low), float(high)), (float(low_rate), float(high_rate))


def _from_counts(own: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[float, float]:
    """AUROC and FPR at 95% TPR out of how many of either side have each score, ascending."""
    passed, wrongly = np.cumsum(own), np.cumsum(others)
    area = float((others * (passed - own / 2)).sum() / (passed[-1] * wrongly[-1]))
    return area, float(wrongly[np.argmax(passed >= 0.95 * passed[-1])] / wrongly[-1])


def _labelled(own: Floats, others: Floats) -> tuple[NDArray[np.int64], Floats]:
    if not len(own) or not len(others):
        raise ValueError(f"Scores of own and of other images are needed, got {len(own)} and {len(others)}.")
    return np.repeat([0, 1], [len(own), len(others)]), np.concatenate([own, others])

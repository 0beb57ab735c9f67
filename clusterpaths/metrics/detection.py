"""OOD detection: how well a score separates other images from the data set's own; higher means farther.

Belongs here: AUROC, FPR at 95% TPR, and their intervals. The scores themselves are `ood.py` and `neighbours.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.intervals import RESAMPLES

Floats = NDArray[np.floating[Any]]
Interval = tuple[float, float]
_BLOCK_CELLS = 1 << 17  # of resamples, at a time: they stay in the processor's cache


def auroc(own: Floats, others: Floats) -> float:
    """Area under the ROC curve: how often another image has a higher score than an own one, ties half."""
    from sklearn.metrics import roc_auc_score  # takes half a second, which a dry run need not wait for

    return float(roc_auc_score(*_labelled(own, others)))


def fpr95(own: Floats, others: Floats) -> float:
    """Share of OOD images accepted at the threshold that accepts 95% of the own ones (ODIN, Liang 2018).

    Own images are the positives; a lower score means more similar to them.
    """
    from sklearn.metrics import roc_curve

    is_other, scores = _labelled(own, others)
    false, true, _ = roc_curve(1 - is_other, -scores, drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


def bootstrap_detection(
    own: Floats, others: Floats, seed: int, sources: NDArray[np.int64] | None = None
) -> tuple[Interval, Interval]:
    """95% intervals of `auroc` and of `fpr95`, by the percentile bootstrap; each side is resampled separately.

    Other images with the same of `sources` (m,), numbered 0, 1 …, such as crops of one photograph, are resampled together:
    a cluster bootstrap (Field and Welsh, Journal of the Royal Statistical Society B 69, 2007). With few sources the
    interval is wide, as it should be, and still a little too narrow.

    Both from the same 1,000 resamples of ranks: scipy.stats.bootstrap would sort every resample again for each measure.
    """
    rng = np.random.default_rng(seed)
    different, place = np.unique(np.concatenate([own, others]), return_inverse=True)
    areas, rates = np.empty(RESAMPLES), np.empty(RESAMPLES)
    step = max(1, _BLOCK_CELLS // len(place))
    for start in range(0, RESAMPLES, step):
        some = slice(start, min(start + step, RESAMPLES))
        draws = some.stop - some.start
        a = _resampled_counts(place[: len(own)], draws, len(different), rng)
        b = _resampled_counts(place[len(own) :], draws, len(different), rng, sources)
        areas[some], rates[some] = _from_counts(a, b)
    (low, high), (low_rate, high_rate) = np.percentile(areas, [2.5, 97.5]), np.percentile(rates, [2.5, 97.5])
    return (float(low), float(high)), (float(low_rate), float(high_rate))


def _resampled_counts(
    place: NDArray[np.int64],
    draws: int,
    num_places: int,
    rng: np.random.Generator,
    sources: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """(draws, num_places): how often each place occurs in resamples of (n,) places, or of the sources that they are of."""
    if sources is not None:
        number = int(sources.max()) + 1
        of_source = np.bincount(sources * num_places + place, minlength=number * num_places).reshape(number, num_places)
        counts: NDArray[np.int64] = rng.multinomial(number, np.full(number, 1 / number), size=draws) @ of_source
        return counts
    picked = place[rng.integers(len(place), size=(draws, len(place)))] + num_places * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * num_places).reshape(draws, num_places)


def _from_counts(own: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC and FPR at 95% TPR of each row: how many of either side have each score, ascending."""
    passed, wrongly = np.cumsum(own, axis=1), np.cumsum(others, axis=1)
    areas = (others * (passed - own / 2)).sum(axis=1) / (passed[:, -1] * wrongly[:, -1])
    cut = np.argmax(passed >= 0.95 * passed[:, -1:], axis=1)
    return areas, wrongly[np.arange(len(cut)), cut] / wrongly[:, -1]


def _labelled(own: Floats, others: Floats) -> tuple[NDArray[np.int64], Floats]:
    if not len(own) or not len(others):
        raise ValueError(f"Scores of own and of other images are needed, got {len(own)} and {len(others)}.")
    return np.repeat([0, 1], [len(own), len(others)]), np.concatenate([own, others])

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from clusterpaths.metrics.detection import _from_counts, auroc, bootstrap_detection, fpr95


def test_detection_by_hand_and_as_scikit_learn() -> None:
    own, others = np.array([1.0, 2, 3, 4]), np.array([3.0, 5, 6, 0])
    assert auroc(own, others) == (2.5 + 4 + 4 + 0) / 16
    assert fpr95(own, others) == 0.5  # 95% of four are all four: up to 4, which lets 3 and 0 pass
    rng = np.random.default_rng(0)
    own, others = np.round(rng.standard_normal(50), 1), np.round(rng.standard_normal(40) + 1, 1)
    truth, scores = np.repeat([0, 1], [50, 40]), np.concatenate([own, others])
    assert auroc(own, others) == pytest.approx(roc_auc_score(truth, scores))
    false, true, _ = roc_curve(1 - truth, -scores)
    assert fpr95(own, others) == false[true >= 0.95].min()
    different, place = np.unique(scores, return_inverse=True)
    counts = [np.bincount(part, minlength=len(different)) for part in (place[:50], place[50:])]
    (area, _), (rate, _) = _from_counts(*(np.stack([one, one[::-1]]) for one in counts))
    assert (area, rate) == pytest.approx((auroc(own, others), fpr95(own, others)))


def test_detection_intervals_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    own, others = rng.standard_normal(80), rng.standard_normal(80) + 1
    (low, high), (low_rate, high_rate) = bootstrap_detection(own, others, 0)
    assert low < auroc(own, others) < high
    assert low_rate <= fpr95(own, others) <= high_rate


def test_crops_of_two_photographs_are_no_300_independent_images() -> None:
    """One photograph is detected, the other is not: whichever are drawn, the next photograph may be of either kind."""
    rng = np.random.default_rng(0)
    own, sources = rng.standard_normal(200), np.arange(300) % 2
    others = rng.standard_normal(300) + 4 * sources
    areas = [auroc(own, others[sources == one]) for one in (0, 1)]
    (low, high), rates = bootstrap_detection(own, others, 0, sources)
    (naive_low, naive_high), _ = bootstrap_detection(own, others, 0)
    assert (low, high) == pytest.approx(areas, abs=0.05)
    assert naive_high - naive_low < 0.1
    assert rates[1] - rates[0] > 0.8


def test_every_image_of_a_source_of_its_own_gives_the_interval_of_independent_images() -> None:
    rng = np.random.default_rng(1)
    own, others = rng.standard_normal(80), rng.standard_normal(60) + 1
    plain, by_source = bootstrap_detection(own, others, 0), bootstrap_detection(own, others, 0, np.arange(60))
    np.testing.assert_allclose(by_source, plain, atol=0.05)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no other images": (lambda: auroc(np.ones(3), np.ones(0)), "got 3 and 0"),
    "no own images": (lambda: fpr95(np.ones(0), np.ones(3)), "got 0 and 3"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_arrays_that_do_not_fit_are_rejected(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

"""The scores of the literature, against scipy and their papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from clusterpaths.metrics.baselines import fit_mahalanobis, fit_vim
from clusterpaths.metrics.detection import auroc

RNG = np.random.default_rng(0)


def test_mahalanobis_is_scipy_s_to_the_nearest_class_mean() -> None:
    classes = RNG.integers(0, 3, 200) * 2  # classes 1 and 3 have no example
    features = RNG.standard_normal((200, 6)) @ RNG.standard_normal((6, 6)) + 3 * classes[:, None]
    means = np.stack([features[classes == one].mean(axis=0) for one in (0, 2, 4)])
    within = features - means[classes // 2]
    precision = np.linalg.inv(within.T @ within / 200)
    queries = 10 * RNG.standard_normal((50, 6))
    expected = cdist(queries, means, "mahalanobis", VI=precision).min(axis=1) ** 2
    np.testing.assert_allclose(fit_mahalanobis(features, classes).score(queries), expected, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_dimensions_without_spread_are_no_error(rows: int) -> None:
    features = np.zeros((rows, 8), np.float32)
    features[:, 0] = np.arange(rows)
    classes = np.arange(rows) % 2
    assert np.isfinite(fit_mahalanobis(features, classes).score(features)).all()
    vim = fit_vim(features, np.stack([features[:, 0], -features[:, 0]], axis=1))
    assert np.isfinite(vim.score(features, np.zeros(rows))).all()


def test_vim_is_the_paper_s_with_the_weights_of_the_last_layer() -> None:
    """Equations 1 to 6 of arXiv 2203.10807, with the true weights; ours are found from features and class scores."""
    weights, bias = RNG.standard_normal((8, 3)), RNG.standard_normal(3)
    shape = np.diag([5, 4, 3, 2, 0.3, 0.3, 0.2, 0.1])
    features, queries = RNG.standard_normal((300, 8)) @ shape + 1, RNG.standard_normal((40, 8)) * 2 + 1
    logits = features @ weights + bias
    origin = -np.linalg.pinv(weights.T) @ bias
    values, directions = np.linalg.eigh((features - origin).T @ (features - origin) / 300)
    residual = directions[:, np.argsort(-values)[4:]]
    alpha = logits.max(axis=1).mean() / np.linalg.norm((features - origin) @ residual, axis=1).mean()
    energy = logsumexp(queries @ weights + bias, axis=1)
    expected = alpha * np.linalg.norm((queries - origin) @ residual, axis=1) - energy
    found = fit_vim(features, logits).score(queries, energy)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    own = fit_vim(features, logits).score(features, logsumexp(logits, axis=1))
    assert auroc(own, found) > 0.9  # in the dimensions that the examples do not use

"""OOD scores that benchmarks report, fitted on features of the last layer: Mahalanobis distance, ViM. Higher is farther.

Belongs here: pure functions on features and class scores of the fit examples. Scores that need class scores only are in
`ood.py`, k-NN is `neighbours.py`. scikit-learn is slow to import, so functions import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.threads import ignore_warnings
from clusterpaths.metrics.checks import Ints

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Mahalanobis:
    """Classes as Gaussians with one covariance (Lee et al., arXiv 1807.03888, section 2.1; here of one layer).

    Attributes:
        means: (classes, d).
        precision: (d, d) pseudo-inverse of the covariance within classes.
    """

    means: NDArray[np.float64]
    precision: NDArray[np.float64]

    def score(self, features: Floats) -> NDArray[np.float64]:
        """(m,) squared Mahalanobis distance of (m, d) features to the nearest class mean."""
        turned = features @ self.precision  # (m, d)
        squared = np.einsum("ij,ij->i", turned, features)[:, None] - 2 * turned @ self.means.T
        nearest: NDArray[np.float64] = (squared + np.einsum("ij,ij->i", self.means @ self.precision, self.means)).min(
            axis=1
        )
        return nearest


def fit_mahalanobis(features: Floats, classes: Ints) -> Mahalanobis:
    """Of (n, d) features, n > 0, and their classes (n,), all known: here those that the model predicts."""
    from sklearn.covariance import EmpiricalCovariance

    present, own = np.unique(classes, return_inverse=True)
    values = features.astype(np.float64)
    means = np.stack([values[own == one].mean(axis=0) for one in range(len(present))])
    with ignore_warnings(UserWarning):  # of a single example, whose covariance is 0
        within = EmpiricalCovariance(assume_centered=True).fit(values - means[own])
    return Mahalanobis(means, within.precision_)


@dataclass(frozen=True)
class ViM:
    """Virtual-logit matching (Wang et al., arXiv 2203.10807).

    Attributes:
        origin: (d,) where the class scores are 0.
        residual: (d, r) basis of what the principal components leave out.
        scale: alpha, which makes residuals of fit examples as large as their largest class scores.
    """

    origin: NDArray[np.float64]
    residual: NDArray[np.float64]
    scale: float

    def score(self, features: Floats, energy: Floats) -> NDArray[np.float64]:
        """(m,) the virtual logit minus the energy (logsumexp of the class scores) of (m, d) features."""
        scores: NDArray[np.float64] = self.scale * self._residuals(features) - energy
        return scores

    def _residuals(self, features: Floats) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm((features - self.origin) @ self.residual, axis=1))


def fit_vim(features: Floats, logits: Floats) -> ViM:
    """Of (n, d) features, n > 0, and class scores (n, classes), unnormalised.

    The classifier's last weights are those of a least-squares fit, which finds them exactly where these features are what
    it reads. As in the paper, 1,000 components of 2,048 or more dimensions, 512 of 768 or more, else half of them.
    """
    from sklearn.linear_model import LinearRegression

    values, dimensions = features.astype(np.float64), features.shape[1]
    head = LinearRegression().fit(values, logits.astype(np.float64))
    origin = -np.linalg.pinv(head.coef_) @ head.intercept_
    components = 1000 if dimensions >= 2048 else 512 if dimensions >= 768 else dimensions // 2
    centred = values - origin
    _, directions = np.linalg.eigh(centred.T @ centred)  # by rising variance
    fitted = ViM(origin, directions[:, : dimensions - components], 1.0)
    mean = float(fitted._residuals(features).mean())
    scale = float(logits.max(axis=1).mean()) / mean if mean > 0 else 0.0
    return ViM(origin, fitted.residual, scale)

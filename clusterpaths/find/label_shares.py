"""How probable each class is for an example, from the labels of the others on its path.

Belongs here: pure numerics on arrays. Which examples are likely label errors is `label_errors.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.checks import Ints
from clusterpaths.metrics.paths import count_paths

CONCENTRATIONS = (0.5, 2.0, 8.0, 32.0)  # of which the most likely one is taken
_BLOCK_CELLS = 1 << 22  # of examples x classes, at a time
_TRIED = 20_000  # examples on which the concentration is chosen

Floats = NDArray[np.float64]


class LabelShares:
    """Leave-one-out class probabilities of n examples, from the labels of the others on the same path.

    A path with few examples says little, so its shares are mixed with those of the suffix without the first layer, and so on
    down to all examples: p_l(c) = (n_l(c) + a p_(l-1)(c)) / (n_l + a), with n_l(c) the others of class c on the suffix of l
    layers. That is the hierarchical Dirichlet back-off of MacKay and Peto (A Hierarchical Dirichlet Language Model, Natural
    Language Engineering 1, 1995); later layers are nearer to the decision, so the first ones are left out first, as in
    `metrics.alignment.back_off`. The example itself is in none of the counts.

    Args:
        paths: (n, L) cluster ids >= 0.
        labels: (n,) classes >= 0, all known.
        classes: C, more than the largest label.
        concentration: a; None: the one of `CONCENTRATIONS` under which the labels are most likely, each given the others.
    """

    def __init__(self, paths: Ints, labels: Ints, classes: int, concentration: float | None = None) -> None:
        from scipy.sparse import csr_array

        n, n_layers = paths.shape
        self.labels, self.classes = labels.astype(np.int64), classes
        self._groups = [np.zeros(n, np.int64)]  # per length of the suffix: (n,) which suffix
        self._groups += [count_paths(paths[:, -length:]).of_example for length in range(1, n_layers + 1)]
        ones = np.ones(n)
        self._counts = [
            csr_array((ones, (groups, self.labels)), shape=(int(groups.max(initial=0)) + 1, classes))
            for groups in self._groups
        ]
        self._sizes = [np.bincount(groups) for groups in self._groups]
        self.concentration = concentration or self._choose()

    @property
    def support(self) -> NDArray[np.int64]:
        """(n,) other examples on the complete path."""
        found: NDArray[np.int64] = self._sizes[-1][self._groups[-1]] - 1
        return found

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Some rows at a time, and their probabilities (rows, C)."""
        step = max(1, _BLOCK_CELLS // max(self.classes, 1))
        for start in range(0, len(self.labels), step):
            rows = slice(start, start + step)
            yield rows, self.of(np.arange(start, min(start + step, len(self.labels))))

    def of(self, rows: NDArray[np.int64], concentration: float | None = None) -> Floats:
        """(m, C) of these rows."""
        a = concentration or self.concentration
        own, at = self.labels[rows], np.arange(len(rows))
        shares = np.full((len(rows), self.classes), 1 / self.classes)
        for groups, counts, sizes in zip(self._groups, self._counts, self._sizes, strict=True):
            others: Floats = counts[groups[rows]].toarray()  # (m, C)
            others[at, own] -= 1
            shares *= a
            shares += others
            shares /= (sizes[groups[rows]] - 1 + a)[:, None]
        return shares

    def _choose(self) -> float:
        most = min(_TRIED, max(1, 4 * _BLOCK_CELLS // max(self.classes, 1)), len(self.labels))
        rows = np.sort(np.random.default_rng(0).permutation(len(self.labels))[:most])
        at = np.arange(len(rows))
        likely = [float(np.log(self.of(rows, a)[at, self.labels[rows]]).sum()) for a in CONCENTRATIONS]
        return CONCENTRATIONS[int(np.argmax(likely))]

from __future__ import annotations

import numpy as np
import pytest

from clusterpaths.metrics.agreement import path_agreement


def test_path_agreement_by_hand() -> None:
    unchanged, layers = path_agreement(np.array([[0, 1], [0, 1], [2, 2]]), np.array([[0, 1], [0, 2], [1, 1]]))
    assert unchanged.tolist() == [True, False, False]
    assert layers.tolist() == [1, 0.5, 0]


def test_paths_of_other_examples_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"got \(6, 2\) and \(3, 2\)"):
        path_agreement(np.zeros((6, 2), int), np.zeros((3, 2), int))

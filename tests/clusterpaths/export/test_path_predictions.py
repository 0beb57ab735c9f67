"""The table in a path model predicts what the measured rules predict."""

from __future__ import annotations

import numpy as np
import pytest

from clusterpaths.export.path_predictions import PathPredictions, path_predictions
from clusterpaths.metrics.alignment import UnseenRule, decision_alignment


@pytest.mark.parametrize("rule", ["back-off", "hamming"])
def test_the_table_predicts_what_is_measured(rule: UnseenRule) -> None:
    rng = np.random.default_rng(0)
    paths, others = rng.integers(0, 4, (300, 4)), rng.integers(0, 4, (200, 4))
    classes = (paths[:, -1] + (rng.random(300) < 0.3)) % 4
    classes[:20] = -1
    found = path_predictions(paths, classes, rule)
    assert found is not None
    stored = PathPredictions.model_validate_json(found.model_dump_json())
    asked = np.concatenate([others, paths])
    expected = decision_alignment(paths, classes, asked, np.full(len(asked), -1), rule)
    assert not expected.seen.all()
    assert [stored.predict(path) for path in asked.tolist()] == expected.predicted.tolist()


def test_entries_that_repeat_a_shorter_one_are_left_out() -> None:
    paths = np.array([[0, 1]] * 8 + [[1, 1]] * 8 + [[0, 0]])
    found = path_predictions(paths, np.array([2] * 16 + [5]), "back-off")
    assert found is not None
    assert [(one.path, one.prediction, one.examples) for one in found.entries] == [((), 2, 17), ((0, 0), 5, 1)]
    assert path_predictions(paths, np.full(17, -1), "back-off") is None

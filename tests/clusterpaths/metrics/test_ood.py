from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clusterpaths.metrics.ood import (
    confidence_scores,
    overall_distance,
    path_rarity,
    scale_distances,
)
from clusterpaths.models.outputs import decide
from clusterpaths.records import ModelOutputs

PATHS = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [1, 1], [1, 1]])
LOGITS = ModelOutputs(name="y", kind="logits", classes=2)
PROBABILITIES = ModelOutputs(name="y", kind="probabilities", classes=2)


def test_the_scale_of_distances_by_hand() -> None:
    """One layer: cluster 0 at 1 and 3, cluster 1 with one example at 5, cluster 2 empty, cluster 3 twice at 4."""
    clusters = np.array([[0], [0], [1], [3], [3]])
    distances = np.array([[1], [3], [5], [4], [4]], np.float32)
    scale = scale_distances(clusters, distances, [4])
    pooled = np.sqrt(2 / 5)
    np.testing.assert_allclose(scale.means[0], [2, 5, 17 / 5, 4])
    np.testing.assert_allclose(scale.spreads[0], [1, pooled, pooled, pooled / 10])
    np.testing.assert_allclose(scale.score(clusters, distances), [-1, 1, 0, 0, 0])


def test_the_score_of_other_examples_by_hand() -> None:
    clusters, distances = np.zeros((6, 1), int), np.array([[1.0], [3], [1], [3], [1], [3]])  # mean 2, spread 1
    scale = scale_distances(clusters, distances, [1])
    assert scale.score(np.array([[0], [0]]), np.array([[2.0], [5]])).tolist() == [0, 3]


def test_the_score_is_the_mean_over_layers() -> None:
    clusters = np.zeros((2, 2), int)
    scale = scale_distances(clusters, np.array([[1.0, 10], [3, 30]]), [1, 1])  # means 2 and 20, spreads 1 and 10
    assert scale.standardise(clusters[:1], np.array([[5.0, 10]])).tolist() == [[3, -1]]
    assert scale.score(clusters[:1], np.array([[5.0, 10]])).tolist() == [1]


def test_a_cluster_without_fit_examples_takes_its_layer_s_statistics() -> None:
    clusters, distances = np.array([[0], [0], [1], [1]]), np.array([[1.0], [3], [1], [3]])
    assert scale_distances(clusters, distances, [3]).score(np.array([[2]]), np.array([[4.0]])).tolist() == [2]


def test_a_layer_without_any_spread_has_a_finite_score() -> None:
    clusters, distances = np.zeros((3, 1), int), np.zeros((3, 1), np.float32)
    assert scale_distances(clusters, distances, [2]).score(clusters, distances).tolist() == [0, 0, 0]


def test_overall_distance_weighs_layers_alike() -> None:
    distances = np.array([[1, 100, 0], [3, 300, 0]], dtype=np.float32)  # means 2, 200, 0
    assert overall_distance(distances).tolist() == pytest.approx([1 / 3, 1.0])


def test_rarity_by_hand() -> None:
    # 6 examples on 3 paths: (3 + 1) / 10 for the first, 1 / 10 for one that was never seen
    found = path_rarity(PATHS, np.array([[0, 0], [1, 0]]))
    np.testing.assert_allclose(found, [-np.log(0.4), -np.log(0.1)])


def test_confidence_scores_by_hand() -> None:
    found = confidence_scores(decide(LOGITS, np.log(np.array([[1.0, 3.0], [5.0, 5.0]]))))
    np.testing.assert_allclose(found["max softmax"], [-0.75, -0.5])
    np.testing.assert_allclose(found["energy"], [-np.log(4), -np.log(10)])


def test_large_class_scores_do_not_overflow() -> None:
    found = confidence_scores(decide(LOGITS, np.array([[2000.0, 0], [2000, 2000], [-2000, -3000]])))
    np.testing.assert_allclose(found["max softmax"], [-1, -0.5, -1])
    np.testing.assert_allclose(found["energy"], [-2000, -2000 - np.log(2), 2000])


def test_a_model_that_outputs_probabilities_has_no_energy() -> None:
    found = confidence_scores(decide(PROBABILITIES, np.array([[0.3, 0.7]])))
    assert {name: list(x) for name, x in found.items()} == {"max softmax": [-0.7]}


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "fit distances of other examples": (
        lambda: scale_distances(PATHS, np.ones((5, 2)), [2, 2]),
        r"distances should be \(6, 2\) as clusters, got \(5, 2\)",
    ),
    "distances of other examples": (
        lambda: scale_distances(PATHS, np.ones((6, 2)), [2, 2]).score(PATHS, np.ones((5, 2))),
        r"distances should be \(6, 2\) as clusters, got \(5, 2\)",
    ),
    "other layers": (
        lambda: scale_distances(PATHS, np.ones((6, 2)), [2, 2]).score(PATHS[:, :1], np.ones((6, 1))),
        "2 layers, got 1",
    ),
    "nothing to fit": (lambda: scale_distances(PATHS[:0], np.ones((0, 2)), [2, 2]), "at least one example"),
    "rarity over other layers": (lambda: path_rarity(PATHS, PATHS[:, :1]), "equally wide"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_arrays_that_do_not_fit_are_rejected(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from clusterpaths.clustering.kmeans import assign
from clusterpaths.metrics.ood import (
    Assigned,
    assign_held_out,
    confidence_scores,
    held_out_scores,
    overall_distance,
    path_rarity,
    scale_distances,
)
from clusterpaths.models.outputs import decide
from clusterpaths.records import Distance, ModelOutputs
from tests.clusterpaths.clustering.fitting import cluster_rows
from tests.clusterpaths.clustering.test_kmeans import ArrayRows

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


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_held_out_scores_are_those_of_each_example_left_out(distance: Distance) -> None:
    """scikit-learn's means of the other fitted members, and the others' distances; the last ten were not fitted."""
    rng = np.random.default_rng(0)
    rows, own = rng.standard_normal((60, 8)) + 1, np.arange(60) % 3
    fitted = np.arange(60) < 50
    if distance == "cosine":
        rows = normalize(rows)
    metric = cosine_distances if distance == "cosine" else euclidean_distances

    def to_centroid(among: NDArray[np.bool_], row: int) -> float:
        centroid = NearestCentroid().fit(rows[among], own[among]).centroids_[own[row]]
        return float(metric(rows[row : row + 1], centroid[None])[0, 0])

    distances = np.array([to_centroid(fitted, row) for row in range(60)])
    expected = np.empty(60)
    for row in range(60):
        others = (own == own[row]) & (np.arange(60) != row)
        far = to_centroid(fitted & (np.arange(60) != row), row)
        expected[row] = (far - distances[others].mean()) / distances[others].std()
    found = held_out_scores(own[:, None], distances[:, None], [3], distance, fitted[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    twice = [np.repeat(one[:, None], 2, axis=1) for one in (own, distances, fitted)]
    np.testing.assert_allclose(held_out_scores(*twice[:2], [3, 3], distance, twice[2]), expected, rtol=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_examples_are_assigned_as_if_they_were_held_out(distance: Distance) -> None:
    """Compared with centroids that scikit-learn fits without the example; those that were not fitted stay where they are."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((90, 40)) + 1
    rows = normalize(rows) if distance == "cosine" else rows
    metric = cosine_distances if distance == "cosine" else euclidean_distances
    fitted = np.arange(90) < 80
    own = cluster_rows(ArrayRows(rows[fitted].astype(np.float32)), 3, distance, 0).labels.astype(np.int64)

    def centroids(among: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = NearestCentroid().fit(rows[among], own[among]).centroids_
        return found

    distances = metric(rows, centroids(np.arange(80)))
    own = np.concatenate([own, distances[80:].argmin(axis=1)])
    clusters, far = assign_held_out(distances, own, distance, fitted)
    expected = np.array(
        [
            metric(rows[at : at + 1], centroids(np.delete(np.arange(80), at) if at < 80 else np.arange(80)))[0]
            for at in range(90)
        ]
    )
    np.testing.assert_array_equal(clusters, expected.argmin(axis=1))
    np.testing.assert_allclose(far, expected.min(axis=1), rtol=1e-6)
    assert (clusters != own)[:80].any()
    assert not (clusters != own)[80:].any()


def test_held_out_examples_go_to_occupied_clusters_and_leave_one_of_their_own() -> None:
    own = np.array([0, 0, 0, 1, 3])  # nothing is in cluster 2, which is as near as their own
    distances = np.array([[1.0, 5, 1, 9], [1, 6, 1, 9], [1, 4, 1, 9], [7, 0, 0, 8], [9, 9, 9, 0]])
    clusters, far = assign_held_out(distances, own, "euclidean", np.ones(5, np.bool_))
    assert clusters.tolist() == [0, 0, 0, 0, 0]
    assert far.tolist() == [1.5, 1.5, 1.5, 7, 9]
    alone = assign_held_out(np.ones((1, 1)), np.zeros(1, int), "euclidean", np.ones(1, np.bool_))
    assert [one.tolist() for one in alone] == [[0], [1]]


def test_an_example_that_changes_its_cluster_is_scored_in_the_new_one() -> None:
    clusters, distances = np.array([[0], [0], [1], [1], [1]]), np.array([[1.0], [3], [2], [4], [6]])
    moved = Assigned(np.array([[1], [0], [1], [1], [1]]), np.array([[8.0], [6], [3], [6], [9]]))
    fitted = np.ones((5, 1), np.bool_)
    stayed = held_out_scores(clusters, distances, [2], "euclidean", fitted)
    found = held_out_scores(clusters, distances, [2], "euclidean", fitted, moved)
    assert found[0] == pytest.approx((8 - 4) / np.std([2, 4, 6]))
    np.testing.assert_array_equal(found[1:], stayed[1:])


def test_the_only_member_of_a_cluster_counts_as_the_farthest() -> None:
    clusters, distances = np.array([[0], [0], [0], [1], [2]]), np.array([[1.0], [1.2], [1.1], [0], [0]])
    fitted = np.array([[True]] * 4 + [[False]])
    found = held_out_scores(clusters, distances, [4], "euclidean", fitted)
    assert found[3] == found.max() == found[1]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("n", [40, 200])
def test_a_twentieth_of_new_examples_is_above_95_percent_of_held_out_ones(distance: Distance, n: int) -> None:
    """In 100 dimensions, an example is much nearer to a mean that it is part of: of in-sample scores, far more are above."""
    shares = []
    for seed in range(8):
        rows = np.random.default_rng(seed).standard_normal((n + 1000, 100)).astype(np.float32)
        rows[:, 0] += 8 * (np.arange(n + 1000) % 4)
        rows[:, 1] += 10
        found = cluster_rows(ArrayRows(rows[:n]), 4, distance, 0)
        labels, distances = np.empty(1000, np.int16), np.empty(1000, np.float32)
        assign(ArrayRows(rows[n:]), found.centroids, distance, labels, distances)
        own, far = found.labels[:, None], found.distances[:, None]
        scale = scale_distances(own, far, [4])
        new = scale.score(labels[:, None], distances[:, None])
        references = scale.score(own, far), held_out_scores(own, far, [4], distance, np.ones((n, 1), np.bool_))
        shares.append([np.mean(new > np.quantile(one, 0.95)) for one in references])
    in_sample, held_out = np.mean(shares, axis=0)
    assert in_sample > 0.09
    assert 0.03 < held_out < 0.09


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

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import bootstrap, entropy
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.tree import DecisionTreeClassifier

from clusterpaths.metrics import faithfulness as f
from clusterpaths.metrics.intervals import wilson
from clusterpaths.metrics.paths import weighted_purity

PATHS = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [1, 1], [1, 1]])
CLASSES = np.array([0, 0, 1, 1, 2, 2])


def test_a_fifth_is_kept_aside_and_the_same_seed_keeps_the_same() -> None:
    fit, kept = f.split_fit_eval(10, seed=1)
    assert (len(fit), len(kept)) == (8, 2)
    assert sorted([*fit, *kept]) == list(range(10))
    assert kept.tolist() == f.split_fit_eval(10, seed=1)[1].tolist() == sorted(kept)


@pytest.mark.parametrize(("n", "sizes"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (2, 1))])
def test_either_side_has_an_example_from_two_on(n: int, sizes: tuple[int, int]) -> None:
    fit, kept = f.split_fit_eval(n)
    assert (len(fit), len(kept)) == sizes


def test_alignment_by_hand() -> None:
    # (0,0) stands for 0, (0,1) for 1, (1,1) for 2; (1,0) is one step from (0,0) with 3 votes and (1,1) with 2
    found = f.decision_alignment(PATHS, CLASSES, np.array([[0, 0], [0, 1], [1, 1], [1, 0]]), np.array([0, 2, 2, 0]))
    assert found.predicted.tolist() == [0, 1, 2, 0]
    assert found.seen.tolist() == [True, True, True, False]
    assert (found.daf, found.coverage) == (3 / 4, 3 / 4)
    assert found.daf_seen == pytest.approx(2 / 3)


def test_ties_go_to_the_lowest_class() -> None:
    fit = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    found = f.decision_alignment(fit, np.array([3, 1, 0, 0]), np.array([[0, 0], [0, 1]]), np.array([1, 0]))
    assert found.predicted.tolist() == [1, 0]  # 1 against 3 on the path; two votes each for 1 and 0


def test_examples_without_a_class_are_left_out_on_both_sides() -> None:
    found = f.decision_alignment(PATHS, np.array([0, -1, -1, 1, -1, -1]), PATHS[[0, 4]], np.array([0, -1]))
    assert found.predicted.tolist() == [0, 1]  # nobody known on (1,1): (0,1) is nearest
    assert (found.daf, found.coverage, found.daf_seen) == (1, 1, 1)


def test_nothing_known_gives_no_number() -> None:
    nothing = f.decision_alignment(PATHS, np.full(6, -1), PATHS[:2], CLASSES[:2])
    assert (nothing.daf, nothing.coverage, nothing.daf_seen, nothing.predicted.tolist()) == (None, None, None, [-1, -1])
    assert f.decision_alignment(PATHS, CLASSES, PATHS[:1], np.array([-1])).daf is None
    assert f.decision_alignment(PATHS, CLASSES, np.array([[1, 0]]), np.array([0])).daf_seen is None


def test_classes_that_nobody_has_and_a_class_that_fit_never_saw() -> None:
    found = f.decision_alignment(np.array([[0], [0], [1]]), np.array([0, 0, 5]), np.array([[0], [1]]), np.array([3, 5]))
    assert found.predicted.tolist() == [0, 5]  # classes 1 to 4 have no example to fit
    assert (found.daf, found.coverage) == (1 / 2, 1)


def test_one_class_only_is_always_told() -> None:
    found = f.decision_alignment(PATHS, np.full(6, 2), np.array([[0, 0], [7, 7]]), np.array([2, 2]))
    assert (found.daf, found.coverage, found.predicted.tolist()) == (1, 1 / 2, [2, 2])


def test_one_layer_is_the_majority_of_each_cluster() -> None:
    """As a decision tree that splits to the leaves on the cluster id, with scikit-learn's own tie to the lowest class."""
    rng = np.random.default_rng(3)
    clusters, classes = rng.integers(0, 6, 300), rng.integers(0, 4, 300)
    one_hot = np.eye(6)[clusters]
    tree = DecisionTreeClassifier(random_state=0).fit(one_hot[:200], classes[:200])
    found = f.decision_alignment(clusters[:200, None], classes[:200], clusters[200:, None], classes[200:])
    assert found.predicted.tolist() == tree.predict(one_hot[200:]).tolist()
    assert found.daf == accuracy_score(classes[200:], found.predicted)


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: f.decision_alignment(
            *(rng.integers(0, 9, (40_000, 5)), rng.integers(0, 5, 40_000)),
            *(rng.integers(0, 9, (10_000, 5)), rng.integers(0, 5, 10_000)),
        ),
        lambda rng: f.nearest_neighbours(rng.standard_normal((20_000, 8)), rng.standard_normal((5_000, 8))),
    ],
    ids=["alignment", "neighbours"],
)
def test_memory_is_bounded_where_all_pairs_would_not_fit(call: Callable[[np.random.Generator], Any]) -> None:
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        call(rng)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"{peak / 1e6:.0f} MB")
    assert peak < 150e6  # all pairs: 290 MB of path distances, 800 MB of Euclidean ones


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "fewer classes than examples": (
        lambda: f.decision_alignment(PATHS, CLASSES[:5], PATHS, CLASSES),
        r"fit_classes should be one a row of fit_paths, so \(6,\), got \(5,\)",
    ),
    "more classes than eval examples": (
        lambda: f.decision_alignment(PATHS, CLASSES, PATHS[:2], CLASSES),
        r"eval_classes .* so \(2,\), got \(6,\)",
    ),
    "paths of other layers": (lambda: f.decision_alignment(PATHS, CLASSES, PATHS[:, :1], CLASSES), "equally wide"),
    "a class below -1": (lambda: f.decision_alignment(PATHS, CLASSES - 2, PATHS, CLASSES), "or -1 for none, got -2"),
    "scores for classes": (lambda: f.decision_alignment(PATHS, CLASSES * 0.5, PATHS, CLASSES), "got float64"),
    "a cluster below 0": (lambda: f.decision_alignment(PATHS - 1, CLASSES, PATHS, CLASSES), "ids >= 0, got -1"),
    "a flat path": (lambda: f.path_complexity(CLASSES), r"should be \(n, L\) integers, got \(6,\)"),
    "purity, fewer classes": (lambda: f.pure(CLASSES, CLASSES[:3]), "one a row of groups"),
    "purity, a group below 0": (lambda: f.pure(CLASSES - 1, CLASSES), "ids >= 0"),
    "agreement of other examples": (lambda: f.kept_paths(PATHS, PATHS[:3]), r"got \(6, 2\) and \(3, 2\)"),
    "rarity over other layers": (lambda: f.path_rarity(PATHS, PATHS[:, :1]), "equally wide"),
    "no neighbours": (lambda: f.nearest_neighbours(np.ones((3, 2)), np.ones((1, 2)), 0), "got 0 and 3"),
    "nobody to be near to": (lambda: f.nearest_neighbours(np.ones((0, 2)), np.ones((1, 2))), "got 10 and 0"),
    "neighbours in other dimensions": (lambda: f.nearest_neighbours(np.ones((3, 2)), np.ones((1, 3))), "equally wide"),
    "a neighbour without class": (lambda: f.neighbours_vote(np.array([[0]]), np.array([-1])), "Leave out"),
    "distances of other examples": (
        lambda: f.standardised_distance(PATHS, np.ones((5, 2)), PATHS, np.ones((6, 2))),
        r"fit distances should be \(6, 2\)",
    ),
    "nothing to fit": (
        lambda: f.standardised_distance(PATHS[:0], np.ones((0, 2)), PATHS, np.ones((6, 2))),
        "at least one example",
    ),
    "nobody else": (lambda: f.auroc(np.ones(3), np.ones(0)), "got 3 and 0"),
    "nobody own": (lambda: f.fpr95(np.ones(0), np.ones(3)), "got 0 and 3"),
    "the mean of nothing": (lambda: f.bootstrap_mean(np.ones(0), 0), "at least one value"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_said(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_complexity_by_hand() -> None:
    found = f.path_complexity(np.array([[0], [0], [0], [0], [1], [1], [2], [3]]))
    assert (found.occupied, found.covering) == (4, 4)
    assert found.entropy == pytest.approx(1.75)  # 1/2 · 1 + 1/4 · 2 + 2 · 1/8 · 3
    assert f.path_complexity(np.repeat([[0], [1]], [19, 1], axis=0)).covering == 1  # exactly 95%
    assert f.path_complexity(np.zeros((3, 2), int)) == f.PathComplexity(1, 1, 0.0)
    assert f.path_complexity(np.empty((0, 2), int)).occupied == 0


def test_entropy_is_that_of_scipy() -> None:
    paths = np.random.default_rng(1).integers(0, 3, (500, 3))
    _, counts = np.unique(paths, axis=0, return_counts=True)
    assert f.path_complexity(paths).entropy == pytest.approx(entropy(counts, base=2))


def test_kept_paths_by_hand() -> None:
    whole, layers = f.kept_paths(np.array([[0, 1], [0, 1], [2, 2]]), np.array([[0, 1], [0, 2], [1, 1]]))
    assert whole.tolist() == [True, False, False]
    assert layers.tolist() == [1, 0.5, 0]


def test_single_values_of_purity_have_its_mean() -> None:
    groups, classes = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 2, -1, -1])
    assert f.pure(groups, classes).tolist() == [True, True, False, True]
    assert f.pure(groups, classes).mean() == weighted_purity(groups, classes)
    assert len(f.pure(groups, np.full(6, -1))) == 0


def test_the_majority_baseline_is_the_most_frequent_class() -> None:
    expected = DummyClassifier(strategy="most_frequent").fit(np.zeros((6, 1)), CLASSES).predict(np.zeros((3, 1)))
    assert f.majority_baseline(CLASSES, 3).tolist() == expected.tolist()
    assert f.majority_baseline(np.array([-1]), 2).tolist() == [-1, -1]


def test_neighbours_by_hand() -> None:
    fit = np.array([[1.0, 0], [0, 2], [3, 3], [-1, 0]])  # on the circle at 0, 90, 45 and 180 degrees
    positions, distances = f.nearest_neighbours(fit, np.array([[5.0, 0]]), 3)
    assert positions.tolist() == [[0, 2, 1]]
    np.testing.assert_allclose(distances, [[0, np.sqrt(2 - np.sqrt(2)), np.sqrt(2)]], atol=1e-7)
    assert f.neighbours_vote(positions, np.array([4, 1, 1, 0])).tolist() == [1]
    assert f.neighbours_vote(positions[:, :2], np.array([4, 1, 1, 0])).tolist() == [1]  # a tie of 4 and 1


def test_neighbours_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    fit, queries, classes = rng.standard_normal((60, 5)), rng.standard_normal((20, 5)), rng.integers(0, 3, 60)
    unit, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (fit, queries))
    distances, positions = NearestNeighbors(n_neighbors=7).fit(unit).kneighbors(asked)
    found, far = f.nearest_neighbours(fit, queries, 7)
    assert found.tolist() == positions.tolist()
    np.testing.assert_allclose(far, distances)
    expected = KNeighborsClassifier(7).fit(unit, classes).predict(asked)
    assert f.neighbours_vote(found, classes).tolist() == expected.tolist()
    assert f.nearest_neighbours(fit[:3], queries, 7)[0].shape == (20, 3)


def test_rarity_by_hand() -> None:
    # 6 examples on 3 paths: (3 + 1) / 10 for the first, 1 / 10 for one that was never seen
    found = f.path_rarity(PATHS, np.array([[0, 0], [1, 0]]))
    np.testing.assert_allclose(found, [-np.log(0.4), -np.log(0.1)])


def test_standardised_distance_by_hand() -> None:
    clusters, distances = np.zeros((6, 1), int), np.array([[1.0], [3], [1], [3], [1], [3]])  # mean 2, spread 1
    found = f.standardised_distance(clusters, distances, np.array([[0], [0]]), np.array([[2.0], [5]]))
    assert found.tolist() == [0, 3]


def test_a_small_cluster_takes_its_layers_statistics_and_a_dead_layer_counts_nothing() -> None:
    clusters = np.array([[0, 0], [0, 0], [1, 0], [1, 0]])
    distances = np.array([[1.0, 0], [3, 0], [1, 0], [3, 0]])
    found = f.standardised_distance(clusters, distances, np.array([[2, 0]]), np.array([[4.0, 9]]))
    assert found.tolist() == [1]  # (2 + 0) / 2 layers


def test_detection_by_hand_and_as_scikit_learn() -> None:
    own, others = np.array([1.0, 2, 3, 4]), np.array([3.0, 5, 6, 0])
    assert f.auroc(own, others) == (2.5 + 4 + 4 + 0) / 16
    assert f.fpr95(own, others) == 0.5  # 95% of four are all four: up to 4, which lets 3 and 0 pass
    rng = np.random.default_rng(0)
    own, others = np.round(rng.standard_normal(50), 1), np.round(rng.standard_normal(40) + 1, 1)
    truth, scores = np.repeat([0, 1], [50, 40]), np.concatenate([own, others])
    assert f.auroc(own, others) == pytest.approx(roc_auc_score(truth, scores))
    false, true, _ = roc_curve(1 - truth, -scores)
    assert f.fpr95(own, others) == false[true >= 0.95].min()
    different, place = np.unique(scores, return_inverse=True)
    counts = [np.bincount(part, minlength=len(different)) for part in (place[:50], place[50:])]
    assert f._from_counts(*counts) == pytest.approx((f.auroc(own, others), f.fpr95(own, others)))


def test_decision_scores_by_hand() -> None:
    found = f.decision_scores(np.log(np.array([[1.0, 3.0], [5.0, 5.0]])))
    np.testing.assert_allclose(found["max softmax"], [-0.75, -0.5])
    np.testing.assert_allclose(found["energy"], [-np.log(4), -np.log(10)])


def test_decision_scores_are_those_of_scipy() -> None:
    logits = np.random.default_rng(0).standard_normal((20, 5)) * 300  # exponentials of these overflow
    found = f.decision_scores(logits)
    np.testing.assert_allclose(found["max softmax"], -softmax(logits, axis=1).max(axis=1))
    np.testing.assert_allclose(found["energy"], -logsumexp(logits, axis=1))


def test_what_can_be_class_scores() -> None:
    assert f.has_class_scores(np.array([[3.0, -1], [0, 2]]))
    assert f.has_class_scores(np.array([[1.0, 0], [0, 1]]))  # probabilities of a model that is sure
    assert not f.has_class_scores(np.array([[3.0], [4]]))  # a regression
    assert not f.has_class_scores(np.array([[0.6, -0.8], [0.8, 0.6]]))  # an embedding of length 1
    assert not f.has_class_scores(np.empty((0, 4)))


def test_a_model_that_puts_out_probabilities_has_no_energy() -> None:
    assert {name: list(x) for name, x in f.decision_scores(np.array([[0.3, 0.7]])).items()} == {"max softmax": [-0.7]}


def test_intervals_hold_the_value_and_come_back_with_the_seed() -> None:
    values = np.repeat([0.0, 1.0], [20, 80])
    low, high = f.bootstrap_mean(values, 0)
    assert low < 0.8 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.04, abs=0.03)  # the normal approximation's width
    assert (low, high) == f.bootstrap_mean(values, 0)


def test_intervals_are_those_of_scipy_s_percentile_bootstrap() -> None:
    values = np.random.default_rng(5).random(60)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=0).confidence_interval
    assert f.bootstrap_mean(values, 0) == pytest.approx(
        theirs, abs=0.01
    )  # both drawn; a fiftieth of the width is 0.003


def test_a_share_of_one_has_an_interval_with_a_width() -> None:
    assert f.bootstrap_mean(np.ones(10), 0) == wilson(10, 10)


def test_detection_intervals_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    own, others = rng.standard_normal(80), rng.standard_normal(80) + 1
    (low, high), (low_rate, high_rate) = f.bootstrap_detection(own, others, 0)
    assert low < f.auroc(own, others) < high
    assert low_rate <= f.fpr95(own, others) <= high_rate

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from clusterpaths.metrics.alignment import (
    back_off,
    choose_unseen_rule,
    decision_alignment,
    graded_predictions,
    majority_baseline,
    split_fit_eval,
)
from tests.clusterpaths.metrics.memory import peak_memory

PATHS = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [1, 1], [1, 1]])
CLASSES = np.array([0, 0, 1, 1, 2, 2])


def test_a_fifth_is_held_out_and_the_same_seed_holds_out_the_same() -> None:
    fit, held_out = split_fit_eval(10, seed=1)
    assert (len(fit), len(held_out)) == (8, 2)
    assert sorted([*fit, *held_out]) == list(range(10))
    assert held_out.tolist() == split_fit_eval(10, seed=1)[1].tolist() == sorted(held_out)


@pytest.mark.parametrize(("n", "sizes"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (2, 1))])
def test_either_side_has_an_example_from_two_on(n: int, sizes: tuple[int, int]) -> None:
    fit, kept = split_fit_eval(n)
    assert (len(fit), len(kept)) == sizes


def test_alignment_by_hand() -> None:
    # (0,0) stands for 0, (0,1) for 1, (1,1) for 2; (1,0) is one step from (0,0) with 3 votes and (1,1) with 2
    found = decision_alignment(PATHS, CLASSES, np.array([[0, 0], [0, 1], [1, 1], [1, 0]]), np.array([0, 2, 2, 0]))
    assert found.predicted.tolist() == [0, 1, 2, 0]
    assert found.seen.tolist() == [True, True, True, False]
    assert (found.daf, found.coverage) == (3 / 4, 3 / 4)
    assert found.daf_seen == pytest.approx(2 / 3)


def test_ties_go_to_the_lowest_class() -> None:
    fit = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    found = decision_alignment(fit, np.array([3, 1, 0, 0]), np.array([[0, 0], [0, 1]]), np.array([1, 0]))
    assert found.predicted.tolist() == [1, 0]  # 1 against 3 on the path; two votes each for 1 and 0


def test_examples_without_a_class_are_left_out_on_both_sides() -> None:
    found = decision_alignment(PATHS, np.array([0, -1, -1, 1, -1, -1]), PATHS[[0, 4]], np.array([0, -1]))
    assert found.predicted.tolist() == [0, 1]  # nobody known on (1,1): (0,1) is nearest
    assert (found.daf, found.coverage, found.daf_seen) == (1, 1, 1)


def test_back_off_by_hand() -> None:
    """The longest suffix that three examples took: the whole path (0, 0, 0), of (9, 1, 1) the last layer, of 7 nothing."""
    fit = np.array([[0, 0, 0]] * 3 + [[1, 1, 1], [2, 2, 1], [2, 2, 1], [0, 2, 1]])
    classes = np.array([4, 4, 5, 6, 7, 7, 4])
    paths = np.array([[0, 0, 0], [9, 1, 1], [5, 2, 1], [7, 7, 7]])
    predicted, length = back_off(fit, classes, paths, least=3)
    assert predicted.tolist() == [4, 7, 7, 4]
    assert length.tolist() == [3, 1, 2, 0]
    assert back_off(fit, np.full(7, -1), paths)[0].tolist() == [-1] * 4
    classes[3:] = -1  # too few are known of the suffixes of the others
    assert back_off(fit, classes, paths, least=3)[1].tolist() == [3, 0, 0, 0]


def test_back_off_is_a_table_of_each_suffix_when_many_layers_repeat() -> None:
    rng = np.random.default_rng(0)
    fit, paths = rng.integers(0, 3, (400, 4)), rng.integers(0, 3, (100, 4))
    classes = (fit[:, -1] + (rng.random(400) < 0.2)) % 3
    predicted, length = back_off(fit, classes, paths)
    for path, own, layers in zip(paths, predicted, length, strict=True):
        same = [(fit[:, -number:] == path[-number:]).all(axis=1) for number in range(1, 5)]
        often = [number for number in range(1, 5) if same[number - 1].sum() >= 8]
        assert layers == often[-1]
        assert own == np.bincount(classes[same[layers - 1]]).argmax()


def test_unseen_paths_predict_by_the_rule_that_is_right_more_often() -> None:
    """Only the last layer tells the class: other layers are lots, which mislead Hamming distance and not back-off."""
    rng = np.random.default_rng(1)
    paths = np.column_stack([rng.integers(0, 4, (600, 9)), rng.integers(0, 4, 600)])
    assert choose_unseen_rule(paths, paths[:, -1]) == "back-off"
    backed = decision_alignment(paths[:400], paths[:400, -1], paths[400:], paths[400:, -1], "back-off")
    similar = decision_alignment(paths[:400], paths[:400, -1], paths[400:], paths[400:, -1])
    assert (backed.daf, backed.daf_seen) == (1, 1)
    assert similar.daf is not None
    assert similar.daf < 0.9
    first = np.ascontiguousarray(paths[:, ::-1])  # only the first layer tells it: suffixes say nothing
    assert choose_unseen_rule(first, first[:, 0]) == "hamming"
    assert choose_unseen_rule(first, np.full(600, -1)) == "hamming"


def test_a_graded_path_predicts_as_scikit_learn_s_logistic_regression() -> None:
    rng = np.random.default_rng(2)
    graded = rng.random((300, 6)).astype(np.float32) * [1, 1, 1, 100, 100, 100]
    classes = graded[:, :3].argmin(axis=1)
    found = graded_predictions(graded[:200], classes[:200], graded[200:])
    scaler = StandardScaler().fit(graded[:200])
    judge = LogisticRegression(max_iter=2000).fit(scaler.transform(graded[:200]), classes[:200])
    assert found.tolist() == judge.predict(scaler.transform(graded[200:])).tolist()
    assert (found == classes[200:]).mean() > 0.9
    assert graded_predictions(graded[:5], np.full(5, 3), graded[:2]).tolist() == [3, 3]


def test_nothing_known_gives_no_number() -> None:
    nothing = decision_alignment(PATHS, np.full(6, -1), PATHS[:2], CLASSES[:2])
    assert (nothing.daf, nothing.coverage, nothing.daf_seen, nothing.predicted.tolist()) == (None, None, None, [-1, -1])
    assert decision_alignment(PATHS, CLASSES, PATHS[:1], np.array([-1])).daf is None
    assert decision_alignment(PATHS, CLASSES, np.array([[1, 0]]), np.array([0])).daf_seen is None


def test_classes_that_nobody_has_and_a_class_that_fit_never_saw() -> None:
    found = decision_alignment(np.array([[0], [0], [1]]), np.array([0, 0, 5]), np.array([[0], [1]]), np.array([3, 5]))
    assert found.predicted.tolist() == [0, 5]  # classes 1 to 4 have no example to fit
    assert (found.daf, found.coverage) == (1 / 2, 1)


def test_one_class_only_is_always_predicted() -> None:
    found = decision_alignment(PATHS, np.full(6, 2), np.array([[0, 0], [7, 7]]), np.array([2, 2]))
    assert (found.daf, found.coverage, found.predicted.tolist()) == (1, 1 / 2, [2, 2])


def test_one_layer_is_the_majority_of_each_cluster() -> None:
    """As a decision tree that splits to the leaves on the cluster id, with scikit-learn's own tie to the lowest class."""
    rng = np.random.default_rng(3)
    clusters, classes = rng.integers(0, 6, 300), rng.integers(0, 4, 300)
    one_hot = np.eye(6)[clusters]
    tree = DecisionTreeClassifier(random_state=0).fit(one_hot[:200], classes[:200])
    found = decision_alignment(clusters[:200, None], classes[:200], clusters[200:, None], classes[200:])
    assert found.predicted.tolist() == tree.predict(one_hot[200:]).tolist()
    assert found.daf == accuracy_score(classes[200:], found.predicted)


def test_memory_is_bounded_where_all_pairs_of_paths_would_not_fit() -> None:
    rng = np.random.default_rng(0)
    fit, held_out = ((rng.integers(0, 9, (n, 5)), rng.integers(0, 5, n)) for n in (40_000, 10_000))
    assert peak_memory(lambda: decision_alignment(*fit, *held_out)) < 150e6  # all pairs: 290 MB


def test_the_majority_baseline_is_the_most_frequent_class() -> None:
    expected = DummyClassifier(strategy="most_frequent").fit(np.zeros((6, 1)), CLASSES).predict(np.zeros((3, 1)))
    assert majority_baseline(CLASSES, 3).tolist() == expected.tolist()
    assert majority_baseline(np.array([-1]), 2).tolist() == [-1, -1]


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "fewer classes than examples": (
        lambda: decision_alignment(PATHS, CLASSES[:5], PATHS, CLASSES),
        r"fit_classes should be one per row of fit_paths, so \(6,\), got \(5,\)",
    ),
    "more classes than eval examples": (
        lambda: decision_alignment(PATHS, CLASSES, PATHS[:2], CLASSES),
        r"eval_classes .* so \(2,\), got \(6,\)",
    ),
    "paths of other layers": (lambda: decision_alignment(PATHS, CLASSES, PATHS[:, :1], CLASSES), "equally wide"),
    "a class below -1": (lambda: decision_alignment(PATHS, CLASSES - 2, PATHS, CLASSES), "or -1 for none, got -2"),
    "scores for classes": (lambda: decision_alignment(PATHS, CLASSES * 0.5, PATHS, CLASSES), "got float64"),
    "a cluster below 0": (lambda: decision_alignment(PATHS - 1, CLASSES, PATHS, CLASSES), "ids >= 0, got -1"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_arrays_that_do_not_fit_are_rejected(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

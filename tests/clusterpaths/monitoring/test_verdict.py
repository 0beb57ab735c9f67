"""The verdict of a window: what is found, where it begins, and how often it errs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.monitoring.verdict import CLASS_EXAMPLES, Routes, Verdict, detect, level_of_window

LAYERS = ("conv1", "conv2", "fc1")
CLASSES = ("cat", "dog")
K = 4


def routes(n: int, seed: int, shift: float = 0.0) -> Routes:
    """A hidden value decides class, clusters and score; `shift` moves it from the second layer on."""
    draw = np.random.default_rng(seed)
    hidden = draw.normal(size=n)
    moved = hidden + shift
    columns = [
        np.clip(np.floor(1.5 * value + draw.normal(size=n) + K / 2), 0, K - 1) for value in (hidden, moved, moved)
    ]
    return Routes(np.stack(columns, 1).astype(np.int16), draw.normal(size=n), (hidden > 0).astype(np.int32))


def verdict(reference: Routes, window: Routes, alpha: float = 0.05, seed: int = 0) -> Verdict:
    return detect(reference, window, LAYERS, CLASSES, alpha, seed)


def test_a_window_like_the_reference_did_not_drift() -> None:
    found = verdict(routes(1000, 0), routes(100, 1))
    assert not found.drifted
    assert found.first_layer is None
    assert found.effect is not None
    assert found.effect == pytest.approx(found.effect_by_chance, abs=0.1)
    assert [(test.kind, test.subject) for test in found.tests] == [
        *(("clusters", layer) for layer in LAYERS),
        ("paths", ""),
        ("new paths", ""),
        ("predictions", ""),
        ("OOD scores", ""),
        ("high OOD scores", ""),
        ("paths of a class", "cat"),
        ("paths of a class", "dog"),
    ]


def test_a_shift_is_found_where_it_begins_and_for_small_levels() -> None:
    for alpha in (0.05, 0.0005):
        found = verdict(routes(1000, 0), routes(100, 1, shift=1.0), alpha)
        assert found.drifted
        assert found.first_layer == "conv2"
        assert found.p_value == min(test.adjusted_p_value for test in found.tests)
        assert found.p_value <= alpha / 4  # Holm at a small level can still reject: there are enough draws
    unchanged = {(test.kind, test.subject): test for test in found.tests}["clusters", "conv1"]
    assert unchanged.adjusted_p_value > 0.05
    assert unchanged.effect < 0.2


def test_the_same_seed_gives_the_same_verdict_to_the_bit() -> None:
    reference, window = routes(500, 0), routes(80, 1, shift=0.3)
    assert verdict(reference, window).model_dump_json() == verdict(reference, window).model_dump_json()
    assert verdict(reference, window, seed=1) != verdict(reference, window)


def test_high_scores_of_a_few_examples_are_a_drift() -> None:
    reference, window = routes(1000, 0), routes(100, 1)
    window.ood_scores[:8] += 8
    found = verdict(reference, window)
    assert [test.kind for test in found.tests if test.adjusted_p_value <= 0.05] == ["high OOD scores"]


def test_predictions_and_paths_within_a_class_are_a_drift() -> None:
    reference, window = routes(1000, 0), routes(120, 1)
    one_class = Routes(window.clusters, window.ood_scores, np.ones(120, np.int32))
    kinds = {test.kind: test for test in verdict(reference, one_class).tests}
    assert kinds["predictions"].adjusted_p_value < 0.01
    assert kinds["paths of a class"].subject == "dog"  # the window has no example of the other one


def test_a_class_is_tested_if_both_have_enough_examples_of_it() -> None:
    reference = routes(1000, 0)
    for count in (CLASS_EXAMPLES - 1, CLASS_EXAMPLES):
        window = routes(100, 1)
        predictions = np.zeros(100, np.int32)
        predictions[:count] = 1
        found = verdict(reference, Routes(window.clusters, window.ood_scores, predictions))
        tested = [test.subject for test in found.tests if test.kind == "paths of a class"]
        assert tested == (["cat", "dog"] if count == CLASS_EXAMPLES else ["cat"])
    unnamed = detect(reference, reference, LAYERS, CLASSES[:1], 0.05, 0)
    assert unnamed.tests[-1].subject == "class 1"


def test_an_empty_window_is_no_drift() -> None:
    found = verdict(routes(100, 0), routes(0, 1))
    assert (found.drifted, found.p_value, found.tests, found.effect, found.n_window) == (False, 1.0, (), None, 0)


def test_one_example_alone_is_hardly_ever_a_drift() -> None:
    found = [verdict(routes(200, 0), routes(1, seed)) for seed in range(40)]
    assert sum(one.drifted for one in found) <= 6
    assert found[0].n_window == 1


def test_one_path_one_score_and_no_predictions() -> None:
    def same(n: int) -> Routes:
        return Routes(np.zeros((n, 3), np.int16), np.full(n, 2.5), np.full(n, -1, np.int32))

    found = verdict(same(50), same(20))
    assert (found.drifted, found.p_value, found.effect) == (False, 1.0, 0.0)
    assert not {"predictions", "paths of a class"} & {test.kind for test in found.tests}


def test_predictions_of_one_side_only_are_not_tested() -> None:
    reference, window = routes(200, 0), routes(50, 1)
    without = Routes(window.clusters, window.ood_scores, np.full(50, -1, np.int32))
    assert "predictions" not in {test.kind for test in verdict(reference, without).tests}


@pytest.mark.parametrize(("size", "alpha"), [(50, 0.05), (200, 0.05), (100, 0.2)])
def test_false_alarms_are_at_most_as_frequent_as_asked_for(size: int, alpha: float) -> None:
    """All tests of a verdict together; 400 pairs, allowing four standard errors."""
    alarms = [verdict(routes(400, 2 * seed), routes(size, 2 * seed + 1), alpha).drifted for seed in range(400)]
    assert np.mean(alarms) <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / 400)


def test_a_series_shares_the_level_among_its_windows() -> None:
    assert level_of_window(0.05, 100) == pytest.approx(0.0005)
    assert level_of_window(0.05, 1) == 0.05
    for alpha, horizon, message in ((0, 1, "alpha"), (1.0, 1, "alpha"), (0.05, 0, "at least 1 window, got 0")):
        with pytest.raises(ValueError, match=message):
            level_of_window(alpha, horizon)


def altered(change: dict[str, Any]) -> Routes:
    whole: dict[str, NDArray[Any]] = {
        "clusters": np.zeros((5, 3), np.int16),
        "ood_scores": np.zeros(5),
        "predictions": np.zeros(5, np.int32),
    }
    return Routes(**whole | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": np.zeros(5, np.int16)}, r"clusters should be \(n, L\)"),
        ({"clusters": np.full((5, 3), -1)}, "clusters should hold ids >= 0"),
        ({"ood_scores": np.zeros(4)}, r"so \(5,\), got \(4,\)"),
        ({"ood_scores": np.full(5, np.nan)}, "finite"),
        ({"predictions": np.full(5, -2)}, "got -2"),
        ({"predictions": np.zeros(5)}, "should be integers"),
    ],
)
def test_routes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        altered(change)


def test_what_cannot_be_compared_is_refused() -> None:
    five = altered({})
    with pytest.raises(ValueError, match="The reference should have examples"):
        verdict(routes(0, 0), five)
    with pytest.raises(ValueError, match="the window should have 3 layers, got 2"):
        verdict(five, altered({"clusters": np.zeros((5, 2), np.int16)}))
    for alpha in (0.0, 1.0, -1.0, 5.0):
        with pytest.raises(ValueError, match="alpha should be above 0 and below 1"):
            verdict(five, five, alpha)

"""Choosing: the right number of blobs, nothing in noise, the same choice for the same seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.clustering.choice import Choice
from clusterpaths.clustering.choose import GRID, choose, layer_sets
from clusterpaths.errors import ConfigError
from tests.clusterpaths.clustering.test_kmeans import ArrayRows

N, K = 600, 4


def blobs(blob: NDArray[np.int64], width: int, seed: int, spread: float = 0.1) -> ArrayRows:
    """Rows around four directions that are at right angles to each other."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((width, K)))[0].T * 3  # (K, width)
    return ArrayRows(directions[blob] + spread * rng.standard_normal((len(blob), width)))


def noise(n: int, width: int, seed: int) -> ArrayRows:
    return ArrayRows(np.random.default_rng(seed).standard_normal((n, width)))


@pytest.fixture(scope="module")
def blob() -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(K, size=N)


@pytest.fixture(scope="module")
def three(blob: NDArray[np.int64]) -> dict[str, ArrayRows]:
    """Narrow, wider than a sketch, and narrow again."""
    return {"a": blobs(blob, 8, 1), "b": blobs(blob, 400, 2), "c": blobs(blob, 30, 3)}


@pytest.fixture(scope="module")
def chosen(three: dict[str, ArrayRows], blob: NDArray[np.int64]) -> Choice:
    return choose(three, blob)


def test_four_blobs_in_each_of_three_layers_are_four(chosen: Choice) -> None:
    assert chosen.k_per_layer == {"a": 4, "b": 4, "c": 4}
    assert chosen.scored_by == "decisions"
    assert chosen.carries_nothing == chosen.cut == ()
    assert chosen.sentence.startswith("Chosen: cosine distance and k a=4, b=4, c=4, for each layer the fewest clusters")


@pytest.mark.parametrize("predictions", [None, np.full(N, -1), np.zeros(N, int)], ids=["none", "unknown", "one class"])
def test_without_decisions_stability_finds_them_too_and_says_why(
    three: dict[str, ArrayRows], predictions: NDArray[np.int64] | None
) -> None:
    found = choose(three, predictions)
    assert found.k_per_layer == {"a": 4, "b": 4, "c": 4}
    assert found.scored_by == "stability"
    assert found.baseline is None
    assert found.advice == ""
    one_class = predictions is not None and (predictions == 0).all()
    assert ("one class only" if one_class else "no class scores") in found.sentence


@pytest.mark.parametrize("seed", range(5))
def test_a_layer_of_noise_takes_the_smallest_k_and_says_that_it_carries_nothing(
    three: dict[str, ArrayRows], blob: NDArray[np.int64], seed: int
) -> None:
    layers = {"noise": noise(N, 20, 10 + seed), "a": three["a"]}
    for predictions in (blob, None):
        found = choose(layers, predictions, seed=seed)
        assert found.k_per_layer == {"noise": 2, "a": 4}
        assert found.carries_nothing == ("noise",)
        assert "noise carries no" in found.sentence


def test_the_sweep_is_whole_and_marks_what_was_chosen(chosen: Choice) -> None:
    assert len(chosen.points) == 3 * 2 * len(GRID)
    marked = {(p.layer, p.distance, p.k) for p in chosen.points if p.chosen}
    assert marked == {(layer, "cosine", 4) for layer in "abc"}
    four = next(p for p in chosen.points if p.chosen)
    three = next(p for p in chosen.points if (p.layer, p.distance, p.k) == ("a", "cosine", 3))
    assert four.daf == 1
    assert four.interval is not None
    assert four.interval[0] > 0.98
    assert four.stability == 1
    assert three.daf == pytest.approx(0.75, abs=0.05)  # two blobs share a cluster
    assert four.occupied == 4


def test_layer_sets_are_singles_suffixes_and_all() -> None:
    assert layer_sets(("a", "b", "c")) == [("a",), ("b",), ("c",), ("b", "c"), ("a", "b", "c")]
    assert layer_sets(("a",)) == [("a",)]


def test_one_layer_is_advised_where_it_does_as_well(chosen: Choice) -> None:
    advised = [one for one in chosen.layer_sets if one.advised]
    assert len(advised) == 1
    assert len(advised[0].layers) == 1
    assert advised[0].paths == 4
    assert chosen.advice.startswith("Fewer layers would suffice: ")


def test_the_same_seed_gives_the_same_bytes_and_the_record_comes_back(
    three: dict[str, ArrayRows], blob: NDArray[np.int64], chosen: Choice
) -> None:
    again = choose(three, blob)
    assert again.model_dump_json() == chosen.model_dump_json()
    assert Choice.model_validate(json.loads(chosen.model_dump_json())) == chosen


def test_what_is_given_is_kept(three: dict[str, ArrayRows], blob: NDArray[np.int64]) -> None:
    found = choose(three, blob, k={"a": 7, "b": None, "c": None}, distance="euclidean")
    assert found.k_per_layer == {"a": 7, "b": 4, "c": 4}
    assert found.distance == "euclidean"
    assert {p.k for p in found.points if p.layer == "a"} == {7}
    assert {p.distance for p in found.points} == {"euclidean"}
    told = "Chosen: euclidean distance (as given) and k a=7 (as given), b=4, c=4, for these the fewest clusters"
    assert found.sentence.startswith(told)


@pytest.mark.parametrize("decisions", [True, False])
def test_where_only_the_distance_is_chosen_no_reason_for_k_is_made_up(
    three: dict[str, ArrayRows], blob: NDArray[np.int64], decisions: bool
) -> None:
    fixed = choose({**three, "noise": noise(N, 20, 1)}, blob if decisions else None, k=3)
    assert fixed.k_per_layer == dict.fromkeys([*three, "noise"], 3)
    assert fixed.sentence.startswith("Chosen: cosine distance and k a=3, b=3, c=3, noise=3 (as given), ")
    assert "clusters" not in fixed.sentence
    assert "smallest k" not in fixed.sentence
    assert "complete paths" in fixed.sentence


def test_euclidean_is_taken_where_only_lengths_tell(blob: NDArray[np.int64]) -> None:
    rng = np.random.default_rng(4)
    lengths = ArrayRows((1 + 2 * blob)[:, None] * np.ones(6) + 0.1 * rng.standard_normal((N, 6)))
    found = choose({"lengths": lengths}, blob)
    assert (found.distance, found.k_per_layer) == ("euclidean", {"lengths": 4})


@pytest.mark.parametrize("seed", range(3))
def test_weak_layers_whose_clusters_scatter_whole_paths_are_cut_and_the_strong_one_is_not(seed: int) -> None:
    """A weak layer likes many clusters for itself; in whole paths they only thin out what the last layer tells."""
    blob = np.random.default_rng(seed).integers(K, size=N)
    rng = np.random.default_rng(50 + seed)
    weak = {f"weak{at}": ArrayRows(0.9 * np.eye(12)[blob] + 0.9 * rng.standard_normal((N, 12))) for at in range(6)}
    layers = {**weak, "last": blobs(blob, 20, 6)}
    found = choose(layers, blob, distance="euclidean")
    whole = found.layer_sets[-1]
    assert found.k_per_layer == dict.fromkeys(weak, 2) | {"last": 4}
    assert whole.daf is not None
    assert whole.daf > 0.95
    assert set(found.cut) <= set(weak)
    assert f"{', '.join(found.cut)} at the smallest k, as more clusters there would scatter" in found.sentence

    alone = {
        layer: choose({layer: rows}, blob, distance="euclidean").k_per_layer[layer] for layer, rows in layers.items()
    }
    assert set(found.cut) == {layer for layer in weak if alone[layer] > 2}
    uncut = choose(layers, blob, k=alone, distance="euclidean").layer_sets[-1]
    assert uncut.interval is not None
    assert uncut.interval[1] < whole.daf


def test_a_dead_layer_has_one_cluster(blob: NDArray[np.int64], three: dict[str, ArrayRows]) -> None:
    found = choose({"dead": ArrayRows(np.zeros((N, 5))), "a": three["a"]}, blob)
    assert found.k_per_layer == {"dead": 1, "a": 4}
    assert found.carries_nothing == ("dead",)


def test_some_rows_of_zeros_do_no_harm(blob: NDArray[np.int64]) -> None:
    rows = blobs(blob, 8, 1)
    rows.values[::50] = 0
    assert choose({"a": rows}, blob, distance="cosine").k_per_layer == {"a": 4}


def test_few_examples_limit_k(blob: NDArray[np.int64]) -> None:
    found = choose({"a": blobs(blob[:30], 8, 1)}, blob[:30])
    assert max(p.k for p in found.points) == 6  # a fifth of the rows is left out


@pytest.mark.parametrize(
    ("rows", "predictions", "message"),
    [
        ({"a": noise(19, 3, 0)}, None, "at least 20 examples, got 19 instead"),
        ({}, None, "at least 20 examples, got 0 instead"),
        ({"a": noise(30, 3, 0), "b": noise(31, 3, 0)}, None, "'a': 30, 'b': 31"),
        ({"a": noise(30, 3, 0)}, np.zeros(29, int), "29 predictions"),
    ],
)
def test_bad_input_is_refused(rows: dict[str, ArrayRows], predictions: NDArray[np.int64] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(rows, predictions)

"""The examples nearest to one: the same as by distances in numpy, one layer after the other."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from clusterpaths.errors import NotFoundError
from clusterpaths.explanation.look_up import explain_example, prepare_example
from clusterpaths.explore.alike import Place, _distances, _layer, alike, nearest, place_of, prepare_alike, weights_at
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.sets.maps import MAPS, LayerMap, MapRecord, write_maps
from tests.clusterpaths.explore.small import small
from tests.generated_set import generate, write_random_maps

LAYERS = {"a": (2,), "b": (2,), "c": (3,)}
N = 700


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SetIndex:
    root = tmp_path_factory.mktemp("alike")
    folder = generate(root, n=N, layers=LAYERS, k=4, attributes=2, seed=2)
    draw = np.random.default_rng(7)
    maps = {}
    for at, layer in enumerate(LAYERS):
        components = draw.normal(0, 10.0**at, (N, 5)).astype(np.float16).astype(np.float32)
        maps[layer] = LayerMap(MapRecord(), components[:, :2], components, draw.random(N).astype(np.float32))
    write_maps(folder / MAPS, maps)
    return Library(root).default()


def standardised(index: SetIndex, layer: str, row: int) -> np.ndarray:
    """(n,) distances, in units of the median distance to the nearest other; fewer than 4,096, so of all."""
    maps = index.require_maps()
    components, residuals = maps.components(layer).astype(np.float64), maps.residuals(layer).astype(np.float64)
    gaps = ((components[:, None] - components[None]) ** 2).sum(axis=-1) + residuals[:, None] ** 2 + residuals[None] ** 2
    least = gaps - 2 * residuals[:, None] * residuals[None]
    for one in (gaps, least):
        np.fill_diagonal(one, 1e30)  # itself
    sample = np.linspace(0, N - 1, 64).astype(int)
    near = 0.3**2 * np.median(least.min(axis=1)[sample])
    found = np.where(least < near, least, gaps)
    return np.sqrt(found[row]) / np.median(np.sqrt(gaps.min(axis=1)[sample]))


def test_a_copy_comes_first_and_not_what_lies_nearer_to_the_components(tmp_path: Path) -> None:
    """Its residual points the same way: by right angles it would be farther away than pictures without one."""
    folder = generate(tmp_path, n=N, layers=LAYERS, k=4, attributes=2, seed=2)
    draw = np.random.default_rng(3)
    maps = {}
    for layer in LAYERS:
        components, residuals = draw.normal(0, 1, (N, 5)).astype(np.float32), np.full(N, 5, np.float32)
        components[600], residuals[:300] = components[5], 0.1
        components[5] += np.float32(1e-3)
        residuals[[5, 600]] = 9
        maps[layer] = LayerMap(MapRecord(), components[:, :2], components, residuals)
    write_maps(folder / MAPS, maps)
    found = alike(Library(tmp_path).default(), 5, 0.0, count=3).examples
    assert found[0].example.id == 600
    assert found[0].distance < 0.01 < 0.1 < found[1].distance


@pytest.mark.parametrize("depth", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("example", [0, 123, N - 1])
def test_between_two_layers_the_distance_is_the_weighted_mean(index: SetIndex, depth: float, example: int) -> None:
    at = depth * 2
    low = min(int(at), 1)
    expected = (low + 1 - at) * standardised(index, "abc"[low], example) + (at - low) * standardised(
        index, "abc"[low + 1], example
    )
    found = alike(index, example, depth, count=30)
    order = np.argsort(expected, kind="stable")[:30]
    assert [one.example.id for one in found.examples] == order.tolist()
    assert [one.distance for one in found.examples] == pytest.approx(expected[order], rel=1e-4)
    assert sum(one.weight for one in found.layers) == pytest.approx(1)
    assert len(found.layers) == (1 if at == int(at) else 2)


@pytest.mark.parametrize("case", ["far from the origin", "of very different sizes", "many copies", "too large numbers"])
def test_the_quick_pass_leaves_none_of_the_nearest_out(tmp_path: Path, case: str) -> None:
    """Its distances are those of |a|² + |b|² - 2ab, in which float32 loses all digits of small ones far from the origin."""
    folder = generate(tmp_path, n=N, layers=LAYERS, k=4, attributes=2, seed=2)
    draw = np.random.default_rng(11)
    maps = {}
    for layer in LAYERS:
        components, residuals = draw.normal(0, 1, (N, 5)).astype(np.float32), draw.random(N).astype(np.float32)
        if case == "far from the origin":
            components += np.float32(3000)
        elif case == "of very different sizes":
            components *= np.exp(draw.normal(0, 4, (N, 1))).astype(np.float32)
        elif case == "many copies":
            components, residuals = components[np.arange(N) % 40], residuals[np.arange(N) % 40]
        else:
            components[100:200] *= np.float32(1e25)
        maps[layer] = LayerMap(MapRecord(), components[:, :2], components, residuals)
    write_maps(folder / MAPS, maps)
    index = Library(tmp_path).default()
    with np.errstate(all="ignore"):
        for depth in (0.0, 0.3, 1.0):
            weights = weights_at(depth, len(LAYERS))
            for row in (0, 41, 150, N - 1):
                places = [
                    (weight, _layer(index, layer), place_of(index, layer, row)) for layer, weight in weights.items()
                ]
                apart = sum(weight * _distances(layer, place, np.arange(N)) for weight, layer, place in places)
                apart = np.where(np.isnan(apart), np.inf, apart)
                expected = [one for one in np.argsort(apart, kind="stable").tolist() if one != row][:30]
                found = alike(index, row, depth, count=30).examples
                assert [one.example.id for one in found] == expected
                assert [one.distance for one in found] == apart[expected].tolist()


def test_both_ends_of_an_explanation_are_those_of_the_slider(index: SetIndex) -> None:
    explanation = explain_example(index, 5)
    for notes, depth in ((explanation.looks_alike, 0.0), (explanation.decided_alike, 1.0)):
        assert [one.id for one in notes] == [one.example.id for one in alike(index, 5, depth, count=12).examples]


def test_a_place_that_is_no_example_s_has_neighbours(index: SetIndex) -> None:
    components = index.require_maps().components("b")
    found = nearest(index, {1: Place(components[9], 0.0)}, {1: 1.0}, 3)
    assert found[0].example.id == 9, "it is not left out"


def test_depths_fall_on_layers() -> None:
    assert weights_at(0, 5) == {0: 1}
    assert weights_at(1, 5) == {4: 1}
    assert weights_at(0.5, 5) == {2: 1}
    assert weights_at(0.3, 1) == {0: 1}
    assert weights_at(0.375, 5) == {1: 0.5, 2: 0.5}


def test_equal_examples_are_sorted_by_id_and_few_are_enough(tmp_path: Path) -> None:
    index = small(tmp_path)
    with pytest.raises(NotFoundError, match="no maps of its layers"):
        alike(index, 12, 0.5)
    same = LayerMap(MapRecord(), np.zeros((8, 2), np.float32), np.zeros((8, 3), np.float32))
    write_maps(index.folder.path / MAPS, {"a": same, "b": same})
    index = Library(tmp_path).default()
    found = alike(index, 12, 0.5, count=3)
    assert [(one.example.id, one.distance) for one in found.examples] == [(10, 0), (11, 0), (13, 0)]
    assert len(alike(index, 12, 0.5, count=100).examples) == 7
    with pytest.raises(NotFoundError, match="no example 9"):
        alike(index, 9, 0.5)


def test_with_corrupted_maps_all_else_is_explained(tmp_path: Path) -> None:
    folder = generate(tmp_path, n=50, layers=LAYERS, k=2, attributes=1)
    write_random_maps(folder, LAYERS, d=4)
    (folder / MAPS).write_bytes(b"PAR1")
    index = Library(tmp_path).default()
    prepare_example(index, 3)
    found = explain_example(index, 3)
    assert found.looks_alike == ()
    assert any("the set's maps cannot be read. Run again" in warning for warning in found.warnings)
    assert len(found.layers) == 3


def test_a_set_that_was_published_before_there_were_maps_is_explained_without(tmp_path: Path) -> None:
    folder = generate(tmp_path, n=50, layers=LAYERS, k=2, attributes=1)
    assert explain_example(Library(tmp_path).default(), 3).looks_alike == ()
    write_random_maps(folder, LAYERS, d=4)
    assert len(explain_example(Library(tmp_path).default(), 3).looks_alike) == 12


def test_cached_answers_hold_rows_and_distances_not_records(index: SetIndex) -> None:
    answers = len(index._answers)
    tracemalloc.start()
    for example in index.ids[:8].tolist():
        assert len(alike(index, example, 0.5, count=600).examples) == 600
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 8 * 600 * 60, "bytes: a record has more than a thousand"
    assert len(index._answers) == answers, "the answers about clusters, paths and selections stay"
    rows, apart = prepare_alike(index, int(index.ids[0]), 0.5, count=600)
    assert (rows.dtype, apart.dtype) == (np.int32, np.float32)
    assert prepare_alike(index, int(index.ids[0]), 0.5, count=600)[0] is rows


def test_too_large_distances_cost_no_neighbour(index: SetIndex, tmp_path: Path) -> None:
    """Of those that overflow float32, none is nearer than another; the example itself is not one of them."""
    folder = generate(tmp_path, n=20, layers=LAYERS, k=4, attributes=2, seed=2)
    components = np.zeros((20, 2), np.float32)
    components[:5], components[5:] = -1e38, 1e38
    one = LayerMap(MapRecord(), components, components, np.zeros(20, np.float32))
    write_maps(folder / MAPS, dict.fromkeys(LAYERS, one))
    found = Library(tmp_path).default()
    for count in (4, 5, 19):
        with np.errstate(all="ignore"):
            near = alike(found, int(found.ids[0]), 0.0, count=count).examples
        assert len({one.example.id for one in near} - {int(found.ids[0])}) == count

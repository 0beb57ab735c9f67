"""Under-covered regions: density by the k-th neighbour, regions that do not contain each other, no regions by chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clusterpaths.errors import ConfigError, NotFoundError
from clusterpaths.explore.ask import ask
from clusterpaths.explore.library import Library
from clusterpaths.explore.records import Question
from clusterpaths.find.find import find
from clusterpaths.find.under_covered import neighbour_distances, sparse_regions, under_covered_page
from tests.clusterpaths.find.mapped import add_maps, generated_mapped, small_mapped


def test_the_distance_is_that_to_the_kth_other_example() -> None:
    points = np.array([[0], [1], [3], [7]], np.float32)
    assert neighbour_distances(points, k=1).tolist() == [1, 1, 2, 4]
    assert neighbour_distances(points, k=2).tolist() == [3, 2, 3, 6]
    assert neighbour_distances(points, k=10).tolist() == [7, 6, 4, 7]
    assert neighbour_distances(points[:1]).tolist() == [0]


def test_beyond_the_reference_a_sample_of_neighbours_gives_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(3_000, 4)).astype(np.float32)
    exact = neighbour_distances(points)
    monkeypatch.setattr("clusterpaths.find.under_covered._REFERENCE", 1_000)
    sampled = neighbour_distances(points)
    assert np.corrcoef(exact, sampled)[0, 1] > 0.95
    assert sampled.mean() > exact.mean()  # fewer neighbours are farther


def regions(paths: list[list[int]], sparse: list[bool]) -> list[tuple[str, int, int]]:
    distances = np.where(sparse, 2.0, 1.0) + np.arange(len(sparse)) * 1e-6
    return [(one.path, len(one.rows), one.sparse) for one in sparse_regions(np.array(paths), distances)]


def test_a_sparse_region_is_named_by_the_shortest_suffix_that_says_it() -> None:
    """20 of 200 are sparse, all with cluster 1 in the last layer, whatever the first layer's is."""
    paths = [[i % 2, 1] for i in range(20)] + [[i % 2, 0] for i in range(180)]
    assert regions(paths, [True] * 20 + [False] * 180) == [("*-1", 20, 20)]


def test_where_only_one_path_into_a_cluster_is_sparse_that_path_is_listed() -> None:
    paths = [[0, 1]] * 20 + [[1, 1]] * 80 + [[1, 0]] * 100
    assert regions(paths, [True] * 20 + [False] * 180) == [("0-1", 20, 20)]


def test_groups_of_random_examples_are_not_listed() -> None:
    found = []
    for seed in range(5):
        draw = np.random.default_rng(seed)
        found += sparse_regions(draw.integers(0, 5, (3_000, 4)), draw.random(3_000))
    assert len(found) <= 1  # of some thousand regions that are looked at


def test_equal_distances_have_no_sparse_region() -> None:
    assert sparse_regions(np.zeros((50, 2), np.int64), np.ones(50)) == ()
    assert sparse_regions(np.zeros((0, 2), np.int64), np.ones(0)) == ()


def test_a_page_has_the_error_share_with_its_interval_and_a_filter_that_selects_the_region(tmp_path: Path) -> None:
    index = generated_mapped(tmp_path)
    found = under_covered_page(index)
    rare = int(np.argmin(index.sizes[-1]))
    region = found.entries[0]
    assert region.path == f"*-*-*-*-{rare}"
    assert region.count == index.sizes[-1].min() == ask(index, Question(path=region.path)).total
    assert region.sparse_interval[0] > 0.1
    assert region.distance > 2
    rows = index.clusters[:, -1] == rare
    known = rows & (index.right >= 0)
    assert (region.errors, region.known) == (int((index.right[known] == 0).sum()), int(known.sum()))
    assert region.error_interval is not None
    assert region.error_share is not None
    assert region.error_interval[0] <= region.error_share <= region.error_interval[1]
    assert all(one.clear and (one.lift is None or one.lift > 1) for one in region.lifts)
    assert found.error_share == pytest.approx(float((index.right[index.right >= 0] == 0).mean()))


def test_the_note_says_where_neighbours_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = generated_mapped(tmp_path)
    assert "random sample" not in under_covered_page(index).note
    monkeypatch.setattr("clusterpaths.find.under_covered._REFERENCE", 1_999)
    assert "among a random sample of 1,999 examples" in under_covered_page(index).note


def test_a_set_without_maps_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"published before there were maps.*Run again"):
        under_covered_page(small_mapped(tmp_path, maps=False))


def test_by_an_earlier_layer_regions_are_those_of_the_path_up_to_it(tmp_path: Path) -> None:
    """The rare examples lie far apart in the last layer only."""
    index = generated_mapped(tmp_path)
    last, named = under_covered_page(index), under_covered_page(index, layer=index.layers[-1])
    assert named == last
    assert last.layer == index.layers[-1]
    assert under_covered_page(index, layer=index.layers[1]).total == 0
    maps = index.require_maps()
    components = {layer: maps.components(layer).copy() for layer in index.layers}
    sparse = (index.clusters[:, 0] == 2) & (index.clusters[:, 1] == 0)
    components[index.layers[1]][sparse] *= 6
    add_maps(index.folder.path, components)
    index = Library(tmp_path).set("CelebA", "set_01")
    found = under_covered_page(index, layer=index.layers[1])
    assert [entry.path for entry in found.entries] == ["2-0"]
    assert found.entries[0].count == int(sparse.sum()) == ask(index, Question(path="2-0")).total
    assert f"up to {index.layers[1]}, and" in found.note
    assert under_covered_page(index).entries[0].path == last.entries[0].path, "the last layer's list is another one"


def test_a_layer_that_is_none_and_a_kind_without_layers_are_refused(tmp_path: Path) -> None:
    index = generated_mapped(tmp_path, n=100)
    with pytest.raises(NotFoundError, match=r"has no layer 'conv9'. It has conv1, conv2"):
        find(index, "under-covered", layer="conv9")
    with pytest.raises(ConfigError, match=r"label-errors is not by a layer, here 'conv1'. Only under-covered is"):
        find(index, "label-errors", layer="conv1")

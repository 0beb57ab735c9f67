"""Near duplicates: identical contents, near activations, groups across splits, and what a set must have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clusterpaths.errors import NotFoundError
from clusterpaths.find.near_duplicates import find_near_duplicates, near_duplicates_page, near_pairs, same_content
from tests.clusterpaths.explore.small import ids_of
from tests.clusterpaths.find.mapped import small_mapped


def test_examples_of_the_same_content_stand_for_the_first_and_zero_is_no_content() -> None:
    contents = np.array([7, 0, 7, 0, 5, 7], np.uint64)
    assert same_content(contents).tolist() == [0, 1, 0, 3, 4, 0]


def test_pairs_are_near_in_every_layer_in_units_of_the_usual_distance() -> None:
    draw = np.random.default_rng(0)
    first = draw.normal(size=(500, 6)).astype(np.float32)
    second = draw.normal(size=(500, 6)).astype(np.float32)
    first[400:403], second[400:402] = first[0:3] + 1e-3, second[0:2] + 1e-3  # of the third, in the first layer alone
    pairs, distances = near_pairs([first, second])
    assert pairs.tolist() == [[0, 400], [1, 401]]
    assert (distances < 0.05).all()
    scaled, same = near_pairs([first * 100, second])
    assert scaled.tolist() == pairs.tolist()
    np.testing.assert_allclose(same, distances, rtol=1e-4)


def test_many_copies_of_one_point_are_joined() -> None:
    points = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    points[:30] = points[0] + np.random.default_rng(1).normal(0, 1e-4, (30, 4))
    pairs, _ = near_pairs([points, points])
    reached = {0}
    for _ in range(30):
        reached |= {int(b) for a, b in pairs if a in reached} | {int(a) for a, b in pairs if b in reached}
    assert reached == set(range(30))


@pytest.mark.parametrize("points", [np.zeros((50, 3)), np.zeros((2, 3)), np.zeros((0, 3))])
def test_a_layer_that_tells_nothing_apart_has_no_pairs(points: np.ndarray) -> None:
    pairs, distances = near_pairs([points.astype(np.float32)])
    assert (len(pairs), len(distances)) == (0, 0)


def test_the_eight_nearest_others_of_each_are_looked_at() -> None:
    points = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    points[:9] = points[0] + np.random.default_rng(1).normal(0, 1e-4, (9, 4))
    pairs, _ = near_pairs([points])
    assert (pairs[:, 1] < 9).sum() == 9 * 8 / 2


def test_a_group_across_splits_comes_before_identical_files_of_one_split(tmp_path: Path) -> None:
    """11 and 12, both in train, have one content; 10 (train) and 16 (test) are near in both layers."""
    index = small_mapped(tmp_path, digests=[1, 2, 2, 3, 4, 5, 6, 7])
    groups = find_near_duplicates(index)
    assert [(ids_of(index.examples(group.rows)), group.exact) for group in groups] == [
        ([10, 16], False),
        ([11, 12], True),
    ]
    found = near_duplicates_page(index)
    assert (found.total, found.examples, found.across_splits) == (2, 4, 1)
    across, identical = found.entries
    assert (across.splits, across.across_splits, across.labels_differ) == (("test", "train"), True, False)
    assert 0 < across.distance < 0.3
    assert (identical.distance, identical.splits, identical.labels_differ) == (0.0, ("train",), False)


def test_without_maps_identical_files_are_found_and_the_note_says_so(tmp_path: Path) -> None:
    found = near_duplicates_page(small_mapped(tmp_path, digests=[1, 2, 2, 3, 4, 5, 6, 1], maps=False))
    assert [ids_of(group.examples) for group in found.entries] == [[10, 17], [11, 12]]
    assert "Identical files only" in found.note


def test_without_contents_identical_activations_are_found(tmp_path: Path) -> None:
    found = near_duplicates_page(small_mapped(tmp_path))
    assert [ids_of(group.examples) for group in found.entries] == [[10, 16]]
    assert "Contents of files were not recorded" in found.note


def test_without_either_it_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"neither maps nor the contents.*run again"):
        near_duplicates_page(small_mapped(tmp_path, maps=False))

"""What a vision-language model is asked: minimal divergences, clusters with other exemplars each time, montages."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from clusterpaths.naming.from_model import plan
from clusterpaths.naming.questions import SHOWN, cluster_questions, montage, pair_questions
from clusterpaths.sets.published import PublishedSet, open_set
from tests.generated_set import generate

LAYERS = {"conv1": (4,), "fc1": (3,)}


@pytest.fixture
def published(tmp_path: Path) -> PublishedSet:
    return open_set(generate(tmp_path, n=300, layers=LAYERS, k=3, attributes=2))


def test_pairs_are_of_frequent_paths_that_differ_in_exactly_one_layer(published: PublishedSet) -> None:
    index = published.index
    found = pair_questions(index)
    assert found
    assert len({(one.layer, one.clusters) for one in found}) == len(found)
    for one in found:
        first, second = (index.clusters[list(rows)] for rows in (one.first, one.second))
        assert len({tuple(path) for path in first.tolist()}) == len({tuple(path) for path in second.tolist()}) == 1
        assert (first[0] != second[0]).nonzero()[0].tolist() == [one.layer]
        assert (first[0][one.layer], second[0][one.layer]) == one.clusters
    rarer = [min(len(one.first), len(one.second)) for one in found]
    assert rarer[0] == SHOWN


def test_of_several_pairs_the_most_frequent_one_is_asked_about(published: PublishedSet) -> None:
    index = published.index
    counts = {
        tuple(path): count for path, count in zip(index.paths.paths.tolist(), index.paths.counts.tolist(), strict=True)
    }
    for one in pair_questions(index):
        other = 1 - one.layer
        shown = min(counts[tuple(index.clusters[rows[0]].tolist())] for rows in (one.first, one.second))
        best = max(
            min(count, counts.get(tuple(sorted_path), 0))
            for path, count in counts.items()
            if path[one.layer] == one.clusters[0]
            for sorted_path in [[one.clusters[1] if at == one.layer else path[other] for at in (0, 1)]]
        )
        assert shown == best


def test_both_askings_about_a_cluster_show_other_exemplars_of_it(published: PublishedSet) -> None:
    index = published.index
    questions = cluster_questions(index)
    assert len(questions) == 2 * 6
    assert {one.layer for one in questions[:6]} == {1}  # the last layer first
    for one in questions:
        again = next(x for x in questions if (x.layer, x.clusters) == (one.layer, one.clusters) and x is not one)
        assert not set(one.first) & set(again.first)
        assert not set(one.second) & set(again.second)
        assert {index.clusters[row, one.layer] for row in one.first} == {one.clusters[0]}
        assert one.clusters[0] not in {index.clusters[row, one.layer] for row in one.second}
        assert max(index.members(one.layer, one.clusters[0]).tolist().index(row) for row in one.first) < 2 * SHOWN


def test_a_layer_of_one_cluster_is_not_asked_about(tmp_path: Path) -> None:
    index = open_set(generate(tmp_path, n=50, layers=LAYERS, k=1, attributes=1)).index
    assert cluster_questions(index) == pair_questions(index) == []
    assert plan(index, 100).calls == 0


def test_a_montage_keeps_every_picture_whole() -> None:
    sheet = Image.open(io.BytesIO(montage([Image.new("RGB", (60, 120), (250, 10, 10))] * 4)))
    assert sheet.size == (384, 256)
    red, beside = sheet.getpixel((64, 64)), sheet.getpixel((5, 64))
    assert isinstance(red, tuple)
    assert isinstance(beside, tuple)
    assert red[0] > 230
    assert abs(beside[0] - 128) < 12  # the margin, not a stretched picture

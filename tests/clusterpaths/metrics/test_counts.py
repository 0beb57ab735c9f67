"""Counting, exemplars and purity on cases small enough to do by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clusterpaths.metrics import paths as metrics
from clusterpaths.report.numbers import percent, seconds
from clusterpaths.report.overview import HEIGHT, lay_out

PATHS = np.array([[0, 1], [1, 0], [0, 1], [0, 0], [1, 0], [0, 1]], dtype=np.int16)


def test_paths_come_most_frequent_first():
    found = metrics.count_paths(PATHS)
    assert found.paths.tolist() == [[0, 1], [1, 0], [0, 0]]
    assert found.counts.tolist() == [3, 2, 1]
    assert found.of_example.tolist() == [0, 1, 0, 2, 1, 0]


def test_equally_frequent_paths_come_in_ascending_order():
    assert metrics.count_paths(np.array([[2, 0], [0, 9], [0, 3]])).paths.tolist() == [[0, 3], [0, 9], [2, 0]]


def test_forty_layers_of_thirty_clusters_do_not_overflow():
    clusters = np.random.default_rng(0).integers(0, 30, (50, 40))
    clusters[7] = clusters[3]
    found = metrics.count_paths(clusters)
    assert found.counts.tolist() == [2] + [1] * 48
    assert (found.paths[found.of_example] == clusters).all()


def test_no_examples_have_no_paths():
    assert metrics.count_paths(np.empty((0, 3), dtype=np.int16)).paths.shape == (0, 3)


def test_weighted_purity_by_hand():
    groups, classes = np.array([0, 0, 0, 1, 1, 2]), np.array([4, 4, 1, 0, -1, -1])
    assert metrics.weighted_purity(groups, classes) == pytest.approx(3 / 4)  # (2 + 1) of 4 known
    assert metrics.weighted_purity(groups, np.full(6, -1)) is None


def test_largest_class_ignores_the_unknown_and_takes_the_lower_on_a_tie():
    assert metrics.largest_class(np.array([-1, -1, -1, 2, 0])) == (0, 0.5)
    assert metrics.largest_class(np.array([-1])) is None


def test_bars_fill_the_height_and_bands_end_at_blocks():
    sizes = [np.array([3, 0, 1]), np.array([4])]
    drawn = lay_out(sizes, [np.array([[3], [0], [1]])])
    assert [(s.layer, s.cluster) for s in drawn.segments] == [(0, 0), (0, 2), (1, 0)]
    assert drawn.segments[1].y + drawn.segments[1].height == pytest.approx(HEIGHT)
    assert drawn.segments[2].height == pytest.approx(HEIGHT)
    assert [(r.source, r.count) for r in drawn.ribbons] == [(0, 3), (2, 1)]
    assert drawn.hidden == 0


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0, 0, "0%"), (1, 1, "100.0%"), (0.0004, 0, "<1%"), (0.9999, 1, ">99.9%"), (0.934, 0, "93%"), (0.0499, 1, "5.0%")],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share, digits, text):
    assert percent(share, digits) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.42, "0.4 s"), (59.96, "1 min 00 s"), (75, "1 min 15 s"), (4000, "1 h 06 min")]
)
def test_times_read_well(value, text):
    assert seconds(value) == text

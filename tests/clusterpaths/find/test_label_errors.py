"""Likely label errors: probabilities counted by hand, planted errors found, and a set that has no labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.library import Library
from clusterpaths.find.label_errors import find_label_errors, label_errors_page, likely_errors
from clusterpaths.find.label_shares import LabelShares
from tests.clusterpaths.explore.small import small
from tests.generated_set import generate


def noisy(n: int = 1_000, seed: int = 0) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.bool_]]:
    """Paths of three layers that follow one of four classes in nine of ten cases, and labels of which 5% are wrong."""
    draw = np.random.default_rng(seed)
    right = draw.integers(0, 4, n)
    paths = np.where(draw.random((n, 3)) < 0.9, right[:, None], draw.integers(0, 4, (n, 3))).astype(np.int16)
    wrong = np.zeros(n, np.bool_)
    wrong[draw.permutation(n)[: n // 20]] = True
    return paths, np.where(wrong, (right + draw.integers(1, 4, n)) % 4, right), wrong


def test_shares_are_those_of_the_others_with_the_shorter_suffix_behind_them() -> None:
    """Path 0-0 has the labels 0, 0, 1; 1-0 has 1. a = 2; of two classes."""
    paths = np.array([[0, 0], [0, 0], [0, 0], [1, 0]])
    shares = LabelShares(paths, np.array([0, 0, 1, 1]), 2, concentration=2.0)
    found = shares.of(np.arange(4))
    # the first: all others are 0, 1, 1, so are those of the suffix 0; on its path 0, 1
    everyone = (1 + 2 * 0.5) / (3 + 2)
    suffix = (1 + 2 * everyone) / (3 + 2)
    assert found[0, 0] == pytest.approx((1 + 2 * suffix) / (2 + 2))
    # the last is alone on its path, which says nothing: the suffix decides
    everyone = (1 + 2 * 0.5) / (3 + 2)
    suffix = (1 + 2 * everyone) / (3 + 2)
    assert found[3, 1] == pytest.approx(suffix)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert shares.support.tolist() == [2, 2, 2, 0]


def test_an_example_does_not_vote_for_itself() -> None:
    paths = np.zeros((9, 2), np.int16)
    labels = np.array([0] * 8 + [1])
    alone = LabelShares(paths, labels, 2, concentration=0.5).of(np.array([8]))[0]
    assert alone[1] < 0.01
    assert likely_errors(paths, labels, 2).rows.tolist() == [8]


def test_shares_in_blocks_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    paths, labels, _ = noisy(300)
    at_once = LabelShares(paths, labels, 4, 2.0).of(np.arange(300))
    monkeypatch.setattr("clusterpaths.find.label_shares._BLOCK_CELLS", 28)  # seven rows
    shares = LabelShares(paths, labels, 4, 2.0)
    np.testing.assert_array_equal(np.concatenate([block for _, block in shares.blocks()]), at_once)


def test_planted_errors_come_first_and_with_the_right_class() -> None:
    paths, labels, wrong = noisy()
    found = likely_errors(paths, labels, 4)
    assert wrong[found.rows[:40]].mean() > 0.9  # by chance 0.05
    assert (np.diff(found.confidence) <= 0).all()
    assert (found.suggested != labels[found.rows]).all()


def test_the_model_takes_part_where_its_probabilities_are_known() -> None:
    paths, labels, _ = noisy()
    sure = np.full((len(labels), 4), 1e-6)
    sure[np.arange(len(labels)), labels] = 1  # it has learned the labels by heart
    unknown = np.full((len(labels), 4), np.nan)
    alone = likely_errors(paths, labels, 4)
    by_heart = likely_errors(paths, labels, 4, lambda rows: sure[rows])
    without = likely_errors(paths, labels, 4, lambda rows: unknown[rows])
    assert set(by_heart.rows) == set(alone.rows)  # the paths find them nevertheless
    np.testing.assert_allclose(by_heart.confidence, alone.confidence / 2, atol=1e-5)
    assert without.rows.tolist() == alone.rows.tolist()
    assert np.isnan(without.model_share).all()


def test_a_model_that_is_sure_of_another_class_finds_an_error_that_the_paths_do_not() -> None:
    paths, labels = np.zeros((40, 1), np.int16), np.tile([0, 1], 20)
    probabilities = np.where(np.arange(2) == labels[:, None], 0.9, 0.1)
    probabilities[5] = (0.99, 0.01)  # its label is 1
    found = likely_errors(paths, labels, 2, lambda rows: probabilities[rows])
    assert 5 in found.rows
    assert found.rows[0] == 5
    assert found.suggested[0] == 0
    assert found.model_share[0] == pytest.approx(0.01)


def test_balanced_labels_are_no_errors_although_the_others_are_a_little_more_often_of_the_other_class() -> None:
    assert len(likely_errors(np.zeros((20, 2), np.int16), np.tile([0, 1], 10), 2).rows) == 0


def test_no_labels_no_list() -> None:
    found = likely_errors(np.empty((0, 2), np.int16), np.empty(0, np.int64), 3)
    assert len(found.rows) == 0


def test_a_set_without_labels_is_refused_with_what_to_do(tmp_path: Path) -> None:
    generate(tmp_path, n=50, labelled=0)
    with pytest.raises(NotFoundError, match=r"CelebA/set_01 has no labels.*Run again with a data set that has labels"):
        find_label_errors(Library(tmp_path).set("CelebA", "set_01"))


def test_a_page_of_a_set_has_names_and_both_probabilities(tmp_path: Path) -> None:
    index = small(tmp_path)
    found = label_errors_page(index, limit=1)
    assert found.labelled == 6
    entry = found.entries[0]
    assert (entry.example.id, entry.example.label, entry.suggested) == (11, "dog", "cat")
    assert entry.confidence == pytest.approx(1 - (entry.path_share + (entry.model_share or 0)) / 2)
    assert entry.model_share == pytest.approx(1 / (1 + np.exp(2)), abs=1e-4)
    assert entry.path_others == 2
    assert label_errors_page(index, offset=found.total).entries == ()

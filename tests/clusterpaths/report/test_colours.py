"""Colours of classes and clusters: one definition for the explorer, reports, explanations, comparisons and notebooks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clusterpaths.comparison.compare import compare_sets
from clusterpaths.comparison.record import Comparison
from clusterpaths.explore.routes import routes
from clusterpaths.report.colours import NO_CLASS, OTHER, Colours, numbered, of_comparison
from clusterpaths.report.comparison import comparison_page
from clusterpaths.report.page import write_report
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.sets.published import open_set
from tests.clusterpaths.report.test_comparison import two_sets
from tests.clusterpaths.report.test_report import Page, draw, make_set

DOG, CAT = 0, 1  # most frequent first


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Four dogs and two cats: conv cluster 0 is of cats, 1 and fc 0 of dogs, fc 1 of cats, fc 2 empty."""
    return make_set(
        tmp_path / "set_01",
        {"conv": [0, 0, 1, 1, 1, 1], "fc": [1, 1, 0, 0, 0, 0]},
        k=3,
        predictions=[0, 0, 1, 1, 1, 1],
    )


def test_a_cluster_has_the_colour_of_its_most_frequent_class(pets: Path) -> None:
    index = open_set(pets).index
    colours = Colours(routes(index))
    assert colours.clusters == ((CAT, DOG, NO_CLASS), (DOG, CAT, NO_CLASS))
    assert (colours.of_band(0, 0, 1), colours.of_band(0, 1, 0)) == (CAT, DOG)
    assert colours.of_cluster(0, 7) == colours.of_cluster(9, 0) == NO_CLASS
    assert [(name, colour) for name, colour, _ in colours.key] == [("Dog", DOG), ("Cat", CAT)]
    assert set_view(index).colours == colours.clusters, "the explorer has no colours of its own"


def test_the_report_draws_a_path_in_the_explorer_s_colours(pets: Path) -> None:
    published = open_set(pets)
    page = Page(write_report(published, draw))
    view = set_view(published.index)
    chips = [attributes["class"] for attributes in page.having("span", **{"class": "chip"})]
    path, *_ = published.index.paths.paths.tolist()
    assert chips[: len(path)] == [f"chip {view.cluster_marks(at, cluster)}" for at, cluster in enumerate(path)]
    assert not page.having("script"), "the choice of colours is CSS only"
    assert [a["value"] for a in page.having("input", name="colours")] == ["class", "cluster"]
    assert ":root:has(#by-cluster:checked)" in page.css


def test_the_eighth_class_and_those_after_it_share_a_colour(tmp_path: Path) -> None:
    names = tuple("abcdefghij")
    folder = make_set(
        tmp_path / "set_01", {"fc": list(range(10))}, k=10, predictions=list(range(10)), class_names=names
    )
    colours = Colours(routes(open_set(folder).index))
    assert colours.clusters == ((0, 1, 2, 3, 4, 5, 6, OTHER, OTHER, OTHER),)
    assert colours.others == 3


def test_without_classes_colour_is_the_number_and_there_is_no_choice(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set_01", {"fc": [0, 1, 1, 9]}, k=10)
    published = open_set(folder)
    assert Colours(routes(published.index)).clusters == ((0, 1, 2, 3, 4, 5, 6, 7, 0, 1),)
    assert not Page(write_report(published, draw)).having("input")


def test_forty_clusters_differ_in_colour_or_pattern() -> None:
    marks = [numbered(cluster) for cluster in range(41)]
    assert len(set(marks[:40])) == 40
    assert marks[0] == marks[40] == "g0 p0"
    assert all(marks[at].split()[1] != marks[at + 1].split()[1] for at in range(40)), "neighbours differ without colour"


def test_a_class_has_one_colour_on_both_sides_of_a_comparison(tmp_path: Path) -> None:
    first, second = two_sets(tmp_path)
    comparison = compare_sets(open_set(first), open_set(second))
    cats, dogs, none = comparison.layers[0].majority_first
    assert (cats, dogs, none) == ("Cat", "Dog", None)
    assert comparison.layers[0].majority_second == ("Dog", "Cat", "Dog"), "of the second model's predictions"
    colour = of_comparison(comparison, comparison.classes)
    assert colour is not None
    assert colour(0, "conv", 0) == colour(1, "conv", 1) != colour(0, "conv", 1)
    assert colour(0, "conv", 2) == NO_CLASS
    turned = of_comparison(comparison, ["Dog", "Cat"])
    assert turned is not None
    assert turned(0, "conv", 1) == 0, "on a page of another set, in its colours"


def test_comparisons_from_before_are_coloured_by_number(tmp_path: Path) -> None:
    first, second = two_sets(tmp_path)
    found = compare_sets(open_set(first), open_set(second)).model_dump(mode="json")
    found.pop("classes")
    for layer in found["layers"]:
        del layer["majority_first"], layer["majority_second"]
    page = comparison_page(Comparison.model_validate(found))
    assert page.classes == ()
    marks = [row.first.marks for layer in page.layers for row in layer.rows if row.first]
    assert all(re.fullmatch(r"f(\d) g\1 p\d", one) for one in marks)

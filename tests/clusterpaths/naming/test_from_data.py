"""Names from classes and attributes: which words, in which order, and their check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.explore.lift import lifts
from clusterpaths.explore.records import Lift
from clusterpaths.naming.from_data import choose_words, name_cluster, telling
from clusterpaths.naming.record import Name
from clusterpaths.naming.resolve import names_of
from clusterpaths.records import Record
from tests.clusterpaths.explore.small import small, write_small
from tests.generated_set import generate


def lift(name: str, share: float, low: float, kind: str = "attribute") -> Lift:
    return Lift(
        kind=kind,  # type: ignore[arg-type]
        name=name,
        count=10,
        known=20,
        share=share,
        share_outside=0.1,
        lift=low * 1.5,
        interval=(low, low * 2),
        clear=low > 1,
    )


def test_the_most_telling_word_is_frequent_and_over_represented() -> None:
    rare, frequent, weak = lift("Bald", 0.05, 8.0), lift("Blond_Hair", 0.8, 2.0), lift("Young", 0.9, 1.1)
    assert [telling(row) for row in (rare, frequent)] == [pytest.approx(0.15), pytest.approx(0.8)]
    assert choose_words([rare, frequent, weak]) == [frequent, rare, weak]


def test_only_intervals_above_1_name_a_cluster_and_three_at_most() -> None:
    rows = [lift(name, 0.5, low) for name, low in (("A", 0.9), ("B", 1.0), ("C", 1.5), ("D", 2), ("E", 3), ("F", 4))]
    assert [row.name for row in choose_words(rows)] == ["F", "E", "D"]
    assert choose_words([lift("train", 0.9, 5.0, "split")]) == []


def test_words_that_say_the_same_count_once() -> None:
    rows = [
        lift("Blond", 0.9, 4.0, "prediction"),
        lift("Blond", 0.8, 4.0, "label"),
        lift("Blond_Hair", 0.8, 3.9),
        lift("Wavy_Hair", 0.7, 2.0),
    ]
    assert [(row.kind, row.name) for row in choose_words(rows)] == [("prediction", "Blond"), ("attribute", "Wavy_Hair")]


def tiny(root: Path, n: int = 400) -> SetIndex:
    """One layer of three clusters, the first half and the second of a class each; the last example alone in a cluster that
    should be mixed; cluster 3 is empty. Half of the nearest ones of cluster 0 wear a hat."""
    folder = write_small(
        root,
        layers=("a",),
        k_per_layer={"a": 4},
        num_examples=n,
        class_names=("cat", "dog"),
        attributes=("Wearing_Hat",),
    )
    clusters = np.repeat([0, 1], n // 2)
    clusters[-1] = 2
    distances = np.linspace(0.1, 0.9, n, dtype=np.float32)
    pq.write_table(
        pa.table(
            {
                "id": np.arange(n),
                "file": [""] * n,
                "split": [""] * n,
                "label": pa.array([-1] * n, pa.int16()),
                "prediction": pa.array(np.repeat([0, 1], n // 2), pa.int16()),
                "a": pa.array(clusters, pa.int16()),
                "distance.a": pa.array(distances, pa.float32()),
            }
        ),
        folder / "paths.parquet",
    )
    hat = np.where(np.arange(n) < n // 2, np.where(np.arange(n) % 4 == 0, 1, -1), -1)
    pq.write_table(
        pa.table({"id": np.arange(n), "attr_Wearing_Hat": pa.array(hat, pa.int8())}), folder.parent / "examples.parquet"
    )
    return Library(root).set("Small", "set_01")


def test_a_cluster_is_named_and_its_words_are_checked_on_its_exemplars(tmp_path: Path) -> None:
    index = tiny(tmp_path)
    first, second, alone, none = names_of(index).clusters[0]
    assert (first.text, first.short, first.source) == ("cat, wearing hat", "cat", "data")
    assert [(word.kind, word.share, word.exemplars) for word in first.words] == [
        ("prediction", 1.0, 1.0),
        ("attribute", 0.25, 0.25),  # 6 of the 24 nearest
    ]
    assert first.check is not None
    assert (first.check.kind, first.check.agreement, first.check.n) == ("exemplars", 0.25, 24)
    assert first.check.low
    assert first.check.sentence == "25% of 24 exemplars have it"
    assert second.text == "dog"
    assert second.check is not None
    assert not second.check.low
    assert (alone.text, alone.words, alone.check) == ("mixed", (), None)  # one example says nothing
    assert (none.key, none.text) == ("a/3", "empty")


def test_every_word_is_one_that_the_explorer_shows_as_clear(tmp_path: Path) -> None:
    generate(tmp_path, n=3000, attributes=12)
    index = Library(tmp_path).set("CelebA", "set_01")
    for layer, k in enumerate(index.k):
        for cluster in range(k):
            name = name_cluster(index, layer, cluster)
            clear = {row.lift for row in lifts(index, index.members(layer, cluster)) if row.interval[0] > 1}
            assert {word.lift for word in name.words} <= clear
            assert len(name.words) <= 3
            assert bool(name.words) == bool({row for row in clear if row is not None}) or name.text == "mixed"
            assert name == name_cluster(index, layer, cluster)  # the same every time


def test_the_complete_set_as_one_cluster_is_mixed(tmp_path: Path) -> None:
    generate(tmp_path, n=200, k=1, attributes=4)
    index = Library(tmp_path).set("CelebA", "set_01")
    names = names_of(index)
    assert {name.text for layer in names.clusters for name in layer} == {"mixed"}
    assert names.path((0, 0, 0, 0, 0)).text == "mixed"


def test_a_set_without_classes_and_attributes_has_no_names_but_no_wrong_ones(tmp_path: Path) -> None:
    folder = write_small(tmp_path, attributes=())
    table = pq.read_table(folder / "paths.parquet")
    for column in ("label", "prediction"):
        at = table.column_names.index(column)
        table = table.set_column(at, column, pa.array([-1] * len(table), pa.int16()))
    pq.write_table(table, folder / "paths.parquet")
    index = Library(tmp_path).set("Small", "set_01")
    names = names_of(index)
    assert {name.text for layer in names.clusters for name in layer} == {"", "empty"}
    assert names.path((0, 0)).text == ""
    assert "a/0" not in names.as_text()


def test_a_path_is_read_as_the_names_of_its_clusters(tmp_path: Path) -> None:
    index = small(tmp_path)
    names = names_of(index)
    texts = {("a", 0): "pale", ("a", 1): "mixed", ("b", 0): "pale", ("b", 1): "dog", ("b", 2): "mixed"}
    for layer, name in enumerate(index.layers):
        for cluster in range(index.k[layer]):
            named = Name(key=f"{name}/{cluster}", text=texts.get((name, cluster), "empty"), source="data")
            index.once(("name from the data", layer, cluster), lambda named=named: named)  # type: ignore[misc]
    assert names.words((0, 1)) == "pale → dog"
    assert names.words((0, 0)) == "pale"  # once, where it stays the same
    assert names.words((1, 1)) == "dog"  # mixed says nothing
    assert names.words((1, 2)) == "mixed"


def test_names_are_records(tmp_path: Path) -> None:
    assert isinstance(names_of(small(tmp_path)).cluster("a", 0), Record)

"""Two sets of at most eight examples, every number computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.comparison.compare import compare_sets
from clusterpaths.comparison.record import Comparison
from clusterpaths.errors import CacheError, ConfigError, DatasetError
from clusterpaths.metrics.agreement import adjusted_rand, match_clusters, matched_agreement, migrations, most_moved
from clusterpaths.metrics.intervals import wilson
from clusterpaths.records import ModelIdentity
from clusterpaths.sets.find import find_earlier, find_named, find_predecessor
from clusterpaths.sets.published import open_set
from tests.clusterpaths.report.test_report import make_set

FIRST = {"conv": [0, 0, 0, 0, 1, 1, 1, 1], "fc": [0, 0, 1, 1, 0, 0, 1, 1]}
# both layers with their names swapped; then example 3 moves in both, example 7 in fc
SECOND = {"conv": [1, 1, 1, 0, 0, 0, 0, 0], "fc": [1, 1, 0, 1, 1, 1, 0, 1]}
NEW_MODEL = ModelIdentity(file="new.onnx", sha256="f" * 64)


def write(root: Path, name: str, assigned: dict[str, list[int]], **more: Any) -> Path:
    """A set folder root/NAME/set_NN."""
    folder = root / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    return make_set(folder, assigned, **({"set": folder.name} | more))


def change(folder: Path, **columns: list[Any]) -> Path:
    """Replace columns of paths.parquet."""
    table = pq.read_table(folder / "paths.parquet")
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    pq.write_table(table, folder / "paths.parquet")
    return folder


def keep(folder: Path, rows: list[int]) -> Path:
    """A set of only these rows."""
    pq.write_table(pq.read_table(folder / "paths.parquet").take(rows), folder / "paths.parquet")
    record = json.loads((folder / "set.json").read_text()) | {"num_examples": len(rows)}
    (folder / "set.json").write_text(json.dumps(record))
    return folder


def write_sizes(cache: Path, sizes: list[int]) -> None:
    """The cache's own list of its images."""
    ids = np.arange(len(sizes)) + 100
    pq.write_table(pa.table({"id": ids, "size": pa.array(sizes, pa.int64())}), cache / "examples.parquet")


# the numbers


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1.0),
        ([0, 0, 1, 1], [0, 0, 1, 2], 4 / 7),  # (1 - 2/6) / (3/2 - 2/6)
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),  # (0 - 4/6) / (2 - 4/6)
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
    ],
)
def test_the_adjusted_rand_index_is_that_of_its_formula(a: list[int], b: list[int], expected: float) -> None:
    assert adjusted_rand(np.array(a), np.array(b)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("a", "b", "k_a", "k_b", "expected"),
    [
        ([0, 0, 1, 1, 2], [2, 2, 0, 0, 1], 3, 3, [1, 2, 0]),
        ([0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0], 2, 2, [1, 0]),  # 2 + 2 beats 3 + 0
        ([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1], 3, 2, [0, 2]),  # cluster 0 of b: a tie, ids decide
        ([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2], 2, 3, [0, -1, 1]),
        ([0, 0], [0, 0], 2, 2, [0, -1]),  # both have an empty cluster 1: no counterparts
        ([1, 1, 0], [0, 0, 0], 2, 1, [1]),
    ],
    ids=["renamed", "the sum counts", "fewer", "more", "empty", "one"],
)
def test_clusters_are_matched_for_the_largest_sum(
    a: list[int], b: list[int], k_a: int, k_b: int, expected: list[int]
) -> None:
    assert match_clusters(np.array(a), np.array(b), k_a, k_b).tolist() == expected


def test_a_layer_is_kept_where_the_renamed_cluster_is_the_same() -> None:
    kept, renamed = matched_agreement(
        np.array([[0, 0], [1, 1]]), np.array([[1, 2], [0, 1]]), [np.array([1, 0]), np.array([0, 1, -1])]
    )
    assert renamed.tolist() == [[0, -1], [1, 1]]
    assert kept.tolist() == [[True, False], [True, True]]


def test_most_layers_first_then_the_nearest_then_the_lowest_id() -> None:
    changed, distances = np.array([1, 2, 0, 1, 1]), np.array([0.5, 0.9, 0.0, 0.1, 0.5])
    assert most_moved(changed, distances, np.array([14, 11, 12, 13, 10]), 9).tolist() == [1, 3, 4, 0]
    assert most_moved(changed, distances, np.array([14, 11, 12, 13, 10]), 2).tolist() == [1, 3]


def test_migrations_count_the_largest_paths_and_all_others() -> None:
    found = migrations(np.array([[0], [0], [0], [1], [2]]), np.array([[5], [5], [4], [4], [3]]), 1)
    assert found.counts.tolist() == [[1, 2], [1, 1]]  # 4 and 5 are as frequent: 4 comes first
    assert found.counts.sum() == 5


# two sets


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write(
        tmp_path, "Faces/set_01", FIRST, predictions=[0, 0, 0, 0, 1, 1, 1, 1], labels=[0, 0, 0, 0, 1, 1, 1, -1]
    )


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        "New/set_01",
        SECOND,
        predictions=[0, 0, 0, 1, 1, 1, 0, 0],
        labels=[0, 0, 0, 0, 1, 1, 1, -1],
        model=NEW_MODEL,
    )


def test_two_models_on_the_same_images_by_hand(first: Path, second: Path) -> None:
    c = compare_sets(open_set(first), open_set(second), top=2)
    assert (c.first.name, c.second.name, c.same_model) == ("Faces/set_01", "New/set_01", False)
    assert (c.num_examples, c.only_first, c.only_second) == (8, 0, 0)
    assert (c.paths_kept, c.path_agreement, c.layers_kept) == (6, 6 / 8, 13 / 16)
    assert c.path_agreement_interval == wilson(6, 8)
    assert c.changed_layers == (6, 1, 1)
    conv, fc = c.layers
    assert (conv.layer, conv.agreement, fc.layer, fc.agreement) == ("conv", 7 / 8, "fc", 6 / 8)
    # conv: of 28 pairs together 6 + 6 before, 3 + 10 after, 3 + 6 on both sides
    assert conv.adjusted_rand == pytest.approx((9 - 12 * 13 / 28) / (12.5 - 12 * 13 / 28))
    matches = [(m.first, m.second, m.shared, m.size_first, m.size_second) for m in fc.matches]
    assert matches == [(0, 1, 4, 4, 6), (1, 0, 2, 4, 2)]
    assert [(m.id, m.file, m.layers_changed) for m in c.moved] == [(103, "3.jpg", 2), (107, "7.jpg", 1)]
    assert (c.moved[0].path_first, c.moved[0].path_second, c.moved[0].path_renamed) == ((0, 1), (0, 1), (1, 0))
    assert (c.moved[1].label, c.moved[1].prediction_first, c.moved[1].prediction_second) == (-1, 1, 0)
    assert Comparison.model_validate_json(c.model_dump_json()) == c


def test_decisions_that_changed_by_hand(first: Path, second: Path) -> None:
    decisions = compare_sets(open_set(first), open_set(second)).decisions
    assert decisions is not None
    assert (decisions.num_examples, decisions.changed, decisions.changed_interval) == (8, 3, wilson(3, 8))
    assert (decisions.num_labelled, decisions.right_first, decisions.right_second) == (7, 7, 5)
    assert [(d.first, d.second, d.count) for d in decisions.counts] == [(1, 0, 2), (0, 1, 1), (0, 0, 3), (1, 1, 2)]
    assert [[e.id for e in d.examples] for d in decisions.counts] == [[106, 107], [103], [], []]


def test_the_migration_table_by_hand(first: Path, second: Path) -> None:
    migration = compare_sets(open_set(first), open_set(second), top=2).migration
    assert [(p.path, p.count) for p in migration.first] == [((0, 0), 2), ((0, 1), 2)]
    assert [(p.path, p.renamed, p.count) for p in migration.second] == [((0, 1), (1, 0), 4), ((1, 1), (0, 0), 2)]
    assert migration.counts == ((0, 2, 0), (1, 0, 1), (3, 0, 1))


def test_a_set_agrees_with_itself_in_everything(first: Path) -> None:
    assert_all_one(compare_sets(open_set(first), open_set(first)), 8)


def test_a_set_agrees_with_itself_under_other_names_in_everything(tmp_path: Path, first: Path) -> None:
    relabelled = write(tmp_path, "Faces/set_02", {layer: [1 - c for c in own] for layer, own in FIRST.items()})
    c = compare_sets(open_set(first), open_set(relabelled))
    assert_all_one(c, 8)
    assert c.decisions is None  # the second has no predictions


def assert_all_one(c: Comparison, n: int) -> None:
    assert (c.path_agreement, c.layers_kept, c.path_adjusted_rand, c.paths_kept) == (1, 1, 1, n)
    assert all((layer.agreement, layer.adjusted_rand) == (1, 1) for layer in c.layers)
    assert c.moved == ()
    assert c.same_model
    assert c.decisions is None or c.decisions.changed == 0
    assert c.path_agreement_interval[1] == 1


def test_more_clusters_than_before_leave_some_without_a_counterpart(tmp_path: Path) -> None:
    first = write(tmp_path, "A/set_01", {"fc": [0, 0, 0, 0, 1, 1]}, k=2)
    second = write(tmp_path, "A/set_02", {"fc": [2, 2, 2, 0, 1, 1]}, k=4)
    c = compare_sets(open_set(first), open_set(second))
    assert [(m.first, m.second, m.shared) for m in c.layers[0].matches] == [
        (0, 2, 3),
        (1, 1, 2),
        (None, 0, 0),
        (None, 3, 0),
    ]
    assert c.path_agreement == 5 / 6
    assert c.moved[0].path_renamed == (-1,)
    back = compare_sets(open_set(second), open_set(first))
    assert back.path_agreement == 5 / 6
    assert [(m.first, m.second) for m in back.layers[0].matches] == [(0, None), (1, 1), (2, 0), (3, None)]


def test_layers_in_one_set_only_are_left_out_and_named(tmp_path: Path) -> None:
    first = write(tmp_path, "A/set_01", {"fc2": [0, 1], "fc1": [0, 1], "old": [0, 0]})
    second = write(tmp_path, "A/set_02", {"new": [0, 0], "fc1": [1, 0], "fc2": [0, 0]})
    c = compare_sets(open_set(first), open_set(second))
    assert [layer.layer for layer in c.layers] == ["fc2", "fc1"]  # the first's order
    assert (c.layers_only_first, c.layers_only_second) == (("old",), ("new",))
    assert c.path_agreement == 1 / 2


def test_only_examples_of_both_are_compared(first: Path, second: Path) -> None:
    keep(first, [0, 1, 2, 3, 4])
    keep(second, [1, 2, 3, 4, 7])
    c = compare_sets(open_set(first), open_set(second))
    assert (c.num_examples, c.only_first, c.only_second) == (4, 1, 1)
    assert (c.first.num_examples, c.second.num_examples) == (5, 5)  # as the records say
    assert c.path_agreement == 3 / 4  # example 103 moves, as before


def test_classes_are_compared_by_name(tmp_path: Path) -> None:
    first = write(tmp_path, "A/set_01", {"fc": [0, 1]}, predictions=[0, 1], class_names=("Cat", "Dog"))
    second = write(tmp_path, "B/set_01", {"fc": [0, 1]}, predictions=[1, 2], class_names=("Dog", "Cat", "Bird"))
    c = compare_sets(open_set(first), open_set(second))
    assert c.class_names == ("Cat", "Dog", "Bird")
    assert c.decisions is not None
    assert [(d.first, d.second, d.count) for d in c.decisions.counts] == [(1, 2, 1), (0, 0, 1)]


# what cannot be compared


def test_other_files_under_the_same_ids_are_refused(first: Path, second: Path) -> None:
    change(second, file=["0.jpg", "1.jpg", "x.jpg", "y.jpg", *(f"{i}.jpg" for i in range(4, 8))])
    with pytest.raises(
        DatasetError, match=r"example 102 is 2\.jpg in the first and x\.jpg in the second, and so for 2 of 8"
    ):
        compare_sets(open_set(first), open_set(second))


def test_other_images_under_the_same_names_are_refused(first: Path, second: Path) -> None:
    write_sizes(first.parent, [10] * 8)
    assert compare_sets(open_set(first), open_set(second)).num_examples == 8  # the other cache does not say
    write_sizes(second.parent, [10] * 7 + [1100])
    with pytest.raises(DatasetError, match=r"example 107 is 10 bytes in the first and 1,100 bytes in the second"):
        compare_sets(open_set(first), open_set(second))


def with_contents(folder: Path, digests: list[int]) -> Path:
    """Record what each file held."""
    table = pq.read_table(folder / "paths.parquet")
    pq.write_table(table.append_column("digest", pa.array(digests, pa.uint64())), folder / "paths.parquet")
    return folder


def test_the_same_files_are_compared_whatever_kind_of_data_set_they_were_read_as(tmp_path: Path, first: Path) -> None:
    as_folder = with_contents(write(tmp_path, "Photos/set_01", FIRST, dataset="folder"), list(range(8)))
    with_contents(first, list(range(7, -1, -1)))
    assert compare_sets(open_set(first), open_set(as_folder)).num_examples == 8
    others = with_contents(write(tmp_path, "Cars/set_01", FIRST, dataset="folder"), list(range(100, 108)))
    with pytest.raises(DatasetError, match=r"they have no example in common"):
        compare_sets(open_set(first), open_set(others))


def test_other_data_sets_are_refused(tmp_path: Path, first: Path) -> None:
    other = write(tmp_path, "Cars/set_01", FIRST, dataset="cars")
    with pytest.raises(DatasetError, match=r"not of the same images: they have no example in common"):
        compare_sets(open_set(first), open_set(other))
    with pytest.raises(DatasetError, match=r"no example in common"):
        compare_sets(open_set(first), open_set(change(write(tmp_path, "Late/set_01", FIRST), id=list(range(8)))))


def test_sets_without_a_common_layer_and_folders_that_are_none_are_refused(tmp_path: Path, first: Path) -> None:
    other = write(tmp_path, "Faces/set_02", {"block1": [0] * 8})
    with pytest.raises(CacheError, match=r"no layer in common: conv, fc and block1\. .*--layers"):
        compare_sets(open_set(first), open_set(other))
    with pytest.raises(CacheError, match=r"set\.json does not exist"):
        compare_sets(open_set(first), open_set(tmp_path))
    with pytest.raises(ConfigError, match="top should be >= 1, got 0"):
        compare_sets(open_set(first), open_set(first), top=0)


# finding sets


def test_a_name_is_its_newest_set(tmp_path: Path, first: Path) -> None:
    write(tmp_path, "Faces/set_10", FIRST)
    write(tmp_path, "Faces/set_09", FIRST)
    assert find_named(tmp_path, "Faces").path == tmp_path / "Faces" / "set_10"
    assert find_named(tmp_path, "Faces/").path == tmp_path / "Faces" / "set_10"
    assert find_named(tmp_path, "Faces/set_01").path == first


@pytest.mark.parametrize(
    "given",
    ["..", "../Faces/set_01", "/etc", "", ".", "Faces/..", "Faces/../Faces", "Faces/set_02", "Faces/notes", "faces"],
)
def test_names_are_looked_up_and_not_joined(given: str, tmp_path: Path, first: Path) -> None:
    (tmp_path / "Faces" / "notes").mkdir()
    with pytest.raises(CacheError, match=r"Expected (NAME or NAME/set_NN, with NAME )?one of: (Faces|set_01)"):
        find_named(tmp_path, given)
    with pytest.raises(CacheError, match="none yet"):
        find_named(tmp_path / "nowhere", given)


def at(day: int) -> str:
    return f"2026-01-{day:02d}T00:00:00+00:00"


def test_the_predecessor_is_the_newest_set_of_another_model_on_the_same_images(tmp_path: Path) -> None:
    old = ModelIdentity(file="old.onnx", sha256="a" * 64)
    older = write(tmp_path, "Old/set_01", FIRST, model=old, created=at(1))
    newer = write(tmp_path, "Old/set_02", SECOND, model=old, created=at(3))
    write(tmp_path, "Other/set_01", {"conv": FIRST["conv"]}, model=old, created=at(4))  # other layers
    change(write(tmp_path, "Files/set_01", FIRST, model=old, created=at(4)), file=[f"{i}.png" for i in range(8)])
    keep(write(tmp_path, "Part/set_01", FIRST, model=old, created=at(4)), [0, 1, 2])  # fewer than half
    write(tmp_path, "Later/set_01", FIRST, model=old, created=at(9))
    write(tmp_path, "Twin/set_01", FIRST, model=NEW_MODEL, created=at(4))  # the same model under another name
    (tmp_path / "notes" / "set_01").mkdir(parents=True)
    (tmp_path / "README.md").write_text("not a folder")
    damaged = write(tmp_path, "Damaged/set_01", FIRST, model=old, created=at(4))
    (damaged / "paths.parquet").write_bytes(b"no parquet")
    own = write(tmp_path, "New/set_01", FIRST, model=NEW_MODEL, created=at(5))
    assert find_predecessor(open_set(own)) == open_set(newer)
    assert find_earlier(open_set(own)) == open_set(newer)
    assert find_predecessor(open_set(older)) is None
    again = write(tmp_path, "New/set_02", FIRST, model=NEW_MODEL, created=at(6))
    assert find_earlier(open_set(again)) == open_set(own)
    assert find_predecessor(open_set(again)) == open_set(newer)

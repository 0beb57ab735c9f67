"""The one class for a published set: read once, checked alike for every reader, and light where it travels."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.errors import CacheError
from clusterpaths.explore.clusters import exemplars
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.paths import path_page
from clusterpaths.explore.records import ClassShare
from clusterpaths.report.page import write_report
from clusterpaths.sets.published import open_set
from tests.clusterpaths.explore.small import CLUSTERS, IDS, ids_of, write_small


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace paths.parquet by what `change` makes of it."""
    pq.write_table(change(pq.read_table(folder / "paths.parquet")), folder / "paths.parquet")


def with_column(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values))


def test_paths_parquet_is_read_once_for_all_readers(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    published = open_set(folder)
    index = SetIndex(published)
    (folder / "paths.parquet").unlink()
    write_report(published, lambda file: (_ for _ in ()).throw(OSError(file)))
    assert SetIndex(published).paths is index.paths is published.paths
    assert index.clusters is published.clusters
    assert index.ood is published.scores.ood


def test_a_pickled_set_is_the_same_one_without_its_arrays(tmp_path: Path) -> None:
    published = open_set(write_small(tmp_path))
    before = len(pickle.dumps(published))
    SetIndex(published)
    sent = pickle.dumps(published)
    assert len(sent) == before
    there = pickle.loads(sent)
    assert there == published
    assert "columns" not in vars(there)
    assert there.ids.tolist() == list(IDS)


def test_two_sets_are_equal_where_they_lie_in_the_same_place_and_have_the_same_record(tmp_path: Path) -> None:
    first = open_set(write_small(tmp_path / "a"))
    assert first == open_set(first.path)
    assert hash(first) == hash(open_set(first.path))
    assert first != open_set(write_small(tmp_path / "b"))
    assert first != open_set(write_small(tmp_path / "a", seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(1), r"has 7 examples; set\.json says 8"),
        (lambda table: table.take([1, 0, *range(2, 8)]), "ids that do not ascend"),
        (with_column("id", pa.array(IDS, pa.int32())), "ids of int32"),
        (with_column("distance.a", pa.array([0.1] * 8, pa.float64())), "distances of float64"),
        (with_column("a", [0, 0, 0, 1, 1, 1, 0, 2]), r"cluster ids 0 to 2 in layer a; set\.json says k=2"),
        (lambda table: table.drop_columns(["label"]), "lacks the columns label"),
    ],
    ids=["fewer rows", "order", "ids", "distances", "clusters", "column"],
)
def test_columns_that_do_not_fit_the_record_are_refused_to_every_reader(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    folder = write_small(tmp_path)
    rewrite(folder, change)
    published = open_set(folder)
    for read in (lambda: published.ids, lambda: SetIndex(published), lambda: published.paths):
        with pytest.raises(CacheError, match=message):
            read()


def test_centroids_that_are_not_the_records_are_refused(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    with pytest.raises(CacheError, match=r"centroids\.npz cannot be read"):
        open_set(folder).read_centroids()
    np.savez(folder / "centroids.npz", a=np.zeros((2, 3)), b=np.zeros((3, 3)))
    with pytest.raises(CacheError, match=r"shape \(3, 3\) in layer b; set\.json says k=4"):
        open_set(folder).read_centroids()
    np.savez(folder / "centroids.npz", a=np.zeros((2, 3)), b=np.zeros((4, 3)))
    assert {layer: rows.dtype for layer, rows in open_set(folder).read_centroids().items()} == {
        "a": np.float32, "b": np.float32
    }  # fmt: skip


def test_exemplars_are_the_nearest_with_ties_by_id_and_those_without_a_distance_last(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    distances = np.array([2, 1, np.nan, 0, 0, 0, 1, 0], np.float32)  # of layer a: 10, 11, 12 and 16 are in cluster 0
    rewrite(folder, with_column("distance.a", distances))
    index = SetIndex(open_set(folder))
    assert CLUSTERS["a"] == (0, 0, 0, 1, 1, 1, 0, 1)
    assert ids_of(exemplars(index, "a", 0, "nearest", 9).examples) == [11, 16, 10, 12]
    assert ids_of(exemplars(index, "a", 0, "nearest", 3).examples) == [11, 16, 10]
    assert ids_of(exemplars(index, "b", 3, "nearest", 3).examples) == []  # an empty cluster


def test_of_how_many_a_share_is_follows_from_it_exactly() -> None:
    for known in (1, 3, 7, 49, 202_599, 1_000_003, 123_456_789):
        for count in {1, 2, known // 3 or 1, known - 1 or 1, known}:
            if count <= known:
                assert ClassShare(index=0, name="a", count=count, share=count / known).known == known


def test_singletons_are_paths_on_which_one_class_alone_is_known(tmp_path: Path) -> None:
    index = SetIndex(open_set(write_small(tmp_path)))
    of_paths = {
        tuple(path): known for path, known in zip(index.paths.paths.tolist(), index.path_labels.known, strict=True)
    }
    assert of_paths == {(0, 0): 3, (1, 1): 2, (0, 1): 1, (1, 2): 0}
    html = write_report(open_set(tmp_path / "Small" / "set_01"), lambda file: (_ for _ in ()).throw(OSError(file)))
    text = " ".join(html.read_text().split())
    assert (
        "1 of them (17%) is a singleton, the only example on its path with a label, and agrees by definition." in text
    )


def test_the_report_shows_paths_as_the_explorer_lists_them(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    index = SetIndex(open_set(folder))
    page = write_report(open_set(folder), lambda file: (_ for _ in ()).throw(OSError(file))).read_text()
    for path in path_page(index).paths:
        for example in path.exemplars:
            shown = [f"example {example.id}", example.file]
            shown += [f"label {example.label}"] if example.label else []
            shown += [f"prediction {example.prediction}"] if example.prediction else []
            assert f'title="{" · ".join(shown)} · image not available"' in page


def test_a_record_of_another_version_is_one_paragraph(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    record = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps(record | {"later": 1}))
    with pytest.raises(CacheError, match=r"is not the record of a set: later: .*publish the set again") as caught:
        open_set(folder)
    assert "\n" not in str(caught.value)

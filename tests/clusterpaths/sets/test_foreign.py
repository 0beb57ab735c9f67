"""Sets of other programs: shown for what they are, with what their documents say and no more."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.explore.ask import ask, ask_csv, choices
from clusterpaths.explore.cluster_detail import cluster_detail
from clusterpaths.explore.clusters import exemplars
from clusterpaths.explore.documents import Documents, centroids, metadata, row_of_key
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.library import Library
from clusterpaths.explore.paths import path_detail, path_page
from clusterpaths.explore.records import Question
from clusterpaths.explore.routes import routes
from clusterpaths.storage import open_storage
from tests.clusterpaths.explore.small import ids_of, write_small


def write_foreign(root: Path, paths: Any = None, centroids: Any = None, metadata: Any = None) -> Path:
    """A set with the two documents only, its layers in the order in which metadata.json has them."""
    folder = root / "Foreign" / "set_01"
    folder.mkdir(parents=True)
    given = {"example_0002": [0, 2], "example_10000": [1, 0], "example_0000": [1, 2]} if paths is None else paths
    (folder / "paths.json").write_text(json.dumps(given))
    given = {"z": [[0.0, 1.0]] * 3, "y": [[0.0]] * 2} if centroids is None else centroids
    (folder / "centroids.json").write_text(json.dumps(given))
    (folder.parent / "metadata.json").write_text(json.dumps({"layers": ["y", "z"]} if metadata is None else metadata))
    return folder


def test_a_foreign_set_is_shown_for_what_it_is(tmp_path: Path) -> None:
    write_foreign(tmp_path)
    library = Library(tmp_path)
    (summary,) = library.model("Foreign").sets
    assert (summary.num_examples, summary.layers, summary.k_per_layer) == (3, ("y", "z"), {"y": 2, "z": 3})
    assert (summary.distance, summary.dataset, summary.created) == (None, "", "")
    index = library.default()
    assert library.opened == 1
    assert (index.record, index.ids.tolist(), index.clusters.tolist()) == (
        None,
        [0, 2, 10000],
        [[1, 2], [0, 2], [1, 0]],
    )
    assert index.file(0) == ""
    assert routes(index).source is None
    assert [t.count for t in routes(index).transitions] == [1, 1, 1]
    found = cluster_detail(index, "z", 2)
    assert (found.info.count, found.info.majority, found.lifts, found.nearest, found.farthest) == (2, None, (), (), ())
    assert sorted(ids_of(found.random)) == [0, 2]
    with pytest.raises(NotFoundError, match="no distances"):
        exemplars(index, "z", 2, "nearest")
    assert path_page(index).paths[0].exemplars[0].distance is None
    detail = path_detail(index, (1, 0))
    assert (detail.agreement_interval, detail.right, detail.lifts) == (None, None, ())
    example = example_detail(index, 10000)
    assert (example.ood_score, example.neighbours, example.layers[0].percentile) == (None, (), None)
    assert choices(index).can_be_right is False
    assert ids_of(ask(index, Question(path="1", order="rare")).examples) == [0, 10000]
    with pytest.raises(NotFoundError, match="It has id, rare and common"):
        ask(index, Question(order="strange"))
    assert "".join(ask_csv(index, Question(id=(2,)))).splitlines()[1] == "2,,,,,,0,2,1,,"


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"paths": []}, "is a list"),
        ({"paths": {"3": [0, 0]}}, "has the key '3'"),
        ({"paths": {"example_0003": [0]}}, "paths of 2 clusters each"),
        ({"paths": {"example_0003": [0, 1], "example_0004": [0]}}, "paths of 2 clusters each"),
        ({"paths": {"example_0003": ["a", 1]}}, "paths of 2 clusters each"),
        ({"centroids": {"y": [[float("nan")]], "z": [[1.0]]}}, "holds NaN"),
        ({"centroids": {"y\ud800": [[1.0]], "z": [[1.0]]}}, "valid Unicode"),
        ({"paths": {"example_0003": [1.7, 1.2]}}, "values other than lists of integers"),
        ({"paths": {"example_0003": [1, "2"]}}, "values other than lists of integers"),
        ({"paths": {"example_0003": [1, True]}}, "values other than lists of integers"),
        ({"paths": {"example_0003": [1, None]}}, "values other than lists of integers"),
        ({"paths": {"example_0003": "12"}}, "values other than lists of integers"),
        ({"paths": {"example_0003": 12}}, "values other than lists of integers"),
        ({"paths": {"example_0003": [[0], [1]]}}, "values other than lists of integers"),
        ({"paths": {"example_0003": [0, 3]}}, "clusters from 0 to 3"),
        ({"paths": {"example_0003": [0, 10**30]}}, "paths of 2 clusters each"),
        ({"paths": {"example_0003": [0, 1], "example_3": [0, 1]}}, "same example twice"),
        ({"centroids": {}}, "has no centroids"),
        ({"centroids": {"y": 3}}, "has no centroids"),
        ({"metadata": []}, "not a JSON object"),
    ],
)
def test_a_foreign_set_that_does_not_fit_is_a_problem(tmp_path: Path, documents: dict[str, Any], message: str) -> None:
    write_foreign(tmp_path, **documents)
    library = Library(tmp_path)
    (found,) = library.models()
    assert found.sets == ()
    assert message in found.problems[0]
    assert found.problems[0].count("cannot be shown") == 1
    with pytest.raises(CacheError, match=message):
        library.set("Foreign", "set_01")


def test_a_foreign_set_goes_by_its_own_order_where_metadata_is_of_others(tmp_path: Path) -> None:
    write_foreign(tmp_path, paths={"example_0000": [2, 1]}, metadata={"layers": ["other"]})
    assert Library(tmp_path).default().layers == ("z", "y")


def test_keys_of_a_foreign_set_stay_as_they_were_written(tmp_path: Path) -> None:
    write_foreign(tmp_path, paths={"example_30": [1, 2], "example_000002": [0, 0], "example_0011": [1, 1]})
    index = Library(tmp_path).default()
    text = json.loads(f"{{{bytes(Documents().paths(index, 10, 0)).decode()}}}")
    assert text == {"example_000002": [0, 0], "example_0011": [1, 1], "example_30": [1, 2]}
    assert [row_of_key(index, key) for key in text] == [0, 1, 2]
    for key in ("example_0030", "example_2", "example_11"):
        with pytest.raises(NotFoundError, match="There is no example"):
            row_of_key(index, key)


def test_documents_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    folder = write_foreign(tmp_path)
    expected = Library(tmp_path).default().clusters.tolist()
    stored = (folder / "centroids.json").read_bytes()
    for path in (folder / "paths.json", folder / "centroids.json", folder.parent / "metadata.json"):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    index = Library(tmp_path).default()
    assert index.clusters.tolist() == expected
    assert centroids(index) == stored
    assert json.loads(metadata(open_storage(folder.parent)).decode()) == {"layers": ["y", "z"]}
    (folder / "paths.json").write_text((folder / "paths.json").read_text("utf-8-sig"), "utf-16")
    with pytest.raises(CacheError, match="is not JSON"):
        Library(tmp_path).set("Foreign", "set_01")


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no metadata"),
        (_to_folder, "cannot be read"),
        (lambda path: path.write_text("[" * 100_000 + "]" * 100_000), "too deep"),
        (lambda path: path.write_text("{", "utf-8"), "not JSON"),
        (lambda path: path.write_text("{}", "utf-16"), "not JSON"),
        (lambda path: path.write_bytes(b'{"k": "\xff"}'), "not JSON"),
    ],
)
def test_metadata_that_cannot_be_shown_is_not_found(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = write_foreign(tmp_path).parent
    damage(folder / "metadata.json")
    with pytest.raises(NotFoundError, match=message) as raised:
        metadata(open_storage(folder))
    assert str(tmp_path) not in str(raised.value)
    assert len(Library(tmp_path).models()) == 1


def test_a_foreign_set_beside_the_caches_table_has_its_attributes(tmp_path: Path) -> None:
    small_set = write_small(tmp_path, "Foreign", "set_02")
    write_foreign(tmp_path, paths={"example_0012": [0, 0], "example_10": [1, 1], "example_0099": [0, 1]})
    library = Library(tmp_path)
    index = library.set("Foreign", "set_01")
    assert index.ids.tolist() == [10, 12, 99]
    assert {name: values.tolist() for name, values in index.attributes.items()} == {"Smiling": [1, -1, 0]}
    assert Documents().with_attribute(index, "Smiling", -1)[0] == 1
    assert example_detail(index, 10).probabilities == ()  # class scores may be another model's
    table = pq.read_table(small_set.parent / "examples.parquet")
    pq.write_table(table.filter(pc.equal(table["id"], 12)), small_set.parent / "examples.parquet")
    assert library.set("Foreign", "set_01").attributes["Smiling"].tolist() == [0, -1, 0]  # as the table is now

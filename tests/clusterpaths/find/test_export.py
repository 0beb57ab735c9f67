"""The lists as CSV and for FiftyOne: complete, in order, with fields that a schema declares; and as text of the command."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.commands.find import main
from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.find.export import csv_lines, fiftyone_lines
from clusterpaths.find.find import find
from clusterpaths.find.record import KINDS
from clusterpaths.sets.published import open_set
from tests.clusterpaths.find.mapped import generated_mapped, small_mapped

DIGESTS = [1, 2, 2, 3, 4, 5, 6, 7]
FIELDS = {
    "fiftyone.core.fields.BooleanField": bool,
    "fiftyone.core.fields.IntField": int,
    "fiftyone.core.fields.FloatField": float,
    "fiftyone.core.fields.StringField": str,
    "fiftyone.core.fields.ListField(fiftyone.core.fields.StringField)": list,
    "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Classification)": dict,
}


def table(index: SetIndex, kind: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(csv_lines(index, kind)))))


def test_a_csv_has_a_row_per_example_of_every_group(tmp_path: Path) -> None:
    rows = table(small_mapped(tmp_path, DIGESTS), "near-duplicates")
    assert [(row["group"], row["id"], row["exact"], row["across_splits"]) for row in rows] == [
        ("1", "10", "0", "1"), ("1", "16", "0", "1"), ("2", "11", "1", "0"), ("2", "12", "1", "0"),
    ]  # fmt: skip
    assert (rows[0]["file"], rows[0]["split"], rows[0]["label"], rows[0]["right"]) == ("10.jpg", "train", "cat", "1")


def test_a_csv_of_label_errors_has_what_the_record_has(tmp_path: Path) -> None:
    index = small_mapped(tmp_path, DIGESTS)
    entries = find(index, "label-errors").entries
    rows = table(index, "label-errors")
    assert [row["id"] for row in rows] == [str(entry.example.id) for entry in entries]
    assert rows[0]["suggested"] == entries[0].suggested
    assert float(rows[0]["confidence"]) == pytest.approx(entries[0].confidence, rel=1e-4)


def test_a_csv_of_many_examples_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterpaths.find.export._PIECE", 7)
    index = generated_mapped(tmp_path)
    rows = table(index, "under-covered")
    regions = find(index, "under-covered").entries
    assert len(rows) == sum(region.count for region in regions) > 7
    assert {row["path"] for row in rows} == {region.path for region in regions}


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_for_fiftyone_declares_every_field_of_its_samples(tmp_path: Path, kind: str) -> None:
    """`Dataset.from_dict` adds samples with expand_schema=False: a field that is not declared is refused."""
    index = small_mapped(tmp_path, DIGESTS) if kind != "under-covered" else generated_mapped(tmp_path)
    assert len(declared(index, kind)["samples"]) == len(table(index, kind)) > 0


def test_a_field_that_no_example_has_a_value_of_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the model's probabilities, as of sets with several labels per example."""
    monkeypatch.setattr("clusterpaths.find.label_errors._scores", lambda index: None)
    document = declared(generated_mapped(tmp_path), "label-errors")
    assert {sample["model_share"] for sample in document["samples"]} == {None}


def declared(index: SetIndex, kind: str) -> dict[str, Any]:
    """The document, each field of whose samples its schema declares."""
    document: dict[str, Any] = json.loads("".join(fiftyone_lines(index, kind)))
    assert set(document) == {"name", "media_type", "sample_fields", "info", "samples"}
    assert document["media_type"] == "image"
    for sample in document["samples"]:
        for name, value in sample.items():
            kind_of_value = FIELDS[document["sample_fields"][name]]
            assert value is None or type(value) is kind_of_value, name
        assert not Path(sample["filepath"]).is_absolute()
        for name in ("ground_truth", "prediction"):
            assert sample[name] is None or (sample[name]["_cls"], set(sample[name])) == (
                "Classification",
                {"_cls", "label"},
            )
    first = document["samples"][0]
    assert kind in first["tags"]
    return document


def test_a_set_that_lacks_what_a_list_needs_is_refused_before_the_first_line(tmp_path: Path) -> None:
    index = small_mapped(tmp_path, maps=False)
    for make in (csv_lines, fiftyone_lines):
        with pytest.raises(NotFoundError, match="before there were maps"):
            make(index, "under-covered")
    with pytest.raises(NotFoundError, match=r"no kind 'x'. There are label-errors, near-duplicates, under-covered"):
        find(index, "x")


def test_the_command_prints_the_list_and_writes_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_mapped(tmp_path, DIGESTS)
    target, document = tmp_path / "found.csv", tmp_path / "found.json"
    options = ["--cache-root", str(tmp_path), "--limit", "1", "--csv", str(target), "--fiftyone", str(document)]
    with pytest.raises(SystemExit) as ended:
        main(["near-duplicates", "Small", *options])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0] == "2 groups of near duplicates (4 examples); 1 group across splits"
    assert "10.jpg, 16.jpg (across test and train)" in told
    assert "and 1 more" in told
    assert len(target.read_text().splitlines()) == 5
    assert len(json.loads(document.read_text())["samples"]) == 4


def test_an_error_midway_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_mapped(tmp_path, DIGESTS)
    target = tmp_path / "found" / "found.csv"
    target.parent.mkdir()
    target.write_text("of yesterday")

    def failing(index: SetIndex, kind: str, *_: object) -> Iterator[str]:
        yield "id,file\n"
        raise CacheError("paths.parquet cannot be read.")

    monkeypatch.setattr("clusterpaths.commands.find.csv_lines", failing)
    with pytest.raises(SystemExit) as ended:
        main(["near-duplicates", "Small", "--cache-root", str(tmp_path), "--csv", str(target)])
    assert ended.value.code == 2
    assert [(path.name, path.read_text()) for path in target.parent.iterdir()] == [("found.csv", "of yesterday")]


def test_the_command_prints_the_record_of_the_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = small_mapped(tmp_path, DIGESTS)
    with pytest.raises(SystemExit):
        main(["label-errors", "Small/set_01", "--cache-root", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out) == find(index, "label-errors", limit=20).model_dump(mode="json")


def test_a_set_in_a_notebook_has_the_same_list(tmp_path: Path) -> None:
    index = small_mapped(tmp_path, DIGESTS)
    opened = open_set(tmp_path / "Small" / "set_01")
    assert opened.find("near-duplicates", limit=1) == find(index, "near-duplicates", limit=1)
    assert opened.find("label-errors").entries[0].example.id == 11


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["label-error", "Small"], "label-errors"),
        (["under-covered", "Nobody"], "There are no sets called 'Nobody'"),
        (["label-errors", "Small", "--limit", "0"], "--limit"),
        (["label-errors", "Small", "--csv", "a", "--fiftyone", "a"], "Expected two files"),
        (["label-errors", "Small", "--csv", "nowhere/a.csv"], "nowhere/a.csv cannot be written"),
    ],
)
def test_bad_input_ends_with_one_paragraph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    small_mapped(tmp_path, DIGESTS)
    with pytest.raises(SystemExit) as ended:
        main([*options, "--cache-root", str(tmp_path)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err

"""Names go on to the next set of a model by matched clusters; export and import; the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.commands import names as command
from clusterpaths.errors import ConfigError
from clusterpaths.naming.annotations import ANNOTATIONS, edit, read_annotations
from clusterpaths.naming.carry_over import carry_over, carry_over_to_new, match_keys
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.explore.small import write_small

FIRST = {"a": [0] * 5 + [1] * 5, "b": [0] * 4 + [1] * 3 + [2] * 3}
# of the new set: cluster 0 of layer a is called 1, and one example moved; in b, cluster 1 is split in halves
SECOND = {"a": [1] * 4 + [0] * 6, "b": [2] * 4 + [0, 1, 3] + [1] * 3}


def make(root: Path, name: str, clusters: dict[str, list[int]], sha256: str = "1" * 64) -> PublishedSet:
    n = len(clusters["a"])
    folder = write_small(
        root, name=name, k_per_layer={"a": 2, "b": 4}, num_examples=n, attributes=(), fingerprint=name[-1] * 64
    )
    record = json.loads((folder / "set.json").read_text())
    record["model"]["sha256"] = sha256
    (folder / "set.json").write_text(json.dumps(record))
    columns: dict[str, Any] = {
        "id": np.arange(n),
        "file": [f"{i}.jpg" for i in range(n)],
        "split": [""] * n,
        "label": pa.array([-1] * n, pa.int16()),
        "prediction": pa.array([0] * n, pa.int16()),
    }
    for layer, own in clusters.items():
        columns |= {layer: pa.array(own, pa.int16()), f"distance.{layer}": np.linspace(0, 1, n, dtype=np.float32)}
    pq.write_table(pa.table(columns), folder / "paths.parquet")
    return open_set(folder)


@pytest.fixture
def both(tmp_path: Path) -> tuple[PublishedSet, PublishedSet]:
    return make(tmp_path, "set_01", FIRST), make(tmp_path, "set_02", SECOND)


def test_clusters_and_paths_are_matched_by_their_examples(both: tuple[PublishedSet, PublishedSet]) -> None:
    found = match_keys(*both, ["a/0", "a/1", "b/0", "b/1", "b/2", "0-0", "0-1", "1-2"])
    assert found == {
        "a/0": ("a/1", pytest.approx(4 / 5)),  # 4 of its 5; all of the new one's 4
        "a/1": ("a/0", pytest.approx(5 / 6)),
        "b/0": ("b/2", 1.0),
        "b/2": ("b/1", pytest.approx(3 / 4)),
        "0-0": ("1-2", 1.0),
        "1-2": ("0-1", pytest.approx(3 / 4)),
    }  # b/1 was split in three


def test_names_are_carried_over_with_the_quality_of_the_match(both: tuple[PublishedSet, PublishedSet]) -> None:
    first, second = both
    edit(first, "a/0", name="left", by="Ada")
    edit(first, "b/1", name="to be lost", by="Ada")
    edit(first, "0-0", name="a way", note="seen in May")
    written, others = carry_over(first, second)
    assert [(one.key, one.name, one.by) for one in written] == [("1-2", "a way", ""), ("a/1", "left", "Ada")]
    assert others == 1
    left = read_annotations(second).get("a/1")
    assert left is not None
    assert left.carried is not None
    assert (left.carried.set, left.carried.key, left.carried.share) == ("Small/set_01", "a/0", 0.8)
    assert read_annotations(first).revision == 3  # the earlier set is as it was


def test_what_is_named_in_the_new_set_stays(both: tuple[PublishedSet, PublishedSet]) -> None:
    first, second = both
    edit(first, "a/0", name="left", by="Ada")
    edit(second, "a/1", name="mine", by="Bob")
    assert carry_over(first, second) == ((), 1)
    entry = read_annotations(second).get("a/1")
    assert entry is not None
    assert entry.name == "mine"


def test_a_new_set_gets_the_names_of_the_last_one_of_its_model_once(tmp_path: Path) -> None:
    first = make(tmp_path, "set_01", FIRST)
    edit(first, "a/0", name="left")
    make(tmp_path, "set_02", FIRST)  # without names
    make(tmp_path, "set_03", FIRST, sha256="2" * 64)
    new = make(tmp_path, "set_04", SECOND)
    assert carry_over_to_new(first) is None
    assert carry_over_to_new(new) == ("Small/set_01", 1, 0)
    edit(new, "a/1", name="", revision=1)
    assert carry_over_to_new(new) is None  # a name that was removed does not come back
    assert read_annotations(new).entries == ()


def test_corrupted_annotations_of_an_earlier_set_do_not_stop_a_run(both: tuple[PublishedSet, PublishedSet]) -> None:
    first, second = both
    (first.path / ANNOTATIONS).write_text("{")
    assert carry_over_to_new(second) is None


def test_sets_of_other_models_are_refused(tmp_path: Path) -> None:
    first = make(tmp_path, "set_01", FIRST)
    other = make(tmp_path, "set_02", FIRST, sha256="2" * 64)
    with pytest.raises(ConfigError, match="are of different models"):
        carry_over(first, other)
    with pytest.raises(ConfigError, match="was given twice"):
        carry_over(first, first)


# The command ---------------------------------------------------------------------------------------------------------------


def run(root: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main([*words, "--cache-root", str(root)])
    return int(ended.value.code or 0)


def test_the_command_exports_imports_and_carries_over(
    both: tuple[PublishedSet, PublishedSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = both
    edit(first, "a/0", name="left", by="Ada")
    file = tmp_path / "names.json"
    assert run(tmp_path, "Small/set_01", "--export", str(file)) == 0
    document = json.loads(file.read_text())
    assert document["entries"][0]["name"] == "left"
    edit(first, "a/0", name="", revision=1)
    assert run(tmp_path, "Small/set_01", "--import", str(file)) == 0
    assert "Imported 1 names" in capsys.readouterr().out
    assert [one.name for one in read_annotations(first).entries] == ["left"]
    assert run(tmp_path, "Small/set_02", "--carry-over", "Small/set_01") == 0
    assert "a/0 is a/1: left (80%)" in capsys.readouterr().out
    assert run(tmp_path, "Small/set_02") == 0
    out = capsys.readouterr().out
    assert "a/1  left  (by Ada, carried over from Small/set_01 (80% of its examples))" in out
    assert "b/0" in out
    assert read_annotations(second).revision == 1


def test_an_import_replaces_only_on_request(
    both: tuple[PublishedSet, PublishedSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = both
    edit(first, "a/0", name="left")
    file = tmp_path / "names.json"
    run(tmp_path, "Small/set_01", "--export", str(file))
    edit(first, "a/0", name="newer", revision=1)
    run(tmp_path, "Small/set_01", "--import", str(file))
    assert "Imported 0 names and notes into Small/set_01; 1 were there already" in capsys.readouterr().out
    assert [one.name for one in read_annotations(first).entries] == ["newer"]
    run(tmp_path, "Small/set_01", "--import", str(file), "--replace")
    assert [one.name for one in read_annotations(first).entries] == ["left"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Small/set_02", "--import", "NAMES"), "annotations of another set"),
        (("Small/set_01", "--import", "NOWHERE"), "cannot be read: No such file"),
        (("Small/set_01", "--import", "GARBAGE"), "is not a document of annotations"),
        (("Small/set_01", "--import", "NAMES", "--export", "X"), "given together"),
        (("Small/set_09",), "has no set 'set_09'"),
    ],
)
def test_bad_input_is_one_paragraph(
    both: tuple[PublishedSet, PublishedSet],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    first, second = both
    edit(first, "a/0", name="left")
    run(tmp_path, "Small/set_01", "--export", str(tmp_path / "NAMES"))
    (tmp_path / "GARBAGE").write_text("[")
    given = [str(tmp_path / word) if word.isupper() else word for word in words]
    assert run(tmp_path, *given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
    assert not (second.path / ANNOTATIONS).exists()

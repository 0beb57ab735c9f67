"""Which file an id means: given once to one content, whatever happens to names, times and order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clusterpaths.cache.examples import READ
from clusterpaths.cache.registry import (
    class_names,
    current_file,
    known_examples,
    present_examples,
    read_registry,
    record_digests,
    register,
    version_of,
    write_registry,
)
from clusterpaths.datasets import ExampleTable
from clusterpaths.errors import CacheError
from clusterpaths.storage import open_storage


class Living:
    """A data set in memory whose files change, and the registry of its cache; counts the files that are read."""

    def __init__(self, **files: str) -> None:
        self.files: dict[str, tuple[str, int]] = {}  # name -> content, time
        self.registry: pa.Table | None = None
        self.read: list[str] = []
        self.clock = 0
        for name, content in files.items():
            self.put(name, content)

    def put(self, name: str, content: str, *, same_time: bool = False) -> None:
        self.clock += not same_time
        time = self.files[name][1] if same_time else self.clock
        self.files[name] = content, time

    def move(self, **names: str) -> None:
        """Rename all of these at once: with their times, as mv does it."""
        moved = {new: self.files.pop(old) for old, new in names.items()}
        self.files |= moved

    def digest(self, file: str) -> int:
        self.read.append(file)
        if self.files[file][0] == "unreadable":
            raise OSError
        return hash(self.files[file][0]) & (1 << 63) - 1

    def table(self) -> ExampleTable:
        names = sorted(self.files)
        n = len(names)
        return ExampleTable(
            ids=np.arange(n),
            files=tuple(names),
            sizes=np.array([len(self.files[name][0]) for name in names], np.int64),
            splits=("",) * n,
            labels=np.arange(n, dtype=np.int16) % 2,
            class_names=("a", "b"),
            attributes={"round": np.ones(n, np.int8)},
            mtimes=np.array([self.files[name][1] for name in names], np.int64),
        )

    def plan(self, *, by_content: bool = False, extracted: bool = True) -> dict[str, int]:
        """What a run does: name -> id. `extracted`: and reads all of them."""
        self.read = []
        known = known_examples(self.registry, READ.empty_table())
        if self.registry is not None:  # those that a run extracted
            known = known.set_column(5, "read", known["digest"].is_valid())
        self.registry = register(self.table(), known, self, by_content=by_content)  # type: ignore[arg-type]
        found = present_examples(self.registry)
        ids = dict(zip(found.files, found.ids.tolist(), strict=True))
        assert sorted(ids) == sorted(self.files)
        assert (np.diff(self.registry["id"].to_numpy()) > 0).all()
        if extracted:
            present = self.registry["present"].to_pylist()
            digests = [
                hash(self.files[file][0]) & (1 << 63) - 1 if here else content
                for file, here, content in zip(
                    self.registry["file"].to_pylist(), present, self.registry["digest"].to_pylist(), strict=True
                )
            ]
            self.registry = self.registry.set_column(4, "digest", pa.array(digests, pa.uint64()))
        return ids


@pytest.fixture
def living() -> Living:
    found = Living(b="one", d="two!", f="three", h="fourth")
    assert found.plan() == {"b": 0, "d": 1, "f": 2, "h": 3}
    assert found.read == []  # a first run reads nothing twice
    return found


def test_nothing_changed_reads_nothing_and_is_the_same(living: Living) -> None:
    before = living.registry
    assert living.plan() == {"b": 0, "d": 1, "f": 2, "h": 3}
    assert living.read == []
    assert before is not None
    assert before.equals(living.registry, check_metadata=True)


def test_inserted_files_shift_none_and_are_not_read(living: Living) -> None:
    living.put("a", "new one")
    living.put("e", "new too")
    assert living.plan() == {"b": 0, "d": 1, "f": 2, "h": 3, "a": 4, "e": 5}
    assert living.read == []


def test_a_deleted_file_shifts_none_and_its_id_stays_taken(living: Living) -> None:
    del living.files["d"]
    assert living.plan() == {"b": 0, "f": 2, "h": 3}
    living.put("z", "and another")
    assert living.plan() == {"b": 0, "f": 2, "h": 3, "z": 4}


def test_a_file_that_comes_back_has_its_id_again(living: Living) -> None:
    content, _ = living.files.pop("d")
    living.plan()
    living.put("d", content)
    assert living.plan()["d"] == 1
    assert living.read == ["d"]


def test_a_replaced_file_is_a_new_example_and_the_old_content_the_old_one(living: Living) -> None:
    living.put("d", "2wo!")
    assert living.plan() == {"b": 0, "d": 4, "f": 2, "h": 3}
    assert living.read == ["d"]
    living.put("d", "two!")
    assert living.plan()["d"] == 1
    living.put("d", "2wo!")
    assert living.plan()["d"] == 4


def test_a_renamed_file_takes_its_id_along_and_only_it_is_read(living: Living) -> None:
    living.move(d="x")
    living.put("y", "another")
    assert living.plan() == {"b": 0, "f": 2, "h": 3, "x": 1, "y": 4}
    assert living.read == ["x"]  # y is of no size that is gone


def test_files_that_swap_names_swap_them(living: Living) -> None:
    living.move(d="f", f="d")
    assert living.plan() == {"b": 0, "d": 2, "f": 1, "h": 3}


def test_a_copy_is_an_example_of_its_own(living: Living) -> None:
    living.put("c", "one")
    assert living.plan() == {"b": 0, "c": 4, "d": 1, "f": 2, "h": 3}
    del living.files["b"]
    assert living.plan() == {"c": 4, "d": 1, "f": 2, "h": 3}
    living.put("g", "one")
    assert living.plan()["g"] == 0  # the one that is gone


def test_other_times_alone_change_nothing_and_are_read_once(living: Living) -> None:
    for name, (content, _) in list(living.files.items()):
        living.put(name, content)
    assert living.plan() == {"b": 0, "d": 1, "f": 2, "h": 3}
    assert sorted(living.read) == ["b", "d", "f", "h"]
    living.plan()
    assert living.read == []


def test_only_a_look_at_contents_notices_one_of_the_same_size_and_time(living: Living) -> None:
    living.put("d", "2wo!", same_time=True)
    assert living.plan(extracted=False)["d"] == 1
    assert living.plan(by_content=True)["d"] == 4


def test_what_was_planned_and_never_read_keeps_its_id(living: Living) -> None:
    living.put("e", "new")
    assert living.plan(extracted=False)["e"] == 4
    living.put("e", "newer")
    assert living.plan(extracted=False)["e"] == 4
    living.put("a", "1st")
    assert living.plan() == {"a": 5, "b": 0, "d": 1, "e": 4, "f": 2, "h": 3}


def test_a_file_that_cannot_be_read_becomes_one_example(living: Living) -> None:
    living.put("d", "unreadable")
    first = living.plan(extracted=False)["d"]
    assert first == 4
    assert living.plan(extracted=False)["d"] == 4
    living.put("d", "two!")
    assert living.plan()["d"] == 1


def test_ids_of_numbered_images_are_their_numbers_unless_taken() -> None:
    known = known_examples(None, pa.table({"id": [3, 8], "file": ["4.jpg", "9.jpg"], "size": [5, 5], "mtime": [1, 1],
                                           "digest": pa.array([11, 12], pa.uint64()),
                                           "error": pa.array([None, None], pa.string())}))  # fmt: skip

    class Contents:
        def digest(self, file: str) -> int:
            return {"4.jpg": 99}[file]

    table = ExampleTable(
        ids=np.array([3, 4, 8]),
        files=("4.jpg", "5.jpg", "9.jpg"),
        sizes=np.array([6, 7, 5]),
        splits=("",) * 3,
        labels=np.full(3, -1),
        mtimes=np.array([2, 2, 1]),
    )
    found = present_examples(register(table, known, Contents()))  # type: ignore[arg-type]
    assert dict(zip(found.files, found.ids.tolist(), strict=True)) == {"4.jpg": 9, "5.jpg": 4, "9.jpg": 8}


def test_labels_attributes_and_names_are_those_of_now(living: Living) -> None:
    del living.files["b"]
    living.plan()
    assert living.registry is not None
    assert living.registry["present"].to_pylist() == [False, True, True, True]
    assert living.registry["label"].to_pylist() == [-1, 0, 1, 0]
    assert living.registry["attr_round"].to_pylist() == [0, 1, 1, 1]
    assert class_names(living.registry) == ("a", "b")
    assert present_examples(living.registry).class_names == ("a", "b")


@pytest.mark.parametrize(("classes", "kind"), [(5, pa.int16()), (40_000, pa.int32())])
def test_labels_have_a_type_that_holds_them(classes: int, kind: pa.DataType) -> None:
    table = ExampleTable(
        ids=np.arange(2), files=("a", "b"), sizes=np.ones(2, np.int64), splits=("", ""),
        labels=np.array([0, classes - 1], np.int32), class_names=tuple(map(str, range(classes))),
    )  # fmt: skip
    nothing = known_examples(None, READ.empty_table())
    found = register(table, nothing, Living())  # type: ignore[arg-type]
    assert found["label"].to_pylist() == [0, classes - 1]
    assert found.schema.field("label").type == kind


def test_it_is_written_once_and_read_back(living: Living, tmp_path: Path) -> None:
    directory = open_storage(tmp_path)
    assert read_registry(directory) is None
    assert current_file(directory, 1) is None
    write_registry(directory, living.registry)
    time = (tmp_path / "registry.parquet").stat().st_mtime_ns
    write_registry(directory, living.registry)
    assert (tmp_path / "registry.parquet").stat().st_mtime_ns == time
    assert (current_file(directory, 1), current_file(directory, 9)) == ("d", None)
    record_digests(directory, pa.table({"id": [1, 2], "digest": pa.array([None, 77], pa.uint64())}))
    written = read_registry(directory)
    assert written is not None
    assert living.registry is not None
    assert written["digest"].to_pylist() == [
        77 if i == 2 else d for i, d in enumerate(living.registry["digest"].to_pylist())
    ]
    (tmp_path / "registry.parquet").write_bytes(b"")
    with pytest.raises(CacheError, match=r"registry.parquet, which records the ids of images, cannot be read"):
        read_registry(directory)


@pytest.mark.parametrize("change", [lambda x: x.put("d", "2wo!"), lambda x: x.move(d="x"), lambda x: x.files.pop("h")])
def test_its_version_changes_with_what_an_id_means(living: Living, change: Callable[[Living], object]) -> None:
    before = version_of(living.registry)
    living.plan()
    assert version_of(living.registry) == before
    change(living)
    living.plan()
    assert version_of(living.registry) != before

"""Finding sets: whole ones, half ones, foreign ones, new, replaced and deleted ones."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.explore.ask import ask, ask_csv, choices
from clusterpaths.explore.cluster_detail import cluster_detail
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.explore.paths import path_detail, path_page
from clusterpaths.explore.records import Question
from clusterpaths.explore.routes import routes
from tests.clusterpaths.explore.small import ids_of, small, write_small
from tests.generated_set import generate


def test_every_visible_folder_is_a_model(tmp_path: Path) -> None:
    write_small(tmp_path, "B", "set_10")
    write_small(tmp_path, "B", "set_9")
    (tmp_path / "A").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "B" / "conv1").mkdir()
    shutil.copytree(tmp_path / "B" / "set_9", tmp_path / "B" / ".set_11.0123abcd.partial")
    library = Library(tmp_path)
    found = library.models()
    assert [(m.name, [s.set for s in m.sets], m.problems) for m in found] == [
        ("A", [], ()),
        ("B", ["set_9", "set_10"], ()),
    ]
    assert library.newest("B").summary == found[1].sets[-1] == library.set("B", "set_10").summary
    with pytest.raises(NotFoundError, match="A has no set that can be shown"):
        library.newest("A")


def test_no_folder_is_no_model(tmp_path: Path) -> None:
    library = Library(tmp_path / "missing")
    assert library.models() == ()
    with pytest.raises(NotFoundError, match="no set yet"):
        library.default()
    with pytest.raises(NotFoundError, match="none yet"):
        library.set("A", "set_01")


@pytest.mark.parametrize(
    "name", ["..", ".", "", "/", "Small/set_01", "../Small", "Small\0", "small", "%2e%2e", "~", ".hidden", "x" * 10_000]
)
def test_names_are_looked_up_and_never_joined(tmp_path: Path, name: str) -> None:
    write_small(tmp_path)
    shutil.copytree(tmp_path / "Small", tmp_path / ".hidden")
    shutil.copytree(tmp_path / "Small" / "set_01", tmp_path / "Small" / ".hidden")
    library = Library(tmp_path)
    with pytest.raises(NotFoundError, match="no model"):
        library.model(name)
    with pytest.raises(NotFoundError, match="no model"):
        library.set(name, "set_01")
    with pytest.raises(NotFoundError, match="no set"):
        library.set("Small", name)


def test_a_request_without_a_model_means_celeba(tmp_path: Path) -> None:
    write_small(tmp_path, "Old", created="2025-01-01T00:00:00+00:00")
    write_small(tmp_path, "New", created="2026-06-01T00:00:00+02:00")
    library = Library(tmp_path)
    assert library.default().name == "New/set_01"
    write_small(tmp_path, "CelebA", "set_01", created="2020-01-01T00:00:00+00:00")
    write_small(tmp_path, "CelebA", "set_02", created="2020-01-01T00:00:00+00:00")
    assert library.default().name == "CelebA/set_02"


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-20]) and None  # type: ignore[func-returns-value]


def _rewrite(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda folder: pq.write_table(change(pq.read_table(folder / "paths.parquet")), folder / "paths.parquet")


def _unknown_key(folder: Path) -> None:
    record = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps(record | {"newer": 1}))


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HALF: list[tuple[str, Callable[[Path], None], type[Exception], str]] = [
    ("no record", _remove("set.json"), NotFoundError, "lacks set.json"),
    ("no paths", _remove("paths.parquet"), NotFoundError, "lacks paths.parquet"),
    ("record cut", _cut("set.json"), CacheError, "not the record of a set"),
    ("newer record", _unknown_key, CacheError, "newer"),
    ("paths cut", _cut("paths.parquet"), CacheError, "cannot be read"),
    ("record a folder", lambda folder: _to_folder(folder / "set.json"), CacheError, "Is a directory"),
    ("paths a folder", lambda folder: _to_folder(folder / "paths.parquet"), CacheError, "cannot be read"),
    ("fewer rows", _rewrite(lambda table: table.slice(1)), CacheError, "has 7 examples; set.json says 8"),
]
DAMAGED = [  # found when the set is opened
    ("column missing", _rewrite(lambda table: table.drop_columns(["b"])), CacheError, "lacks the columns b"),
    ("words", _rewrite(lambda table: _with(table, "a", pa.array(["x"] * 8))), CacheError, "cannot be shown"),
    (
        "no numbers",
        _rewrite(lambda table: _with(table, "distance.a", pa.array(["x"] * 8))),
        CacheError,
        "distances of object",
    ),
    ("gaps", _rewrite(lambda table: _with(table, "id", pa.array([None, *range(7)]))), CacheError, "ids of float64"),
    (
        "beyond k",
        _rewrite(lambda table: _with(table, "a", pa.array([7] * 8, pa.int16()))),
        CacheError,
        "cluster ids 7 to 7",
    ),
    ("order of ids", _rewrite(lambda t: t.take(list(range(7, -1, -1)))), CacheError, "do not ascend"),
]


@pytest.mark.parametrize(
    ("damage", "error", "message"), [case[1:] for case in HALF + DAMAGED], ids=[c[0] for c in HALF + DAMAGED]
)
def test_a_set_that_is_not_whole_is_a_problem_and_no_set(
    tmp_path: Path, damage: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    write_small(tmp_path)
    folder = write_small(tmp_path, name="set_02")
    damage(folder)
    library = Library(tmp_path)
    for _ in range(2):
        with pytest.raises(error, match=message) as raised:
            library.set("Small", "set_02")
        assert str(tmp_path) not in str(raised.value)  # it is no reader's business where on a machine a set lies
    found = library.model("Small")
    assert [s.set for s in found.sets] == ["set_01"]
    assert len(found.problems) == 1
    assert "Small/set_02" in found.problems[0]
    assert message in found.problems[0]
    assert str(tmp_path) not in found.problems[0]
    assert library.newest("Small").summary.set == "set_01"
    shutil.rmtree(folder)
    write_small(tmp_path, name="set_02")  # published again
    assert library.set("Small", "set_02").summary.num_examples == 8
    assert library.model("Small").problems == ()


@pytest.mark.parametrize(("damage", "error", "message"), [case[1:] for case in HALF], ids=[case[0] for case in HALF])
def test_half_of_a_set_is_seen_without_opening_it(
    tmp_path: Path, damage: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    damage(write_small(tmp_path))
    library = Library(tmp_path)
    (found,) = library.models()
    assert found.sets == ()
    assert message in found.problems[0]


def test_an_empty_folder_lacks_both(tmp_path: Path) -> None:
    (tmp_path / "Small" / "set_01").mkdir(parents=True)
    (found,) = Library(tmp_path).models()
    assert found.problems == (
        "Small/set_01 is incomplete: it lacks set.json and paths.parquet. Wait for it, or publish it again.",
    )


def test_new_sets_are_seen_at_once(tmp_path: Path) -> None:
    write_small(tmp_path)
    library = Library(tmp_path)
    library.models()
    write_small(tmp_path, name="set_02")
    time.sleep(0.11)  # a list of names is not read more often than that
    assert library.set("Small", "set_02").summary.set == "set_02"
    write_small(tmp_path, "Other")
    time.sleep(0.11)
    assert library.set("Other", "set_01").summary.model == "Other"


def test_a_deleted_set_is_gone_at_the_next_request(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    library = Library(tmp_path)
    index = library.set("Small", "set_01")
    shutil.rmtree(folder)
    with pytest.raises(NotFoundError, match="deleted"):
        library.set("Small", "set_01")
    assert library.model("Small").sets == ()
    assert library.model("Small").problems == ()
    assert ask(index, Question()).total == 8  # whoever was in the middle of an answer can finish it
    shutil.rmtree(tmp_path / "Small")
    assert library.models() == ()
    with pytest.raises(NotFoundError, match="no model"):
        library.model("Small")


def test_a_replaced_set_is_opened_again_under_another_version(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    library = Library(tmp_path)
    before = library.set("Small", "set_01")
    assert library.set("Small", "set_01") is before
    shutil.rmtree(folder)
    write_small(tmp_path, class_names=("tom", "rex"))
    after = library.set("Small", "set_01")
    assert (before.class_name(0), after.class_name(0)) == ("cat", "tom")
    assert before.summary.version != after.summary.version == library.model("Small").sets[0].version
    assert library.opened == 2


def test_two_who_ask_at_once_open_a_set_once(tmp_path: Path) -> None:
    write_small(tmp_path)
    library, together = Library(tmp_path), threading.Barrier(16)

    def get(_: int) -> int:
        together.wait()
        return id(library.set("Small", "set_01"))

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(get, range(16)))) == 1
    assert library.opened == 1


def test_only_so_many_sets_stay_in_memory(tmp_path: Path) -> None:
    names = [f"set_{i:02d}" for i in range(1, 6)]
    for name in names:
        write_small(tmp_path, name=name)
    library = Library(tmp_path, largest=2 * small(tmp_path).nbytes)
    assert len(library.model("Small").sets) == 5
    assert library.opened == 0  # a list needs none of them
    for name in [*names, names[-1], names[-2]]:
        library.set("Small", name)
    assert library.opened == 5
    library.set("Small", names[0])
    assert library.opened == 6


def test_one_bad_folder_does_not_hide_the_others(tmp_path: Path) -> None:
    write_small(tmp_path)
    for name, link in (("set_02", "set.json"), ("set_03", "paths.json")):
        (tmp_path / "Small" / name).mkdir()
        (tmp_path / "Small" / name / link).symlink_to(link)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "Small" / "set_04").symlink_to("set_04")
    (tmp_path / "caf\udce9").mkdir()  # a byte that is not UTF-8
    (tmp_path / "Small" / "set_\udce9").mkdir()
    library = Library(tmp_path)
    (found,) = library.models()
    assert [summary.set for summary in found.sets] == ["set_01"]
    looped, lacking = found.problems
    assert "Small/set_02 cannot be shown" in looped
    assert "Too many levels of symbolic links" in looped
    assert "Small/set_03 is incomplete" in lacking
    assert str(tmp_path) not in looped
    assert library.default().name == "Small/set_01"
    assert library.names() == ("Small",)
    with pytest.raises(CacheError, match="symbolic links"):
        library.set("Small", "set_02")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_a_problem(tmp_path: Path) -> None:
    write_small(tmp_path)
    for path in (tmp_path / "Small" / "set_02", tmp_path / "Other"):
        path.mkdir(mode=0)
    try:
        other, found = Library(tmp_path).models()
        assert [summary.set for summary in found.sets] == ["set_01"]
        assert "Permission denied" in found.problems[0]
        assert "Other cannot be listed" in other.problems[0]
        tmp_path.chmod(0)
        with pytest.raises(CacheError, match="cannot be listed"):
            Library(tmp_path).models()
    finally:
        for path in (tmp_path, tmp_path / "Small" / "set_02", tmp_path / "Other"):
            path.chmod(0o700)


def test_room_for_answers_is_counted(tmp_path: Path) -> None:
    index = small(tmp_path)
    assert index.nbytes > 10_000_000  # of eight examples
    for name in (f"set_{i:02d}" for i in range(2, 30)):
        write_small(tmp_path, name=name)
    library = Library(tmp_path)
    for summary in library.model("Small").sets:
        library.set("Small", summary.set)
    library.set("Small", "set_29")
    assert library.opened == 29
    library.set("Small", "set_02")  # is not kept any more, small as it is
    assert library.opened == 30


def test_without_the_caches_table_a_set_has_no_attributes(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    library = Library(tmp_path)
    assert library.set("Small", "set_01").attribute_names == ("Smiling",)
    (folder.parent / "examples.parquet").unlink()
    index = library.set("Small", "set_01")
    assert index.attribute_names == ()
    assert example_detail(index, 10).probabilities == ()
    (folder.parent / "examples.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CacheError, match=r"examples\.parquet cannot be read"):
        library.set("Small", "set_01")


def test_a_set_without_examples_is_empty_everywhere(tmp_path: Path) -> None:
    folder = write_small(tmp_path, num_examples=0)
    pq.write_table(pq.read_table(folder / "paths.parquet").slice(0, 0), folder / "paths.parquet")
    index = Library(tmp_path).default()
    assert len(index) == 0
    assert (routes(index).transitions, routes(index).classes, path_page(index).total) == ((), (), 0)
    assert cluster_detail(index, "a", 0).info.count == 0
    assert ask(index, Question(attribute=("Smiling",), path="0", id=(1,))).total == 0
    assert len("".join(ask_csv(index, Question())).splitlines()) == 1
    with pytest.raises(NotFoundError, match="It has 0"):
        example_detail(index, 0)
    assert np.array_equal(index.members(0, 0), [])


def test_many_threads_get_the_answers_that_one_gets(tmp_path: Path) -> None:
    folder = generate(tmp_path, n=500, layers={"x": (2,), "y": (3,)}, attributes=3)
    questions: list[Callable[[SetIndex], Any]] = [
        routes,
        path_page,
        choices,
        lambda index: cluster_detail(index, "y", 1),
        lambda index: path_detail(index, path_page(index).paths[0].path),
        lambda index: example_detail(index, 77),
        lambda index: ask(index, Question(order="strange", attribute=("-Arched_Eyebrows",))),
        lambda index: "".join(ask_csv(index, Question(order="rare"))),
    ]
    alone = Library(tmp_path).default()
    expected = [question(alone) for question in questions]
    library, together = Library(tmp_path), threading.Barrier(24)

    def get(number: int) -> bool:
        together.wait()
        at = number % len(questions)
        return bool(questions[at](library.set("CelebA", folder.name)) == expected[at])

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(get, range(24)))
    assert library.opened == 1


def test_a_long_question_is_no_large_one(tmp_path: Path) -> None:
    index = small(tmp_path)
    question = Question(attribute=("Smiling",) * 5_000, cluster=("a:0",) * 5_000, id=tuple(range(5_000)))
    started = time.perf_counter()
    assert ids_of(ask(index, question).examples) == [10, 11, 16]
    assert time.perf_counter() - started < 1

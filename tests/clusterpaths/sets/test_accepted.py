"""The pointer to the accepted set: its history, two writers, a crash at any moment, in a directory and in a bucket."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.sets.accepted import (
    ACCEPTED,
    Accepted,
    accept,
    accepted_set,
    accepted_sets,
    choose,
    find_accepted,
    find_reference,
    line_of,
    read_accepted,
    roll_back,
)
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import Storage, open_storage
from tests.generated_set import generate

NAMES = ("A", "B", "C")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(NAMES):
        generate(root, n=60, model=name, seed=seed, attributes=2)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Storage:
    return open_storage(shutil.copytree(made, tmp_path / "results"))


def sets(root: Storage) -> list[PublishedSet]:
    return [open_set(root / name / "set_01") for name in NAMES]


def accept_in_turn(root: Storage) -> list[PublishedSet]:
    """A is the first, then B and C are accepted."""
    a, b, c = sets(root)
    assert accept(root, "A", a, b, "gate.json").done
    assert accept(root, "A", b, c).done
    return [a, b, c]


def actions(root: Storage) -> list[tuple[str, str]]:
    return [(entry.action, entry.set) for entry in read_accepted(root).lines["A"]]


def test_the_history_grows_and_rolling_back_returns_step_by_step(root: Storage) -> None:
    a, b, c = accept_in_turn(root)
    assert accepted_set(root, "A") == c
    assert roll_back(root, "A") == b
    assert roll_back(root, "A") == a
    with pytest.raises(NotFoundError, match="A/set_01 is the first accepted set of A: there is none to roll back to"):
        roll_back(root, "A")
    assert accept(root, "A", a, c).done
    assert roll_back(root, "A") == a  # what was rolled back is not returned to
    assert actions(root) == [
        ("first", "A/set_01"), ("accepted", "B/set_01"), ("accepted", "C/set_01"), ("rolled back", "B/set_01"),
        ("rolled back", "A/set_01"), ("accepted", "C/set_01"), ("rolled back", "A/set_01"),
    ]  # fmt: skip


def test_accepting_again_changes_nothing(root: Storage) -> None:
    _, b, c = accept_in_turn(root)
    before = (root.path / ACCEPTED).read_bytes()
    assert accept(root, "A", b, c).done
    assert choose(root, "A", c).done
    assert (root.path / ACCEPTED).read_bytes() == before


def test_a_candidate_of_an_earlier_reference_is_not_accepted(root: Storage) -> None:
    a, b, c = sets(root)
    assert accept(root, "A", a, b).done
    moved = accept(root, "A", a, c)
    assert not moved.done
    assert moved.reason.startswith("A/set_01 is not the accepted set of A: B/set_01 is, since 20")
    assert accepted_set(root, "A") == b


def test_a_name_is_its_accepted_set_and_its_newest_before_there_is_one(root: Storage) -> None:
    a, _, _ = sets(root)
    assert find_reference(root, "A") == ("A", a)
    _, b, c = accept_in_turn(root)
    assert find_reference(root, "A") == ("A", c)
    assert find_reference(root, "A/set_01") == ("A", a)
    assert find_reference(root, "B") == ("A", b)  # a set that was accepted belongs to the line
    assert line_of(Accepted(), b) == "B"


def test_a_new_model_is_compared_with_the_accepted_set_and_a_further_set_of_a_model_is_not(
    root: Storage,
) -> None:
    a, b, c = sets(root)
    assert find_accepted(c) is None
    accept(root, "A", a, b)
    assert find_accepted(c) == b
    again = shutil.copytree(c.path, c.path.with_name("set_02"))
    assert find_accepted(open_set(again)) is None
    assert accepted_sets(root) == [b]
    shutil.rmtree(b.path)
    assert find_accepted(c) is None


def test_a_deleted_or_replaced_set_is_named_with_the_way_out(root: Storage) -> None:
    a, b, c = accept_in_turn(root)
    shutil.rmtree(c.path)
    with pytest.raises(
        CacheError, match=r"C/set_01, which was accepted for A, is no longer in .*accepted A --set NAME/set_NN"
    ):
        accepted_set(root, "A")
    shutil.rmtree(b.path)
    shutil.copytree(a.path, b.path)
    before = (root.path / ACCEPTED).read_bytes()
    with pytest.raises(CacheError, match="B/set_01, which was accepted for A, is another set now"):
        roll_back(root, "A")
    assert (root.path / ACCEPTED).read_bytes() == before


@pytest.mark.parametrize("entries", ["3", "[]"])
def test_a_corrupted_document_is_not_overwritten(root: Storage, entries: str) -> None:
    a, b, _ = sets(root)
    (root.path / ACCEPTED).write_text('{"version": 1, "lines": {"A": %s}}' % entries)  # noqa: UP031
    for use in (lambda: accept(root, "A", a, b), lambda: roll_back(root, "A"), lambda: read_accepted(root)):
        with pytest.raises(CacheError, match=r"accepted\.json cannot be read .*Restore it, or move it away"):
            use()
    assert entries in (root.path / ACCEPTED).read_text()


def race(root: Storage) -> list[Any]:
    """Two candidates of one reference, accepted at the same moment."""
    a, b, c = sets(root)
    ready, moved = threading.Barrier(2), []

    def one(candidate: PublishedSet) -> None:
        ready.wait()
        moved.append(accept(root, "A", a, candidate))

    threads = [threading.Thread(target=one, args=(each,)) for each in (b, c)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return moved


def test_of_two_writers_one_wins_and_the_other_is_told(root: Storage) -> None:
    for _ in range(10):
        moved = race(root)
        assert sorted(one.done for one in moved) == [False, True]
        assert [action for action, _ in actions(root)] == ["first", "accepted"]
        root.remove(ACCEPTED)


ENDLESSLY = """
import sys
from clusterpaths.sets.accepted import choose
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
root = open_storage(sys.argv[1])
both = [open_set(root / name / "set_01") for name in sys.argv[2:]]
print("ready", flush=True)
while True:
    for one in both:
        choose(root, "A", one)
"""


def start(root: Storage, *names: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESSLY, root.address, *names], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_writers_of_two_processes_that_are_killed_leave_a_complete_document(root: Storage) -> None:
    for _ in range(3):
        writers = [start(root, "A", "B"), start(root, "B", "C")]
        try:
            read, deadline = 0, time.monotonic() + 1
            while time.monotonic() < deadline:
                entries = read_accepted(root).lines.get("A", ())
                assert len(entries) >= read  # it only grows
                read = len(entries)
        finally:
            for writer in writers:
                os.kill(writer.pid, signal.SIGKILL)
                writer.wait()
                assert writer.stdout is not None
                writer.stdout.close()
        last = read_accepted(root).lines["A"]
        assert all(one.set != other.set for one, other in itertools.pairwise(last))  # no change was lost or doubled
        assert accepted_set(root, "A").name == last[-1].set
        (root.path / ACCEPTED).unlink()


def test_in_a_bucket_it_is_the_same(made: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    obstore = pytest.importorskip("obstore", reason="needs the extra [s3]")
    pytest.importorskip("moto", reason="needs moto's server")
    from clusterpaths.storage import objects
    from tests.storage import BUCKET, running_storage

    folder = tmp_path_factory.mktemp("bucket")
    with running_storage(folder, folder / "mirror"):
        root = open_storage(f"s3://{BUCKET}/results")
        for path in made.rglob("*"):
            if path.is_file():
                obstore.put(objects.store_of(BUCKET), f"results/{path.relative_to(made)}", path.read_bytes())
        for name in NAMES:
            (root / name / "set_01").local_tree()
        moved = race(root)
        assert sorted(one.done for one in moved) == [False, True]
        winner = accepted_set(root, "A")
        assert roll_back(root, "A").name == "A/set_01"
        assert actions(root) == [("first", "A/set_01"), ("accepted", winner.name), ("rolled back", "A/set_01")]

"""The short form of the torture test, with fixed seeds; and that it finds what it looks for."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.driver import Driver, Violation
from tests.torture.processes import Command, left_running
from tests.torture.schedule import Step, make_schedule
from tests.torture.shrink import ddmin, shrink
from tests.torture.world import World, corrupt_file

SEEDS, STEPS = (0, 2, 3, 5), 11  # storage, npy and a server, zarr and a flow, none: 48 actions
RUN: Step = {"action": "run", "options": {"k": 3}, "faults": []}
BEGIN: Step = {"action": "begin", "format": "npy", "server": False}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with Driver(tmp_path_factory.mktemp("torture")) as driver:
        yield driver
        print("\n".join(driver.counts.lines()))


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_to_runs_the_results_are_those_of_undisturbed_ones(driver: Driver, seed: int) -> None:
    """A failure is repeated, and shrunk, by `python -m tests.torture --steps 11 --schedules 1 --seed SEED`."""
    driver.carry_out(make_schedule(seed, STEPS))


@pytest.mark.skipif("not __import__('shutil').which('cc')")
@pytest.mark.parametrize(
    ("rule", "code", "said"),
    [
        ("write,open|/cache/|20|-1|e28", 2, "The disk is full"),
        ("write,sync,rename,open,make,remove|/cache/|0|-1|e30", 2, "Read-only file system"),
        ("sync|/cache/|3|1|e5", 2, "Input/output error"),
        ("read|/images/|9|-1|e5", 2, "Input/output error"),
        ("write|/cache/|5|1|s9", -signal.SIGKILL, ""),
        ("rename|/cache/|5|1|s15", -signal.SIGTERM, ""),
        ("rename|/cache/|5|1|s2", 130, "Stopped."),
        ("write|/cache/|0|-1|short", None, ""),
    ],
)
def test_a_fault_of_the_disk_is_met(driver: Driver, tmp_path: Path, rule: str, code: int | None, said: str) -> None:
    world = World(tmp_path / "world", driver.folder / "pool", "zarr")
    process = driver.start(world.run_words({"k": 3}), [{"kind": "disk", "rule": rule}], tmp_path)
    ended = driver.finish(process, [])
    assert process.acted.exists()
    assert code is None or ended == code, process.text()
    assert said in process.text()
    assert "Traceback" not in process.text()
    assert left_running(process) == []


def test_memory_that_runs_out_is_one_paragraph_or_a_library_s_abort(driver: Driver, tmp_path: Path) -> None:
    world = World(tmp_path / "world", driver.folder / "pool", "npy")
    command = Command(world.run_words({"k": 3}), memory=10 << 20)
    process = driver._launcher.start(command, tmp_path)
    assert process.wait(120) in (2, 130, -signal.SIGABRT, -signal.SIGSEGV), process.text()
    assert "Traceback" not in process.text()


def test_a_set_that_changes_is_found(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test of every seed is one that can fail."""

    def harm(world: World, how: str, seed: int) -> None:
        path = next(world.cache.glob("set_*/paths.json"))
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))

    monkeypatch.setattr(World, "change_images", harm)
    with pytest.raises(Violation, match=r"step 3: set_01 has changed: \['paths.json'\]"):
        driver.carry_out([BEGIN, RUN, {"action": "images", "how": "add", "seed": 1}, RUN])


def test_a_set_that_is_not_that_of_an_undisturbed_run_is_found(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.carry_out([BEGIN, RUN])
    with monkeypatch.context() as patch:
        for documents in driver._references.values():
            patch.setitem(documents, "paths.json", "another digest")
        with pytest.raises(Violation, match=r"differs from an undisturbed run: \['paths.json'\]"):
            driver.carry_out([BEGIN, RUN])


def test_an_exit_code_that_is_not_promised_is_found(driver: Driver) -> None:
    unknown = RUN | {"options": {"k": 3, "no_such_option": 1}}
    with pytest.raises(Violation, match="a run that nothing disturbed was refused"):
        driver.carry_out([BEGIN, unknown])


def test_a_schedule_is_a_function_of_its_seed_and_json() -> None:
    assert make_schedule(5, 30) == make_schedule(5, 30) == json.loads(json.dumps(make_schedule(5, 30)))
    assert make_schedule(5, 30) != make_schedule(6, 30)
    actions = {step["action"] for seed in range(30) for step in make_schedule(seed, 30)}
    assert {"run", "together", "images", "corrupt cache", "corrupt set", "cold", "query", "export"} <= actions


def test_a_failing_schedule_is_shrunk_to_what_it_takes() -> None:
    steps: list[Step] = [{"action": "run", "number": number, "faults": [{"kind": "clock"}]} for number in range(20)]

    def fails(schedule: list[Step]) -> bool:
        numbers = [step.get("number") for step in schedule]
        return 3 in numbers and 17 in numbers and bool(next(s for s in schedule if s.get("number") == 17)["faults"])

    found = shrink([BEGIN | {"server": True}, *steps], fails)
    assert [step.get("number") for step in found] == [None, 3, 17]
    assert [bool(step.get("faults")) for step in found] == [False, False, True]
    assert found[0]["server"] is False
    assert ddmin(list(range(100)), lambda some: {13, 14, 70} <= set(some)) == [13, 14, 70]


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "zeros", "remove"])
def test_a_corrupted_file_has_other_bytes(tmp_path: Path, how: str) -> None:
    file, content = tmp_path / "file", bytes(range(1, 255)) * 40
    file.write_bytes(content)
    corrupt_file(file, how, random.Random(3))
    assert file.exists() == (how != "remove")
    assert how == "remove" or file.read_bytes() != content

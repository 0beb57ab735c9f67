"""The monitor flow: artifacts, and an event for each window that drifted, exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import watch
from clusterpaths.monitoring.series import Series
from clusterpaths.sets.published import PublishedSet
from tests.flows.test_compare import artifacts, events
from tests.runs import listening
from tests.watched import Incoming

pytestmark = pytest.mark.usefixtures("prefect_server")
Configured = Callable[..., MonitorConfig]


def run(config: MonitorConfig) -> tuple[Any, list[str]]:
    from flows.monitor import monitor

    lines: list[str] = []
    with listening(lines):
        state = monitor(config, return_state=True)
    return state, lines


def drifted(series: str) -> list[dict[str, Any]]:
    found = [one for one in events("cluster-paths.drifted", "Faces/set_01") if one["series"] == series]
    return sorted(found, key=lambda one: int(one["window"]))


def wait_for_events(series: str, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    while len(found := drifted(series)) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_drifted_windows_have_an_event_and_artifacts_and_quiet_ones_have_none(
    config: Configured, incoming: Incoming
) -> None:
    folder = incoming(range(80), start=0)
    incoming(range(80, 160), start=1000, upside_down=True)
    state, lines = run(config(data_root=str(folder), series="flow", window=80))
    assert state.is_completed(), state.message
    assert state.result() == 1
    found = artifacts(state)
    assert {"windows", "window"} <= set(found)
    assert found["window"].startswith("# Drifted: 80 images are not as in Faces/set_01")
    assert "| clusters of fc1 |" in found["window"]
    (event,) = wait_for_events("flow", 1)
    assert (event["window"], event["images"], event["name"]) == (2, 80, "Faces")
    assert event["p_value"] < 0.0005
    assert event["headline"] in " ".join(lines)
    again, lines = run(config(data_root=str(folder), series="flow", window=80))
    assert (again.result(), len(drifted("flow"))) == (0, 1)
    assert any("No window of the series flow has become complete" in line for line in lines)


def test_a_window_that_was_recorded_before_a_crash_is_announced_by_the_next_run_once(
    config: Configured,
    incoming: Incoming,
    published: PublishedSet,
) -> None:
    options = config(data_root=str(incoming(range(80), upside_down=True)), series="crashed", window=80)
    assert [one.drifted for one in watch(options)] == [True]  # and no event: the run ended here
    assert run(options)[0].result() == 0
    wait_for_events("crashed", 1)
    series = Series(published, "crashed")
    assert series.announced() == 1
    series.folder.remove("announced.json")  # a crash between the event and its mark
    run(options)
    assert series.announced() == 1
    assert len(drifted("crashed")) == 1


def test_a_mistake_is_one_paragraph_and_no_event(config: Configured, tmp_path: Path) -> None:
    state, lines = run(config(data_root=str(tmp_path / "nowhere"), series="none", window=10))
    assert state.is_failed()
    assert any("nowhere' does not exist" in line for line in lines)
    assert drifted("none") == []

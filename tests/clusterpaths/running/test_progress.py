"""The tracker behind the progress display."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from clusterpaths.running.progress import Tracker, counter, duration, terminal, tracking

SIZES = {"0": 512, "1": 488}


def test_what_a_retry_does_again_counts_once() -> None:
    tracker = Tracker("extraction", SIZES, 1000)
    tracker.advance("0", 400)
    tracker.advance("0", 400)  # the shard was begun again
    assert tracker.share == pytest.approx(0.512)
    tracker.finish("0")
    tracker.finish("1")
    tracker.finish("1")
    assert tracker.share == 1.0
    tracker.advance("unknown", 5)
    assert tracker.share == 1.0


def test_images_speed_and_time_left_are_shown_whatever_the_sizes_count() -> None:
    clock = [0.0]
    tracker = Tracker("extraction", {"conv1": 40_000, "fc1": 10_000}, 1000)
    tracker.bar.get_time = lambda: clock[-1]  # type: ignore[method-assign]
    assert tracker.text() == "0 of 1,000 images"
    for second in (1.0, 2.0, 3.0):  # 5,000 values, so 100 images, a second
        clock.append(second)
        tracker.advance("conv1", 5_000)
    assert tracker.text() == "300 of 1,000 images, 100 images/s, 7 s left"


def test_a_piece_finds_the_tracker_of_its_cache_while_the_stage_runs() -> None:
    assert counter("extraction", "/a", "0") is None
    with tracking("extraction", "/a", SIZES, 1000) as tracker:
        count = counter("extraction", "/a", "0")
        assert count
        count(100)
        assert counter("clustering", "/a", "0") is None
        assert counter("extraction", "/b", "0") is None
        assert tracker.share == pytest.approx(0.1)
    assert counter("extraction", "/a", "0") is None


def test_a_bar_is_drawn_on_a_console_and_on_none_without() -> None:
    out = io.StringIO()
    with tracking("extraction", "/a", SIZES, 1000, Console(file=out, force_terminal=True, width=120)) as tracker:
        tracker.finish("0")
        tracker.bar.refresh()
    assert "512 of 1,000 images" in out.getvalue()
    with tracking("extraction", "/a", SIZES, 1000) as tracker:
        tracker.finish("0")  # and nothing fails


def test_a_notebook_is_a_console_of_one_line_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal() is None
    monkeypatch.setattr(sys, "stdout", kernels)
    console = terminal()
    assert console
    assert not console.is_jupyter
    with tracking("extraction", "/a", SIZES, 1000, console) as tracker:
        tracker.finish("0")
        tracker.bar.refresh()
    assert "\r" in kernels.getvalue()
    assert "512 of 1,000 images" in kernels.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (59.6, "1:00 min"), (65, "1:05 min"), (9000, "2:30 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text

"""What a terminal or a log shows of a run."""

from __future__ import annotations

import io

import pytest

from clusterpaths.records import StageTime
from clusterpaths.running.timer import StageTimer
from clusterpaths.running.view import MOST_WARNINGS, View


def test_a_stage_is_one_line_of_a_log_once_it_has_ended() -> None:
    shown = io.StringIO()
    with View(shown) as view:
        with view.stage("extract") as ended:
            view.message("shard 1 of 2")
            assert shown.getvalue() == ""
            ended(StageTime(stage="extract", seconds=2.0, detail="100 examples", images=100))
        with view.stage("publish") as ended:
            view.message("Published\n  here " + "x" * 500)
            ended(StageTime(stage="publish", seconds=75.0))
    first, second = shown.getvalue().splitlines()
    assert first.split() == ["extract", "2.0", "s", "100", "examples,", "50", "images/s"]
    assert second.startswith("publish")
    assert "1 min 15 s  Published here xxx" in second
    assert second.endswith("x" * 500)  # a log is not cut


def test_a_stage_that_fails_leaves_no_line() -> None:
    shown = io.StringIO()
    with View(shown) as view, pytest.raises(ValueError, match="broken"), StageTimer(view.stage)("fit"):
        raise ValueError("broken")
    assert shown.getvalue() == ""


def test_warnings_are_shown_at_once_and_again_after_the_result_and_before_the_next_step() -> None:
    shown = io.StringIO()
    with View(shown) as view:
        view.warning("the preprocessing is wrong")
        view.warning("the preprocessing is wrong")  # as of a second try
        with StageTimer(view.stage)("fit"):
            pass
        view.ending()
        view.warning("few images")
        view.result({"set": "CelebA/set_01"}, ["Next: serve"])
    lines = [line for line in shown.getvalue().splitlines() if line]
    assert lines[0] == "warning: the preprocessing is wrong"
    assert lines[1].startswith("fit ")
    assert lines[2].split() == ["set", "CelebA/set_01"]
    assert lines[3:] == ["warning: the preprocessing is wrong", "warning: few images", "Next: serve"]


def test_of_many_warnings_the_first_ones_are_shown_and_the_number_of_the_others() -> None:
    shown = io.StringIO()
    with View(shown) as view:
        for number in range(MOST_WARNINGS + 1005):
            view.warning(f"left out example {number}")
        assert len(shown.getvalue().splitlines()) == MOST_WARNINGS
        view.result({}, ())
    assert shown.getvalue().count(f"left out example {MOST_WARNINGS - 1}\n") == 2
    assert f"left out example {MOST_WARNINGS}\n" not in shown.getvalue()
    assert "1,005 more warnings" in shown.getvalue()


def test_a_long_line_is_not_wrapped_in_a_log() -> None:
    shown = io.StringIO()
    with View(shown) as view:
        view.result({"report": "/a" * 300}, ())
    assert f"{'/a' * 300}\n" in shown.getvalue()


def test_the_timer_measures_the_same_with_and_without_a_view() -> None:
    plain, seen = StageTimer(), StageTimer(View(io.StringIO()).stage)
    for timer in (plain, seen):
        for images in (2, 3):
            with timer("extract") as did:
                did.images, did.detail = images, f"{images} examples"
    assert [stage.model_dump(exclude={"seconds"}) for stage in plain.stages] == [
        {"stage": "extract", "detail": "2 examples; 3 examples", "images": 5}
    ]
    assert [stage.model_dump(exclude={"seconds"}) for stage in seen.stages] == [
        stage.model_dump(exclude={"seconds"}) for stage in plain.stages
    ]


def test_the_running_stage_is_shown_in_a_terminal_with_its_progress() -> None:
    from rich.console import Console

    view = View(io.StringIO())
    console = Console(file=io.StringIO(), width=100)

    def drawn() -> str:
        with console.capture() as captured:
            console.print(view.current())
        return captured.get()

    assert "starting" in drawn()
    with view.stage("extract"), view.tracking("extraction", "/a", {"0": 10}, 10) as tracker:
        tracker.advance("0", 5)
        assert "extract " in drawn()
        assert "5 of 10 images" in drawn()
        assert "50%" in drawn()
    assert drawn().strip() == ""

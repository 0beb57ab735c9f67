"""From windows to marks: higher is less likely by chance, shares fill their bar, and labels have room."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from clusterpaths.monitoring.record import ClassCounts, Quantiles, Reference, WindowRecord
from clusterpaths.monitoring.summary import CLASSES, PredictionShare, UnreadableWindow, WindowSummary, summarise
from clusterpaths.monitoring.verdict import Verdict
from clusterpaths.server.pages.time_line import BOTTOM, ROOM, TOP, Chart, time_line, words_of


def window(number: int, **changes: Any) -> WindowSummary:
    values: dict[str, Any] = {
        "number": number,
        "start": f"2026-03-04T{number % 24:02d}:00:00+00:00",
        "end": f"2026-03-04T{number % 24:02d}:59:00+00:00",
        "num_images": 100,
        "drifted": False,
        "p_value": 0.4,
        "alpha": 0.01,
        "effect": 0.2,
        "effect_by_chance": 0.19,
        "first_layer": None,
        "new_paths": 0.1,
        "new_paths_interval": (0.05, 0.17),
        "ood": Quantiles(reference=(-1, -0.5, 0, 0.5, 1), window=(-1, -0.4, 0.1, 0.6, 2)),
        "predictions": (
            PredictionShare(name="cat", reference=0.7, window=0.25),
            PredictionShare(name="dog", reference=0.3, window=0.75),
        ),
        "duplicates": 0,
        "unusable": 0,
        "late": 0,
    }
    return WindowSummary.model_validate(values | changes)


NONE = {"num_images": 0, "p_value": 1.0, "effect": None, "effect_by_chance": None, "new_paths": None, "ood": None}
EMPTY = NONE | {"new_paths_interval": (0.0, 1.0), "predictions": ()}


def charts(*windows: WindowSummary | UnreadableWindow) -> dict[str, Chart]:
    return {chart.title: chart for chart in time_line(windows, lambda _: 3).charts}


def test_a_smaller_p_value_is_higher_and_one_that_drifted_is_above_the_level() -> None:
    chart = charts(window(1), window(2, p_value=0.009, drifted=True), window(3, p_value=0.0, drifted=True))["Verdict"]
    ((level, _),) = chart.rules
    (_, quiet, ring), (_, drifted, diamond), (_, most, _) = chart.marks
    assert (ring, diamond) == ("quiet", "drifted")
    assert TOP <= most < drifted < level < quiet <= BOTTOM
    assert chart.ticks[0] == (BOTTOM, "1")


def test_windows_without_images_and_unreadable_ones_have_marks_of_their_own_and_nothing_else() -> None:
    found = charts(window(1), window(2, **EMPTY), UnreadableWindow(number=3, problem="no JSON"))
    assert [kind for *_, kind in found["Verdict"].marks] == ["quiet", "none", "unreadable"]
    assert len(found["New paths"].marks) == len(found["Difference of the paths"].marks) == 1
    assert {*charts(window(1, **EMPTY))} == {*charts(UnreadableWindow(number=1, problem=""))} == {"Verdict", "Images"}


def test_shares_of_predictions_fill_the_bar_in_the_order_of_the_reference() -> None:
    bars = charts(window(1))["Predictions"].bars
    assert [height for *_, height, _ in bars] == pytest.approx([0.7 * 96, 0.3 * 96, 0.25 * 96, 0.75 * 96])
    assert bars[0][0] < bars[2][0], "the reference is on the left"
    assert bars[3][2] == pytest.approx(TOP)


def test_quantiles_are_drawn_over_the_bands_of_the_reference() -> None:
    chart = charts(window(1))["OOD scores"]
    (outer, height, _), (inner, inner_height, _) = chart.bands
    assert outer < inner
    assert inner + inner_height < outer + height
    assert len(chart.lines) == 2  # of the reference and of the window
    assert chart.lines[1][2] == pytest.approx(TOP), "the window's 95% is the largest of all"


def test_what_was_left_out_is_on_top_of_the_images() -> None:
    tested, left_out = charts(window(1, num_images=30, duplicates=5, late=3, unusable=2))["Images"].bars
    assert (tested[-1], left_out[-1]) == ("tested", "left-out")
    assert tested[2] == pytest.approx(left_out[2] + left_out[3])
    assert left_out[3] / tested[3] == pytest.approx(10 / 30)


@pytest.mark.parametrize("count", [1, 7, 36, 60])
def test_columns_fit_and_their_labels_do_not_overlap(count: int) -> None:
    line = time_line([window(number) for number in range(1, count + 1)], lambda _: 0)
    assert line.width <= ROOM + 126
    labelled = [column.x for column in line.columns if column.label]
    assert all(second - first >= 84 for first, second in itertools.pairwise(labelled))
    assert line.columns[-1].label, "the newest window has one"


@pytest.mark.parametrize(
    "changes",
    [
        {"effect": 0.0, "effect_by_chance": 0.0},
        {"effect": 1.0, "effect_by_chance": None},
        {"ood": Quantiles(reference=(0, 0, 0, 0, 0), window=(0, 0, 0, 0, 0))},
        {"new_paths": 0.0, "new_paths_interval": (0.0, 0.0)},
        {"alpha": 1e-300, "p_value": 1e-300},
        {"ood": Quantiles(reference=(-1e9, 0, 0, 0, 1e9), window=(0, 0, 0, 0, 0))},
        {"start": "some day"},
    ],
)
def test_extreme_numbers_stay_inside_the_chart(changes: dict[str, Any]) -> None:
    for chart in charts(window(1, **changes)).values():
        for y in [*(y for _, y, _ in chart.marks), *(y for y, _ in chart.ticks), *(y for y, _ in chart.rules)]:
            assert TOP - 0.01 <= y <= BOTTOM + 0.01
        assert len(chart.ticks) <= 7


def test_a_window_in_words() -> None:
    assert words_of(window(7)) == "Window 7, 4 March 2026, 07:00 UTC: no drift, p = 0.4, 100 images"
    assert (
        words_of(window(7, drifted=True, p_value=0.0002, first_layer="fc1"))
        == "Window 7, 4 March 2026, 07:00 UTC: drifted from fc1 on, p < 0.001, 100 images"
    )
    assert words_of(window(7, **EMPTY)) == "Window 7, 4 March 2026, 07:00 UTC: no images"
    assert words_of(UnreadableWindow(number=7, problem="")) == "Window 7 cannot be read"


def test_of_many_classes_the_most_frequent_ones_of_the_reference_are_named_and_the_others_are_one() -> None:
    classes = tuple(
        ClassCounts(index=i, name=f"c{i}", reference=i, window=2 * i, new_paths=0, ood_reference=None, ood_window=None)
        for i in range(CLASSES + 3)
    )
    verdict = Verdict(
        drifted=False, p_value=1, alpha=0.05, effect=None, effect_by_chance=None, first_layer=None, n_reference=45, n_window=90,
        tests=(),
    )  # fmt: skip
    record = WindowRecord(
        series="a", number=1, size="90", reference=Reference(name="S/set_01", fingerprint="0", model="1", num_examples=45),
        source="", start="", end="", num_images=90, duplicates=0, unusable=0, late=0, verdict=verdict, layers=(),
        classes=classes, paths_window=1, new_paths=0, new_paths_interval=(0, 1), ood=None, created="",
    )  # fmt: skip
    shares = summarise(record).predictions
    assert [share.name for share in shares] == [f"c{i}" for i in range(CLASSES + 2, 2, -1)] + [""]
    assert shares[-1].reference == pytest.approx(3 / 45)
    assert sum(share.window for share in shares) == pytest.approx(1)

"""The time line of a series: small charts, one below the other, with a column for each window.

Belongs here: from summaries of windows to positions in pixels. Templates draw them. Nothing is said by colour alone: a window
that drifted is a filled diamond, one that did not a ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clusterpaths.monitoring.summary import UnreadableWindow, WindowSummary
from clusterpaths.monitoring.words import p_text
from clusterpaths.report.numbers import percent, thousands
from clusterpaths.server.pages.words import time_words

HEIGHT, TOP, BOTTOM = 116, 10, 106  # of a chart, and between what its axis lies
REFERENCE = 34  # centre of the reference's column
LEFT, RIGHT = 70, 56  # of the windows; the axis is on the right, where the newest ones are
ROOM, STEP_LOW, STEP_HIGH = 1070, 17, 44  # for all columns, and for one
SMALLEST_P = 1e-6  # a smaller one is at the edge
Read = WindowSummary | UnreadableWindow


@dataclass(frozen=True)
class Column:
    """One window: its place, and what is shown of it on hover."""

    x: float
    number: int
    title: str
    label: str  # below the axis; empty: there is no room


@dataclass
class Chart:
    """Marks of one chart; x and y in pixels, y downwards.

    Attributes:
        ticks: (y, text).
        bands: (y, height, class), as wide as all windows.
        rules: (y, class), the same.
        bars: (x, width, y, height, class).
        lines: (x, y, y of the other end, class).
        dashes: (x, half of its width, y, class).
        marks: (x, y, kind): drifted, quiet, none (no images), unreadable, dot.
    """

    title: str
    hint: str
    ticks: list[tuple[float, str]] = field(default_factory=list)
    bands: list[tuple[float, float, str]] = field(default_factory=list)
    rules: list[tuple[float, str]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    lines: list[tuple[float, float, float, str]] = field(default_factory=list)
    dashes: list[tuple[float, float, float, str]] = field(default_factory=list)
    marks: list[tuple[float, float, str]] = field(default_factory=list)
    reference: bool = False  # whether it has a column of the reference


@dataclass(frozen=True)
class TimeLine:
    """All charts of some windows."""

    width: float
    step: float
    columns: tuple[Column, ...]
    charts: tuple[Chart, ...]


def time_line(windows: Sequence[Read], colour: Callable[[str | None], int]) -> TimeLine:
    """The charts of these windows, the oldest first.

    Args:
        windows: at least one.
        colour: of a class, by name.
    """
    step = min(max(ROOM / len(windows), STEP_LOW), STEP_HIGH)
    every = math.ceil(84 / step)
    columns = tuple(
        Column(
            x=LEFT + (at + 0.5) * step,
            number=one.number,
            title=words_of(one),
            label=_label(one) if (len(windows) - 1 - at) % every == 0 else "",
        )
        for at, one in enumerate(windows)
    )
    known = [(column.x, one) for column, one in zip(columns, windows, strict=True) if isinstance(one, WindowSummary)]
    observed = [(x, one) for x, one in known if one.num_images]
    unread = [column.x for column, one in zip(columns, windows, strict=True) if isinstance(one, UnreadableWindow)]
    charts = [_verdicts(known, unread)]
    if observed:
        charts += [_effects(observed, step), _new_paths(observed), _scores(observed, step)]
    if predicted := [(x, one) for x, one in observed if one.predictions]:
        charts.append(_predictions(predicted, step, colour))
    charts.append(_images(known, step))
    return TimeLine(LEFT + len(windows) * step + RIGHT, step, columns, tuple(charts))


def words_of(window: Read) -> str:
    """What is shown of a window on hover."""
    if isinstance(window, UnreadableWindow):
        return f"Window {window.number} cannot be read"
    when = f"Window {window.number}, {time_words(window.start)}"
    if not window.num_images:
        return f"{when}: no images"
    where = f" from {window.first_layer} on" if window.first_layer else ""
    return (
        f"{when}: {'drifted' + where if window.drifted else 'no drift'}, {p_text(window.p_value)}, "
        f"{thousands(window.num_images)} images"
    )


def kind_of(window: Read) -> str:
    """The kind of its mark."""
    if isinstance(window, UnreadableWindow):
        return "unreadable"
    return "none" if not window.num_images else "drifted" if window.drifted else "quiet"


def _label(window: Read) -> str:
    return "–" if isinstance(window, UnreadableWindow) else time_words(window.start, short=True)


def _scale(low: float, high: float) -> Callable[[float], float]:
    """From values to pixels."""
    extent = (high - low) or 1

    def at(value: float) -> float:
        return BOTTOM - (min(max(value, low), high) - low) / extent * (BOTTOM - TOP)

    return at


def _step_of(extent: float) -> float:
    """Distance of three or four round ticks."""
    power = 10.0 ** math.floor(math.log10(max(extent, 1e-9)))
    return next(step for step in (0.2 * power, 0.5 * power, power, 2 * power, 5 * power) if extent / step <= 4)


def _ticks(
    low: float, high: float, text: Callable[[float], str], at: Callable[[float], float]
) -> list[tuple[float, str]]:
    """Round values from `low` to `high`."""
    step = _step_of(high - low)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(at(i * step), text(i * step)) for i in range(first, last + 1)]


def _verdicts(windows: Sequence[tuple[float, WindowSummary]], unread: Sequence[float]) -> Chart:
    alphas = {one.alpha for _, one in windows}
    smallest = min([*(one.p_value for _, one in windows), *(alpha / 10 for alpha in alphas), 0.01])
    deepest = math.floor(math.log10(max(smallest, SMALLEST_P)))
    at = _scale(0, -deepest)

    def y(p: float) -> float:
        return at(-math.log10(max(p, SMALLEST_P)))

    chart = Chart("Verdict", "corrected p-value, smaller is higher; dashed: the level of one window")
    every = 1 if deepest > -4 else 2
    chart.ticks = [(at(i), "1" if not i else f"{10.0**-i:g}") for i in range(0, -deepest + 1, every)]
    chart.rules = [(y(alpha), "level") for alpha in sorted(alphas)]
    chart.marks = [(x, y(one.p_value), kind_of(one)) for x, one in windows] + [
        (x, BOTTOM, "unreadable") for x in unread
    ]
    return chart


def _effects(windows: Sequence[tuple[float, WindowSummary]], step: float) -> Chart:
    chart = Chart(
        "Difference of the paths", "Jensen-Shannon distance to the reference (dot) and its mean without drift (dash)"
    )
    found = [(x, one.effect, one.effect_by_chance) for x, one in windows if one.effect is not None]
    values = [value for _, *both in found for value in both if value is not None] or [0.0]
    room = max(0.2 * (max(values) - min(values)), 0.02)
    low, high = max(min(values) - room, 0.0), min(max(values) + room, 1.0)
    at = _scale(low, high)
    chart.ticks = _ticks(low, high, lambda value: f"{value:.3g}", at)
    for x, effect, chance in found:
        if chance is not None:
            chart.lines.append((x, at(effect), at(chance), "thin"))
            chart.dashes.append((x, step / 3, at(chance), "chance"))
        chart.marks.append((x, at(effect), "dot"))
    return chart


def _new_paths(windows: Sequence[tuple[float, WindowSummary]]) -> Chart:
    chart = Chart("New paths", "share of the images on paths that no example of the reference took, 95% intervals")
    high = max([*(one.new_paths_interval[1] for _, one in windows), 0.02])
    at = _scale(0, high)
    chart.ticks = _ticks(0, high, lambda value: percent(value, 0 if high > 0.05 else 1), at)
    for x, one in windows:
        low, top = one.new_paths_interval
        chart.lines.append((x, at(low), at(top), "whisker"))
        chart.marks.append((x, at(one.new_paths or 0), "dot"))
    return chart


def _scores(windows: Sequence[tuple[float, WindowSummary]], step: float) -> Chart:
    chart = Chart(
        "OOD scores", "5%, 25%, 50%, 75% and 95% of each window; bands: the same of the reference", reference=True
    )
    quantiles = [(x, one.ood) for x, one in windows if one.ood is not None]
    values = [value for _, both in quantiles for side in (both.reference, both.window) for value in side]
    at = _scale(min(values), max(values))
    chart.ticks = _ticks(min(values), max(values), lambda value: f"{value:.3g}".replace("-", "−"), at)
    reference = quantiles[-1][1].reference
    chart.bands = [
        (at(reference[4]), at(reference[0]) - at(reference[4]), "outer"),
        (at(reference[3]), at(reference[1]) - at(reference[3]), "inner"),
    ]
    chart.rules = [(at(reference[2]), "median")]
    for x, found in [(float(REFERENCE), reference), *((x, both.window) for x, both in quantiles)]:
        chart.lines.append((x, at(found[0]), at(found[4]), "whisker"))
        wide = min(step, 24) * 0.6
        chart.bars.append((x - wide / 2, wide, at(found[3]), max(at(found[1]) - at(found[3]), 1), "box"))
        chart.dashes.append((x, wide / 2, at(found[2]), "middle"))
    return chart


def _predictions(
    windows: Sequence[tuple[float, WindowSummary]], step: float, colour: Callable[[str | None], int]
) -> Chart:
    chart = Chart("Predictions", "shares of the predicted classes, the reference on the left", reference=True)
    at = _scale(0, 1)
    chart.ticks = [(at(value), percent(value)) for value in (0, 0.5, 1)]
    reference = [(one.name, one.reference) for one in windows[-1][1].predictions]
    sides = [(x, [(share.name, share.window) for share in one.predictions]) for x, one in windows]
    wide = min(step, 24) * 0.8
    for x, shares in [(float(REFERENCE), reference), *sides]:
        below = 0.0
        for name, share in shares:
            top = below + share
            kind = f"f{colour(name) if name else 7}"
            chart.bars.append((x - wide / 2, wide, at(top), at(below) - at(top), kind))
            below = top
    return chart


def _images(windows: Sequence[tuple[float, WindowSummary]], step: float) -> Chart:
    chart = Chart("Images", "in the tests, and above them those left out: duplicates, late or unusable ones")
    high = max([*(one.num_images + one.left_out for _, one in windows), 1])
    at = _scale(0, high)
    chart.ticks = [(at(value), thousands(value)) for value in (0, high)]
    wide = min(step, 24) * 0.6
    for x, one in windows:
        for low, top, kind in (
            (0, one.num_images, "tested"),
            (one.num_images, one.num_images + one.left_out, "left-out"),
        ):
            if top > low:
                chart.bars.append((x - wide / 2, wide, at(top), at(low) - at(top), kind))
        if not one.num_images:
            chart.marks.append((x, BOTTOM, "none"))
    return chart

"""Small plots that need no script: where their marks lie, in percent of the width.

Belongs here: from numbers to places. Drawing is the templates'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clusterpaths.explore.records import ExampleLayer, Lift

SHOWN = 14  # lifts; all are in the table
TICKS = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Tick:
    """A line with a number above; `plain`: where nothing is unusual."""

    at: float
    text: str
    plain: bool = False
    minor: bool = False  # left out where there is little room


@dataclass(frozen=True)
class LiftMark:
    """A dot with its whisker; None: no interval."""

    lift: Lift
    at: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class LiftPlot:
    """Lifts on a logarithmic axis."""

    marks: tuple[LiftMark, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class SpreadPlot:
    """Standardised distances, one a layer; `marks` are None where there is none."""

    marks: tuple[float | None, ...]
    ticks: tuple[Tick, ...]


def lift_plot(lifts: Sequence[Lift]) -> LiftPlot | None:
    """The first ones that are clear and can be given; None: there is none."""
    shown = [one for one in lifts if one.clear and one.lift][:SHOWN]
    if not shown:
        return None
    ends = [end for one in shown for end in (one.interval or ()) if end > 0] + [one.lift or 1 for one in shown]
    low, high = max(min(*ends, 0.8), 1 / 100), min(max(*ends, 1.25), 4000)
    left, right = math.log(low) - 0.08, math.log(high) + 0.08

    def at(value: float) -> float:
        return 100 * (math.log(min(max(value, low), high)) - left) / (right - left)

    marks = tuple(
        LiftMark(
            one,
            at(one.lift or 1),
            at(one.interval[0]) if one.interval else None,
            at(one.interval[1]) if one.interval else None,
            times(one.lift or 1),
        )
        for one in shown
    )
    inside = [tick for tick in TICKS if low <= tick <= high]
    while len(inside) > 6:  # numbers would touch on a phone
        inside = [tick for i, tick in enumerate(inside) if tick == 1 or (i - inside.index(1)) % 2 == 0]
    ticks = tuple(
        Tick(at(tick), times(tick), tick == 1, tick not in (1, inside[0], inside[-1]) or 0 < abs(at(tick) - at(1)) < 28)
        for tick in inside
    )
    return LiftPlot(marks, ticks)


def times(lift: float) -> str:
    """A lift in words: ×3.1, ×1/29."""
    value = lift if lift >= 1 else 1 / lift
    shown = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
    return f"×{shown}" if lift >= 1 or shown == "1" else f"×1/{shown}"


def spread_plot(layers: Sequence[ExampleLayer]) -> SpreadPlot | None:
    """On an axis that has room for all of them; None: the set has no distances."""
    known = [layer.standardised for layer in layers if layer.standardised is not None]
    if not known:
        return None
    low, high = min(-2.0, math.floor(min(known))), max(3.0, math.ceil(max(known)))
    margin = 0.04 * (high - low)

    def at(value: float) -> float:
        return 100 * (value - low + margin) / (high - low + 2 * margin)

    step = max(1, math.ceil((high - low) / 7))
    values = [v for v in range(int(low), int(high) + 1) if v % step == 0]
    ticks = tuple(Tick(at(v), f"{v:+d}" if v else "mean", v == 0, v // step % 2 == 1) for v in values)
    return SpreadPlot(tuple(None if one.standardised is None else at(one.standardised) for one in layers), ticks)

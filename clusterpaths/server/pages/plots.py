"""Small plots without JavaScript: positions of their marks, in percent of the width.

Belongs here: from numbers to positions. Templates draw them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clusterpaths.common.text import times
from clusterpaths.explore.records import ExampleLayer, Lift

SHOWN = 14  # lifts; all are in the table
TICKS = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Tick:
    """A line with a number above; `plain`: the neutral value."""

    at: float
    text: str
    plain: bool = False
    minor: bool = False  # omitted on narrow screens


@dataclass(frozen=True)
class LiftMark:
    """A dot with its whisker. A lift of 0 is at the left edge, an infinite one at the right."""

    lift: Lift
    at: float
    low: float
    high: float
    text: str
    more: bool  # than outside


@dataclass(frozen=True)
class LiftPlot:
    """Lifts on a logarithmic axis."""

    marks: tuple[LiftMark, ...]
    ticks: tuple[Tick, ...]
    all: bool  # that are clear


@dataclass(frozen=True)
class SpreadPlot:
    """Standardised distances, one per layer; `marks` are None if missing."""

    marks: tuple[float | None, ...]
    ticks: tuple[Tick, ...]


def lift_plot(lifts: Sequence[Lift]) -> LiftPlot | None:
    """The clear lifts, at most SHOWN, those whose intervals are farthest from 1; None if there are none."""
    clear = [one for one in lifts if one.clear]
    farthest = sorted(range(len(clear)), key=lambda i: -apart(clear[i]))[:SHOWN]
    shown = [clear[i] for i in sorted(farthest)]
    if not shown:
        return None
    ends = [end for one in shown for end in (*one.interval, one.lift) if end]  # finite positive values
    low, high = max(min(*ends, 0.8), 1 / 100), min(max(*ends, 1.25), 4000)
    room = 0.1 * math.log(high / low)  # for dots at the edge
    left = math.log(low) - (room if any(one.lift == 0 for one in shown) else 0.08)
    right = math.log(high) + (room if any(one.lift is None for one in shown) else 0.08)

    def at(value: float | None) -> float:
        if value is None or value == 0:
            return 100 if value is None else 0
        return 100 * (math.log(min(max(value, low), high)) - left) / (right - left)

    marks = tuple(
        LiftMark(
            one,
            min(max(at(one.lift), 2), 98),  # so that dots at the edge are visible on phones
            at(one.interval[0]),
            at(one.interval[1]),
            times(one.lift),
            one.lift is None or one.lift > 1,
        )
        for one in shown
    )
    inside = [tick for tick in TICKS if low <= tick <= high]
    while len(inside) > 6:  # numbers would overlap on phones
        inside = [tick for i, tick in enumerate(inside) if tick == 1 or (i - inside.index(1)) % 2 == 0]
    ticks = tuple(
        Tick(at(tick), times(tick), tick == 1, tick not in (1, inside[0], inside[-1]) or 0 < abs(at(tick) - at(1)) < 28)
        for tick in inside
    )
    return LiftPlot(marks, ticks, len(shown) == len(clear))


def apart(lift: Lift) -> float:
    """How far from 1 the nearer end of a clear interval is, on the axis."""
    low, high = lift.interval
    return math.log(low) if low > 1 or high is None else -math.log(high)


def spread_plot(layers: Sequence[ExampleLayer]) -> SpreadPlot | None:
    """On an axis that covers all of them; None if the set has no distances."""
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

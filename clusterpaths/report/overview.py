"""Geometry of the overview: a stacked bar of cluster sizes for each layer, and the examples that flow between them.

Belongs here: from counts to coordinates. Colours and text are the template's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEIGHT = 300.0  # of all the bars, gaps included
BAR = 34.0
SPACING = 250.0  # from bar to bar
GAP = 4.0  # between two clusters of a bar, less where there are many
FAINTEST = 0.004  # ribbons below this share are not drawn; with many clusters they only add clutter


@dataclass(frozen=True)
class Segment:
    """One cluster in its layer's bar."""

    layer: int
    cluster: int
    count: int
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Ribbon:
    """The examples that go from one cluster to one of the next layer.

    `ends` are x of both ends, y (top, bottom) at the first and at the second; `d` is its SVG path.
    """

    layer: int
    source: int
    target: int
    count: int
    ends: tuple[float, float, float, float, float, float]

    @property
    def d(self) -> str:
        return _band(*self.ends)


@dataclass(frozen=True)
class Overview:
    """Everything drawn; `hidden` is the share of transitions in ribbons too thin to draw."""

    width: float
    segments: tuple[Segment, ...]
    ribbons: tuple[Ribbon, ...]
    hidden: float


def lay_out(sizes: Sequence[NDArray[np.int64]], flows: Sequence[NDArray[np.int64]]) -> Overview:
    """Place the bars of L layers (sizes[l] is (k_l,)) and the ribbons between (flows[l] is (k_l, k_l+1))."""
    total = max(int(sizes[0].sum()), 1)
    width = SPACING * (len(sizes) - 1) + BAR
    segments: list[Segment] = []
    tops: list[list[float]] = []
    scales: list[float] = []
    for layer, counts in enumerate(sizes):
        occupied = int((counts > 0).sum())
        gap = min(GAP, 0.2 * HEIGHT / max(occupied, 1))
        scale = (HEIGHT - gap * max(occupied - 1, 0)) / total
        y, column = 0.0, []
        for cluster, count in enumerate(counts.tolist()):
            column.append(y)
            if count:
                segments.append(Segment(layer, cluster, count, layer * SPACING, y, count * scale))
                y += count * scale + gap
        tops.append(column)
        scales.append(scale)
    ribbons: list[Ribbon] = []
    hidden = 0
    for layer, flow in enumerate(flows):
        leave, arrive = list(tops[layer]), list(tops[layer + 1])
        x0, x1 = layer * SPACING + BAR, (layer + 1) * SPACING
        for source, target in np.argwhere(flow > 0).tolist():
            count = int(flow[source, target])
            a0, b0 = leave[source], arrive[target]
            a1, b1 = a0 + count * scales[layer], b0 + count * scales[layer + 1]
            leave[source], arrive[target] = a1, b1
            if count < FAINTEST * total:
                hidden += count
                continue
            ribbons.append(Ribbon(layer, source, target, count, (x0, x1, a0, a1, b0, b1)))
    return Overview(width, tuple(segments), tuple(ribbons), hidden / (total * max(len(flows), 1)))


def _band(x0: float, x1: float, a0: float, a1: float, b0: float, b1: float) -> str:
    middle = (x0 + x1) / 2
    return (
        f"M{x0:.0f} {a0:.1f}C{middle:.0f} {a0:.1f} {middle:.0f} {b0:.1f} {x1:.0f} {b0:.1f}"
        f"V{b1:.1f}C{middle:.0f} {b1:.1f} {middle:.0f} {a1:.1f} {x0:.0f} {a1:.1f}Z"
    )

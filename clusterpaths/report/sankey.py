"""A set's clusters and the examples between them as one SVG, with the paths of single images drawn over it.

Belongs here: the picture for pages and files that needs no style sheet and no script. Its counts are `explore/routes.py`,
its geometry `overview.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.routes import routes
from clusterpaths.report.colours import PALETTE, Colours
from clusterpaths.report.overview import BAR, HEIGHT, Overview
from clusterpaths.report.templates import render
from clusterpaths.report.view import lay_out


@dataclass(frozen=True)
class Route:
    """A path to draw: its clusters, what it is in words, and whether it is what would be, not what is."""

    path: tuple[int, ...]
    words: str
    dashed: bool = False


@dataclass(frozen=True)
class _Line:
    d: str
    words: str
    dashed: bool


def draw_sankey(index: SetIndex, drawn: Sequence[Route] = ()) -> str:
    """The SVG document, in the colours of classes.

    Args:
        index: of the set.
        drawn: paths to draw over it, those in front last.
    """
    known = routes(index)
    placed, colours = lay_out(known, index), Colours(known)
    lines = [_Line(_through(placed, route.path), route.words, route.dashed) for route in drawn]
    return render(
        "sankey.svg",
        overview=placed,
        names=index.layers,
        n=max(len(index), 1),
        colour=lambda layer, cluster: PALETTE[colours.of_cluster(layer, cluster)],
        band=lambda ribbon: PALETTE[colours.of_band(ribbon.layer, ribbon.source, ribbon.target)],
        lines=lines,
    )


def _through(placed: Overview, path: tuple[int, ...]) -> str:
    """Through the middle of each cluster; one without examples has no place, and is drawn below its layer's bar."""
    middle = {(one.layer, one.cluster): one.y + one.height / 2 for one in placed.segments}
    left = {one.layer: one.x for one in placed.segments}
    points = [(left[layer], middle.get((layer, cluster), HEIGHT)) for layer, cluster in enumerate(path)]
    parts, before = [], None
    for x, y in points:
        if before is None:
            parts.append(f"M{x:.0f} {y:.1f}")
        else:
            half = (before[0] + x) / 2
            parts.append(f"C{half:.0f} {before[1]:.1f} {half:.0f} {y:.1f} {x:.0f} {y:.1f}")
        parts.append(f"H{x + BAR:.0f}")
        before = (x + BAR, y)
    return "".join(parts)

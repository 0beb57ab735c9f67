"""A set's routes: the figure without JavaScript, and the data for static/sankey.js.

Belongs here: which bands are drawn, and positions of blocks. `report/overview.py` has the geometry, `SetView` the colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterpaths.explore.records import ClassShare, Transition
from clusterpaths.report import overview
from clusterpaths.report.colours import NUMBERS, PATTERNS

if TYPE_CHECKING:
    from clusterpaths.server.pages.set_view import SetView

MOST_LINKS = 400  # bands of the interactive figure, plus some for small clusters; more only add clutter
FITS = 15.0  # minimum height of a block with its number inside
LINE = 16.0  # from one line of words to the next, in the figure
LONGEST = 18  # characters of a class name beside a block


@dataclass(frozen=True)
class RoutesFigure:
    """What the macro `routes_figure` and sankey.js are given."""

    overview: overview.Overview
    agreements: tuple[float | None, ...]  # per layer: share of examples with the majority class of their cluster
    colours: tuple[tuple[int, ...], ...]
    bands: tuple[int, ...]
    links: tuple[tuple[str, ...], ...]
    beside: tuple[tuple[float, float, str], ...]  # words right of blocks: x, y in the figure, text
    room: float  # that they take beyond the last layer
    data: dict[str, Any]
    undrawn: float  # share of all steps that the interactive figure leaves out


def routes_figure(view: SetView) -> RoutesFigure:
    """The figure of all routes of a set."""
    routes, layers = view.routes, view.layers
    at = {layer: place for place, layer in enumerate(layers)}
    k = [len(row) for row in view.colours]
    sizes = [np.zeros(width, np.int64) for width in k]
    for info in routes.clusters:
        sizes[at[info.layer]][info.cluster] = info.count
    flows = [np.zeros((k[i], k[i + 1]), np.int64) for i in range(len(k) - 1)]
    for one in routes.transitions:
        flows[at[one.layer]][one.cluster, one.next_cluster] = one.count
    placed = overview.lay_out(sizes, flows)

    band = view.palette.of_band
    infos = {(at[info.layer], info.cluster): info for info in routes.clusters}
    words = _beside(placed.segments, {key: info.majority for key, info in infos.items()}, len(layers) - 1)
    place = {(s.layer, s.cluster): number for number, s in enumerate(placed.segments)}
    nodes = [
        {
            "name": f"{layers[s.layer]} cluster {s.cluster}",
            "number": s.cluster,
            "layer": s.layer,
            "count": s.count,
            "colour": view.cluster_colour(s.layer, s.cluster),
            "words": _words(infos[s.layer, s.cluster].majority),
            "named": view.cluster_name(s.layer, s.cluster),
            "href": view.cluster_url(s.layer, s.cluster),
            "middle": round((s.y + s.height / 2) / overview.HEIGHT, 5),
            "height": round(s.height / overview.HEIGHT, 5),
            "beside": words[s][1] if s in words else "",
            "beside_at": round(words[s][0] / overview.HEIGHT, 5) if s in words else 0.0,
        }
        for s in placed.segments
    ]
    drawn = _largest(routes.transitions)
    links = [
        {
            "source": place[at[one.layer], one.cluster],
            "target": place[at[one.next_layer], one.next_cluster],
            "count": one.count,
            "colour": band(at[one.layer], one.cluster, one.next_cluster),
            "words": _words(one.majority),
            "href": view.ask_url(cluster=(f"{one.layer}:{one.cluster}", f"{one.next_layer}:{one.next_cluster}")),
        }
        for one in sorted(drawn, key=lambda one: (at[one.layer], one.cluster, one.next_cluster))
    ]
    agreements = tuple(_agreement(view, layer) for layer in layers)
    steps = sum(one.count for one in routes.transitions)
    return RoutesFigure(
        overview=placed,
        agreements=agreements,
        colours=view.colours,
        bands=tuple(band(r.layer, r.source, r.target) for r in placed.ribbons),
        links=tuple(tuple(view.cluster_url(i, c) for c in range(width)) for i, width in enumerate(k)),
        beside=tuple((s.x + overview.BAR + 7, y + 5, text) for s, (y, text) in words.items()),
        room=max([8.0 * len(text) for s, (_, text) in words.items() if s.layer == len(layers) - 1], default=0.0),
        data={
            "layers": list(layers),
            "agreements": agreements,
            "total": view.n,
            "numbers": NUMBERS,
            "patterns": PATTERNS,
            "nodes": nodes,
            "links": links,
        },
        undrawn=1 - sum(one.count for one in drawn) / steps if steps else 0.0,
    )


def _largest(transitions: Sequence[Transition]) -> list[Transition]:
    """The bands to draw; each cluster has its largest one on both sides, since plotly misplaces blocks without any."""
    by_size = sorted(transitions, key=lambda one: -one.count)
    drawn = by_size[:MOST_LINKS]
    leaving = {(one.layer, one.cluster) for one in drawn}
    arriving = {(one.next_layer, one.next_cluster) for one in drawn}
    for one in by_size[MOST_LINKS:]:
        if (one.layer, one.cluster) not in leaving or (one.next_layer, one.next_cluster) not in arriving:
            leaving.add((one.layer, one.cluster))
            arriving.add((one.next_layer, one.next_cluster))
            drawn.append(one)
    return drawn


def _beside(
    segments: Sequence[overview.Segment], majorities: dict[tuple[int, int], ClassShare | None], last: int
) -> dict[overview.Segment, tuple[float, str]]:
    """Labels to the right of blocks with their y: numbers of small blocks, and the last layer's classes."""
    found: dict[overview.Segment, tuple[float, str]] = {}
    for layer in range(last + 1):
        column = [s for s in segments if s.layer == layer]
        labelled = []
        for s in column:
            majority = majorities[s.layer, s.cluster] if layer == last else None
            name = majority.name if majority else ""
            name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
            number = str(s.cluster) if s.height < FITS else ""
            if name or number:
                labelled.append((s, " ".join(part for part in (number, name) if part)))
        fitting = sorted(labelled, key=lambda one: -one[0].height)[: int(overview.HEIGHT / LINE)]
        labelled = [one for one in labelled if one in fitting]
        places = spread([s.y + s.height / 2 for s, _ in labelled])
        found |= {s: (y, text) for (s, text), y in zip(labelled, places, strict=True)}
    return found


def spread(middles: Sequence[float]) -> list[float]:
    """The ascending positions, moved so that they are a line apart and inside the figure."""
    places: list[float] = []
    for middle in middles:
        places.append(max(middle, places[-1] + LINE if places else LINE / 2))
    lowest = overview.HEIGHT - LINE / 2
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], lowest)
        lowest = places[i] - LINE
    return places


def _words(majority: ClassShare | None) -> str:
    if majority is None:
        return ""
    return f"all {majority.name}" if majority.share == 1 else f"most often {majority.name} ({majority.share:.0%})"


def _agreement(view: SetView, layer: str) -> float | None:
    known = [info.majority for info in view.routes.clusters if info.layer == layer and info.majority]
    of = sum(one.count / one.share for one in known)
    return sum(one.count for one in known) / of if of else None

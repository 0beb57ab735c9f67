"""`PublishedSet.sankey`: all clusters of a set, and the examples between those of neighbouring layers.

Belongs here: the figure in plotly, matplotlib and SVG. Its counts are `explore/routes.py`, its geometry `report/overview.py`.
Colours are those of the report: of the most frequent class, `report/colours.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterpaths.errors import ConfigError
from clusterpaths.explore.clusters import cluster_infos
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import ClusterInfo
from clusterpaths.explore.routes import routes
from clusterpaths.notebook.optional import first_installed, require_package
from clusterpaths.report import overview
from clusterpaths.report.colours import PALETTE, Colours
from clusterpaths.report.sankey import draw_sankey
from clusterpaths.report.view import lay_out
from clusterpaths.sets.published import PublishedSet

KINDS = ("plotly", "matplotlib", "svg")


@dataclass(frozen=True, repr=False)
class Svg:
    """A figure that notebooks show."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Svg of {len(self.text):,} characters>"

    def _repr_svg_(self) -> str:
        return self.text


def sankey(published: PublishedSet, kind: str | None = None) -> Any:
    """As `PublishedSet.sankey`."""
    kind = kind or first_installed("plotly") or "svg"
    if kind not in KINDS:
        raise ConfigError(f"sankey() should be asked for one of {', '.join(KINDS)}, got {kind!r} instead.")
    if kind == "svg":
        return Svg(draw_sankey(published.index))
    what = f"sankey({kind!r})"
    if kind == "plotly":
        return _plotly(published, require_package("plotly.graph_objects", what))
    require_package("matplotlib", what)
    return _matplotlib(published)


def _words(info: ClusterInfo) -> str:
    most = f", most often {info.majority.name} ({info.majority.share:.0%})" if info.majority else ""
    return f"{info.layer} cluster {info.cluster}: {info.count:,} examples{most}"


def _plotly(published: PublishedSet, graph_objects: Any) -> Any:
    index: SetIndex = published.index
    drawn = routes(index)
    colours = Colours(drawn)
    at_layer = {layer: at for at, layer in enumerate(index.layers)}
    blocks = lay_out(drawn, index).segments  # without empty clusters, which plotly misplaces
    infos = {(info.layer, info.cluster): info for info in cluster_infos(index)}
    number = {(index.layers[one.layer], one.cluster): at for at, one in enumerate(blocks)}
    across = [at / max(len(index.layers) - 1, 1) for at in range(len(index.layers))]
    figure = graph_objects.Figure(
        graph_objects.Sankey(
            arrangement="fixed",
            node={
                "label": [str(one.cluster) for one in blocks],
                "color": [PALETTE[colours.of_cluster(one.layer, one.cluster)] for one in blocks],
                "customdata": [_words(infos[key]) for key in number],
                "hovertemplate": "%{customdata}<extra></extra>",
                "x": [_inside(across[one.layer]) for one in blocks],
                "y": [_inside((one.y + one.height / 2) / overview.HEIGHT) for one in blocks],  # of its middle
                "pad": 4,
                "line": {"width": 0},
            },
            link={
                "source": [number[one.layer, one.cluster] for one in drawn.transitions],
                "target": [number[one.next_layer, one.next_cluster] for one in drawn.transitions],
                "value": [one.count for one in drawn.transitions],
                "color": [
                    _faint(PALETTE[colours.of_band(at_layer[one.layer], one.cluster, one.next_cluster)])
                    for one in drawn.transitions
                ],
                "hovertemplate": "%{value:,} examples<extra></extra>",
            },
        )
    )
    names = [
        {"text": layer, "x": at, "y": -0.06, "showarrow": False, "xref": "paper", "yref": "paper"}
        for layer, at in zip(index.layers, across, strict=True)
    ]
    margin = {"l": 24, "r": 24, "t": 48, "b": 40}
    return figure.update_layout(title=published.name, annotations=names, height=480, margin=margin)


def _inside(share: float) -> float:
    """plotly ignores positions of 0 and 1."""
    return min(max(share, 0.001), 0.999)


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.35)"


def _matplotlib(published: PublishedSet) -> Any:
    """A figure of its own, which pyplot does not keep."""
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path as Curve

    index: SetIndex = published.index
    drawn = routes(index)
    placed, colours = lay_out(drawn, index), Colours(drawn)
    figure = Figure(figsize=(max(2.2 * len(index.layers), 4), 4.2), layout="constrained")
    axes = figure.add_subplot()
    for ribbon in placed.ribbons:
        x0, x1, a0, a1, b0, b1 = ribbon.ends
        middle = (x0 + x1) / 2
        corners = [
            (x0, a0),
            (middle, a0),
            (middle, b0),
            (x1, b0),
            (x1, b1),
            (middle, b1),
            (middle, a1),
            (x0, a1),
            (x0, a0),
        ]
        codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.CLOSEPOLY]
        band = PALETTE[colours.of_band(ribbon.layer, ribbon.source, ribbon.target)]
        axes.add_patch(PathPatch(Curve(corners, codes), facecolor=band, alpha=0.35, linewidth=0))
    for one in placed.segments:
        block = PALETTE[colours.of_cluster(one.layer, one.cluster)]
        axes.add_patch(Rectangle((one.x, one.y), overview.BAR, one.height, facecolor=block, linewidth=0))
        if one.height >= 12:
            x, y = one.x + overview.BAR / 2, one.y + one.height / 2
            axes.text(x, y, str(one.cluster), ha="center", va="center", fontsize=8)
    for at, layer in enumerate(index.layers):
        axes.text(at * overview.SPACING + overview.BAR / 2, overview.HEIGHT + 22, layer, ha="center", va="center")
    axes.set(xlim=(-8, placed.width + 8), ylim=(overview.HEIGHT + 36, -8), title=published.name)
    axes.axis("off")
    return figure

"""The sweep behind `--k auto` and `--distance auto`, drawn: decision alignment over k, a panel for each layer."""

from __future__ import annotations

from dataclasses import dataclass

from clusterpaths.clustering.choice import Choice, SweepPoint
from clusterpaths.sets.directory import SetDirectory

WIDTH, HEIGHT = 220.0, 130.0


@dataclass(frozen=True)
class Line:
    """One distance in one panel; `d` is an SVG path, `dots` are (x, y, chosen, title)."""

    distance: str
    d: str
    dots: tuple[tuple[float, float, bool, str], ...]


@dataclass(frozen=True)
class Panel:
    """One layer."""

    layer: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Shown:
    """The section."""

    choice: Choice
    panels: tuple[Panel, ...]


def read_choice(directory: SetDirectory) -> Shown | None:
    """choice.json of a set, ready to draw; None without one, or for another version."""
    document = directory.document("choice.json")
    try:
        choice = None if document is None else Choice.model_validate_json(document)
    except ValueError:
        return None
    if choice is None:
        return None
    return Shown(choice, tuple(_panel(choice, layer) for layer in choice.k_per_layer))


def _panel(choice: Choice, layer: str) -> Panel:
    largest = max(point.k for point in choice.points)
    names = dict.fromkeys(point.distance for point in choice.points)
    lines = []
    for name in names:
        points = [point for point in choice.points if (point.layer, point.distance) == (layer, name)]
        dots = tuple((WIDTH * p.k / largest, HEIGHT * (1 - _score(p)), p.chosen, _title(p)) for p in points)
        lines.append(Line(name, "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _, _ in dots), dots))
    return Panel(layer, tuple(lines))


def _score(point: SweepPoint) -> float:
    return max(point.stability, 0) if point.daf is None else point.daf


def _title(point: SweepPoint) -> str:
    interval = "" if point.interval is None else f" ({point.interval[0]:.1%} to {point.interval[1]:.1%})"
    return f"{point.distance}, k={point.k}: {_score(point):.1%}{interval}, stability {point.stability:.2f}"

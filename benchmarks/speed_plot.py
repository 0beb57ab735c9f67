"""docs/speed.svg: seconds over the number of images of each way, and what the stages take.

Belongs here: drawing what suite.py has measured, as SVG by hand: no plotting package is needed for it.
"""

from __future__ import annotations

import math
from typing import Any

COLOURS = ("#555555", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
WIDTH, HEIGHT, LEFT, TOP = 420, 260, 62, 56
BAR, BARS_AT = 17, LEFT + WIDTH + 300  # of which 280 for the names of stages


def plot(end_to_end: dict[str, Any] | None, stages: dict[str, Any] | None) -> str:
    """The picture; a part that was not measured is left out."""
    parts: list[str] = []
    wide, tall = LEFT + WIDTH + 40, TOP + HEIGHT + 60
    if end_to_end:
        parts += lines(end_to_end)
        tall += 20 * len(end_to_end["ways"])
    if stages:
        rows = [*stages["alone"], *(row for name, row in in_runs(stages))]
        parts += bars(stages)
        wide, tall = BARS_AT + 330, max(tall, TOP + BAR * len(rows) + 60)
    size = f'viewBox="0 0 {wide} {tall}" font-family="system-ui, sans-serif" font-size="13"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def lines(result: dict[str, Any]) -> list[str]:
    """Seconds over images, both from 0, a line a way with the figure an image in the legend."""
    ways = {way: {int(n): s for n, s in each["seconds"].items()} for way, each in result["ways"].items()}
    most = max(max(seconds) for seconds in ways.values())
    longest = max(max(seconds.values()) for seconds in ways.values())
    step_x, step_y = step(most), step(longest)

    def at(count: float, seconds: float) -> str:
        return f"{LEFT + WIDTH * count / most:.1f} {TOP + HEIGHT * (1 - seconds / longest):.1f}"

    parts = [f'<text x="{LEFT}" y="24" font-weight="700" font-size="15">Seconds of a whole run over images</text>']
    for tick in range(int(longest / step_y) + 1):
        x, y = at(0, tick * step_y).split()
        parts.append(f'<path d="M{x} {y}h{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{tick * step_y:g}</text>')
    for tick in range(int(most / step_x) + 1):
        x = at(tick * step_x, 0).split()[0]
        parts.append(f'<text x="{x}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{tick * step_x:,.0f}</text>')
    for index, (way, seconds) in enumerate(ways.items()):
        colour = COLOURS[index % len(COLOURS)]
        points = [at(count, value) for count, value in sorted(seconds.items())]
        parts.append(f'<path d="M{"L".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{point.split()[0]}" cy="{point.split()[1]}" r="3" fill="{colour}"/>' for point in points
        ]
        line = TOP + HEIGHT + 48 + 20 * index
        parts.append(f'<path d="M{LEFT} {line}h26" stroke="{colour}" stroke-width="3"/>')
        label = f"{way}: {result['ways'][way]['ms_per_image']:.2f} ms per image"
        parts.append(f'<text x="{LEFT + 34}" y="{line + 4}">{label}</text>')
    return parts


def bars(stages: dict[str, Any]) -> list[str]:
    """ms an image of each stage: pale by the clock, dark what processors worked for it (more than the clock in threads)."""
    rows = [(row["stage"], row) for row in stages["alone"]] + in_runs(stages)
    most = max(max(row["ms"], row["cpu_ms"]) for _, row in rows)
    parts = [
        f'<text x="{BARS_AT - 250}" y="24" font-weight="700" font-size="15">ms per image of each stage</text>',
        f'<text x="{BARS_AT - 250}" y="42" fill="#555">pale: by the clock; dark: processor time, all cores</text>',
    ]
    for index, (name, row) in enumerate(rows):
        y = TOP + BAR * index
        parts.append(f'<text x="{BARS_AT - 8}" y="{y + 12}" text-anchor="end" font-size="12">{name}</text>')
        for key, colour, height in (("ms", "#9ecae1", 12), ("cpu_ms", "#08519c", 4)):
            width = 240 * row[key] / most
            shift = (12 - height) / 2
            parts.append(
                f'<rect x="{BARS_AT}" y="{y + 2 + shift}" width="{width:.1f}" height="{height}" fill="{colour}"/>'
            )
        end = BARS_AT + 6 + 240 * max(row["ms"], row["cpu_ms"]) / most
        parts.append(f'<text x="{end:.1f}" y="{y + 12}" font-size="12">{row["ms"]:.2f}</text>')
    return parts


def in_runs(stages: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Extraction, fit and assignment as runs have them, with each format."""
    return [
        (f"{row['stage']}, {name}", row)
        for name, whole in stages["whole"].items()
        for row in whole["stages"]
        if row["stage"] in ("extract", "fit", "assign")
    ]


def step(most: float) -> float:
    """A round distance between four to ten ticks."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(power * share for share in (0.1, 0.2, 0.25, 0.5, 1, 2) if most / (power * share) <= 8)

"""The settings that `ablation.py` tries, and how its results are reported: docs/ablation.md and docs/ablation.svg.

Belongs here: settings, text, table and plot. Measuring is `ablation.py`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

DISTANCES = ("cosine", "euclidean")
SCALINGS = ("none", "standard", "square root")
KS = (3, 5, 10, 20)
LAYERS = (("fc2",), ("fc1", "fc2"), ("conv1", "conv2", "conv3", "fc1", "fc2"))
SIGMA = 0.05  # of the 0..1 range of pixels, before normalisation
DEFAULT = ("cosine", "none", 5)
DECISION = (  # a judgement, not computed; to be reviewed whenever the numbers change
    "These results are for one model on one data set: a default changes only if a gain is confirmed on another."
)


def table(result: dict[str, Any]) -> str:
    """All settings as Markdown; today's defaults in bold."""
    lines = [
        "| layers | distance | scaling | k | DAF | paths | agreement under noise | AUROC upside-down | AUROC uniform noise |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for layers in LAYERS:
        for row in result["rows"]:
            if tuple(row["layers"]) != layers:
                continue
            cells = [name(layers), row["distance"], row["scaling"], str(row["k"]), interval(row["daf"])]
            cells += [
                f"{row['paths']:.0f}",
                *(interval(row[key]) for key in ("agreement", "upside_down", "uniform_noise")),
            ]
            if (row["distance"], row["scaling"], row["k"]) == DEFAULT:
                cells = [f"**{cell}**" for cell in cells]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """As .926 (.900 to .950)."""
    middle, low, high = (f"{value:.3f}" for value in values)
    return f"{middle} ({low} to {high})"


def name(layers: tuple[str, ...]) -> str:
    """Short, for a table and a plot."""
    return "all five" if len(layers) == 5 else "+".join(layers)


def verdict(rows: list[dict[str, Any]]) -> list[str]:
    """For each set of layers and measure: today's default, and the settings that are significantly better.

    DAF and agreement are compared image by image; AUROCs by their intervals, which must not overlap.
    """
    lines = ["| layers | measure | default | significantly better |", "|---|---|---|---|"]
    measures = {
        "daf": "DAF",
        "agreement": "agreement under noise",
        "upside_down": "AUROC upside-down",
        "uniform_noise": "AUROC uniform noise",
    }
    for layers, (key, label) in product(LAYERS, measures.items()):
        default = default_of(rows, layers)
        better = [row for row in rows if tuple(row["layers"]) == layers and is_better(row, default, key)]
        better.sort(key=lambda row: -row[key][0])
        words = "; ".join(f"{setting(row)}: {row[key][0]:.3f}" for row in better[:3])
        more = f"; {len(better) - 3} more" if len(better) > 3 else ""
        lines.append(f"| {name(layers)} | {label} | {interval(default[key])} | {words + more or 'none'} |")
    return lines


def is_better(row: dict[str, Any], default: dict[str, Any], key: str) -> bool:
    """Beyond the 95% interval."""
    gain = row.get(f"{key}_gain")
    return bool(row[key][1] > default[key][2] if gain is None else gain[1] > 0)


def setting(row: dict[str, Any]) -> str:
    """Short, for a table."""
    return f"{row['distance']}, {row['scaling']}, k={row['k']}"


def document(result: dict[str, Any]) -> str:
    """docs/ablation.md."""
    seconds, rows = sum(result["seconds"].values()), result["rows"]
    return "\n".join(
        [
            "# Distance, scaling, k and layers, measured",
            "",
            *answer(rows),
            "",
            "![DAF over k for each set of layers, distance and scaling](ablation.svg)",
            "",
            "## What was measured",
            "",
            f"{result['images']:,} real images through CelebA_CNN with ImageNet preprocessing: {result['fit']:,} to fit, "
            f"{result['eval']:,} held out and evaluated. Each number is the mean over {len(result['seeds'])} seeds, with "
            "its 95% bootstrap interval over images. Clusters are fitted on random projections of each layer to 256 "
            "dimensions, after scaling: none, standard (each unit to mean 0 and standard deviation 1 on the images to fit), or "
            "the square root. Today's defaults (cosine, no scaling, k=5) are bold.",
            "",
            "- **DAF**, decision alignment: share of held-out images whose prediction is the most frequent one on their path.",
            "- **paths**: number of occupied paths among all images, a measure of complexity.",
            f"- **agreement under noise**, path agreement: share of images whose complete path is unchanged under "
            f"Gaussian noise of sigma {SIGMA}. Fewer clusters raise it, so compare it together with DAF.",
            "- **AUROC**: the OOD score (distance to the own centroid, standardised within the cluster, mean over layers), "
            "for OOD images against held-out ones: the same images upside-down, and uniform noise.",
            "",
            f"Written by `python benchmarks/ablation.py` in {seconds:.0f} s on one core; all numbers, including those "
            "of each seed, are in `benchmarks/results/ablation.json`.",
            "",
            "## Does a setting beat the defaults?",
            "",
            "DAF and agreement are compared image by image; AUROCs count as better only if the intervals do not overlap.",
            "",
            *verdict(rows),
            "",
            "## All settings",
            "",
            table(result),
            "",
        ]
    )


def answer(rows: list[dict[str, Any]]) -> list[str]:
    """A summary of the results for the defaults."""
    ours = [default_of(rows, layers) for layers in LAYERS]

    def other(default: dict[str, Any], *wanted: Any) -> dict[str, Any]:
        return next(
            r for r in rows if (r["layers"], r["distance"], r["scaling"], r["k"]) == (default["layers"], *wanted)
        )

    euclidean = [other(default, "euclidean", *DEFAULT[1:]) for default in ours]
    pairs = "; ".join(
        f"{name(tuple(one['layers']))} {one['daf'][0]:.3f} against {two['daf'][0]:.3f}"
        for one, two in zip(ours, euclidean, strict=True)
    )
    lines = [f"- **Distance.** DAF of cosine against Euclidean, both without scaling and with k=5: {pairs}."]
    ks = "; ".join(
        f"{name(tuple(one['layers']))} " + ", ".join(f"{other(one, *DEFAULT[:2], k)['daf'][0]:.3f} (k={k})" for k in KS)
        for one in ours
    )
    lines.append(f"- **k.** DAF of cosine without scaling: {ks}.")
    gains = "; ".join(
        f"{name(tuple(one['layers']))} {gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"
        for one in ours
        for gain in [other(one, "cosine", "square root", DEFAULT[2])["daf_gain"]]
    )
    lines.append(f"- **Scaling.** Difference in DAF between the square root and the default, image by image: {gains}.")
    paths = "; ".join(f"{name(tuple(one['layers']))} {one['daf'][0]:.3f} with {one['paths']:.0f} paths" for one in ours)
    lines.append(f"- **Layers.** DAF of the defaults: {paths}.")
    spread = max(max(one["daf_of_seeds"]) - min(one["daf_of_seeds"]) for one in ours)
    lines.append(f"- **Seeds.** The defaults' DAF differs by at most {spread:.3f} from seed to seed.")
    better = [
        (row, one) for one in ours for row in rows if row["layers"] == one["layers"] and is_better(row, one, "daf")
    ]
    tried = len(rows) - len(ours)
    found = "; ".join(
        f"{setting(row)} on {name(tuple(row['layers']))}, DAF {row['daf'][0]:.3f} against {one['daf'][0]:.3f} "
        f"({row['daf_gain'][1]:+.3f} to {row['daf_gain'][2]:+.3f}), agreement under noise {row['agreement'][0]:.3f} against "
        f"{one['agreement'][0]:.3f}"
        for row, one in better
    )
    return [
        f"**The defaults stay: {DEFAULT[0]} distance, {'no' if DEFAULT[1] == 'none' else DEFAULT[1]} scaling, k={DEFAULT[2]}.** "
        f"Of {tried} other settings, {len(better) or 'none'} has a significantly higher DAF"
        f"{': ' + found if found else ''}. Among {tried} settings without any true gain, {tried / 40:.0f} would be expected "
        f"by chance. {DECISION}",
        "",
        *lines,
    ]


def plot(rows: list[dict[str, Any]]) -> str:
    """DAF over k as SVG: a panel for each set of layers, colour for distance, dashes for scaling."""
    colours, dashes = (
        {"cosine": "#0072b2", "euclidean": "#d55e00"},
        {"none": "", "standard": "7 4", "square root": "2 3"},
    )
    width, height, left, top = 300, 250, 56, 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + len(LAYERS) * (width + 30)} {top + height + 112}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    lowest = np.floor(min(row["daf"][1] for row in rows) * 5) / 5

    def y(value: float) -> float:
        return top + height * (1 - value) / (1 - lowest)

    for panel, layers in enumerate(LAYERS):
        x0 = left + panel * (width + 30)
        xs = {k: x0 + 22 + at * (width - 44) / (len(KS) - 1) for at, k in enumerate(KS)}
        parts.append(f'<text x="{x0}" y="{top - 18}" font-weight="700" font-size="15">{name(layers)}</text>')
        for tick in np.arange(lowest, 1.001, 0.2):
            parts.append(f'<path d="M{x0} {y(tick):.1f}h{width}" stroke="#ddd"/>')
            if panel == 0:
                parts.append(f'<text x="{x0 - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
        parts += [f'<text x="{x:.1f}" y="{top + height + 20}" text-anchor="middle">k={k}</text>' for k, x in xs.items()]
        for at, (distance, scaling) in enumerate(product(DISTANCES, SCALINGS)):
            line = [r for r in rows if (r["distance"], r["scaling"], tuple(r["layers"])) == (distance, scaling, layers)]
            shift = (at - 2.5) * 4  # intervals side by side, not on top of each other
            points = [(xs[r["k"]] + shift, *map(y, r["daf"])) for r in line]
            d = "L".join(f"{x:.1f} {middle:.1f}" for x, middle, _, _ in points)
            style = f'stroke="{colours[distance]}" stroke-dasharray="{dashes[scaling]}"'
            parts.append(f'<path d="M{d}" fill="none" stroke-width="2" {style}/>')
            for x, middle, low, high in points:
                parts.append(f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colours[distance]}" opacity=".5"/>')
                parts.append(f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="3" fill="{colours[distance]}"/>')
            if (distance, scaling) == DEFAULT[:2]:
                x, middle, _, _ = points[KS.index(DEFAULT[2])]
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="8" fill="none" stroke="#222" stroke-width="2"/>'
                )
    for at, (distance, scaling) in enumerate(product(DISTANCES, SCALINGS)):
        x, line_y = left + (at % 3) * 240, top + height + 50 + (at // 3) * 22
        style = f'stroke="{colours[distance]}" stroke-dasharray="{dashes[scaling]}"'
        parts.append(f'<path d="M{x} {line_y}h34" stroke-width="2" {style}/>')
        parts.append(f'<text x="{x + 42}" y="{line_y + 4}">{distance}, scaling {scaling}</text>')
    ring_y = top + height + 94
    parts.append(f'<circle cx="{left + 17}" cy="{ring_y}" r="8" fill="none" stroke="#222" stroke-width="2"/>')
    parts.append(f'<text x="{left + 42}" y="{ring_y + 4}">today\'s defaults</text>')
    parts.append(
        f'<text x="{left - 40}" y="18" fill="#555">Decision alignment (DAF) on held-out images, 95% intervals</text>'
    )
    return "\n".join([*parts, "</svg>\n"])


def default_of(rows: list[dict[str, Any]], layers: tuple[str, ...]) -> dict[str, Any]:
    """The row of today's defaults."""
    return next(r for r in rows if (tuple(r["layers"]), r["distance"], r["scaling"], r["k"]) == (layers, *DEFAULT))

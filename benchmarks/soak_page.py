"""What soak.py measured: levels and slopes, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine
from scipy import stats

WARM_UP = 0.25  # of a piece, whose samples do not count for slopes
BLOCK = 12  # samples that are averaged: neighbours are alike


def summarise(samples: Path, seen: Mapping[str, Any]) -> dict[str, Any]:
    """Level and slope of every quantity, over all pieces."""
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    found: dict[str, Any] = {}
    for name in dict.fromkeys(row["process"] for row in rows):
        for quantity in ("memory", "handles", "threads", "database"):
            pieces: dict[float, list[tuple[float, float]]] = {}
            for row in rows:
                if row["process"] == name and quantity in row:
                    pieces.setdefault(row["piece"], []).append(((row["at"] - row["piece"]) / 3600, row[quantity]))
            if pieces:
                found[f"{name}, {quantity}"] = slope_of(list(pieces.values()))
    return {**describe_machine(), "minutes": round(seen["seconds"] / 60, 1), "seen": dict(seen), "quantities": found}


def slope_of(pieces: list[list[tuple[float, float]]]) -> dict[str, float | None]:
    """Per hour, by least squares over averages of blocks, each piece with a level of its own; with its 95% interval."""
    hours, values, first, last = list[float](), list[float](), 0.0, 0.0
    for piece in pieces:
        late = piece[int(WARM_UP * len(piece)) :]
        blocks = [np.mean(late[at : at + BLOCK], axis=0) for at in range(0, len(late) - BLOCK + 1, BLOCK)]
        if len(blocks) > 1:
            middle = np.mean(blocks, axis=0)
            hours += [block[0] - middle[0] for block in blocks]
            values += [block[1] - middle[1] for block in blocks]
        first, last = first or piece[int(WARM_UP * len(piece))][1], piece[-1][1]
    result: dict[str, float | None] = {"first": first, "last": last, "slope": None, "low": None, "high": None}
    free = len(hours) - len(pieces) - 1
    if free > 0:
        x, y = np.array(hours), np.array(values)
        slope = float(x @ y / (x @ x))
        error = float(np.sqrt(np.sum((y - slope * x) ** 2) / free / (x @ x)))
        reach = float(stats.t.ppf(0.975, free)) * error
        result |= {"slope": slope, "low": slope - reach, "high": slope + reach}
    return result


def page(result: dict[str, Any]) -> str:
    """results/soak.md."""
    seen = result["seen"]
    sound = sum(seen["models"].values())
    broken = len(seen["models"]) - sound
    lines = [
        "# Hours of use",
        f"{result['minutes']:g} minutes on {result['machine']}, load {result['load_average']:.1f} at the end: "
        f"{seen['requests']:,} requests to the explorer, {seen['sets_made']} times a set that appeared and vanished, "
        f"{seen['clusterings']} clusterings of a living directory, {len(seen['models'])} models that arrived, "
        f"{broken} of them broken. Announced: {seen['announced'].get('onnx-model.arrived', 0)} of {sound} as "
        f"arrived, {seen['announced'].get('onnx-model.rejected', 0)} of {broken} as rejected. Errors: "
        f"{len(seen['errors'])}.",
        "",
        "| process, quantity | after the warm-up | at the end | per hour (95% interval) |",
        "|---|---|---|---|",
    ]
    units = {"memory": " MB", "database": " MB"}
    for name, one in result["quantities"].items():
        unit = units.get(name.split(", ")[1], "")
        interval = (
            "too short"
            if one["slope"] is None
            else f"{one['slope']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f}){unit}"
        )
        lines.append(f"| {name} | {one['first']:.1f}{unit} | {one['last']:.1f}{unit} | {interval} |")
    return (
        "\n".join(
            [*lines, "", result["note"], "", *(f"- {error}" for error in sorted(set(seen["errors"]))[:20])]
        ).rstrip()
        + "\n"
    )

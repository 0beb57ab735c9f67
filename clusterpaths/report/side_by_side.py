"""Two sets of a comparison side by side: how they were made, what was measured of each, and which is better for what.

Belongs here: properties of each set alone, as text. What changed from one to the other is `comparison.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from clusterpaths.comparison.record import Comparison, Side
from clusterpaths.report.numbers import percent, thousands

NOT_KNOWN = "–"


@dataclass(frozen=True)
class Difference:
    """One property on both sides."""

    name: str
    first: str
    second: str


def how_made(first: Side, second: Side) -> tuple[Difference, ...]:
    """Model, options and time of each."""

    def properties(side: Side) -> dict[str, str]:
        return {
            "Model": side.model.file,
            "SHA-256": side.model.sha256[:12],
            "Clusters": clusters(side),
            "Distance": side.distance,
            "Seed": str(side.seed),
            "Examples": thousands(side.num_examples),
            "Created": side.created.replace("T", " ", 1).replace("Z", " UTC").replace("+00:00", " UTC"),
        }

    return _differences(properties(first), properties(second))


def measured(first: Side, second: Side) -> tuple[Difference, ...]:
    """Paths, purity beside chance, decision alignment of each, where at least one side has it."""

    def numbers(side: Side) -> dict[str, str]:
        purities = {
            "Path purity with labels": (side.purity_labels, side.chance_labels),
            "Path purity with predictions": (side.purity_predictions, side.chance_predictions),
        }
        return {
            "Occupied paths": NOT_KNOWN if side.paths is None else thousands(side.paths),
            **{
                name: NOT_KNOWN
                if value is None or chance is None
                else f"{percent(value, 1)}, by chance {percent(chance, 1)}"
                for name, (value, chance) in purities.items()
            },
            "Decision alignment": NOT_KNOWN
            if side.alignment is None
            else f"{side.alignment.value:.3f} ({side.alignment.low:.3f} to {side.alignment.high:.3f})",
        }

    every = _differences(numbers(first), numbers(second))
    return tuple(row for row in every if (row.first, row.second) != (NOT_KNOWN, NOT_KNOWN))


def better(comparison: Comparison) -> tuple[str, ...]:
    """Which set is better for what, in sentences: fewer paths to read, and decisions that follow from the path."""
    first, second = comparison.first, comparison.second
    said = []
    if first.paths is not None and second.paths is not None and first.paths != second.paths:
        few, many = sorted((first, second), key=lambda side: side.paths or 0)
        said.append(
            f"Easier to read: {few.name}, with {thousands(few.paths or 0)} paths; {many.name} has "
            f"{thousands(many.paths or 0)}."
        )
    aligned = [(side.name, side.alignment) for side in (first, second) if side.alignment]
    if len(aligned) == 2:
        (_, low), (name, high) = sorted(aligned, key=lambda one: one[1].value)
        values = f"{high.value:.3f} against {low.value:.3f}"
        if high.low > low.value and low.high < high.value:
            said.append(f"Closer to the model's decisions: {name}, decision alignment {values}.")
        else:
            said.append(
                f"Equally close to the model's decisions, within the 95% intervals: decision alignment {values}."
            )
    return tuple(said)


def clusters(side: Side) -> str:
    """k = 5, or k of each layer where they differ."""
    ks = side.k_per_layer
    if len(set(ks.values())) == 1:
        return f"k = {next(iter(ks.values()))}"
    return ", ".join(f"{k} ({layer})" for layer, k in ks.items())


def _differences(first: dict[str, str], second: dict[str, str]) -> tuple[Difference, ...]:
    return tuple(Difference(name, first[name], second[name]) for name in first)

"""Two sets of a comparison side by side: how they were made, what was measured of each, and which is better in what.

Belongs here: properties of one set, as text. What changed from one to the other is `comparison.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from clusterpaths.comparison.record import Comparison, Side
from clusterpaths.evaluation.record import Measure
from clusterpaths.metrics.intervals import difference_interval
from clusterpaths.report.evaluation import SHORT_NAMES
from clusterpaths.report.numbers import percent, thousands

NOT_KNOWN = "–"
DECISION_ALIGNMENT = "Decision alignment"
Interval3 = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Difference:
    """One property on both sides."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class MetricRow:
    """One metric on both sides, as text; `words` say what it is, on the first of similar metrics.

    `better`: which of them is, 0 or 1, where the interval of the difference excludes 0; "unclear" where it does not; None where
    there is nothing to decide.
    """

    name: str
    words: str
    first: str
    second: str
    better: Literal[0, 1, "unclear"] | None


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


def metric_rows(comparison: Comparison) -> tuple[MetricRow, ...]:
    """What was measured of each set, where at least one side has it."""
    return tuple(row for row in _rows(comparison) if (row.first, row.second) != (NOT_KNOWN, NOT_KNOWN))


def better(comparison: Comparison) -> tuple[str, ...]:
    """Which set is better in what, in sentences."""
    first, second = comparison.first, comparison.second
    said = []
    if first.paths is not None and second.paths is not None and first.paths != second.paths:
        few, many = sorted((first, second), key=lambda side: side.paths or 0)
        said.append(
            f"Easier to read: {few.name}, with {thousands(few.paths or 0)} paths; {many.name} has "
            f"{thousands(many.paths or 0)}."
        )
    rows = [row for row in metric_rows(comparison) if row.better is not None]
    for at, side in enumerate((first, second)):
        if names := [_inside(row.name) for row in rows if row.better == at]:
            said.append(f"Better: {side.name} in {_listed(names)}.")
    unclear = [_inside(row.name) for row in rows if row.better == "unclear"]
    if unclear and len(unclear) == len(rows):
        said.append("Within the 95% intervals neither set is better.")
    if comparison.only_first or comparison.only_second:
        said.append(
            f"Each set is measured on its own examples: {thousands(comparison.only_first)} are in {first.name} only, "
            f"{thousands(comparison.only_second)} in {second.name} only."
        )
    return tuple(said)


def missing(first: Side, second: Side) -> tuple[str, ...]:
    """What was not measured of a side, and how to get it."""
    said = []
    for side in (first, second):
        if side.alignment is None and not side.path_agreement and not side.ood:
            said.append(
                f"{side.name} was not evaluated: decision alignment, path agreement, OOD detection and intervals of purity "
                "are missing. Run it again with the same options and --evaluate, on enough examples: 30 have to be held out."
            )
        elif not side.ood and not side.path_agreement:
            said.append(
                f"{side.name} was evaluated without images: path agreement and OOD detection are missing. Run it again with "
                "--evaluate where the images are."
            )
        if side.purity_labels is None:
            said.append(f"{side.name} has no labels. Give them with --labels.")
        if side.purity_predictions is None:
            said.append(f"{side.name} has no predictions: its model does not output class scores.")
    return tuple(said)


def clusters(side: Side) -> str:
    """k = 5, or k of each layer where they differ."""
    ks = side.k_per_layer
    if len(set(ks.values())) == 1:
        return f"k = {next(iter(ks.values()))}"
    return ", ".join(f"{k} ({layer})" for layer, k in ks.items())


def _rows(comparison: Comparison) -> Iterator[MetricRow]:
    first, second = comparison.first, comparison.second
    yield _measured(
        DECISION_ALIGNMENT,
        "held-out examples whose prediction is the most frequent one of their path",
        first.alignment,
        second.alignment,
    )
    yield MetricRow("Occupied paths", "fewer are easier to read", _count(first.paths), _count(second.paths), None)
    yield MetricRow(
        "Singletons", "examples that are the only one on their path", _singletons(first), _singletons(second), None
    )
    for source in ("predictions", "labels"):
        of = [_purity(side, source) for side in (first, second)]
        above = [None if one is None else one[1] for one in of]
        yield MetricRow(
            f"Path purity with {source}",
            f"examples with the most frequent {source[:-1]} of their path; compared by how far it is above chance",
            NOT_KNOWN if of[0] is None else of[0][0],
            NOT_KNOWN if of[1] is None else of[1][0],
            _which(*above),
        )
    accuracy = _measured(
        "Accuracy", "labelled examples whose prediction is their label", first.accuracy, second.accuracy
    )
    # of one model it differs by the examples only
    yield accuracy if first.model.sha256 != second.model.sha256 else replace(accuracy, better=None)
    for at, name in enumerate(dict.fromkeys([*first.path_agreement, *second.path_agreement])):
        agreement = _measured(
            f"Path agreement: {name}",
            "" if at else "images whose path is unchanged when they are perturbed",
            first.path_agreement.get(name),
            second.path_agreement.get(name),
        )
        # fewer clusters give a higher one, whatever the model does
        yield agreement if comparison.same_k else replace(agreement, better=None)
    for at, name in enumerate(dict.fromkeys([*first.ood, *second.ood])):
        yield _measured(
            f"OOD detection: {SHORT_NAMES.get(name, name)}",
            "" if at else "AUROC of the OOD score; by chance 0.5",
            first.ood.get(name),
            second.ood.get(name),
        )


def _measured(name: str, words: str, first: Measure | None, second: Measure | None) -> MetricRow:
    texts = [NOT_KNOWN if one is None else _text(one.value, one.low, one.high) for one in (first, second)]
    sides = [None if one is None else (one.value, one.low, one.high) for one in (first, second)]
    return MetricRow(name, words, texts[0], texts[1], _which(*sides))


def _which(first: Interval3 | None, second: Interval3 | None) -> Literal[0, 1, "unclear"] | None:
    """Which is higher; all of these metrics are better if they are."""
    if first is None or second is None:
        return None
    low, high = difference_interval(first, second)
    return 1 if low > 0 else 0 if high < 0 else "unclear"


def _purity(side: Side, source: str) -> tuple[str, Interval3 | None] | None:
    """As text, and how far it is above chance, with its interval where that was measured."""
    value, chance = getattr(side, f"purity_{source}"), getattr(side, f"chance_{source}")
    if value is None or chance is None:
        return None
    interval = getattr(side, f"purity_{source}_interval")
    if interval is None:
        return f"{value:.3f}, by chance {chance:.3f}", None
    low, high = interval
    return f"{_text(value, low, high)}, by chance {chance:.3f}", (value - chance, low - chance, high - chance)


def _text(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _count(count: int | None) -> str:
    return NOT_KNOWN if count is None else thousands(count)


def _singletons(side: Side) -> str:
    if side.singletons is None:
        return NOT_KNOWN
    return f"{thousands(side.singletons)} ({percent(side.singletons / max(side.num_examples, 1), 1)})"


def _inside(name: str) -> str:
    """A metric's name inside a sentence."""
    return name if name.startswith("OOD") else name[:1].lower() + name[1:]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _differences(first: dict[str, str], second: dict[str, str]) -> tuple[Difference, ...]:
    return tuple(Difference(name, first[name], second[name]) for name in first)

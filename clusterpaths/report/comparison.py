"""comparison_with_….html: one page on what changed from one set to another, and the same as JSON.

Belongs here: sentences, chips and files of a `Comparison`. `compare.py` computes the numbers; `comparison.html`,
`comparison_section.html` and `report.css` are the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from clusterpaths.comparison.record import Comparison, DecisionCount, ExampleChange, LayerComparison, PathCount
from clusterpaths.metrics.agreement import NO_MATCH
from clusterpaths.records import name_of
from clusterpaths.report.colours import CLASSES, NUMBERS, numbered, of_comparison
from clusterpaths.report.examples import Tile
from clusterpaths.report.numbers import percent, thousands
from clusterpaths.report.side_by_side import Difference, MetricRow, better, how_made, metric_rows, missing
from clusterpaths.report.templates import render
from clusterpaths.report.thumbnails import Thumbnail, make_thumbnails, median_ratio
from clusterpaths.sets.directory import SetDirectory

FEW_CLASSES = 12  # up to here the page shows all pairs of classes as a table


@dataclass(frozen=True)
class Chip:
    """One cluster of a path; `unchanged`: the same on both sides; `new`: no counterpart. `marks`: its classes in report.css."""

    text: str
    marks: str
    title: str
    unchanged: bool = True
    new: bool = False


@dataclass(frozen=True)
class MatchRow:
    """A cluster and its counterpart; `share` of the first's examples that are in the counterpart."""

    first: Chip | None
    second: Chip | None
    shared: int
    size: int
    share: float


@dataclass(frozen=True)
class LayerCard:
    """One layer's numbers and matched clusters."""

    numbers: LayerComparison
    rows: tuple[MatchRow, ...]


@dataclass(frozen=True)
class Move:
    """One example whose path changed, with both paths."""

    example: Tile
    file: str
    before: tuple[Chip, ...]
    after: tuple[Chip, ...]
    layers_changed: int
    label: str | None
    decision: str | None
    decision_changed: bool


@dataclass(frozen=True)
class DecisionRow:
    """Examples with the same change of the predicted class."""

    first: str
    second: str
    count: int
    share: float
    examples: tuple[Tile, ...]


@dataclass(frozen=True)
class Cell:
    """One cell of a table of counts; `share` of its row, `same`: row and column are the same class or path."""

    count: int
    share: float
    same: bool


@dataclass(frozen=True)
class Grid:
    """A table of counts; None as a row or column head: all others."""

    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    cells: tuple[tuple[Cell, ...], ...]
    totals: tuple[int, ...]


@dataclass(frozen=True)
class Page:
    """Everything on the page but the record."""

    headline: str
    second_short: str
    layers: tuple[LayerCard, ...]
    moves: tuple[Move, ...]
    decisions: tuple[DecisionRow, ...]
    confusion: Grid | None
    migration: Grid
    made: tuple[Difference, ...]
    metrics: tuple[MetricRow, ...]
    better: tuple[str, ...]
    missing: tuple[str, ...]
    missing_pictures: int
    pictures: int
    classes: tuple[tuple[str, int, None], ...]  # those with a colour of their own, for the key
    other_classes: int


def write_comparison(
    comparison: Comparison, directory: SetDirectory, read_image: Callable[[str], Image.Image]
) -> tuple[Path, Path]:
    """Write comparison_with_<NAME>_<set>.json and .html into `directory`, atomically.

    Args:
        comparison: what to write; NAME and set are its first set's.
        directory: of the second set.
        read_image: called with names of the `file` column; may raise OSError for a missing image, which
            is shown as a placeholder.

    Raises:
        DiskError: no room or no permission.
    """
    stem = f"comparison_with_{comparison.first.name.replace('/', '_')}"
    changed = comparison.decisions.counts if comparison.decisions else ()
    shown = [*comparison.moved, *(example for pair in changed for example in pair.examples)]
    thumbnails = make_thumbnails((example.file for example in shown), read_image)
    html = render(
        "comparison.html",
        page=comparison_page(comparison, thumbnails),
        c=comparison,
        alone=True,
        thumbnails=list(thumbnails.values()),
        ratio=f"{median_ratio(thumbnails.values()):.3f}",
        css=Markup(resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
    )
    document = directory.write_json(f"{stem}.json", comparison.model_dump(mode="json"))
    return document, directory.write(f"{stem}.html", html.encode("utf-8", errors="replace"))


def comparison_section(comparison: Comparison, classes: Sequence[str] = ()) -> Markup:
    """Two sections without images, key figures and layers, for a page that includes report.css.

    `classes`: names in the order of the page's colours; by default those of the comparison.
    """
    page = comparison_page(comparison, classes=classes)
    return Markup(render("comparison_section.html", page=page, c=comparison))  # noqa: S704 - escaped by the template


@dataclass(frozen=True)
class Shown:
    """A comparison stored in a set's directory, for the set's report; `page` is the file name of its own page."""

    headline: str
    section: Markup
    page: str


def read_comparisons(directory: SetDirectory, classes: Sequence[str] = ()) -> list[Shown]:
    """The comparisons that were written into a set's directory, by name; invalid ones are skipped.

    `classes`: as in `comparison_section`.
    """
    found = []
    for name, document in directory.documents("comparison_with_*.json"):
        try:
            comparison = Comparison.model_validate_json(document)
        except ValueError:
            continue  # of another version: its own page remains valid
        section = comparison_section(comparison, classes)
        found.append(Shown(headline(comparison), section, f"{name.removesuffix('.json')}.html"))
    return found


def headline(comparison: Comparison) -> str:
    """What changed, in one sentence; of different k no share of unchanged paths, which would say nothing about the model."""
    first, second = comparison.first.name, _short(comparison)
    if not comparison.same_k:
        return f"{first} and {second} on the same images, with different numbers of clusters"
    n, examples = thousands(comparison.num_examples), "example" if comparison.num_examples == 1 else "examples"
    keep = "keeps its path" if comparison.num_examples == 1 else "keep their path"
    return f"What changed from {first} to {second}: {percent(comparison.path_agreement)} of {n} {examples} {keep}"


def class_name(comparison: Comparison, index: int) -> str:
    """The name of a prediction's class, or its number."""
    return name_of(comparison.class_names, index)


def label_name(comparison: Comparison, index: int) -> str:
    """The name of a label's class, or its number."""
    return name_of(comparison.label_names or comparison.class_names, index)


def _short(comparison: Comparison) -> str:
    """The second set's name, without the part that it shares with the first's."""
    name, _, own = comparison.second.name.rpartition("/")
    return own if name == comparison.first.name.rpartition("/")[0] else comparison.second.name


def comparison_page(
    comparison: Comparison, pictures: Mapping[str, Thumbnail] | None = None, classes: Sequence[str] = ()
) -> Page:
    """What a page shows of a comparison; `pictures` by file name, `classes` as in `comparison_section`."""
    return _Builder(comparison, pictures or {}, classes or comparison.classes).page()


class _Builder:
    def __init__(self, comparison: Comparison, pictures: Mapping[str, Thumbnail], classes: Sequence[str]) -> None:
        self.comparison, self.pictures, self.classes = comparison, pictures, classes
        self.colour_of = of_comparison(comparison, classes)
        self.names = [layer.layer for layer in comparison.layers]

    def page(self) -> Page:
        c = self.comparison
        pairs = [pair for pair in (c.decisions.counts if c.decisions else ()) if pair.first != pair.second]
        files = {x.file for x in (*c.moved, *(example for pair in pairs for example in pair.examples))}
        return Page(
            headline=headline(c),
            second_short=_short(c),
            layers=tuple(self.layer(layer) for layer in c.layers),
            moves=tuple(self.move(example) for example in c.moved),
            decisions=tuple(self.decision(pair) for pair in pairs if pair.examples),
            confusion=self.confusion(),
            migration=self.migration(),
            made=how_made(c.first, c.second),
            metrics=metric_rows(c),
            better=better(c),
            missing=missing(c.first, c.second),
            missing_pictures=sum(file not in self.pictures for file in files),
            pictures=len(files),
            classes=tuple((name, place, None) for place, name in enumerate(self.classes[:CLASSES])),
            other_classes=max(len(self.classes) - CLASSES, 0),
        )

    def layer(self, numbers: LayerComparison) -> LayerCard:
        rows = []
        for match in numbers.matches:
            first = second = None
            if match.first is not None:
                title = f"{numbers.layer}, cluster {match.first} of the first set"
                first = self.chip(0, numbers.layer, match.first, match.first, match.first, title)
            if match.second is not None:
                named = NO_MATCH if match.first is None else match.first
                title = f"{numbers.layer}, cluster {match.second} of the second set"
                second = self.chip(1, numbers.layer, match.second, match.second, named, title)
            size = match.size_first if match.first is not None else match.size_second
            rows.append(MatchRow(first, second, match.shared, size, match.shared / max(size, 1)))
        return LayerCard(numbers, tuple(rows))

    def chip(self, side: int, layer: str, own: int, number: int, name: int, title: str, unchanged: bool = True) -> Chip:
        """A cluster of one side (0: first, 1: second) with its `own` number there, shown with `number`."""
        new = name == NO_MATCH
        marks = ["unmatched" if new else numbered(name)]  # one number on both sides
        if self.colour_of is not None:
            marks.insert(0, f"f{self.colour_of(side, layer, own)}")
        else:
            marks = ["new"] if new else [f"f{name % NUMBERS}", *marks]
        return Chip(str(number), " ".join(marks), title, unchanged, new)

    def chips(
        self, side: int, own: Sequence[int], renamed: Sequence[int], other: Sequence[int] | None = None
    ) -> tuple[Chip, ...]:
        """A path of one side in the first's names; `other` is the path to compare with."""
        chips = []
        for i, (cluster, name) in enumerate(zip(own, renamed, strict=True)):
            title = f"{self.names[i]}, cluster {cluster}" + ("" if cluster == name else _called(name))
            unchanged = other is None or other[i] == name
            number = cluster if name == NO_MATCH else name
            chips.append(self.chip(side, self.names[i], cluster, number, name, title, unchanged))
        return tuple(chips)

    def example(self, change: ExampleChange) -> Tile:
        parts = [f"example {change.id}", change.file, self.decided(change) or ""]
        parts += [f"label {label_name(self.comparison, change.label)}"] if change.label >= 0 else []
        return Tile(change.id, " · ".join(part for part in parts if part), self.pictures.get(change.file))

    def decided(self, change: ExampleChange) -> str | None:
        classes = (change.prediction_first, change.prediction_second)
        if min(classes) < 0:
            return None
        return " → ".join(dict.fromkeys(class_name(self.comparison, one) for one in classes))

    def move(self, change: ExampleChange) -> Move:
        decided = self.decided(change)
        return Move(
            example=self.example(change),
            file=change.file,
            before=self.chips(0, change.path_first, change.path_first, change.path_renamed),
            after=self.chips(1, change.path_second, change.path_renamed, change.path_first),
            layers_changed=change.layers_changed,
            label=label_name(self.comparison, change.label) if change.label >= 0 else None,
            decision=decided,
            decision_changed=decided is not None and change.prediction_first != change.prediction_second,
        )

    def decision(self, pair: DecisionCount) -> DecisionRow:
        changed = max(self.comparison.decisions.changed if self.comparison.decisions else 0, 1)
        return DecisionRow(
            class_name(self.comparison, pair.first),
            class_name(self.comparison, pair.second),
            pair.count,
            pair.count / changed,
            tuple(self.example(example) for example in pair.examples),
        )

    def confusion(self) -> Grid | None:
        decisions = self.comparison.decisions
        if decisions is None:
            return None
        counts = {(pair.first, pair.second): pair.count for pair in decisions.counts}
        classes = sorted({one for pair in counts for one in pair})
        if len(classes) > FEW_CLASSES:
            return None
        names = tuple(class_name(self.comparison, one) for one in classes)
        table = [[counts.get((a, b), 0) for b in classes] for a in classes]
        return _grid(names, names, table, [[a == b for b in classes] for a in classes])

    def migration(self) -> Grid:
        found = self.comparison.migration
        first = [self.heading(0, path) for path in found.first]
        second = [self.heading(1, path) for path in found.second]
        same = [[a.path == b.renamed for b in found.second] + [False] for a in found.first]
        same.append([False] * (len(second) + 1))
        return _grid((*first, None), (*second, None), found.counts, same)

    def heading(self, side: int, path: PathCount) -> tuple[Chip, ...]:
        return self.chips(side, path.path, path.renamed)


def _called(name: int) -> str:
    return " of the second set, without a counterpart" if name == NO_MATCH else f" of the second set, shown as {name}"


def _grid(
    rows: tuple[Any, ...], columns: tuple[Any, ...], counts: Sequence[Sequence[int]], same: Sequence[Sequence[bool]]
) -> Grid:
    cells = tuple(
        tuple(Cell(count, count / max(sum(row), 1), is_same) for count, is_same in zip(row, marks, strict=True))
        for row, marks in zip(counts, same, strict=True)
    )
    return Grid(rows, columns, cells, tuple(sum(row) for row in counts))

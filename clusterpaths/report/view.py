"""What the template shows, ready to print: cards, rows and sentences.

Belongs here: the step from arrays to words and shares. No HTML, no files, no pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics import counts as tables
from clusterpaths.metrics import paths as metrics
from clusterpaths.records import SetRecord
from clusterpaths.report import overview
from clusterpaths.report.thumbnails import Thumbnail

COLOURS = 8  # the palette of report.css; further clusters start over, their number tells them apart
FEW_CLASSES = 6  # up to here every card lists all classes, in the same order
LISTED = 5  # beyond, the most frequent ones


class Columns(Protocol):
    """The arrays of paths.parquet; see `page.Rows`."""

    @property
    def ids(self) -> NDArray[np.int64]: ...
    @property
    def labels(self) -> NDArray[np.int16]: ...
    @property
    def predictions(self) -> NDArray[np.int16]: ...
    @property
    def clusters(self) -> NDArray[np.int16]: ...
    @property
    def distances(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Example:
    """One picture on the page, or the place where it would be."""

    id: int
    title: str
    picture: Thumbnail | None


@dataclass(frozen=True)
class ClassRow:
    """One class in a card; shares among those with a known class.

    None where none is known, and where labels are other classes than predictions: a row is then of one of both.
    """

    name: str
    prediction: float | None
    label: float | None
    all_predictions: float
    all_labels: float


@dataclass(frozen=True)
class ClusterCard:
    """One cluster of a layer; `label_classes` has rows of its own where labels are other classes than predictions."""

    number: int
    colour: int
    count: int
    share: float
    classes: tuple[ClassRow, ...]
    label_classes: tuple[ClassRow, ...]
    other_classes: int
    other_label_classes: int
    labelled: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class LayerSection:
    """One layer with all its clusters; `agreement` is the purity of this layer's clusters alone."""

    name: str
    cards: tuple[ClusterCard, ...]
    agreement: float | None
    inertia: float
    iterations: int
    note: str
    empty: tuple[int, ...]


@dataclass(frozen=True)
class Majority:
    """The most frequent class on a path: of labels or of predictions."""

    source: str
    name: str
    share: float
    of: int


@dataclass(frozen=True)
class PathRow:
    """One of the most frequent paths; chips are (cluster, colour), one a layer."""

    chips: tuple[tuple[int, int], ...]
    count: int
    share: float
    majorities: tuple[Majority, ...]
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Purity:
    """How far paths and classes agree, beside the chance level."""

    source: str
    value: float
    chance: float
    chance_class: str
    of: int
    alone: int


@dataclass(frozen=True)
class Page:
    """Everything on the page but the record."""

    layers: tuple[LayerSection, ...]
    paths: tuple[PathRow, ...]
    purities: tuple[Purity, ...]
    overview: overview.Overview
    classes: tuple[ClassRow, ...]
    label_classes: tuple[ClassRow, ...]
    n: int
    occupied: int
    possible: str
    ks: str
    singles: int
    covered: float
    has_labels: bool
    has_predictions: bool
    missing_pictures: int
    pictures: int

    @property
    def colours(self) -> tuple[tuple[int, ...], ...]:
        """Of the overview's blocks: colours[layer][cluster]."""
        return tuple(tuple(card.colour for card in layer.cards) for layer in self.layers)

    @property
    def bands(self) -> tuple[int, ...]:
        """Colours of the overview's ribbons: of the cluster that they come from."""
        return tuple(ribbon.source % COLOURS for ribbon in self.overview.ribbons)

    @property
    def links(self) -> tuple[tuple[str, ...], ...]:
        """Where a block of the overview leads: links[layer][cluster]."""
        return tuple(tuple(f"#l{i}c{card.number}" for card in layer.cards) for i, layer in enumerate(self.layers))


def thousands(value: float) -> str:
    """1234567 -> "1,234,567"."""
    return f"{value:,.0f}"


def percent(share: float, digits: int = 0) -> str:
    """0.934 -> "93%"; a share that would print as all or nothing but isn't becomes ">99%" or "<1%"."""
    smallest = 10.0**-digits
    value = share * 100
    if 0 < value < smallest / 2:
        return f"<{smallest:.{digits}f}%"
    if 100 - smallest / 2 <= value < 100:
        return f">{100 - smallest:.{digits}f}%"
    return f"{value:.{digits}f}%"


def seconds(value: float) -> str:
    """0.42 -> "0.4 s", 75 -> "1 min 15 s", 4000 -> "1 h 07 min"."""
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _Builder:
    def __init__(
        self, record: SetRecord, rows: Columns, files: Mapping[int, str], pictures: Mapping[str, Thumbnail]
    ) -> None:
        self.record, self.rows, self.files, self.pictures = record, rows, files, pictures
        self.n_labels, self.n_predictions = (
            max(len(names), int(classes.max(initial=-1)) + 1)
            for names, classes in (
                (record.label_names or record.class_names, rows.labels),
                (record.class_names, rows.predictions),
            )
        )
        if record.same_classes:
            self.n_labels = self.n_predictions = max(self.n_labels, self.n_predictions)
        self.label_counts = np.bincount(rows.labels[rows.labels >= 0], minlength=self.n_labels)
        self.prediction_counts = np.bincount(rows.predictions[rows.predictions >= 0], minlength=self.n_predictions)
        self.all_labels, self.all_predictions = _shares(self.label_counts), _shares(self.prediction_counts)

    def example(self, row: int, distance: str) -> Example:
        label, prediction, file = int(self.rows.labels[row]), int(self.rows.predictions[row]), self.files[row]
        parts = [f"example {self.rows.ids[row]}", file, distance]
        parts += [f"label {self.record.label_name(label)}"] if label >= 0 else []
        parts += [f"prediction {self.record.class_name(prediction)}"] if prediction >= 0 else []
        return Example(int(self.rows.ids[row]), " · ".join(p for p in parts if p), self.pictures.get(file))

    def class_rows(
        self, labels: NDArray[np.int64], predictions: NDArray[np.int64]
    ) -> tuple[tuple[ClassRow, ...], tuple[ClassRow, ...]]:
        """Rows of predictions and labels together, and none; where they are other classes, rows of each."""
        label_shares, prediction_shares = _shares(labels), _shares(predictions)
        if self.record.same_classes:
            weight = prediction_shares + label_shares / 1e6 if predictions.any() else label_shares
            rows = tuple(
                ClassRow(
                    self.record.class_name(i),
                    float(prediction_shares[i]) if predictions.any() else None,
                    float(label_shares[i]) if labels.any() else None,
                    float(self.all_predictions[i]),
                    float(self.all_labels[i]),
                )
                for i in _listed(weight)
            )
            return rows, ()
        of_predictions = tuple(
            ClassRow(self.record.class_name(i), float(prediction_shares[i]), None, float(self.all_predictions[i]), 0.0)
            for i in (_listed(prediction_shares) if predictions.any() else ())
        )
        of_labels = tuple(
            ClassRow(self.record.label_name(i), None, float(label_shares[i]), 0.0, float(self.all_labels[i]))
            for i in (_listed(label_shares) if labels.any() else ())
        )
        return of_predictions, of_labels

    def layer(self, index: int, exemplars: Sequence[NDArray[np.integer]]) -> LayerSection:
        name = self.record.layers[index]
        k, summary = self.record.k_per_layer[name], self.record.clusters.get(name)
        own = self.rows.clusters[:, index]
        sizes = np.bincount(own, minlength=k)
        labels = tables.class_counts(own, self.rows.labels, k, self.n_labels)
        predictions = tables.class_counts(own, self.rows.predictions, k, self.n_predictions)
        cards = []
        for c in range(k):
            classes, label_classes = self.class_rows(labels[c], predictions[c]) if sizes[c] else ((), ())
            counted = labels[c] + predictions[c] if self.record.same_classes else predictions[c]
            cards.append(
                ClusterCard(
                    number=c,
                    colour=c % COLOURS,
                    count=int(sizes[c]),
                    share=int(sizes[c]) / max(len(own), 1),
                    classes=classes,
                    label_classes=label_classes,
                    other_classes=_unlisted(counted, classes),
                    other_label_classes=_unlisted(labels[c], label_classes) if label_classes else 0,
                    labelled=int(labels[c].sum()),
                    examples=tuple(
                        self.example(row, f"distance {self.rows.distances[row, index]:.3g}")
                        for row in exemplars[c].tolist()
                    ),
                )
            )
        agreement = metrics.weighted_purity(own, self.rows.predictions)
        return LayerSection(
            name=name,
            cards=tuple(cards),
            agreement=agreement if agreement is not None else metrics.weighted_purity(own, self.rows.labels),
            inertia=summary.inertia if summary else float("nan"),
            iterations=summary.iterations if summary else 0,
            note=summary.note if summary else "",
            empty=tuple(np.flatnonzero(sizes == 0).tolist()),
        )

    def path(self, members: NDArray[np.integer], path: NDArray[np.int64], examples: NDArray[np.integer]) -> PathRow:
        majorities = []
        for source, classes, name in (
            ("predictions", self.rows.predictions, self.record.class_name),
            ("labels", self.rows.labels, self.record.label_name),
        ):
            best = metrics.largest_class(classes[members])
            if best:
                of = int((classes[members] >= 0).sum())
                majorities.append(Majority(source, name(best[0]), best[1], of))
        return PathRow(
            chips=tuple((c, c % COLOURS) for c in path.tolist()),
            count=len(members),
            share=len(members) / len(self.rows.ids),
            majorities=tuple(majorities),
            examples=tuple(self.example(row, "") for row in examples.tolist()),
        )

    def purity(self, source: str, paths: metrics.PathCounts, recorded: float | None) -> Purity | None:
        classes, name = (
            (self.rows.labels, self.record.label_name)
            if source == "labels"
            else (self.rows.predictions, self.record.class_name)
        )
        value, largest = metrics.weighted_purity(paths.of_example, classes), metrics.largest_class(classes)
        if value is None or largest is None:
            return None
        return Purity(
            source,
            value if recorded is None else recorded,
            largest[1],
            name(largest[0]),
            int((classes >= 0).sum()),
            metrics.count_singletons(paths.of_example, classes),
        )


def build(
    record: SetRecord,
    rows: Columns,
    paths: metrics.PathCounts,
    by_cluster: Sequence[Sequence[NDArray[np.integer]]],
    by_path: Sequence[NDArray[np.integer]],
    files: Mapping[int, str],
    pictures: Mapping[str, Thumbnail],
) -> Page:
    """Put the page together.

    Args:
        by_cluster: for each layer and cluster the rows of its exemplars.
        by_path: for each path that is shown, most frequent first, the rows of its pictures.
        files: file name of every row in either.
        pictures: by file name; a file without one could not be read.
    """
    make = _Builder(record, rows, files, pictures)
    k = [record.k_per_layer[layer] for layer in record.layers]
    columns = rows.clusters.T
    sizes = [np.bincount(column, minlength=k[i]).astype(np.int64) for i, column in enumerate(columns)]
    flows = [tables.crossings(columns[i], columns[i + 1], k[i], k[i + 1]) for i in range(len(k) - 1)]
    purities = (
        make.purity("predictions", paths, record.purity_predictions),
        make.purity("labels", paths, record.purity_labels),
    )
    classes, label_classes = make.class_rows(make.label_counts, make.prediction_counts)
    possible = int(np.prod(np.array(k, dtype=object)))
    distinct = set(files.values())
    return Page(
        layers=tuple(make.layer(i, by_cluster[i]) for i in range(len(k))),
        paths=tuple(
            make.path(np.flatnonzero(paths.of_example == p), paths.paths[p], examples)
            for p, examples in enumerate(by_path)
        ),
        purities=tuple(p for p in purities if p is not None),
        overview=overview.lay_out(sizes, flows),
        classes=classes,
        label_classes=label_classes,
        n=len(rows.ids),
        occupied=len(paths.counts),
        possible=thousands(possible) if possible < 10**9 else f"{float(possible):.1e}",
        ks=str(k[0]) if len(set(k)) == 1 else ", ".join(f"{record.k_per_layer[x]} ({x})" for x in record.layers),
        singles=int((paths.counts == 1).sum()),
        covered=float(paths.counts[: len(by_path)].sum() / max(len(rows.ids), 1)),
        has_labels=bool((rows.labels >= 0).any()),
        has_predictions=bool((rows.predictions >= 0).any()),
        missing_pictures=sum(file not in pictures for file in distinct),
        pictures=len(distinct),
    )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / max(int(counts.sum()), 1)


def _listed(weight: NDArray[np.float64]) -> list[int]:
    """Indices of the classes to show: all of a few, in their order; of many those of most weight that occur."""
    if len(weight) <= FEW_CLASSES:
        return list(range(len(weight)))
    return [i for i in np.argsort(-weight, kind="stable")[:LISTED].tolist() if weight[i] > 0]


def _unlisted(counts: NDArray[np.int64], listed: Sequence[ClassRow]) -> int:
    """Classes that occur and have no row."""
    return max(int(np.count_nonzero(counts)) - len(listed), 0)

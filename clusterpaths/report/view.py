"""The content of report.html: the explorer's records of a set as cards and rows.

Belongs here: which clusters, paths and classes are shown. `explore/` computes the numbers; no HTML, no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.explore.clusters import cluster_infos, exemplars
from clusterpaths.explore.index import SetIndex, class_shares
from clusterpaths.explore.paths import path_page
from clusterpaths.explore.records import ClassShare, ClusterInfo, ExampleRow, PathSummary, Routes
from clusterpaths.explore.routes import routes
from clusterpaths.metrics.paths import Majorities
from clusterpaths.naming.record import Name
from clusterpaths.naming.resolve import SetNames, names_of
from clusterpaths.records import SetRecord
from clusterpaths.report import overview
from clusterpaths.report.colours import Colours
from clusterpaths.report.examples import Tile, tile
from clusterpaths.report.numbers import thousands
from clusterpaths.report.thumbnails import Thumbnail
from clusterpaths.sets.published import PublishedSet

FEW_CLASSES = 6  # up to here every card lists all classes, in the same order
LISTED = 5  # beyond, the most frequent ones


@dataclass(frozen=True)
class Exemplars:
    """The examples on the page: of each layer's clusters, exemplars[layer][cluster], and of the most frequent paths."""

    clusters: tuple[tuple[tuple[ExampleRow, ...], ...], ...]
    paths: tuple[PathSummary, ...]

    def files(self) -> list[str]:
        """Their file names, by id."""
        shown = {one.id: one.file for layer in self.clusters for cluster in layer for one in cluster}
        shown |= {one.id: one.file for path in self.paths for one in path.exemplars}
        return [shown[id_] for id_ in sorted(shown)]


def choose_exemplars(index: SetIndex, count: int, top_paths: int) -> Exemplars:
    """`count` of each cluster and of each of the `top_paths` most frequent paths, nearest to the centroids first."""
    return Exemplars(
        tuple(
            tuple(exemplars(index, layer, cluster, "nearest", count).examples for cluster in range(k))
            for layer, k in zip(index.layers, index.k, strict=True)
        ),
        path_page(index, limit=top_paths, exemplars=count).paths,
    )


@dataclass(frozen=True)
class ClassRow:
    """One class in a card: its share of the predictions and of the labels there, and of those of all examples.

    None if unknown, and if labels and predictions have different classes: a row then has one of both.
    """

    name: str
    prediction: float | None
    label: float | None
    all_predictions: float
    all_labels: float


@dataclass(frozen=True)
class ClusterCard:
    """One cluster of a layer; `label_classes` is used if labels and predictions have different classes."""

    info: ClusterInfo
    name: Name
    classes: tuple[ClassRow, ...]
    label_classes: tuple[ClassRow, ...]
    other_classes: int
    other_label_classes: int
    labelled: int
    examples: tuple[Tile, ...]


@dataclass(frozen=True)
class LayerSection:
    """One layer with all its clusters; `agreement` is the purity of this layer's clusters."""

    name: str
    cards: tuple[ClusterCard, ...]
    agreement: float | None
    inertia: float
    iterations: int
    note: str
    empty: tuple[int, ...]


@dataclass(frozen=True)
class PathRow:
    """One of the most frequent paths."""

    summary: PathSummary
    name: str
    majorities: tuple[tuple[str, ClassShare], ...]  # of predictions, of labels: where any is known
    examples: tuple[Tile, ...]


@dataclass(frozen=True)
class Purity:
    """Path purity, its value by chance, and the base rate."""

    source: str
    value: float
    chance: float
    base: ClassShare  # the most frequent class of all examples
    singletons: int  # examples that are the only one with a known class on their path


@dataclass(frozen=True)
class Page:
    """Everything on the page but the record."""

    layers: tuple[LayerSection, ...]
    paths: tuple[PathRow, ...]
    purities: tuple[Purity, ...]
    overview: overview.Overview
    colours: Colours
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
    names_problem: str
    missing_pictures: int
    pictures: int

    @property
    def bands(self) -> tuple[int, ...]:
        """Colours of the overview's ribbons."""
        return tuple(self.colours.of_band(one.layer, one.source, one.target) for one in self.overview.ribbons)

    @property
    def links(self) -> tuple[tuple[str, ...], ...]:
        """Where a block of the overview leads: links[layer][cluster]."""
        return tuple(tuple(f"#l{i}c{card.info.cluster}" for card in layer.cards) for i, layer in enumerate(self.layers))


class ClassTable:
    """The classes of any group of examples as rows, beside their shares among all examples."""

    def __init__(self, index: SetIndex, record: SetRecord) -> None:
        self.index, self.record = index, record
        self.n_labels = _number(record.label_names or record.class_names, index.labels)
        self.n_predictions = _number(record.class_names, index.predictions)
        if record.same_classes:
            self.n_labels = self.n_predictions = max(self.n_labels, self.n_predictions)
        self.predictions = class_shares(index.predictions, index.class_name)
        self.labels = class_shares(index.labels, index.label_name)
        self.all_predictions = _by_class(self.predictions, self.n_predictions)
        self.all_labels = _by_class(self.labels, self.n_labels)

    def rows(
        self, predictions: Sequence[ClassShare], labels: Sequence[ClassShare]
    ) -> tuple[tuple[ClassRow, ...], tuple[ClassRow, ...]]:
        """Rows of predictions and labels together, and (); if their classes differ, rows of each."""
        of_predictions, of_labels = _by_class(predictions, self.n_predictions), _by_class(labels, self.n_labels)
        if self.record.same_classes:
            weight = of_predictions + of_labels / 1e6 if predictions else of_labels
            rows = tuple(
                ClassRow(
                    self.record.class_name(i),
                    float(of_predictions[i]) if predictions else None,
                    float(of_labels[i]) if labels else None,
                    float(self.all_predictions[i]),
                    float(self.all_labels[i]),
                )
                for i in _listed(weight)
            )
            return rows, ()
        return tuple(
            ClassRow(self.record.class_name(i), float(of_predictions[i]), None, float(self.all_predictions[i]), 0.0)
            for i in (_listed(of_predictions) if predictions else ())
        ), tuple(
            ClassRow(self.record.label_name(i), None, float(of_labels[i]), 0.0, float(self.all_labels[i]))
            for i in (_listed(of_labels) if labels else ())
        )


def build(index: SetIndex, record: SetRecord, shown: Exemplars, pictures: Mapping[str, Thumbnail]) -> Page:
    """Build the page.

    Args:
        index: the set.
        record: of the same set.
        shown: its exemplars.
        pictures: by file name; a file without one could not be read.
    """
    table, drawn, names = ClassTable(index, record), routes(index), names_of(index)
    classes, label_classes = table.rows(table.predictions, table.labels)
    possible = int(np.prod(np.array(index.k, dtype=object)))
    files = set(shown.files())
    return Page(
        layers=tuple(
            _layer(
                index,
                record,
                at,
                table,
                [tuple(tile(x, pictures, x.distance) for x in some) for some in clusters],
                names,
            )
            for at, clusters in enumerate(shown.clusters)
        ),
        paths=tuple(_path(path, pictures, names.path(path.path).text) for path in shown.paths),
        purities=tuple(_purities(index, table)),
        overview=lay_out(drawn, index),
        colours=Colours(drawn),
        classes=classes,
        label_classes=label_classes,
        n=len(index),
        occupied=len(index.paths.counts),
        possible=thousands(possible) if possible < 10**9 else f"{float(possible):.1e}",
        ks=str(index.k[0])
        if len(set(index.k)) == 1
        else ", ".join(f"{k} ({layer})" for layer, k in zip(index.layers, index.k, strict=True)),
        singles=int((index.paths.counts == 1).sum()),
        covered=sum(path.count for path in shown.paths) / max(len(index), 1),
        has_labels=bool(table.labels),
        has_predictions=bool(table.predictions),
        names_problem=names.problem,
        missing_pictures=sum(file not in pictures for file in files),
        pictures=len(files),
    )


def _layer(
    index: SetIndex,
    record: SetRecord,
    at: int,
    table: ClassTable,
    examples: Sequence[tuple[Tile, ...]],
    names: SetNames,
) -> LayerSection:
    name = index.layers[at]
    infos = [info for info in cluster_infos(index) if info.layer == name]
    summary = record.clusters.get(name)
    return LayerSection(
        name=name,
        cards=tuple(_card(index, at, info, table, examples[info.cluster], names) for info in infos),
        agreement=_agreement(info.majority for info in infos),
        inertia=summary.inertia if summary else float("nan"),
        iterations=summary.iterations if summary else 0,
        note=summary.note if summary else "",
        empty=tuple(info.cluster for info in infos if not info.count),
    )


def _card(
    index: SetIndex, layer: int, info: ClusterInfo, table: ClassTable, examples: tuple[Tile, ...], names: SetNames
) -> ClusterCard:
    members = index.members(layer, info.cluster)
    predictions = class_shares(index.predictions[members], index.class_name)
    labels = class_shares(index.labels[members], index.label_name)
    classes, label_classes = table.rows(predictions, labels) if info.count else ((), ())
    occurring = {one.index for one in (*predictions, *(labels if index.same_classes else ()))}
    return ClusterCard(
        info=info,
        name=names.cluster(layer, info.cluster),
        classes=classes,
        label_classes=label_classes,
        other_classes=max(len(occurring) - len(classes), 0),
        other_label_classes=max(len(labels) - len(label_classes), 0) if label_classes else 0,
        labelled=sum(one.count for one in labels),
        examples=examples,
    )


def _path(path: PathSummary, pictures: Mapping[str, Thumbnail], name: str) -> PathRow:
    sources = {"predictions": path.prediction, "labels": path.label}
    return PathRow(
        summary=path,
        name=name,
        majorities=tuple((source, majority) for source, majority in sources.items() if majority),
        examples=tuple(tile(example, pictures) for example in path.exemplars),
    )


def _purities(index: SetIndex, table: ClassTable) -> Iterable[Purity]:
    found: tuple[tuple[str, Sequence[ClassShare], Majorities], ...] = (
        ("predictions", table.predictions, index.path_predictions),
        ("labels", table.labels, index.path_labels),
    )
    purities = index.source.purities if isinstance(index.source, PublishedSet) else {}
    for source, classes, of_paths in found:
        if purity := purities.get(source):
            yield Purity(source, purity.value, purity.chance, classes[0], int((of_paths.known == 1).sum()))


def _agreement(majorities: Iterable[ClassShare | None]) -> float | None:
    """Share of the examples with a known class that have their cluster's most frequent one."""
    found = [one for one in majorities if one]
    return sum(one.count for one in found) / sum(one.known for one in found) if found else None


def lay_out(drawn: Routes, index: SetIndex) -> overview.Overview:
    """Positions of the Sankey's blocks and ribbons."""
    at = {layer: place for place, layer in enumerate(index.layers)}
    flows = [np.zeros(pair, np.int64) for pair in zip(index.k, index.k[1:], strict=False)]
    for one in drawn.transitions:
        flows[at[one.layer]][one.cluster, one.next_cluster] = one.count
    return overview.lay_out(index.sizes, flows)


def _number(names: Sequence[str], classes: NDArray[np.integer]) -> int:
    """Of classes: those with a name, and those that occur."""
    return max(len(names), int(classes.max(initial=-1)) + 1)


def _by_class(shares: Sequence[ClassShare], number: int) -> NDArray[np.float64]:
    """(number,) the share of each class."""
    found = np.zeros(number)
    for one in shares:
        found[one.index] = one.share
    return found


def _listed(weight: NDArray[np.float64]) -> list[int]:
    """Indices of the classes to show: all in order if few, else the occurring ones with the most weight."""
    if len(weight) <= FEW_CLASSES:
        return list(range(len(weight)))
    return [i for i in np.argsort(-weight, kind="stable")[:LISTED].tolist() if weight[i] > 0]

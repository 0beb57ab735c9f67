"""One image among the examples of a set: an example, or an image that was dropped. Both have the same design.

Belongs here: the values of templates/specimen.html. `explanation/` explains the image, `explore/examples.py` has neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clusterpaths.explanation.record import ExampleNote, Explanation, PathNote
from clusterpaths.explore.examples import layers_of, neighbours_of
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.paths import summarise
from clusterpaths.explore.records import ExampleDetail, ExampleLayer, ExampleRow, Neighbour, PathSummary
from clusterpaths.report.explanation import common, ood_sentence, other
from clusterpaths.server.pages.plots import SpreadPlot, spread_plot

NEIGHBOURS = 12


@dataclass(frozen=True)
class Step:
    """Where the image went in one layer, with the examples nearest to the cluster's centroid."""

    layer: ExampleLayer
    mark: float | None  # of the plot
    exemplars: tuple[ExampleRow, ...]


@dataclass(frozen=True)
class Specimen:
    """What both pages show; sentences are empty, and paths None, where the set has no distances."""

    path: tuple[int, ...]
    steps: tuple[Step, ...]
    plot: SpreadPlot | None
    own: PathSummary | None  # the examples on its path
    similar: PathSummary | None  # if there are none: the most similar path
    other: PathSummary | None  # the most similar one with another prediction
    common: str
    other_words: str
    ood_score: float | None
    ood_percentile: float | None
    ood_words: str
    neighbours: tuple[Neighbour, ...]
    shared: dict[int, int]  # id of a neighbour -> layers
    looks_alike: tuple[ExampleRow, ...]  # nearest in the first layer
    decided_alike: tuple[ExampleRow, ...]  # and in the last one; empty without maps
    num_examples: int
    count: int  # examples on its path
    rank: int | None


def of_example(index: SetIndex, detail: ExampleDetail, explanation: Explanation | None) -> Specimen:
    """An example of the set; without an explanation where another program made the set."""
    own = detail.example.id
    return _specimen(
        index, detail.example.path, detail.layers, explanation, detail.neighbours, detail.path, without=own
    )


def of_explained(index: SetIndex, explanation: Explanation, example: int | None = None) -> Specimen:
    """An image that the model was run on; `example`: the one of the set that it is, which is not shown beside itself."""
    path = np.array(explanation.path)
    distances = np.array([one.distance for one in explanation.layers])
    standardised = np.array([one.standardised for one in explanation.layers])
    layers = layers_of(index, path, distances, standardised)
    row = -1 if example is None else index.row_of(example)
    neighbours = neighbours_of(index, path, standardised.astype(np.float32), NEIGHBOURS, without=row)
    own = _summary(index, explanation.own)
    return _specimen(index, explanation.path, layers, explanation, neighbours, own, without=example)


def _specimen(
    index: SetIndex,
    path: tuple[int, ...],
    layers: Sequence[ExampleLayer],
    e: Explanation | None,
    neighbours: tuple[Neighbour, ...],
    own: PathSummary | None,
    without: int | None = None,
) -> Specimen:
    plot = spread_plot(layers)
    marks = plot.marks if plot else (None,) * len(layers)
    listed = [*(one.exemplars for one in e.layers), e.looks_alike, e.decided_alike] if e else [()] * (len(layers) + 2)
    *exemplars, looks_alike, decided_alike = _rows(index, listed)
    if own and without is not None:
        others = tuple(one for one in own.exemplars if one.id != without)
        own = own.model_copy(update={"exemplars": others}) if others else own
    return Specimen(
        path=path,
        steps=tuple(Step(*step) for step in zip(layers, marks, exemplars, strict=True)),
        plot=plot,
        own=own,
        similar=_summary(index, e.similar) if e else None,
        other=_summary(index, e.other) if e else None,
        common=common(e) if e else "",
        other_words=other(e) if e else "",
        ood_score=e.ood_score if e else None,
        ood_percentile=e.ood_percentile if e else None,
        ood_words=ood_sentence(e) if e else "",
        neighbours=neighbours,
        shared={one.example.id: one.layers_shared for one in neighbours},
        looks_alike=tuple(one for one in looks_alike if one.id != without),
        decided_alike=tuple(one for one in decided_alike if one.id != without),
        num_examples=len(index),
        count=own.count if own else 0,
        rank=own.rank if own else None,
    )


def _summary(index: SetIndex, note: PathNote | None) -> PathSummary | None:
    if note is None:
        return None
    return summarise(index, np.array([index.path_rank(note.path)]), len(note.exemplars))[0]


def _rows(index: SetIndex, listed: Sequence[Sequence[ExampleNote]]) -> list[tuple[ExampleRow, ...]]:
    """The examples of several lists, looked up at once."""
    ids = np.array([one.id for notes in listed for one in notes], np.int64)
    found = iter(index.examples(np.searchsorted(index.ids, ids)))  # all of them are the set's
    return [tuple(itertools.islice(found, len(notes))) for notes in listed]

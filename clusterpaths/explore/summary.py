"""What the examples of a selection have in common, and how they differ from the rest of the set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterpaths.explore.ask import asked_layers, comparable, select
from clusterpaths.explore.index import SetIndex, class_shares, right_share
from clusterpaths.explore.lift import cluster_lifts, lifts
from clusterpaths.explore.records import ClassPair, Median, PathShare, Question, SelectionSummary
from clusterpaths.metrics.intervals import LEAST_FOR_INTERVAL, median_interval

LISTED_PATHS = 10
MOST_PAIRS = 200
_LARGE_TABLE = 1 << 20  # cells of labels and predictions; of more only those that occur are counted

Rows = NDArray[np.integer]


def summarise_selection(index: SetIndex, question: Question) -> SelectionSummary:
    """Cached for the last questions; the order does not matter.

    Raises:
        NotFoundError: as `ask.ask`.
    """
    asked = question.model_copy(update={"order": "id"})
    return index.answer(("selection", asked), lambda: _summarise(index, asked))


def _summarise(index: SetIndex, question: Question) -> SelectionSummary:
    rows = select(index, question)
    complete = len(rows) == len(index)  # then there is nothing to copy
    among = comparable(index, question)
    inside, outside = _medians(index, rows, among)
    return SelectionSummary(
        total=len(rows),
        share=len(rows) / max(len(index), 1),
        predictions=class_shares(index.predictions if complete else index.predictions[rows], index.class_name),
        labels=class_shares(index.labels if complete else index.labels[rows], index.label_name),
        right=right_share(index, rows),
        pairs=_pairs(index, rows),
        compared=(len(index) if among is None else len(among)) - len(rows),
        lifts=lifts(index, rows, _given(question), among),
        clusters=cluster_lifts(index, rows, asked_layers(index, question), among),
        ood=None if question.ood else inside,  # selected by it, it differs by that
        ood_outside=None if question.ood else outside,
        paths=_paths(index, rows),
    )


def _given(question: Question) -> set[str]:
    """What the question selects by, as `lifts` takes it."""
    kinds = {name for name in ("prediction", "label", "split") if getattr(question, name)}
    return kinds | {f"attribute:{name.removeprefix('-')}" for name in question.attribute}


def _medians(index: SetIndex, rows: Rows, among: Rows | None) -> tuple[Median | None, Median | None]:
    """Of the OOD scores of these rows, and of the others that they are compared with."""
    if index.ood is None:
        return None, None
    others = np.full(len(index), among is None)
    if among is not None:
        others[among] = True
    others[rows] = False
    return _median(index.ood[rows]), _median(index.ood[others])


def _median(values: NDArray[np.float64]) -> Median | None:
    if not len(values):
        return None
    low, value, high = median_interval(values)
    return Median(value=value, interval=(low, high) if len(values) >= LEAST_FOR_INTERVAL else None, count=len(values))


def _pairs(index: SetIndex, rows: Rows) -> tuple[ClassPair, ...]:
    labels, predictions = index.labels[rows], index.predictions[rows]
    known = (labels >= 0) & (predictions >= 0)
    width = int(index.predictions.max(initial=-1)) + 1
    codes = labels[known].astype(np.int64) * width + predictions[known]
    if not len(codes):
        return ()
    if (int(index.labels.max()) + 1) * width <= _LARGE_TABLE:
        counts = np.bincount(codes)
        codes = np.flatnonzero(counts)
        counts = counts[codes]
    else:
        codes, counts = np.unique(codes, return_counts=True)
    right = (codes // width == codes % width) & index.same_classes
    order = np.lexsort((codes, -counts, right))[:MOST_PAIRS]
    return tuple(
        ClassPair(
            label=index.label_name(code // width),
            prediction=index.class_name(code % width),
            count=count,
            right=is_right if index.same_classes else None,
        )
        for code, count, is_right in zip(
            codes[order].tolist(), counts[order].tolist(), right[order].tolist(), strict=True
        )
    )


def _paths(index: SetIndex, rows: Rows) -> tuple[PathShare, ...]:
    all_counts = index.paths.counts
    counts = all_counts if len(rows) == len(index) else np.bincount(index.paths.of_example[rows], minlength=1)
    return tuple(
        PathShare(
            path=tuple(index.paths.paths[i].tolist()),
            count=int(counts[i]),
            share=int(counts[i]) / len(rows),
            path_count=int(all_counts[i]),
        )
        for i in np.argsort(-counts, kind="stable")[:LISTED_PATHS].tolist()
        if counts[i]
    )

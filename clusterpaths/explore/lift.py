"""How much more frequent classes, attributes and splits are in a group than outside it.

Belongs here: the ratio of two shares and its interval, for all rows of a table.

A table has some fifty rows, so separate 95% intervals would show differences in random groups. The intervals hold jointly
for all rows of one table with at least about 95% (Bonferroni: each row has 1 - 0.05 / rows). There is no correction over
the tables of all clusters and paths of a set: of a hundred tables, about five show a spurious difference.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import Lift
from clusterpaths.metrics.intervals import ratio_interval

Kind = Literal["prediction", "label", "attribute", "split", "cluster"]
_Counts = tuple[int, int, int, int]  # has it, known; outside: has it, known
_Row = tuple[Kind, str, _Counts]
MOST_CLASSES = 50  # of more, those that are most frequent in the group
CONFIDENCE = 0.95


def lifts(
    index: SetIndex,
    rows: NDArray[np.integer],
    given: Container[str] = (),
    among: NDArray[np.integer] | None = None,
) -> tuple[Lift, ...]:
    """Lifts of the group of these rows: clear ones first, largest first, then the others, largest first.

    Empty for an empty group, and where it is all that it is compared with.

    Args:
        index: of the set.
        rows: of the group.
        given: kinds, and attribute:NAME, that the group was selected by, so that their lifts say nothing; they are left out.
        among: rows of the group and of those that it is compared with; None: the set.
    """
    if not 0 < len(rows) < (len(index) if among is None else len(among)):
        return ()
    table = [
        *_classes(index, "prediction", index.predictions, rows, among, index.class_name),
        *_classes(index, "label", index.labels, rows, among, index.label_name),
        *_attributes(index, rows, among),
        *_classes(index, "split", index.splits, rows, among, index.split_names.__getitem__),
    ]
    return _table([row for row in table if row[0] not in given and f"{row[0]}:{row[1]}" not in given])


def cluster_lifts(
    index: SetIndex,
    rows: NDArray[np.integer],
    given: Container[int] = (),
    among: NDArray[np.integer] | None = None,
) -> tuple[Lift, ...]:
    """As `lifts` of the clusters of all layers, named LAYER:CLUSTER; `given`: layers that the group was selected by."""
    compared = len(index) if among is None else len(among)
    if not 0 < len(rows) < compared:
        return ()
    table: list[_Row] = []
    for layer, name in enumerate(index.layers):
        if layer in given:
            continue
        inside = np.bincount(index.clusters[rows, layer], minlength=index.k[layer])
        sizes = (
            index.sizes[layer] if among is None else np.bincount(index.clusters[among, layer], minlength=len(inside))
        )
        table += [
            ("cluster", f"{name}:{cluster}", (count, len(rows), size - count, compared - len(rows)))
            for cluster, (count, size) in enumerate(zip(inside.tolist(), sizes.tolist(), strict=True))
            if size
        ]
    return _table(table)


def _table(table: Sequence[_Row]) -> tuple[Lift, ...]:
    confidence = 1 - (1 - CONFIDENCE) / max(len(table), 1)
    return tuple(sorted((_lift(*row, confidence) for row in table), key=_order))


def _classes(
    index: SetIndex,
    kind: Kind,
    classes: NDArray[np.integer],
    rows: NDArray[np.integer],
    among: NDArray[np.integer] | None,
    name: Callable[[int], str],
) -> Iterator[_Row]:
    all_counts = (
        index.once(("totals", kind), lambda: _count(classes, 0)) if among is None else _count(classes[among], 0)
    )
    if not len(all_counts):
        return
    inside = _count(classes[rows], len(all_counts))
    known, known_all = int(inside.sum()), int(all_counts.sum())
    if not 0 < known < known_all:
        return
    shown = np.argsort(-inside, kind="stable")[:MOST_CLASSES]
    for i in shown.tolist():
        if all_counts[i]:
            yield kind, name(i), (int(inside[i]), known, int(all_counts[i] - inside[i]), known_all - known)


def _attributes(index: SetIndex, rows: NDArray[np.integer], among: NDArray[np.integer] | None) -> Iterator[_Row]:
    if not index.attribute_names:
        return
    having, known = _having(index.attribute_values[:, rows])
    having_all, known_all = index.attribute_totals if among is None else _having(index.attribute_values[:, among])
    for name, a, b, c, d in zip(
        index.attribute_names, having.tolist(), known.tolist(), having_all.tolist(), known_all.tolist(), strict=True
    ):
        if 0 < b < d and c:
            yield "attribute", name, (a, b, c - a, d - b)


def _having(values: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return (values == 1).sum(axis=1), (values != 0).sum(axis=1)


def _count(classes: NDArray[np.integer], width: int) -> NDArray[np.int64]:
    return np.bincount(classes[classes >= 0], minlength=width)


def _lift(kind: Kind, name: str, counts: _Counts, confidence: float) -> Lift:
    inside, known, outside, known_outside = counts
    share, share_outside = inside / known, outside / known_outside
    low, high = ratio_interval(inside, known, outside, known_outside, confidence)
    return Lift(
        kind=kind,
        name=name,
        count=inside,
        known=known,
        share=share,
        share_outside=share_outside,
        lift=share / share_outside if outside else None,
        interval=(low, high),
        clear=low > 1 or (high is not None and high < 1),
    )


def _order(lift: Lift) -> tuple[bool, float, str, str]:
    """Absent outside counts as infinite."""
    return not lift.clear, -(lift.lift if lift.lift is not None else float("inf")), lift.kind, lift.name

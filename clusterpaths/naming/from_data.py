"""Names from the classes and attributes of a set's examples: always there, no person and no model needed.

Belongs here: which words name a cluster, and their check. Lifts and their intervals are `explore/lift.py`'s.

The words are classes and attributes whose lift's interval, joint over the cluster's table, lies above 1. Most telling is the
one with the largest share * log2(lift), at the lower end of the interval: its part, in bits, of the Kullback-Leibler divergence
of the cluster from the rest. A rare attribute with a large lift tells less than a frequent one with a moderate lift.
(Differential cluster labelling: Manning, Raghavan and Schütze, Introduction to Information Retrieval, 17.7, 2008.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.lift import lifts
from clusterpaths.explore.records import Lift
from clusterpaths.metrics.paths import FEW_EXAMPLES
from clusterpaths.naming.record import EMPTY, MIXED, Check, Name, Word, cluster_key

Kind = Literal["prediction", "label", "attribute"]
MOST_WORDS = 3
EXEMPLARS = 24  # nearest to the centroid where the word is known, for its check


def name_cluster(index: SetIndex, layer: int, cluster: int) -> Name:
    """The name of one cluster from the data, with its check; computed once per set.

    "mixed" where nothing is more frequent there than outside, "empty" without examples, and no text where the set has neither
    classes nor attributes.
    """
    return index.once(("name from the data", layer, cluster), lambda: _name_cluster(index, layer, cluster))


def choose_words(table: Iterable[Lift]) -> list[Lift]:
    """At most three rows whose interval lies above 1, most telling first; rows of the same words count once.

    What is known of fewer than `FEW_EXAMPLES` examples names nothing: all of one or two are alike, whatever their interval.
    """
    above = [
        row for row in table if row.kind != "split" and row.count and row.known >= FEW_EXAMPLES and row.interval[0] > 1
    ]
    order = {"prediction": 0, "label": 1, "attribute": 2}
    above.sort(key=lambda row: (-telling(row), order[row.kind], row.name))
    chosen: list[Lift] = []
    for row in above:
        words = _words(row.name)
        if not any(words <= _words(other.name) or _words(other.name) <= words for other in chosen):
            chosen.append(row)
    return chosen[:MOST_WORDS]


def telling(row: Lift) -> float:
    """Share times log2 of the lift, at the lower end of its interval, in bits."""
    return row.share * math.log2(row.interval[0]) if row.interval[0] > 0 else 0.0


def _name_cluster(index: SetIndex, layer: int, cluster: int) -> Name:
    key = cluster_key(index.layers[layer], cluster)
    members = index.members(layer, cluster)
    if not len(members):
        return Name(key=key, text=EMPTY, source="data")
    found = choose_words(lifts(index, members))
    if not found:
        return Name(key=key, text=MIXED if _can_be_named(index) else "", source="data")
    words, known = [], []
    for lift in found:
        share, n = _share(index, lift, members)
        words.append(Word(text=_readable(lift), kind=_kind(lift), lift=lift.lift, share=lift.share, exemplars=share))
        if share is not None:
            known.append((share, n))
    check = Check(kind="exemplars", agreement=min(known)[0], n=min(known)[1]) if known else None
    return Name(key=key, text=", ".join(word.text for word in words), source="data", words=tuple(words), check=check)


def _share(index: SetIndex, row: Lift, members: NDArray[np.integer]) -> tuple[float | None, int]:
    """Share of the nearest of these members that have it, among those where it is known; and how many those are."""
    if row.kind == "attribute":
        values = index.attributes[row.name][members]
        nearest = values[values != 0][:EXEMPLARS]
        having = int((nearest == 1).sum())
    else:
        classes, name = (
            (index.predictions, index.class_name) if row.kind == "prediction" else (index.labels, index.label_name)
        )
        found = classes[members]
        nearest = found[found >= 0][:EXEMPLARS]
        having = [name(i) for i in nearest.tolist()].count(row.name)
    return (having / len(nearest) if len(nearest) else None), len(nearest)


def _can_be_named(index: SetIndex) -> bool:
    return bool(index.attribute_names or (index.predictions >= 0).any() or (index.labels >= 0).any())


def _kind(row: Lift) -> Kind:
    assert row.kind != "split" and row.kind != "cluster"  # noqa: PT018
    return row.kind


def _readable(row: Lift) -> str:
    """The attribute Wavy_Hair is read as wavy hair; classes are as the set has them."""
    if row.kind != "attribute":
        return row.name
    words = row.name.replace("_", " ").split()
    return " ".join(word.lower() if word.istitle() else word for word in words) or row.name


def _words(name: str) -> frozenset[str]:
    return frozenset(name.replace("_", " ").casefold().split())

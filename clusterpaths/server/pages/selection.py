"""What a selection has in common, as the ask page shows it: each line and cell links to the selection narrowed to it.

Belongs here: addresses and levels of shading. `explore/summary.py` counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from clusterpaths.common.text import times
from clusterpaths.explore.records import ClassPair, Lift, SelectionSummary
from clusterpaths.server.pages.plots import apart
from clusterpaths.server.questions import Pairs

LISTED = 5  # lines of a card
MOST_CLASSES = 12  # in a matrix; of more classes the most frequent pairs are listed
LISTED_PAIRS = 20
LEVELS = 6  # of shading
UNUSUAL = 6

Address = Callable[[Iterable[tuple[str, str]]], str]


@dataclass(frozen=True)
class Part:
    """One line of a card; `link`: the selection narrowed to it."""

    text: str
    count: int
    share: float
    link: str
    path: tuple[int, ...] = ()


@dataclass(frozen=True)
class Unusual:
    """One clear lift; `link`: the selection narrowed to it."""

    lift: Lift
    text: str  # ×3.1
    more: bool  # than outside
    link: str


@dataclass(frozen=True)
class Cell:
    """Examples with one label and one prediction."""

    count: int
    right: bool
    level: int  # of shading, by the share of the label's examples; 0: none
    link: str  # empty where there are none


@dataclass(frozen=True)
class Matrix:
    """Labels by predictions, in the order of the classes."""

    predictions: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Cell, ...]], ...]  # label, its examples, a cell per prediction


def most_frequent(asked: Pairs, found: SelectionSummary, by_prediction: bool, address: Address) -> tuple[Part, ...]:
    """The most frequent predictions, else labels; of examples with a known class."""
    source, shares = ("prediction", found.predictions) if by_prediction else ("label", found.labels)
    others = [pair for pair in asked if pair[0] != source]
    return tuple(
        Part(one.name, one.count, one.share, address([*others, (source, one.name)])) for one in shares[:LISTED]
    )


def frequent_paths(asked: Pairs, found: SelectionSummary, address: Address) -> tuple[Part, ...]:
    """The most frequent paths."""
    others = [pair for pair in asked if pair[0] not in ("path", "cluster")]
    parts = []
    for one in found.paths[:LISTED]:
        text = "-".join(map(str, one.path))
        parts.append(Part(text, one.count, one.share, address([*others, ("path", text)]), one.path))
    return tuple(parts)


def most_unusual(asked: Pairs, found: SelectionSummary, address: Address) -> tuple[Unusual, ...]:
    """The clear lifts of classes, attributes, splits and clusters whose intervals are farthest from 1."""
    clear = sorted((one for one in (*found.lifts, *found.clusters) if one.clear), key=lambda one: -apart(one))
    return tuple(
        Unusual(one, times(one.lift), one.lift is None or one.lift > 1, address(_narrowed(asked, one)))
        for one in clear[:UNUSUAL]
    )


def matrix(asked: Pairs, found: SelectionSummary, classes: Sequence[str], address: Address) -> Matrix | None:
    """Labels by predictions, with `classes` in this order; None without both, or of too many classes for a table."""
    pairs: dict[tuple[str, str], ClassPair] = {}
    for one in found.pairs:  # two classes may have one name
        key = (one.label, one.prediction)
        same = pairs.get(key)
        pairs[key] = one if same is None else same.model_copy(update={"count": same.count + one.count})
    labels = _ordered({one.label for one in found.pairs}, classes)
    predictions = _ordered({one.prediction for one in found.pairs}, classes)
    if not pairs or max(len(labels), len(predictions)) > MOST_CLASSES:
        return None
    rows = []
    for label in labels:
        total = sum(one.count for one in found.pairs if one.label == label)
        cells = tuple(_cell(asked, pairs.get((label, prediction)), total, address) for prediction in predictions)
        rows.append((label, total, cells))
    return Matrix(predictions, tuple(rows))


def confused(asked: Pairs, found: SelectionSummary, address: Address) -> tuple[tuple[ClassPair, str], ...]:
    """The most frequent pairs of a label and another prediction, with their addresses."""
    wrong = [one for one in found.pairs if not one.right]
    return tuple((one, address(_of_pair(asked, one))) for one in wrong[:LISTED_PAIRS])


def _cell(asked: Pairs, pair: ClassPair | None, total: int, address: Address) -> Cell:
    if pair is None:
        return Cell(0, False, 0, "")
    level = 1 + min(int(LEVELS * pair.count / total), LEVELS - 1)
    return Cell(pair.count, bool(pair.right), level, address(_of_pair(asked, pair)))


def _of_pair(asked: Pairs, pair: ClassPair) -> Pairs:
    others = [one for one in asked if one[0] not in ("label", "prediction")]
    return [("prediction", pair.prediction), ("label", pair.label), *others]


def _ordered(names: set[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Those of a set of names in the order of the classes, then the others."""
    return (*(name for name in dict.fromkeys(classes) if name in names), *sorted(names - set(classes)))


def _narrowed(asked: Pairs, lift: Lift) -> Pairs:
    """The selection with one more filter; attributes and clusters are added, other fields are replaced.

    A cluster is of another layer than those of the selection, which have no lifts: see `summarise_selection`.
    """
    others = [pair for pair in asked if pair[0] != lift.kind or lift.kind in ("attribute", "cluster")]
    return [*others, (lift.kind, lift.name)]

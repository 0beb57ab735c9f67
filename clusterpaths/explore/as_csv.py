"""Examples as CSV: one line each, with everything that the set knows of them.

Belongs here: columns and their text. Which examples are selected is `ask.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.examples import ATTRIBUTE
from clusterpaths.explore.index import TOP_SCORES, SetIndex

PROBABILITY = "probability_"  # before the name of a class, as ATTRIBUTE before that of an attribute
_PIECE = 2_000  # rows at a time
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what starts a formula in a spreadsheet

Rows = NDArray[np.integer]
Column = list[Any]


def lines(index: SetIndex, rows: Rows, path_names: Sequence[str] = ()) -> Iterator[str]:
    """A header and a line per row, in chunks of some thousand lines; what is not known is empty.

    Columns: id, file, split, label, prediction, right (1 or 0), the cluster of each layer, path_count, path_name (if
    `path_names` has one per occupied path, in the order of `index.paths`), ood_score, confidence (the probability of the
    predicted class); for a model of at most ten classes probability_CLASS, for others probabilities, the ten largest as
    "CLASS=SHARE; …"; then attr_NAME (1 or 0) of each attribute. Text that a spreadsheet would interpret as a formula is
    prefixed with an apostrophe.

    Raises:
        CacheError: with the first chunk; the cache has a table of its examples that cannot be read.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    scores, attributes = _Scores(index), {ATTRIBUTE + name: values for name, values in index.attributes.items()}
    names = ["id", "file", "split", "label", "prediction", "right", *index.layers, "path_count"]
    names += [*(["path_name"] if path_names else []), "ood_score"]
    words = [as_text(name) for name in path_names]
    writer.writerow(map(as_text, [*names, *scores.names, *attributes]))
    splits = [*map(as_text, index.split_names), ""]  # the last one by its index -1: not known; so with the classes
    labels = [*(as_text(index.label_name(i)) for i in range(int(index.labels.max(initial=-1)) + 1)), ""]
    predictions = [*(as_text(index.class_name(i)) for i in range(int(index.predictions.max(initial=-1)) + 1)), ""]
    flags = ["", "1", "0"]  # of 0, 1 and -1
    for start in range(0, max(len(rows), 1), _PIECE):
        at = np.asarray(rows[start : start + _PIECE], np.int64)
        files = [""] * len(at) if index.files is None else [as_text(f or "") for f in index.files.take(at).to_pylist()]
        writer.writerows(
            zip(
                index.ids[at].tolist(),
                files,
                [splits[i] for i in index.splits[at].tolist()],
                [labels[i] for i in index.labels[at].tolist()],
                [predictions[i] for i in index.predictions[at].tolist()],
                [("0", "1", "")[i] for i in index.right[at].tolist()],
                *index.clusters[at].T.tolist(),
                index.paths.counts[index.paths.of_example[at]].tolist(),
                *([[words[path] for path in index.paths.of_example[at].tolist()]] if words else []),
                [""] * len(at) if index.ood is None else [f"{score:.6g}" for score in index.ood[at].tolist()],
                *scores.columns(at),
                *([flags[value] for value in values[at].tolist()] for values in attributes.values()),
                strict=True,
            )
        )
        yield text.getvalue()
        text.seek(0)
        text.truncate()


class _Scores:
    """Columns of class scores: the confidence, and the probabilities of all classes or, of many, of the most probable ones."""

    def __init__(self, index: SetIndex) -> None:
        self._found, self._confidence = index.all_top_scores(), index.confidence
        record = index.source.record
        self._name = record.output_name if record else index.class_name
        number = 0 if self._found is None else int(self._found[0].max(initial=-1)) + 1
        self._all = range(number if number <= TOP_SCORES else 0)
        every = [PROBABILITY + self._name(i) for i in self._all]
        self.names = ["confidence", *(every if self._all or not number else ["probabilities"])]

    def columns(self, at: Rows) -> list[Column]:
        """One per name, of these rows."""
        if self._found is None:
            return [[""] * len(at)]
        classes, shares = self._found[0][at], self._found[1][at]  # (m, top) each
        sure = None if self._confidence is None else self._confidence[at]
        columns = [[""] * len(at) if sure is None else [f"{one:.6g}" if one == one else "" for one in sure.tolist()]]
        if self._all:
            return columns + [_shares(classes == i, shares) for i in self._all]
        return [*columns, [self._listed(*pair) for pair in zip(classes.tolist(), shares.tolist(), strict=True)]]

    def _listed(self, classes: list[int], shares: list[float]) -> str:
        pairs = zip(classes, shares, strict=True)
        return as_text("; ".join(f"{self._name(i)}={share:.4g}" for i, share in pairs if i >= 0))


def _shares(chosen: NDArray[np.bool_], shares: NDArray[np.float32]) -> Column:
    """The share at the chosen position of each row; empty where none is chosen."""
    values = np.where(chosen, shares, 0).sum(axis=1)
    known_rows: list[bool] = np.any(chosen, axis=1).tolist()
    pairs = zip(known_rows, values.tolist(), strict=True)
    return [f"{value:.6g}" if known else "" for known, value in pairs]


def as_text(value: str) -> str:
    """As it goes into a cell: with an apostrophe where a spreadsheet would read a formula."""
    return f"'{value}" if value.startswith(_FORMULA) else value

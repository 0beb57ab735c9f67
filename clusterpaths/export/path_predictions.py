"""What the paths of a set say about the model's decision, as a table that travels with a path model.

Belongs here: the table, and how it is read. The rules are `metrics/alignment.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from pydantic import Field

from clusterpaths.metrics.alignment import SUFFIX_EXAMPLES, UnseenRule
from clusterpaths.metrics.checks import Ints
from clusterpaths.metrics.paths import count_paths, largest_class, majority_classes
from clusterpaths.records import Record


class PathClass(Record):
    """A path, or the end of one, and the most frequent prediction on it."""

    path: tuple[int, ...] = Field(description="clusters of the last layers; empty: of any path")
    prediction: int
    examples: int = Field(description="on it whose prediction is known")


class PathPredictions(Record):
    """The decision that a path predicts, also where no example took it."""

    rule: UnseenRule = Field(
        description="back-off: the longest entry that the path ends with predicts. hamming: the path's own entry or, if no "
        "example took it, a vote of the entries that differ in the fewest layers, each with its examples"
    )
    entries: tuple[PathClass, ...] = Field(description="with back-off, without those that repeat a shorter one")

    @cached_property
    def _classes(self) -> dict[tuple[int, ...], int]:
        return {one.path: one.prediction for one in self.entries}

    @cached_property
    def _table(self) -> tuple[Ints, Ints, Ints]:
        """(e, L) paths, (e,) their predictions and (e,) examples."""
        columns = zip(*((one.path, one.prediction, one.examples) for one in self.entries), strict=True)
        paths, predictions, examples = (np.array(column) for column in columns)
        return paths, predictions, examples

    def predict(self, path: Sequence[int]) -> int:
        """The class index of one complete path."""
        wanted = tuple(path)
        if self.rule == "back-off":
            return next(self._classes[end] for end in _ends(wanted) if end in self._classes)
        if wanted in self._classes:
            return self._classes[wanted]
        paths, predictions, examples = self._table
        hamming = (paths != wanted).sum(axis=1)  # (e,)
        closest = hamming == hamming.min()
        return int(np.bincount(predictions[closest], weights=examples[closest]).argmax())


def path_predictions(clusters: Ints, predictions: Ints, rule: UnseenRule) -> PathPredictions | None:
    """The table of a set's n examples; None where none has a prediction.

    Args:
        clusters: (n, L).
        predictions: (n,), -1 for none.
        rule: for paths that no example took.
    """
    known = predictions >= 0
    largest = largest_class(predictions)
    if largest is None:
        return None
    paths, classes, layers = clusters[known], predictions[known], clusters.shape[1]
    entries: dict[tuple[int, ...], PathClass] = {}
    if rule == "back-off":
        entries[()] = PathClass(path=(), prediction=largest[0], examples=len(classes))
    for length in range(1 if rule == "back-off" else layers, layers + 1):
        found = count_paths(paths[:, -length:])
        best = majority_classes(found.of_example, classes, len(found.counts)).best.tolist()
        of_each = zip(map(tuple, found.paths.tolist()), best, found.counts.tolist(), strict=True)
        for path, prediction, examples in of_each:
            if rule == "back-off":
                shorter = next(entries[end] for end in _ends(path)[1:] if end in entries)
                often = length == layers or examples >= SUFFIX_EXAMPLES
                if not often or shorter.prediction == prediction:
                    continue
            entries[path] = PathClass(path=path, prediction=prediction, examples=examples)
    return PathPredictions(rule=rule, entries=tuple(entries.values()))


def _ends(path: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The path itself, then without its first layer, …, empty last."""
    return [path[start:] for start in range(len(path) + 1)]

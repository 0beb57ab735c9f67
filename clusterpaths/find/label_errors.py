"""Likely label errors: labels that neither the others on the path nor the model support.

Belongs here: which labels are suspects, and their order. Probabilities from paths are `label_shares.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.find.label_shares import Floats, LabelShares
from clusterpaths.find.record import LABEL_ERRORS, LabelError, LabelErrors
from clusterpaths.metrics.checks import Ints
from clusterpaths.sets.cached_examples import TopScores

MANY = (
    0.15  # of the labels, in a list that says more of the model than of the data: 3 to 10% are wrong in known data sets
)
ODDS = (
    2.0  # of another class to the label, for a suspect: leave-one-out by itself makes the label a little less probable
)
Model = Callable[[slice], Floats]  # rows -> their probabilities (m, C); a row of NaN: not known


@dataclass(frozen=True)
class Suspects:
    """m likely errors among n labelled examples, most confident first; each (m,)."""

    rows: NDArray[np.int64]  # positions among the n
    suggested: NDArray[np.int64]
    confidence: Floats  # 1 - probability of the label
    path_share: Floats
    model_share: Floats  # NaN: not known
    path_others: NDArray[np.int64]


def likely_errors(paths: Ints, labels: Ints, classes: int, model: Model | None = None) -> Suspects:
    """Labels that are likely wrong, by confident learning on the mean of two probabilities.

    Two probabilities speak of each label: its share among the other examples on the path (`LabelShares`), and the model's own.
    An example is a suspect if, by one of the two, another class reaches its threshold and is at least twice as probable as the
    label; a class's threshold is the mean probability of that class among the examples with its label. That is confident
    learning (Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021); by paths,
    too, as a model that has learned its labels by heart finds all of them probable. Suspects are ordered by the probability of
    their label, lowest first (there: self-confidence), as the mean of the two: a linear opinion pool (Genest and Zidek,
    Combining Probability Distributions, Statistical Science 1, 1986).

    Args:
        paths: (n, L) cluster ids >= 0.
        labels: (n,) classes >= 0, all known.
        classes: C, more than the largest label.
        model: the model's probabilities; None: only paths.
    """
    n = len(labels)
    if not n:
        none, no = np.empty(0, np.int64), np.empty(0)
        return Suspects(none, none, no, no, no, none)
    shares = LabelShares(paths, labels, classes)
    of_path, of_model = np.empty(n), np.full(n, np.nan)
    for rows, probabilities in shares.blocks():
        at, given = np.arange(len(probabilities)), shares.labels[rows]
        of_path[rows] = probabilities[at, given]
        if model:
            of_model[rows] = model(rows)[at, given]
    own = _pool(of_path, of_model)
    limits_of_path = _thresholds(shares.labels, of_path, classes)
    limits_of_model = _thresholds(shares.labels, of_model, classes)
    suggested, suspect = np.empty(n, np.int64), np.zeros(n, np.bool_)
    for rows, pooled in shares.blocks():
        given = shares.labels[rows]
        suspect[rows] = _is_another(pooled, limits_of_path, given)
        if model:
            probabilities = model(rows)
            suspect[rows] |= _is_another(probabilities, limits_of_model, given)
            pooled = _pool(pooled, probabilities)
        np.put_along_axis(pooled, given[:, None], -1, axis=1)
        suggested[rows] = pooled.argmax(axis=1)
    found = np.flatnonzero(suspect)
    found = found[np.argsort(own[found], kind="stable")]
    return Suspects(found, suggested[found], 1 - own[found], of_path[found], of_model[found], shares.support[found])


def _pool(of_path: Floats, of_model: Floats) -> Floats:
    return np.where(np.isnan(of_model), of_path, (of_path + of_model) / 2)


def _thresholds(labels: NDArray[np.int64], own: Floats, classes: int) -> Floats:
    """(C,) mean probability of each class among the examples with its label, where known; a class without one is not reached."""
    known = ~np.isnan(own)
    counts = np.bincount(labels[known], minlength=classes)
    sums = np.bincount(labels[known], weights=own[known], minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def _is_another(probabilities: Floats, thresholds: Floats, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(m,) whether the most probable of the classes that reach their threshold is at least `ODDS` as probable as the label."""
    at = np.arange(len(labels))
    reached = np.where(probabilities >= thresholds, probabilities, -1).max(axis=1)
    found: NDArray[np.bool_] = (reached > 0) & (reached >= ODDS * probabilities[at, labels])
    return found


def find_label_errors(index: SetIndex) -> Suspects:
    """The suspects of a set, computed once; their rows are those of the index.

    Raises:
        NotFoundError: the set has no labels.
    """
    return index.once(LABEL_ERRORS, lambda: _of_set(index))


def label_errors_page(index: SetIndex, *, limit: int = 50, offset: int = 0) -> LabelErrors:
    """A piece of the list. Raises: NotFoundError: the set has no labels."""
    found = find_label_errors(index)
    labelled = int((index.labels >= 0).sum())
    shown = slice(offset, offset + limit)
    shares = found.model_share[shown].tolist()
    entries = zip(
        index.examples(found.rows[shown]), found.suggested[shown].tolist(), found.confidence[shown].tolist(),
        found.path_share[shown].tolist(), shares, found.path_others[shown].tolist(), strict=True,
    )  # fmt: skip
    return LabelErrors(
        total=len(found.rows),
        limit=limit,
        offset=offset,
        labelled=labelled,
        note=_note(_scores(index) is not None, len(found.rows), labelled),
        entries=tuple(
            LabelError(
                example=example,
                suggested=index.label_name(suggested),
                confidence=confidence,
                path_share=of_path,
                model_share=None if np.isnan(of_model) else of_model,
                path_others=others,
            )
            for example, suggested, confidence, of_path, of_model, others in entries
        ),
    )


def _note(with_model: bool, found: int, labelled: int) -> str:
    return (
        "Labels that are improbable by the labels of the other examples on the same path"
        + (
            ", or by the model; in the order of the mean of both"
            if with_model
            else "; the model's probabilities are not known"
        )
        + ". Confident learning: Northcutt et al., JAIR 2021."
        + (
            f" The list holds {found / labelled:.0%} of all labels: a model that is often wrong fills it with its own errors, so "
            "look first at what the incorrect predictions have in common."
            if found > MANY * labelled
            else ""
        )
    )


def _of_set(index: SetIndex) -> Suspects:
    rows = np.flatnonzero(index.labels >= 0)
    if not len(rows):
        raise NotFoundError(
            f"{index.name} has no labels, so there are no label errors to find. Run again with a data set that has labels."
        )
    labels, scores = index.labels[rows], _scores(index)
    classes = max(int(labels.max()) + 1, 0 if scores is None else _width(index, scores))
    model = None if scores is None else lambda block: _dense(scores, rows[block], classes)
    found = likely_errors(index.clusters[rows], labels, classes, model)
    return Suspects(**(vars(found) | {"rows": rows[found.rows]}))


def _scores(index: SetIndex) -> TopScores | None:
    """The model's probabilities, where its classes are the labels'."""
    record = index.source.record
    if record is None or record.meaning.is_multi_label or not index.same_classes:
        return None
    return index.all_top_scores()


def _width(index: SetIndex, scores: TopScores) -> int:
    record = index.source.record
    return max(int(scores[0].max(initial=-1)) + 1, len(record.class_names) if record else 0)


def _dense(scores: TopScores, rows: NDArray[np.int64], classes: int) -> Floats:
    """(m, C) probabilities from those of the most probable classes; the others share what is left equally."""
    top, shares = scores[0][rows], scores[1][rows].astype(np.float64)  # (m, top) each
    known = top >= 0
    left = np.clip(1 - np.where(known, shares, 0).sum(axis=1), 0, 1)
    found = np.repeat((left / np.maximum(classes - known.sum(axis=1), 1))[:, None], classes, axis=1)
    at = np.repeat(np.arange(len(rows))[:, None], top.shape[1], axis=1)
    found[at[known], top[known]] = shares[known]
    found[~known.any(axis=1)] = np.nan
    return found

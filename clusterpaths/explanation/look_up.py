"""Compare a path with a set: what its examples on the same and on similar paths are, how unusual it is.

Belongs here: the explanation of one image without running a model: by its path, distances and decisions, or of an example of
the set, by what is stored. Sentences and the page are `report/explanation.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import CacheError
from clusterpaths.explanation.record import (
    ClassScore,
    ExampleNote,
    Explanation,
    LayerExplanation,
    MajorityClass,
    PathNote,
    SuffixNote,
)
from clusterpaths.explore.alike import Place, alike_in, place_of
from clusterpaths.explore.index import SetIndex, class_shares
from clusterpaths.explore.paths import summarise
from clusterpaths.explore.records import ClassShare, ExampleRow
from clusterpaths.metrics.alignment import back_off
from clusterpaths.metrics.paths import FEW_EXAMPLES
from clusterpaths.models.outputs import THRESHOLD, Decisions, labels_over_threshold
from clusterpaths.naming.resolve import names_of
from clusterpaths.sets.published import PublishedSet

log = logging.getLogger(__name__)
NO_ALIKE = (
    "Which examples are alike is not known: the set's maps cannot be read. Run again with the same options, which writes them "
    "anew."
)

EXEMPLARS = 8


def look_up(
    index: SetIndex,
    path: NDArray[np.int64],
    distances: NDArray[np.float32],
    decisions: Decisions | None,
    *,
    image: str,
    exemplars: int = EXEMPLARS,
) -> Explanation:
    """The explanation of one image by its path (1, layers), distances (1, layers) and what the model decides on it; n > 0.

    Raises:
        CacheError: another program made the set, so there are no distances.
    """
    make = _Builder(index, path[0], exemplars)
    return _explanation(make, path, distances, *make.read(decisions), image)


def explain_example(index: SetIndex, row: int, *, exemplars: int = EXEMPLARS) -> Explanation:
    """The explanation of an example of the set by what is stored of it; the model is not run.

    So there is no counterfactual, and of many classes only the most probable ones are known.

    Raises:
        CacheError: another program made the set, so there are no distances.
    """
    make = _Builder(index, index.clusters[row].astype(np.int64), exemplars)
    classes = tuple(ClassScore(index=one.index, name=one.name, probability=one.share) for one in index.top_scores(row))
    multi_label = published_of(index).record.meaning.is_multi_label
    over = tuple(one.name for one in classes if one.probability >= THRESHOLD) if multi_label else ()
    path, distances = index.clusters[row : row + 1].astype(np.int64), published_of(index).distances[row : row + 1]
    found = _explanation(make, path, distances, classes, over, int(index.predictions[row]), index.file(row))
    if index.maps is None:
        return found
    try:
        looks, decided = _alike_at_ends(index, row)
        return found.model_copy(update={"looks_alike": looks, "decided_alike": decided})
    except CacheError as error:  # all else is known
        log.warning("which examples of %s are alike is not known: %s", index.name, error)
        return found.model_copy(update={"warnings": (*found.warnings, NO_ALIKE)})


def prepare_example(index: SetIndex, row: int) -> None:
    """Read from disk what `explain_example` needs, and find what is alike, so that it does not wait for it.

    Raises:
        CacheError: a file of the set or its cache cannot be read.
    """
    index.all_top_scores()
    if index.maps is not None:
        with contextlib.suppress(CacheError):  # `explain_example` says so
            _alike_at_ends(index, row)


def _alike_at_ends(index: SetIndex, row: int) -> tuple[tuple[ExampleNote, ...], ...]:
    """The examples nearest to one in the first and in the last layer."""
    return index.answer(
        ("alike", row),
        lambda: tuple(
            notes_of(alike_in(index, layer, place_of(index, layer, row), without=row)) for layer in ends_of(index)
        ),
    )


def ends_of(index: SetIndex) -> tuple[int, int]:
    """The first and the last layer."""
    return 0, len(index.layers) - 1


def with_alike(e: Explanation, index: SetIndex, places: Mapping[int, Place]) -> Explanation:
    """The explanation with the examples nearest to these places, in the first and the last layer.

    Raises:
        NotFoundError: the set has no maps.
        CacheError: they cannot be read.
    """
    looks, decided = (notes_of(alike_in(index, layer, places[layer])) for layer in ends_of(index))
    return e.model_copy(update={"looks_alike": looks, "decided_alike": decided})


def _explanation(
    make: _Builder,
    path: NDArray[np.int64],
    distances: NDArray[np.float32],
    classes: tuple[ClassScore, ...],
    over: tuple[str, ...],
    predicted: int,
    image: str,
) -> Explanation:
    index = make.index
    published = published_of(index)
    scale = published.distance_scale
    score = float(scale.score(path, distances)[0])
    standardised = scale.standardise(path, distances)[0]
    own_note = None if make.own is None else make.note(make.own)
    everywhere: NDArray[np.int64] = np.arange(len(index.paths.counts))
    return Explanation(
        image=image,
        set=published.name,
        model=published.record.model,
        num_examples=len(index),
        prediction=next((one for one in classes if one.index == predicted), None),
        labels=over,
        classes=classes,
        path=tuple(path[0].tolist()),
        path_name=make.names.path(path[0].tolist()).text,
        layers=make.layers(distances[0], standardised),
        count=own_note.count if own_note else 0,
        share=(own_note.count if own_note else 0) / len(index),
        rank=index.competition_rank(own_note.count) if own_note else None,
        occupied=len(index.paths.counts),
        own=own_note,
        similar=None if own_note else make.most_similar(everywhere),
        suffix=None if own_note or published.unseen_rule != "back-off" else make.suffix(),
        ood_score=score,
        ood_percentile=index.ood_percentile(score) or 0.0,
        other=make.most_similar(make.with_other_prediction(predicted if predicted >= 0 else None)),
    )


class _Builder:
    """Compares a set with one path, (layers,)."""

    def __init__(self, index: SetIndex, path: NDArray[np.int64], exemplars: int) -> None:
        self.index, self.path, self.exemplars, self.names = index, path, exemplars, names_of(index)
        self.hamming = len(path) - index.layers_shared(path)  # (p,)
        same = np.flatnonzero(self.hamming == 0)
        self.own = int(same[0]) if len(same) else None  # its position among the occupied paths

    def read(self, decisions: Decisions | None) -> tuple[tuple[ClassScore, ...], tuple[str, ...], int]:
        """Classes or labels, most probable first; of a multi-label model those over 0.5; the predicted class or -1."""
        if decisions is None or decisions.probabilities is None:
            return (), (), -1
        shares, outputs = decisions.probabilities[0], decisions.outputs
        name = outputs.label_name if outputs.is_multi_label else self.index.class_name
        order = np.argsort(-shares, kind="stable").tolist()
        classes = tuple(ClassScore(index=i, name=name(i), probability=float(shares[i])) for i in order)
        over = tuple(outputs.label_name(i) for i in labels_over_threshold(outputs, shares).tolist())
        return classes, over, int(decisions.predictions[0])

    def layers(
        self, distances: NDArray[np.floating], standardised: NDArray[np.floating]
    ) -> tuple[LayerExplanation, ...]:
        """Each layer, by the distances to the centroids of the path (L,), twice."""
        index, clusters = self.index, self.path.tolist()
        members = [index.members(i, cluster) for i, cluster in enumerate(clusters)]
        shown = iter(notes_of(index.examples(np.concatenate([rows[: self.exemplars] for rows in members]))))  # at once
        return tuple(
            LayerExplanation(
                layer=layer,
                cluster=cluster,
                name=self.names.cluster(i, cluster).text,
                distance=float(distances[i]),
                standardised=float(standardised[i]),
                cluster_count=len(rows),
                exemplars=tuple(itertools.islice(shown, min(len(rows), self.exemplars))),
            )
            for i, (layer, cluster, rows) in enumerate(zip(index.layers, clusters, members, strict=True))
        )

    def note(self, at: int) -> PathNote:
        summary = summarise(self.index, np.array([at]), self.exemplars)[0]
        return PathNote(
            path=summary.path,
            hamming=int(self.hamming[at]),
            count=summary.count,
            majority_predictions=_majority(summary.prediction),
            majority_labels=_majority(summary.label),
            exemplars=notes_of(summary.exemplars),
        )

    def suffix(self) -> SuffixNote | None:
        """The longest end of the path that often has a prediction, as `metrics.alignment.back_off` finds it."""
        predictions = self.index.predictions
        length = int(back_off(self.index.clusters, predictions, self.path[None])[1][0])
        if not length:
            return None
        members = (self.index.clusters[:, -length:] == self.path[-length:]).all(axis=1)
        most = _majority(class_shares(predictions[members], self.index.class_name)[0])
        assert most is not None
        return SuffixNote(path=tuple(self.path[-length:].tolist()), majority_predictions=most)

    def with_other_prediction(self, decision: int | None) -> NDArray[np.int64]:
        """Positions of the paths with another majority prediction; by labels if the model has no class scores.

        Only those on which at least `FEW_EXAMPLES` examples have a known class: the majority of one or two says nothing.
        """
        majorities = self.index.path_labels if decision is None else self.index.path_predictions
        majority = np.where(majorities.known >= FEW_EXAMPLES, majorities.best, -1)  # (p,)
        if decision is None:
            decision = -1 if self.own is None else int(majority[self.own])
        return np.flatnonzero((majority >= 0) & (majority != decision)) if decision >= 0 else np.empty(0, np.int64)

    def most_similar(self, among: NDArray[np.int64]) -> PathNote | None:
        """The one of these paths that differs in the fewest layers; of several the most frequent."""
        if not len(among):
            return None
        return self.note(int(among[np.argmin(self.hamming[among])]))  # paths are sorted by count: the first wins


def published_of(index: SetIndex) -> PublishedSet:
    """Raises: CacheError: another program made the set."""
    if not isinstance(index.source, PublishedSet):
        raise CacheError(f"{index.name} was made by another program; expected a set that ClusterPaths published.")
    return index.source


def notes_of(examples: tuple[ExampleRow, ...]) -> tuple[ExampleNote, ...]:
    """Examples as an explanation has them."""
    return tuple(ExampleNote(id=one.id, file=one.file, label=one.label, prediction=one.prediction) for one in examples)


def _majority(found: ClassShare | None) -> MajorityClass | None:
    return MajorityClass(index=found.index, name=found.name, share=found.share, of=found.known) if found else None

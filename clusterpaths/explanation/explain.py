"""Explain one: how the model came to its decision about one image, beside the examples of a set.

Belongs here: one image through the model, its cluster path, and what the set knows of that path; as a record. Sentences
and the page are `report/explanation.py`. The image is turned as its EXIF entry says, which extraction does not do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clusterpaths.clustering.kmeans import first_alike, nearest
from clusterpaths.datasets.base import open_rgb
from clusterpaths.errors import CacheError, DatasetError
from clusterpaths.explanation.record import (
    ClassScore,
    ExampleNote,
    Explanation,
    LayerExplanation,
    MajorityClass,
    PathNote,
)
from clusterpaths.export.path_model import check_set_model, read_centroids, stored_dtypes
from clusterpaths.metrics import counts as tables
from clusterpaths.metrics.ood import DistanceScale, overall_distance, scale_distances
from clusterpaths.metrics.paths import PathCounts, count_paths, largest_class
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import SetRecord
from clusterpaths.sets.set_files import Rows, read_record, read_rows

__all__ = [
    "ClassScore",
    "ExampleNote",
    "Explanation",
    "LayerExplanation",
    "MajorityClass",
    "Opened",
    "PathNote",
    "explain_image",
    "look_up",
    "open_set",
    "read_upright",
    "trace_one",
]

EXEMPLARS = 8


def explain_image(image: Path, set_dir: Path, model_path: Path, *, exemplars: int = EXEMPLARS) -> Explanation:
    """Run the set's model on one image and look its path up among the set's examples.

    Raises:
        DatasetError: no image that can be read.
        ModelError: another model than the set's.
        CacheError: the set's files are missing or do not fit together.
    """
    record = read_record(set_dir)
    opened = open_set(set_dir, record, read_rows(set_dir, record), model_path)
    return opened.explain(read_upright(image), str(image), exemplars=exemplars)


@dataclass(frozen=True)
class Known:
    """What is worked out of a set's rows once, whatever image is looked up."""

    paths: PathCounts
    scale: DistanceScale
    scores: NDArray[np.float64]  # (n,) OOD scores of the set's own examples


def know(record: SetRecord, rows: Rows) -> Known:
    """Count a set's paths and score its examples; n > 0."""
    scale = scale_distances(rows.clusters, rows.distances, [record.k_per_layer[layer] for layer in record.layers])
    return Known(count_paths(rows.clusters), scale, scale.score(rows.clusters, rows.distances))


@dataclass(frozen=True)
class Opened:
    """A set with its model in a session, ready for one image after another."""

    name: str  # NAME/set_NN
    record: SetRecord
    rows: Rows
    known: Known
    centroids: dict[str, NDArray[np.float32]]  # layer -> (k, width)
    session: TapSession
    warnings: tuple[str, ...]

    def explain(self, picture: Image.Image, name: str, *, exemplars: int = EXEMPLARS) -> Explanation:
        """Run the model on an upright RGB image and look its path up.

        Raises:
            ModelError: the model cannot be run on it.
        """
        pixels = fit(picture, self.record.preprocessing)
        outputs = self.session.run(normalise(pixels[None], self.record.preprocessing))
        at = trace_one(outputs, self.record, self.centroids)
        logits = None if outputs.logits is None else outputs.logits[0]
        found = look_up(
            self.record, self.rows, *at, logits, image=name, name=self.name, exemplars=exemplars, known=self.known
        )
        return found.model_copy(update={"warnings": self.warnings})


def open_set(set_dir: Path, record: SetRecord, rows: Rows, model_path: Path) -> Opened:
    """Check a set's model, start it, and read the set's centroids.

    Raises:
        ModelError: another model than the set's.
        CacheError: the set has no examples, or its centroids are missing or not its own.
    """
    if not len(rows.ids):
        raise CacheError(f"{set_dir} has no examples. Expected a set with at least one; take another.")
    model = check_set_model(record, model_path)
    dtypes, warnings = stored_dtypes(set_dir, record)
    return Opened(
        name=f"{set_dir.resolve().parent.name}/{record.set}",
        record=record,
        rows=rows,
        known=know(record, rows),
        centroids=read_centroids(set_dir, record),
        session=TapSession(model, dtypes),
        warnings=(*model.warnings, *warnings),
    )


def read_upright(image: Path) -> Image.Image:
    """Any image that Pillow knows as RGB, turned as its EXIF entry says.

    Raises:
        DatasetError: it is missing or cannot be read.
    """
    try:
        return ImageOps.exif_transpose(open_rgb(image))
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(
            f"The image {image} cannot be read: {reason}. Expected a picture file such as a JPEG or PNG."
        ) from error


def trace_one(
    outputs: Outputs, record: SetRecord, centroids: dict[str, NDArray[np.float32]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Path (1, layers) and distances (1, layers) of the one image in `outputs`, as `kmeans.assign` gives them."""
    path, distances = [], []
    for layer in record.layers:
        row = outputs.layers[layer].reshape(1, -1).astype(np.float32)
        found = nearest(row, centroids[layer], record.distance)
        path.append(int(first_alike(centroids[layer])[found.labels[0]]))
        distances.append(found.squared[0] / 2 if record.distance == "cosine" else np.sqrt(found.squared[0]))
    return np.array([path], np.int64), np.array([distances], np.float32)


def look_up(
    record: SetRecord,
    rows: Rows,
    path: NDArray[np.int64],
    distances: NDArray[np.float32],
    logits: NDArray[np.float32] | None,
    *,
    image: str,
    name: str,
    exemplars: int = EXEMPLARS,
    known: Known | None = None,
) -> Explanation:
    """What the set's rows say of one image's path (1, layers), distances (1, layers) and class scores (classes,)."""
    known = known or know(record, rows)
    make = _Builder(record, rows, known.paths, path[0], exemplars)
    score = float(known.scale.score(path, distances)[0])
    standardised = known.scale.standardise(path, distances)[0]
    classes = () if logits is None else make.class_scores(logits)
    own = int(make.own[0]) if len(make.own) else None
    rank = None if own is None else 1 + int((make.paths.counts > make.paths.counts[own]).sum())
    own_note = None if own is None else make.note(own)
    everywhere: NDArray[np.int64] = np.arange(len(make.paths.counts))
    return Explanation(
        image=image,
        set=name,
        model=record.model,
        num_examples=len(rows.ids),
        prediction=classes[0] if classes else None,
        classes=classes,
        path=tuple(path[0].tolist()),
        layers=tuple(make.layer(i, float(distances[0, i]), float(standardised[i])) for i in range(len(record.layers))),
        count=own_note.count if own_note else 0,
        share=(own_note.count if own_note else 0) / len(rows.ids),
        rank=rank,
        occupied=len(make.paths.counts),
        own=own_note,
        similar=None if own_note else make.most_similar(everywhere),
        ood_score=score,
        ood_percentile=100 * float((known.scores < score).mean()),
        other=make.most_similar(make.deciding_otherwise(classes[0].index if classes else None)),
    )


class _Builder:
    """The set's rows beside one path, (layers,)."""

    def __init__(
        self, record: SetRecord, rows: Rows, paths: PathCounts, path: NDArray[np.int64], exemplars: int
    ) -> None:
        self.record, self.rows, self.paths, self.path, self.exemplars = record, rows, paths, path, exemplars
        self.hamming: NDArray[np.int64] = (self.paths.paths != path).sum(axis=1)  # (p,)
        self.own = np.flatnonzero(self.hamming == 0)  # one, or none

    def class_scores(self, logits: NDArray[np.float32]) -> tuple[ClassScore, ...]:
        powers = np.exp(logits.astype(np.float64) - logits.max())
        shares = powers / powers.sum()
        order = np.argsort(-logits, kind="stable").tolist()
        return tuple(ClassScore(index=i, name=self.record.class_name(i), probability=float(shares[i])) for i in order)

    def examples(self, at: NDArray[np.integer]) -> tuple[ExampleNote, ...]:
        files = self.rows.files.take(pa.array(at)).to_pylist()
        known = ((int(self.rows.labels[row]), int(self.rows.predictions[row])) for row in at)
        return tuple(
            ExampleNote(
                id=int(self.rows.ids[row]),
                file=file or "",
                label=self.record.label_name(label) if label >= 0 else None,
                prediction=self.record.class_name(prediction) if prediction >= 0 else None,
            )
            for row, file, (label, prediction) in zip(at.tolist(), files, known, strict=True)
        )

    def layer(self, i: int, distance: float, standardised: float) -> LayerExplanation:
        cluster = int(self.path[i])
        members = np.flatnonzero(self.rows.clusters[:, i] == cluster)
        order = np.lexsort((self.rows.ids[members], self.rows.distances[members, i]))
        return LayerExplanation(
            layer=self.record.layers[i],
            cluster=cluster,
            distance=distance,
            standardised=standardised,
            cluster_count=len(members),
            exemplars=self.examples(members[order[: self.exemplars]]),
        )

    def note(self, at: int) -> PathNote:
        members = np.flatnonzero(self.paths.of_example == at)
        overall = overall_distance(self.rows.distances)[members]
        order = np.lexsort((self.rows.ids[members], overall))
        return PathNote(
            path=tuple(self.paths.paths[at].tolist()),
            hamming=int(self.hamming[at]),
            count=len(members),
            majority_predictions=_majority(self.rows.predictions[members], self.record.class_name),
            majority_labels=_majority(self.rows.labels[members], self.record.label_name),
            exemplars=self.examples(members[order[: self.exemplars]]),
        )

    def deciding_otherwise(self, decision: int | None) -> NDArray[np.int64]:
        """Indices of the paths with another majority decision; by labels where the model decides nothing."""
        classes = self.rows.labels if decision is None else self.rows.predictions
        by_path: NDArray[np.int64] = tables.class_counts(
            self.paths.of_example, classes, len(self.paths.counts), max(int(classes.max()) + 1, 1)
        )
        majority = np.where(by_path.any(axis=1), by_path.argmax(axis=1), -1)  # (p,)
        if decision is None:
            if not len(self.own):
                return np.empty(0, np.int64)
            decision = int(majority[self.own[0]])
        return np.flatnonzero((majority >= 0) & (majority != decision)) if decision >= 0 else np.empty(0, np.int64)

    def most_similar(self, among: NDArray[np.int64]) -> PathNote | None:
        """The one of these paths that differs in the fewest layers; of several the most frequent."""
        if not len(among):
            return None
        return self.note(int(among[np.argmin(self.hamming[among])]))  # paths are sorted by count: the first wins


def _majority(classes: NDArray[np.int16], name: Callable[[int], str]) -> MajorityClass | None:
    found = largest_class(classes)
    if found is None:
        return None
    index, share = found
    return MajorityClass(index=index, name=name(index), share=share, of=int((classes >= 0).sum()))

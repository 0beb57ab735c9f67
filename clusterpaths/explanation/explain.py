"""Explain the prediction for one image by the examples of a set.

Belongs here: running the model, the cluster path, and the search for what changes the decision. `look_up.py` compares the
path with the set. Sentences and
the page are `report/explanation.py`. The image is rotated by its EXIF orientation, which extraction does not do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clusterpaths.clustering.kmeans import comparable, first_alike, nearest
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.errors import CacheError, DatasetError, ModelError
from clusterpaths.evaluation.means import read_means
from clusterpaths.explanation.counterfactual import Change, Counterfactuals
from clusterpaths.explanation.look_up import EXEMPLARS, NO_ALIKE, ends_of, look_up, notes_of, published_of, with_alike
from clusterpaths.explanation.record import (
    Counterfactual,
    DecisionChange,
    Explanation,
)
from clusterpaths.explore.alike import Place
from clusterpaths.explore.index import SetIndex
from clusterpaths.export.path_model import check_set_model
from clusterpaths.models.live import Session, live_model, open_session
from clusterpaths.models.outputs import Decisions, decide, not_finite
from clusterpaths.models.session import Outputs
from clusterpaths.naming.resolve import names_of
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import CacheDtype, ModelRecord, SetRecord
from clusterpaths.sets.place import Placer
from clusterpaths.sets.published import PublishedSet


def explain_image(image: Path, published: PublishedSet, model_path: Path, *, exemplars: int = EXEMPLARS) -> Explanation:
    """Run the set's model on one image and look its path up among the set's examples.

    Raises:
        DatasetError: not a readable image.
        ModelError: another model than the set's.
        CacheError: the set's files are missing or are inconsistent.
    """
    opened = load_model(SetIndex(published), model_path)
    return opened.explain(read_upright(image), str(image), exemplars=exemplars)


@dataclass(frozen=True)
class SetWithModel:
    """A set with its model in a session."""

    index: SetIndex
    record: SetRecord
    centroids: dict[str, NDArray[np.float32]]  # layer -> (k, width)
    session: Session
    dtypes: dict[str, CacheDtype]
    warnings: tuple[str, ...]

    def explain(self, picture: Image.Image, name: str, *, exemplars: int = EXEMPLARS) -> Explanation:
        """Run the model on an upright RGB image and look its path up.

        Raises:
            ModelError: the model cannot be run on it.
        """
        pixels = fit(picture, self.record.preprocessing)
        images = normalise(pixels[None], self.record.preprocessing)
        outputs = self.session.run(images)
        path, distances = trace_one(outputs, self.record, self.centroids)
        decisions = self._decide(outputs)
        found = look_up(self.index, path, distances, decisions, image=name, exemplars=exemplars)
        changes: dict[str, object] = {"warnings": self.warnings}
        if decisions is not None and decisions.predictions[0] >= 0 and self._search is not None:
            changes["counterfactual"] = self._counterfactual(images, path[0], exemplars)
        return self._with_alike(found.model_copy(update=changes), outputs)

    @cached_property
    def _placer(self) -> Placer | None:
        """None where the set has no maps, or their axes cannot be read."""
        try:
            return None if self.index.maps is None else Placer(published_of(self.index))
        except CacheError:
            return None

    def _with_alike(self, found: Explanation, outputs: Outputs) -> Explanation:
        if self._placer is None:
            lacking = () if self.index.maps is None else (NO_ALIKE,)
            return found.model_copy(update={"warnings": (*found.warnings, *lacking)})
        places = {}
        for layer in ends_of(self.index):
            name = self.record.layers[layer]
            placed = self._placer.place(outputs.layers[name].reshape(1, -1), name)
            residual = 0.0 if placed.residuals is None else float(placed.residuals[0])
            places[layer] = Place(placed.components[0], residual)
        return with_alike(found, self.index, places)

    @cached_property
    def _search(self) -> Counterfactuals | None:
        """None where the set has no means of its clusters: it was evaluated without interventions."""
        means = read_means(published_of(self.index))
        if not means:
            return None
        return Counterfactuals(self.record, self.session.model, means, self.centroids, self.dtypes)

    def _counterfactual(self, images: NDArray[np.float32], path: NDArray[np.int64], exemplars: int) -> Counterfactual:
        assert self._search is not None
        found = [self._described(change, exemplars) for change in self._search.search(images, path)]
        first = {change.layer: change for change in reversed(found)}  # the nearest of each layer
        order = [first[layer] for layer in self.record.layers if layer in first]
        return Counterfactual(nearest=found[0] if found else None, changes=tuple(order), asked=self._search.layers)

    def _described(self, change: Change, exemplars: int) -> DecisionChange:
        name, members = self.index.class_name, self.index.members(change.layer, change.target)
        return DecisionChange(
            layer=self.record.layers[change.layer],
            source=change.source,
            target=change.target,
            target_name=names_of(self.index).cluster(change.layer, change.target).text,
            amount=change.amount,
            prediction=name(change.prediction),
            at_target=name(change.at_target),
            path=change.path,
            exemplars=notes_of(self.index.examples(members[:exemplars])),
        )

    def _decide(self, outputs: Outputs) -> Decisions | None:
        meaning = self.session.model.outputs
        if outputs.logits is None:
            return None
        if not_finite(meaning, outputs.logits).any():
            raise ModelError(
                f"The output {meaning.name} of {self.session.model.path} is not finite (inf or NaN) for this image. Expected "
                "finite class scores. Check the model and its preprocessing with this image."
            )
        return decide(meaning, outputs.logits)


def load_model(index: SetIndex, model_path: Path) -> SetWithModel:
    """Check a set's model, create a session, and read the set's centroids.

    Raises:
        ModelError: another model than the set's.
        CacheError: the set has no examples, its centroids are missing or do not match, or another program made it.
    """
    return _with_model(index, lambda record: check_set_model(record, model_path))


def load_live_model(index: SetIndex) -> SetWithModel:
    """As `load_model`, of a set whose PyTorch model is in the memory of this process.

    Raises:
        ModelError: it is not, was trained since, or how an image becomes its input is not known.
        CacheError: as `load_model`.
    """
    return _with_model(index, _require_live)


def _require_live(record: SetRecord) -> ModelRecord:
    if not record.knows_preprocessing:
        raise ModelError(
            f"How an image becomes the input of {record.model.file} is not known, so no image can be explained. Call "
            "clusterpaths.collect again with preprocessing=…: the activations are there."
        )
    model = live_model(record.model.sha256)
    if model is None:
        raise ModelError(
            f"The set was collected from a PyTorch model ({record.model.file}), which is not in this process. Call "
            "clusterpaths.collect with it again: nothing but a first batch is run. Or export it with "
            "clusterpaths.export_onnx, and name the file: explain(image, model=…)."
        )
    taps = {(tap.layer, tap.identity): tap for tap in model.taps}
    own = tuple(taps[key] for key in record.tensors.items() if key in taps)
    if len(own) < len(record.layers):
        raise ModelError(
            f"The model in this process was collected with other layers than {', '.join(record.layers)}. Call "
            "clusterpaths.collect with these again: the activations are there."
        )
    return model.model_copy(update={"taps": own, "outputs": record.meaning})


def _with_model(index: SetIndex, find: Callable[[SetRecord], ModelRecord]) -> SetWithModel:
    published = published_of(index)
    if not len(index):
        raise CacheError(f"{published.path} has no examples. Expected a set with at least one; take another.")
    model = find(published.record)
    dtypes, warnings = published.stored_dtypes()
    return SetWithModel(
        index=index,
        record=published.record,
        centroids=published.read_centroids(),
        session=open_session(model, dtypes),
        dtypes=dtypes,
        warnings=(*model.warnings, *warnings),
    )


def read_upright(image: Path) -> Image.Image:
    """Any image that Pillow can read, as RGB, rotated by its EXIF orientation.

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
        found = nearest(row, comparable(centroids[layer], record.distance), record.distance)
        path.append(int(first_alike(centroids[layer])[found.labels[0]]))
        distances.append(found.distances(record.distance)[0])
    return np.array([path], np.int64), np.array([distances], np.float32)

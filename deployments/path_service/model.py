"""A path model in a session: prepared images in, what it says of each out.

Belongs here: opening the file, running it, and reading its outputs with the library's own rules. Nothing of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import ValidationError

from clusterpaths.common.corrupted import what_does_not_fit
from clusterpaths.errors import ModelError
from clusterpaths.explanation.uploaded import open_picture
from clusterpaths.export.note import PATH_MODEL_KEY, PathModelNote, path_text
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.models.feed import PREPROCESSING_KEY, as_input
from clusterpaths.models.outputs import as_rows, decide, not_finite
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import InputType, ModelOutputs, Preprocessing, name_of

Pixels = NDArray[np.uint8]  # (height, width, 3), as the model's input is made of them
_TYPES: dict[str, InputType] = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_EXPORT_AGAIN = "Export it again with `clusterpaths export NAME/set_NN`."


@dataclass(frozen=True)
class Routed:
    """What the path model says of one image.

    Attributes:
        path: cluster of each layer.
        distances: to the own centroid of each layer, float32 values.
        ood_score: the OOD score, a float32 value.
        prediction: class index in the set's order; -1: none.
        probabilities: of each class or label, in the set's order; empty: the model has none.
        finite: whether all of these are finite numbers.
    """

    path: tuple[int, ...]
    distances: tuple[float, ...]
    ood_score: float
    prediction: int
    probabilities: tuple[float, ...]
    finite: bool


class PathModel:
    """A path model's file in one session.

    Args:
        path: the file that `clusterpaths export` wrote.
        threads: of one run.

    Raises:
        ModelError: no file, no path model, or one from before a service could read it.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.path = path
        self._session = open_session(path, threads)
        metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.note = _read_note(path, metadata)
        self.preprocessing = Preprocessing.model_validate_json(metadata[PREPROCESSING_KEY])
        meaning, reference = self.note.meaning, self.note.reference
        if meaning is None or reference is None:
            raise ModelError(
                f"{path} was exported before path models recorded their classes and what is usual in the set. {_EXPORT_AGAIN}"
            )
        self.meaning, self.reference = meaning, reference
        self.class_names = in_order_of_set(json.loads(metadata.get(CLASSES_KEY, "[]")), meaning)
        given = self._session.get_inputs()[0]
        self._input, self._type = given.name, _TYPES[given.type]
        self.batch = given.shape[0] if isinstance(given.shape[0], int) else None  # None: any
        self._nhwc = given.shape[1] != 3 and given.shape[3] == 3  # axes without a number are taken as (n, 3, h, w)
        own = self.note.outputs
        self._names = [own[name] for name in ("path", "distances", "ood_score", "logits") if name in own]
        self.path_prediction = lru_cache(65_536)(self._path_prediction)
        self.classes = self._try()

    def read(self, content: bytes, max_pixels: int) -> Pixels:
        """An encoded image, upright, at the model's size; thread-safe.

        Raises:
            RefusedImageError: as `open_picture`.
        """
        return fit(open_picture(content, max_pixels), self.preprocessing)

    def run(self, pixels: Sequence[Pixels]) -> list[Routed]:
        """Run any number of images; a fixed batch is filled up with the last one."""
        images = normalise(np.stack(pixels), self.preprocessing)
        images = as_input(images, "NHWC" if self._nhwc else "NCHW", self._type)
        step = self.batch or len(images)
        pieces = [self._run(images[at : at + step]) for at in range(0, len(images), step)]
        return [routed for piece in pieces for routed in piece]

    def _run(self, images: NDArray[Any]) -> list[Routed]:
        n = len(images)
        if self.batch is not None and n < self.batch:
            images = np.concatenate([images, np.repeat(images[-1:], self.batch - n, axis=0)])
        paths, distances, scores, *rest = self._session.run(self._names, {self._input: images})
        finite = np.isfinite(distances[:n]).all(axis=1) & np.isfinite(scores[:n])
        predictions, probabilities = np.full(n, -1), np.empty((n, 0))
        if rest:
            rows = as_rows(self.meaning, rest[0], len(images))[:n]
            decisions = decide(self.meaning, rows)
            if decisions.probabilities is not None:
                finite &= ~not_finite(self.meaning, rows)
                predictions, probabilities = decisions.predictions, decisions.probabilities
        columns = (paths, distances, scores, predictions, probabilities, finite)
        return [
            Routed(tuple(path), tuple(far), score, prediction, tuple(shares), usable)
            for path, far, score, prediction, shares, usable in zip(*(c[:n].tolist() for c in columns), strict=True)
        ]

    def _try(self) -> int:
        """Run a blank image, which allocates; the number of classes or labels."""
        try:
            (blank,) = self.run([np.zeros((*self.preprocessing.size, 3), np.uint8)])
        except Exception as error:
            raise ModelError(f"{self.path} cannot be run: {_one_line(error)}. {_EXPORT_AGAIN}") from error
        return len(blank.probabilities)

    def path_count(self, path: tuple[int, ...]) -> int:
        """Examples of the set that took it; 0: never seen."""
        return self.reference.paths.get(path_text(path), 0)

    def _path_prediction(self, path: tuple[int, ...]) -> int | None:
        table = self.note.predictions
        return None if table is None else table.predict(path)

    def class_name(self, index: int) -> str:
        """A class's name, or its number where it has none."""
        return self.meaning.label_name(index) if self.meaning.is_multi_label else name_of(self.class_names, index)


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU whose threads sleep between runs: images are decoded on the same cores.

    Raises:
        ModelError: no file, or ONNX Runtime cannot load it.
    """
    if not path.is_file():
        raise ModelError(f"There is no path model {path}. Expected a file that `clusterpaths export` wrote.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {reason}. {_EXPORT_AGAIN}"
        ) from error


def in_order_of_set(names: Sequence[str], meaning: ModelOutputs) -> tuple[str, ...]:
    """Names in the order of the model's outputs, by the set's class index."""
    if not meaning.order or len(names) != len(meaning.order):
        return tuple(names)
    of = dict(zip(meaning.order, names, strict=True))
    return tuple(of[index] for index in sorted(of))


def _read_note(path: Path, metadata: dict[str, str]) -> PathModelNote:
    if PATH_MODEL_KEY not in metadata or PREPROCESSING_KEY not in metadata:
        raise ModelError(
            f"{path} is not a path model: its metadata have no {PATH_MODEL_KEY}. Expected a file that "
            "`clusterpaths export NAME/set_NN` wrote, not the classifier itself."
        )
    try:
        return PathModelNote.model_validate_json(metadata[PATH_MODEL_KEY])
    except ValidationError as error:
        raise ModelError(
            f"{path} has a note that cannot be read: {what_does_not_fit(error)}. It was exported by "
            f"another version of the program. {_EXPORT_AGAIN}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")

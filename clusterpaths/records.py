"""Records that lie beside the artefacts and say what made them.

Belongs here: frozen pydantic models that are written as JSON. How they are read and written is
`atomic.py`; what they mean for a cache is `cache/`, for a set `publish.py`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Distance = Literal["cosine", "euclidean"]
CacheFormat = Literal["npy", "zarr"]
CacheDtype = Literal["float16", "float32"]


class Record(BaseModel):
    """Base of all records: frozen, and unknown keys are an error, not a surprise later."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(Record):
    """How an image becomes the model's input: RGB, resized, divided by 255, (x - mean) / std.

    Part of a cache's identity.
    """

    name: str = Field(description="preset, or custom")
    size: tuple[int, int] = Field(description="height and width in pixels")
    mean: tuple[float, ...] = Field(description="of each channel, in the range after scale")
    std: tuple[float, ...]
    scale: float = Field(default=1 / 255, description="the factor that pixels 0..255 are multiplied with first")
    resize: Literal["bilinear"] = Field(default="bilinear", description="as Pillow's Image.resize does it")


class ModelIdentity(Record):
    """What tells one model from another."""

    file: str = Field(description="file name, for people; not part of the identity")
    sha256: str = Field(description="of the ONNX file and its external weights")


class DatasetSpec(Record):
    """Enough to open a data set again, in another process or on another machine with the same folders."""

    name: str = Field(description="registry name, such as celeba; part of a cache's identity")
    root: str


class Tap(Record):
    """A tensor that a run looks at."""

    layer: str
    tensor: str = Field(description="its name in the graph")
    shape: tuple[int, ...] = Field(description="of one example, as the model gives it")
    operator: str = Field(default="", description="Conv, Gemm …")


class ModelRecord(Record):
    """What `check_model` found out about a model."""

    path: str
    sha256: str = Field(description="of the ONNX file and its external weights")
    external: dict[str, str] = Field(description="name in the graph -> file with weights")
    input: str
    batch: int | None = Field(description="fixed batch size; None: any")
    size: tuple[int, int] = Field(description="height and width of the input")
    logits: str | None = Field(description="output with class scores; None: the model has none")
    num_classes: int
    taps: tuple[Tap, ...]
    preprocessing: Preprocessing | None = Field(description="what the file's own metadata say")
    class_names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(tap.layer for tap in self.taps)


class ClusterSummary(Record):
    """One layer's clustering in short."""

    sizes: tuple[int, ...] = Field(description="examples in each cluster, k of them")
    empty: tuple[int, ...] = Field(description="clusters without examples, after re-seeding could not help")
    inertia: float = Field(description="sum of squared distances (cosine: between unit rows and unit centroids)")
    iterations: int = Field(description="passes over the data")
    note: str = Field(default="", description="what a reader should know: a dead layer, too few distinct rows")


class StageTime(Record):
    """How long a stage took."""

    stage: str
    seconds: float
    detail: str = ""


class SetRecord(Record):
    """set.json: what one set is made of. Lies in its folder beside the contract's documents.

    paths.parquet in the same folder has a row for each example, ids ascending, with columns id int64, file string,
    split string, label int16 (-1: none), prediction int16 (-1: none), for each layer an int16 column of its name (the
    cluster id), and distance.<layer> float32 (to the own centroid: 1 - cosine, or Euclidean).
    """

    version: int = 1
    set: str
    fingerprint: str
    model: ModelIdentity
    dataset: str
    data_root: str = Field(description="where the images were; for people and for drawing them")
    preprocessing: Preprocessing
    layers: tuple[str, ...]
    k_per_layer: dict[str, int]
    distance: Distance
    seed: int
    num_examples: int
    num_failed: int
    class_names: tuple[str, ...] = Field(description="names of labels and predictions; empty where unknown")
    attributes: tuple[str, ...] = ()
    clusters: dict[str, ClusterSummary]
    purity_labels: float | None = Field(
        default=None, description="weighted-path purity with labels, of labelled examples"
    )
    purity_predictions: float | None = None
    stages: tuple[StageTime, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict, description="the options that were given, to repeat the run")
    created: str = Field(description="ISO time, UTC")


def fingerprint(question: dict[str, Any]) -> str:
    """SHA-256 of a JSON-able question in canonical form (sorted keys, no spaces); 64 hex digits."""
    text = json.dumps(question, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

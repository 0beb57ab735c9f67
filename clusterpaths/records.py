"""Records stored beside the artefacts that describe how they were made.

Belongs here: frozen pydantic models that are written as JSON. How they are read and written is
`storage/`; what they mean for a cache is `cache/`, for a set `publish.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Distance = Literal["cosine", "euclidean"]
MapMethod = Literal["pca", "umap"]
CacheFormat = Literal["npy", "zarr", "none"]
StoredFormat = Literal["npy", "zarr", "none", "arrays"]  # arrays: files of another program, read in place
CacheDtype = Literal["float16", "float32"]
Channels = Literal["RGB", "BGR"]
Preset = Literal["imagenet", "unit", "symmetric", "raw"]
Layout = Literal["NCHW", "NHWC"]
InputType = Literal["float32", "float16", "uint8"]
Reduce = Literal["none", "mean", "max", "gap", "cls", "tokens-mean"]
Resize = Literal["bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"]
CropOffset = Literal["round", "floor"]
OutputKind = Literal[
    "logits", "log-probabilities", "probabilities", "binary-logit", "binary-sigmoid", "multi-label", "multi-label-logits",
    "values", "none",
]  # fmt: skip

_LARGEST_UNIT_STD = 8.0  # of pixels in 0..1; a larger standard deviation is of 0..255


class Record(BaseModel):
    """Base of all records: frozen; unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(Record):
    """How an image becomes the model's input: resized, divided by 255, (x - mean) / std, then the channels in order.

    Part of a cache's identity. Later fields are not written out where they have their default: records and fingerprints
    from before them stay as they are.
    """

    name: str = Field(description="preset, or custom")
    size: tuple[int, int] = Field(description="height and width in pixels")
    mean: tuple[float, ...] = Field(description="of red, green, blue (whatever channels is), in the range after scale")
    std: tuple[float, ...]
    scale: float = Field(default=1 / 255, description="the factor that pixels 0..255 are multiplied with first")
    resize: Resize = Field(default="bilinear", description="as Pillow's Image.resize does it")
    channels: Channels = Field(default="RGB", description="the order in which the model takes them")
    shorter: int | None = Field(
        default=None,
        ge=1,
        description="the shorter side becomes this, then the centre is cut out; None: to the exact size",
    )
    antialias: bool = Field(default=True, description="False: as torch's interpolate does it without")
    resize_to: tuple[int, int] | None = Field(
        default=None,
        description="the image becomes this height and width, whatever its shape, then the centre is cut out; not with shorter",
    )
    crop: CropOffset = Field(
        default="round", description="half of an odd margin: rounded as torchvision does, or floor as Hugging Face does"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Preprocessing:
        if self.shorter is not None and self.shorter < max(self.size):
            raise ValueError(
                f"a shorter side of {self.shorter} is too small to cut {self.size[0]}x{self.size[1]} from it"
            )
        if self.resize_to is not None and self.shorter is not None:
            raise ValueError("an image is resized by its shorter side or to a height and width, not both")
        if self.resize_to is not None and (self.resize_to[0] < self.size[0] or self.resize_to[1] < self.size[1]):
            raise ValueError(
                f"{self.resize_to[0]}x{self.resize_to[1]} is too small to cut {self.size[0]}x{self.size[1]} from it"
            )
        if not self.antialias and self.resize != "bilinear":  # Pillow's bicubic has another kernel than torch's
            raise ValueError(f"{self.resize} without antialiasing cannot be done as torch does it; bilinear can")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = dump(self)
        later = {"channels": "RGB", "shorter": None, "antialias": True, "resize_to": None, "crop": "round"}
        return {key: value for key, value in written.items() if key not in later or value != later[key]}

    def at_size(self, size: tuple[int, int]) -> Preprocessing:
        """For a model of another (height, width): the same part of the image."""
        if size == self.size:
            return self
        changes: dict[str, Any] = {"size": size}
        if self.shorter is not None:
            changes["shorter"] = round(self.shorter * min(size) / min(self.size))
        if self.resize_to is not None:
            changes["resize_to"] = tuple(round(self.resize_to[i] * size[i] / self.size[i]) for i in (0, 1))
        return type(self).model_validate(self.model_dump() | changes)


def pixel_scale(mean: Sequence[float], std: Sequence[float]) -> float:
    """What pixels 0..255 are multiplied with for this mean and standard deviation: 1/255, or 1 if they are of 0..255.

    In 0..1 no mean is above 1 and no deviation near 8; in 0..255 no deviation of images is below 1.

    Raises:
        ValueError: the mean is of one range and the standard deviation of the other.
    """
    of_255 = max(map(abs, mean)) > 1, max(std) > _LARGEST_UNIT_STD
    if (of_255[0] and min(std) < 1) or (of_255[1] and 0 < max(map(abs, mean)) <= 1):
        raise ValueError(
            f"the mean {tuple(mean)} and the standard deviation {tuple(std)} are of different ranges: give both for pixels of "
            "0..1, such as 0.485 and 0.229, or both for 0..255, such as 123.675 and 58.395"
        )
    return 1.0 if any(of_255) else 1 / 255


class ModelIdentity(Record):
    """What identifies a model."""

    file: str = Field(description="file name, for people; not part of the identity")
    sha256: str = Field(description="of the ONNX file and its external weights")


def data_set_title(name: str) -> str:
    """The name of a data set for readers, such as CelebA; empty where it is only the way of reading: a directory, arrays."""
    known = {"celeba": "CelebA", "faces": "drawn faces", "folder": "", "arrays": "", "activations": "", "collected": ""}
    return known.get(name, name.rpartition(":")[2])


class DatasetSpec(Record):
    """Enough to open a data set again, in another process or on another machine with the same directories."""

    name: str = Field(description="registry name, such as celeba; part of a cache's identity")
    root: str
    labels: str = Field(default="", description="CSV file with labels of a directory's images; empty: none")


DEQUANTISED = "dequantised"


class Tap(Record):
    """A tensor that a run extracts."""

    layer: str
    tensor: str = Field(description="its name in the graph")
    shape: tuple[int, ...] = Field(description="of one example, as a run outputs it")
    operator: str = Field(default="", description="Conv, Gemm …")
    reduce: Reduce = Field(default="none", description="how the tensor is reduced; none: not at all")
    full_shape: tuple[int, ...] = Field(default=(), description="of one example before it is reduced")
    dequantised: bool = Field(default=False, description="the tensor has bytes, of which values are made")
    channels: int = Field(
        default=0, description="axis of the tensor that holds the channels; 0: the graph does not say"
    )
    dtype: str = Field(default="", description="of the tensor in the graph, as numpy calls it; empty: not known yet")

    @property
    def identity(self) -> str:
        """What identifies a cache's layer: the tensor, whether it is dequantised, and how it is reduced."""
        tensor = f"{self.tensor}|{DEQUANTISED}" if self.dequantised else self.tensor
        return tensor if self.reduce == "none" else f"{tensor}|{self.reduce}"


class ModelOutputs(Record):
    """What a model outputs for an image: the one description that everything about predictions and probabilities reads.

    `models/find_outputs.py` makes it from the graph, `models/outputs.py` says what rows of each kind mean.
    """

    name: str | None = Field(default=None, description="the output with class scores; None: there is none")
    kind: OutputKind = Field(default="none", description="values: an embedding or a regression, no class scores")
    layout: str = Field(default="", description="the axes as the graph has them, such as (N, C) or (N, C, 1, 1)")
    classes: int = Field(default=0, description="classes, or labels of a multi-label model; 0: none, or not known yet")
    reason: str = Field(default="", description="where the kind came from")
    asked: bool = Field(default=False, description="the kind was named with --output-kind")
    class_names: tuple[str, ...] = ()
    class_names_source: str = Field(
        default="", description="where the names of predictions came from, or why there are none"
    )
    order: tuple[int, ...] = Field(
        default=(),
        description="the data set's class of each output, where it was found to be another than the output's own index; "
        "predictions and probabilities are in the data set's order. Empty: the same order, or not known",
    )

    @property
    def has_scores(self) -> bool:
        """Whether the rows are scores of classes or labels."""
        return self.name is not None and self.kind not in ("values", "none")

    @property
    def is_binary(self) -> bool:
        return self.kind in ("binary-logit", "binary-sigmoid")

    @property
    def is_multi_label(self) -> bool:
        return self.kind in ("multi-label", "multi-label-logits")

    @property
    def predicts(self) -> bool:
        """Whether an image gets one class."""
        return self.has_scores and not self.is_multi_label

    def text(self) -> str:
        """One line for people: which output, its kind, its layout and why."""
        if self.name is None:
            return f"none ({self.reason})" if self.reason else "none"
        classes = {"values": "", "none": ""}.get(self.kind, f", classes: {self.classes or 'number open'}")
        return f"{self.name}, {self.kind}, {self.layout}{classes} ({self.reason})"

    def label_name(self, index: int) -> str:
        """A multi-label model's label, or its number where it has no name."""
        return self.class_names[index] if 0 <= index < len(self.class_names) else f"label {index}"


class ModelRecord(Record):
    """What `check_model` found out about a model."""

    path: str
    sha256: str = Field(description="of the ONNX file and its external weights")
    external: dict[str, str] = Field(description="name in the graph -> file with weights")
    input: str
    batch: int | None = Field(description="fixed batch size; None: any")
    joint: bool = Field(default=False, description="whether an image's values depend on the others in its batch")
    size: tuple[int, int] = Field(description="height and width of the input")
    layout: Layout = "NCHW"
    input_type: InputType = "float32"
    providers: tuple[str, ...] = Field(default=("CPUExecutionProvider",), description="in order of preference")
    outputs: ModelOutputs
    taps: tuple[Tap, ...]
    preprocessing: Preprocessing | None = Field(description="from the file's own metadata or a file beside it")
    preprocessing_source: str = Field(default="", description="which of them, for people")
    warnings: tuple[str, ...] = ()
    exported_from: str = Field(
        default="", description="the digest of the PyTorch model that the file was exported from; empty: not known"
    )

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(tap.layer for tap in self.taps)

    @property
    def logits(self) -> str | None:
        """The output with class scores; None: there is none."""
        return self.outputs.name


class ClusterSummary(Record):
    """One layer's clustering in short."""

    sizes: tuple[int, ...] = Field(description="examples in each cluster, k of them")
    empty: tuple[int, ...] = Field(description="clusters without examples, after re-seeding could not help")
    inertia: float = Field(description="sum of squared distances (cosine: between unit rows and unit centroids)")
    iterations: int = Field(description="passes over the data")
    note: str = Field(default="", description="remarks: a dead layer, too few distinct rows")
    zeros: int | None = Field(
        default=None,
        description="examples whose activations are all 0; None: of sets from before these were at cosine distance 1",
    )


class StageTime(Record):
    """How long a stage took, and how many images it went through (0: not image by image)."""

    stage: str
    seconds: float
    detail: str = ""
    images: int = 0


class SetRecord(Record):
    """set.json: what one set was made from. In its directory, beside the contract's documents.

    paths.parquet in the same directory has one row per example, ids ascending, with columns id int64, file string,
    split string, label and prediction (-1: none; int16, or int32 if there are more than 32,767 classes), for each layer an
    int16 column of its name (the cluster id), and distance.<layer> float32 (to the own centroid: 1 - cosine, or Euclidean);
    digest uint64 is the xxh3 of the file's bytes. attributes.parquet has an int8 column per attribute, in the same order of rows.
    """

    version: int = 1
    set: str
    fingerprint: str
    model: ModelIdentity
    dataset: str
    data_root: str = Field(description="where the images were; for people and for drawing them")
    dataset_fingerprint: str = Field(default="", description="of all its images; changes when one of them does")
    preprocessing: Preprocessing
    layers: tuple[str, ...]
    tensors: dict[str, str] = Field(
        default_factory=dict, description="layer -> its tensor in the graph, with |WAY where it was reduced"
    )
    logits: str | None = Field(default=None, description="the output with class scores; none: there is none")
    outputs: ModelOutputs | None = Field(
        default=None, description="what the model outputs, checked on this set's rows; None: of sets from before that"
    )
    k_per_layer: dict[str, int]
    distance: Distance
    seed: int
    num_examples: int
    num_failed: int
    class_names: tuple[str, ...] = Field(description="names of predictions, and of labels; empty where unknown")
    label_names: tuple[str, ...] = Field(
        default=(),
        description="names of labels where they are other classes than the predictions'; empty: the same as class_names",
    )
    attributes: tuple[str, ...] = ()
    clusters: dict[str, ClusterSummary]
    purity_labels: float | None = Field(
        default=None, description="weighted-path purity with labels, of labelled examples"
    )
    purity_predictions: float | None = None
    chance_labels: float | None = Field(
        default=None, description="purity_labels by chance: with the labels permuted; None: of sets from before that"
    )
    chance_predictions: float | None = None
    choice: str = Field(default="", description="how k or the distance was chosen; choice.json has the complete sweep")
    stages: tuple[StageTime, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict, description="the options that were given, to repeat the run")
    created: str = Field(description="ISO time, UTC")

    @property
    def data_set_title(self) -> str:
        """As `data_set_title`; the sample's faces are in the form of CelebA, and drawn."""
        return "drawn faces" if self.config.get("sample") else data_set_title(self.dataset)

    @property
    def same_classes(self) -> bool:
        """Whether a label and a prediction with the same index are the same class; else they cannot be compared."""
        return not self.label_names

    @property
    def without_model(self) -> bool:
        """Whether the set was made of activations that were there: there is no model to run."""
        return self.dataset == "activations"

    @property
    def collected(self) -> bool:
        """Whether the model is one of PyTorch, in the memory of the process that collected its activations: no file."""
        return self.dataset == "collected"

    @property
    def knows_preprocessing(self) -> bool:
        """Whether it is known how an image becomes the model's input."""
        return self.preprocessing.name != "none"

    def class_name(self, index: int) -> str:
        """A prediction's class, or its number where it has no name."""
        return name_of(self.class_names, index)

    @property
    def meaning(self) -> ModelOutputs:
        """What the model outputs; of a set from before that was recorded: logits, as they were taken for then."""
        if self.outputs is not None:
            return self.outputs
        if self.logits == "none":
            return ModelOutputs()
        return ModelOutputs(name=self.logits or "logits", kind="logits", reason="not recorded")

    @property
    def about_class_names(self) -> str:
        """Where the names of predictions came from if the model itself has none; else empty."""
        return "" if self.meaning.class_names else self.meaning.class_names_source

    def output_name(self, index: int) -> str:
        """The class or label that column `index` of the model's probabilities belongs to."""
        return self.meaning.label_name(index) if self.meaning.is_multi_label else self.class_name(index)

    def label_name(self, index: int) -> str:
        """A label's class, or its number where it has no name."""
        return name_of(self.label_names or self.class_names, index)


def name_of(names: tuple[str, ...], index: int) -> str:
    """The name of a class, or its number where it has none."""
    return names[index] if 0 <= index < len(names) else f"class {index}"


def fingerprint(question: dict[str, Any]) -> str:
    """SHA-256 of JSON-serialisable content in canonical form (sorted keys, no spaces); 64 hex digits."""
    text = json.dumps(question, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

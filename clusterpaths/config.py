"""Options of a run: one frozen model, whose field descriptions are the command line's help and the text of the UI's form.

Belongs here: names, defaults and checks that need no file. What needs the model or the data is checked by the stages.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from clusterpaths.common import roots
from clusterpaths.errors import ConfigError
from clusterpaths.records import CacheDtype, CacheFormat, Channels, Distance, MapMethod, OutputKind, Preset, Resize
from clusterpaths.storage import Storage, open_storage, parse_address

DEFAULT_K = 5
AUTO = "auto"
FEWEST_K = 2  # the smallest k that --k auto chooses; checks before the choice assume it
MOST_K = 30  # the largest
NO_FIT_ALL = (
    "--fit all reads every activation several times, and --cache-format none stores none: use zarr or npy, or "
    "leave --fit out"
)
MAX_K = 32767  # cluster ids are int16
EVALUATION_IMAGES = 150
TIME_LIMIT = 14_400.0  # seconds: 14 an image of the largest shard
SAMPLE_NAME = "SampleFaces"
SAMPLE_MODEL = "SampleFaces_CNN"
SAMPLE_SEED = 0  # the committed sample model was trained on another seed's faces


def _one_word(_type: Any, tokens: Any) -> Any:
    """Hand a command line word on as it is: pydantic's validators below read it."""
    return tokens[0].value


_WORD = Parameter(n_tokens=1, converter=_one_word)


def _split(value: Any) -> Any:
    """Let "a,b", ["a,b"] and ["a", "b"] say the same."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return [word.strip() for part in value for word in part.split(",") if word.strip()]
    return value


def _size(value: Any) -> Any:
    """Let "64x64", "64" and [64, 64] say the same."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    parts = str(value).lower().split("x") if isinstance(value, (str, int)) else value
    return parts * 2 if isinstance(parts, list) and len(parts) == 1 else parts


Names = Annotated[tuple[str, ...], BeforeValidator(_split), _WORD]
Numbers = Annotated[tuple[float, ...], BeforeValidator(_split), _WORD]
Size = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], BeforeValidator(_size), _WORD]


IMAGES = Parameter(name=("--images", "--data-root"))  # the plain name, and that of the field

# The address of a directory: a path, or s3://BUCKET/PREFIX.
CacheRoot = Annotated[str, BeforeValidator(parse_address), WithJsonSchema({"type": "string", "format": "path"}), _WORD]


def available_cores() -> int:
    """Cores that this process may use; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RunConfig(BaseModel):
    """Cluster paths of CelebA, or of the embedded sample, through one ONNX model."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    # what the result is
    subset: int | None = Field(None, ge=1, description="only the first N examples; 5 is the quick check")
    sample: bool = Field(False, description="run on drawn faces with the committed sample model: no download needed")
    sample_size: int = Field(2000, ge=1, description="how many faces --sample draws")
    dataset: str = Field(
        "celeba",
        description="celeba, folder, torchvision:NAME (such as torchvision:CIFAR10), arrays, faces, or a plugin's data set",
    )
    labels: Path | None = Field(None, description="labels of --dataset folder (CSV: file,label) or arrays (.npy)")
    model: Path | None = Field(
        None, description="ONNX image classifier [ONNX_models/CelebA_CNN_instrumented.onnx, or CelebA_CNN.onnx]"
    )
    model_sha256: str | None = Field(
        None, description="fail unless the model file has this SHA-256; set by runs that a new model triggers"
    )
    data_root: Annotated[Path | None, IMAGES] = Field(
        None, description="directory of the images; CelebA is downloaded into it where it is empty [data]"
    )
    cache_root: CacheRoot | None = Field(
        None,
        description="where results go, one directory per name; or s3://BUCKET/PREFIX (extra [s3]) [activation_cache]",
    )
    name: str | None = Field(
        None, description="name of the results' directory [CelebA; SampleFaces with --sample; else MODEL-DATA]"
    )
    split: Literal["train", "valid", "test", "all"] = Field("all", description="the data set's own partition")
    layers: Names | None = Field(
        None,
        description="layers to cluster: names such as conv3,fc1, patterns such as conv*, tensors, auto, or auto:N "
        "[the model's added outputs, else auto: at most 6 over the depth]",
    )
    reduce: str = Field(
        "auto",
        description="how activations are reduced: none, mean, max, gap, cls, tokens-mean, or per layer: layer1=gap,layer2=none; "
        "auto averages over space or tokens from 262,144 values on",
    )
    logits: str | None = Field(None, description="the output with class scores, or none [detected by name and shape]")
    output_kind: OutputKind | None = Field(
        None,
        description="what that output holds: logits, log-probabilities, probabilities, binary-logit, binary-sigmoid, "
        "multi-label, multi-label-logits, or values (an embedding or a regression) [from the graph's last operators]",
    )
    class_names: Path | None = Field(
        None,
        description="file with the names of the model's classes, one per line or JSON, in the order of its outputs "
        "[from the model's metadata or the data set]",
    )
    k: int | str = Field(
        DEFAULT_K,
        description="clusters per layer: 5, or conv3=15 (others 5), or 8,conv3=15, or auto: chosen by decision alignment",
    )
    distance: Distance | Literal["auto"] = Field(
        "cosine",
        description="cosine (spherical k-means) or euclidean (plain k-means); auto: the one with the higher decision alignment",
    )
    fit: Literal["sample", "all"] = Field(
        "sample",
        description="examples that a layer's centroids are fitted on: a uniform sample of 800 per cluster, at least 4,096; "
        "or all, streamed from the cache",
    )
    seed: int = Field(0, ge=0, description="the same seed gives the same bytes")
    preprocessing: Preset | Literal["auto"] | None = Field(
        None,
        description="how pixels are scaled; auto: the preset that is clearly best on labelled images, if one is "
        "[from the model's metadata, else imagenet]",
    )
    channels: Channels | None = Field(
        None, description="channel order of the model's input [from its metadata, else RGB]"
    )
    mean: Numbers | None = Field(
        None, description="mean of each channel, for pixels in 0..1 or, if above 1, in 0..255; with --std"
    )
    std: Numbers | None = Field(None, description="standard deviation of each channel; with --mean")
    size: Size | None = Field(None, description="HEIGHTxWIDTH of the model's input [the model's, else 64x64]")
    resize: Resize | None = Field(
        None, description="Pillow's resampling filter [from the model's metadata, else bilinear]"
    )
    crop_from: int | None = Field(
        None, ge=1, description="resize the shorter side to this, then centre-crop [resize to the exact size]"
    )
    cache_dtype: CacheDtype | None = Field(
        None, description="dtype of cached activations [that of the cache; float16 for a new one]"
    )
    map: MapMethod | None = Field(
        None,
        description="what the layers' maps show: pca, the first two principal components, or umap, which keeps neighbours "
        "together (extra [umap]); changes no set but its map [what it has; pca for a new set]",
    )
    # how it is made
    providers: str = Field(
        "auto", description="ONNX Runtime execution providers: auto (the best one installed), cpu, cuda, …"
    )
    fingerprint: Literal["quick", "full"] = Field(
        "quick", description="full: detect changed images by hashing every file instead of comparing modification times"
    )
    cache_format: CacheFormat | None = Field(
        None,
        description="npy: one file per image and layer; zarr: a quarter of the bytes, few files; none: stores the resized "
        "images only, and the model runs again for another k [that of the cache; npy]",
    )
    batch_size: int = Field(32, ge=1, description="images per batch")
    shard_size: int = Field(1024, ge=1, description="examples per task, at most: the unit of retry and resume")
    workers: int = Field(
        default_factory=available_cores,
        ge=1,
        description="concurrent tasks [cores of this machine; threads of the cluster with --dask-address]",
    )
    engine: Literal["threads", "dask"] = Field(
        "threads", description="where shards and layers run: threads of this process, or Dask workers (extra [dask])"
    )
    dask_address: str | None = Field(
        None,
        description="scheduler of an existing Dask cluster, such as tcp://10.0.0.5:8786 [a cluster on this machine]",
    )
    max_failures: float = Field(0.01, ge=0, le=1, description="fraction of unreadable images above which the run fails")
    wait: float = Field(3600, ge=0, description="seconds to wait for another run on the same results; 0: fail at once")
    time_limit: float = Field(
        TIME_LIMIT,
        gt=0,
        description="seconds after which a task (a shard, a layer, a stage) fails, as where a disk hangs",
    )
    refresh: bool = Field(
        False, description="delete the cached activations and extract everything again (published sets are preserved)"
    )
    check_preprocessing: Annotated[bool, Parameter(negative="--no-check-preprocessing")] = Field(
        True, description="warn where another known preprocessing is clearly better on labelled images"
    )
    evaluate: Annotated[bool, Parameter(negative="--no-evaluate")] = Field(
        True, description="evaluate the paths: metrics.json and a section of the report"
    )
    evaluation_images: int = Field(
        EVALUATION_IMAGES,
        ge=1,
        description="held-out images that are perturbed and compared with OOD images; more take longer and narrow the intervals",
    )
    causal: Annotated[bool, Parameter(negative="--no-causal")] = Field(
        True,
        description="evaluate by interventions, too: do decisions follow when an example is moved to another cluster",
    )
    compare: bool = Field(
        False, description="compare a new set with the one before, or with an earlier model's on the same images"
    )
    alert_below: float = Field(
        0.8, ge=0, le=1, description="path agreement below which a comparison emits the event cluster-paths.diverged"
    )
    plan: bool = Field(False, description="dry run: report what the run would do and how much disk space it would need")

    @field_validator("k")
    @classmethod
    def _k_is_readable(cls, value: int | str) -> int | str:
        default, each = parse_k(value)
        return value if each or default is None else default

    @field_validator("layers")
    @classmethod
    def _layers_are_some(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            raise ValueError("should name at least one layer, such as conv3,fc1; leave it out to take all")
        return value

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, value: str | None) -> str | None:
        if value is not None and (
            value in ("", ".", "..") or value.startswith(".") or set(value) & set('/\\:*?"<>|\0')
        ):
            raise ValueError(f"should be a plain directory name such as CelebA, got {value!r}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.sample and self.data_root is not None:
            raise ValueError("--sample draws its own images: leave out --images, or leave out --sample")
        if self.dataset != "celeba" and self.sample:
            raise ValueError("--sample is a data set of its own: leave out --dataset, or leave out --sample")
        if self.dataset not in ("celeba", "faces", "activations", "collected") and self.model is None:
            raise ValueError(f"--dataset {self.dataset} needs a model: name an ONNX image classifier with --model")
        if self.dask_address is not None and self.engine != "dask":
            raise ValueError("--dask-address goes with --engine dask: add that, or leave the address out")
        if self.cache_format == "none" and self.fit == "all":
            raise ValueError(NO_FIT_ALL)
        if (
            self.cache_format not in (None, "zarr")
            and self.cache_root
            and open_storage(self.cache_root).request_per_file
        ):
            raise ValueError(
                f"--cache-format {self.cache_format} does not go with a cache in object storage, where one file per image is "
                "slow and expensive: leave it out, or use zarr; or name a directory with --cache-root"
            )
        if self.preprocessing == AUTO and not self.check_preprocessing:
            raise ValueError("--preprocessing auto uses the preprocessing check: leave --check-preprocessing on")
        return self

    @property
    def result_name(self) -> str:
        if self.name or self.sample or self.dataset == "celeba":
            return self.name or (SAMPLE_NAME if self.sample else "CelebA")
        data = self.data_root.expanduser().absolute().name if self.data_root else ""
        named = data if self.dataset in ("folder", "arrays") else self.dataset.rpartition(":")[2]
        return f"{self.model.stem if self.model else 'model'}-{named or self.dataset}"

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width for a model that leaves them open."""
        return (64, 64) if self.sample or self.dataset in ("celeba", "faces") else (224, 224)

    @property
    def cache_dir(self) -> Storage:
        """Where the results go: activations, then set_01, set_02 …"""
        return open_storage(self.cache_root or roots.cache_root()) / self.result_name

    @property
    def chooses(self) -> bool:
        """Whether k or the distance is still to be chosen."""
        default, each = parse_k(self.k)
        return self.distance == AUTO or None in (default, *each.values())

    def k_per_layer(self, layers: tuple[str, ...]) -> dict[str, int]:
        """Clusters of each layer; the fewest where they are still to be chosen.

        Raises:
            ConfigError: as `asked_k`.
        """
        return {layer: k or FEWEST_K for layer, k in self.asked_k(layers).items()}

    def largest_k(self, layers: tuple[str, ...]) -> int:
        """Of any layer; the largest that may be chosen where one is still to be chosen.

        Raises:
            ConfigError: as `asked_k`.
        """
        return max(k or MOST_K for k in self.asked_k(layers).values())

    def asked_k(self, layers: tuple[str, ...]) -> dict[str, int | None]:
        """Clusters of each layer; None where they are to be chosen.

        Raises:
            ConfigError: --k names a layer that is not clustered.
        """
        default, each = parse_k(self.k)
        unknown = sorted(set(each) - set(layers))
        if unknown:
            raise ConfigError(
                f"--k names {', '.join(unknown)}, which is not clustered in this run. "
                f"Expected some of {', '.join(layers)}. Correct --k, or add the layer with --layers."
            )
        return {layer: each.get(layer, default) for layer in layers}


def parse_k(value: int | str) -> tuple[int | None, dict[str, int | None]]:
    """The number for all layers, and those of single layers: "8,conv3=15" is (8, {"conv3": 15}).

    "auto" is None: to be chosen.

    Raises:
        ValueError: not of that form, or below 1.
    """
    default: int | None = DEFAULT_K
    each: dict[str, int | None] = {}
    for part in str(value).replace(" ", "").split(","):
        layer, _, number = part.rpartition("=")
        if number != AUTO and not number.lstrip("-").isdigit():
            raise ValueError(f"should be a number such as 5, or conv3=15, got {part!r}")
        k = None if number == AUTO else int(number)
        if k is not None and k < 1:
            raise ValueError(f"should be >= 1, got {number} instead")
        if k is not None and k > MAX_K:
            raise ValueError(f"should be <= {MAX_K}, got {number} instead")
        if layer:
            each[layer] = k
        else:
            default = k
    return default, each

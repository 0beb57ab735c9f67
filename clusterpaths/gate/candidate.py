"""A candidate model as a run: the reference set's own settings, in results of its own.

Belongs here: which options of the reference a candidate takes over. The stages are `clusterpaths/pipeline.py`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clusterpaths.config import RunConfig, available_cores
from clusterpaths.errors import ConfigError, ModelError
from clusterpaths.models.check import check_model
from clusterpaths.preprocessing.prepare import PRESETS, resolve_preprocessing
from clusterpaths.records import ModelRecord, Preprocessing
from clusterpaths.running.inputs import model_path
from clusterpaths.sets.find import set_config
from clusterpaths.sets.published import PublishedSet
from clusterpaths.watching.arrivals import model_name

_PREPROCESSING = ("preprocessing", "channels", "mean", "std", "size", "resize", "crop_from")
_STAYS = (
    "model_sha256", "cache_root", "cache_format", "cache_dtype", "providers", "batch_size", "shard_size", "workers", "engine",
    "dask_address", "wait", "time_limit", "compare", "alert_below", "causal", "evaluation_images", "refresh",
    "map",
)  # fmt: skip
_OF_A_RUN = ("model_sha256", "refresh", "plan", "compare", "engine", "dask_address", "workers", "layers", "k")


def candidate_config(
    reference: PublishedSet, model: Path, data_root: Path | None = None, name: str | None = None
) -> RunConfig:
    """The run of a candidate: layers, k, distance, seed and images of the reference, and its preprocessing.

    A preprocessing that the candidate's own metadata states goes before the reference's. Numbers of clusters and the distance are
    those that the reference has, also where it had chosen them.

    Args:
        reference: the set that it is compared with.
        model: the candidate's ONNX file.
        data_root: where the images are now [where they were].
        name: of the candidate's results [its file's name and the first digits of its SHA-256, as for models that arrive].

    Raises:
        CacheError: the reference does not record its configuration.
        ConfigError: its settings do not fit the candidate.
        ModelError: the candidate is no model that can be run, lacks a layer of the reference, or states no preprocessing where
            options cannot express the reference's.
    """
    record, before = reference.record, set_config(reference, data_root)
    kept: dict[str, Any] = {key: value for key, value in before.items() if key not in (*_PREPROCESSING, *_OF_A_RUN)}
    if kept.get("sample"):
        kept.pop("data_root", None)
    elif data_root is not None:
        kept["data_root"] = str(data_root.expanduser().absolute())
    found = check_model(model, default_size=record.preprocessing.size)
    if found.outputs.class_names:  # its own, perhaps in another order
        kept.pop("class_names", None)
    settings: dict[str, Any] = {
        "model": model.expanduser().absolute(),
        "name": name or f"{model_name(model)}-{found.sha256[:8]}",
        "layers": record.layers,
        "k": ",".join(f"{layer}={k}" for layer, k in record.k_per_layer.items()),
        "distance": record.distance,
        "seed": record.seed,
        "evaluate": True,
        "workers": available_cores(),
    }
    try:
        _require_layers(reference, model)
        return RunConfig(**{**kept, **settings, **_preprocessing(record.preprocessing, found)})
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigError(f"The settings of {reference.name} cannot be used for {model}: {said}.") from error


def as_candidate(reference: PublishedSet, config: RunConfig) -> RunConfig:
    """A run's configuration with what decides the result replaced by the reference's: of a flow that runs a gate.

    What says where and how it runs stays: the results' name and directory, the format of the cache, the engine, the wait.

    Raises:
        CacheError, ConfigError, ModelError: as `candidate_config`.
    """
    wanted = candidate_config(reference, model_path(config), config.data_root, config.name)
    stays = {name: getattr(config, name) for name in _STAYS if name in config.model_fields_set}
    return wanted.model_copy(update=stays)


def _require_layers(reference: PublishedSet, model: Path) -> None:
    """Raises: ModelError: the candidate lacks a layer that the reference clusters."""
    try:
        check_model(model, reference.layers, reference.record.preprocessing.size)
    except ModelError as error:
        raise ModelError(
            f"{model} cannot be compared with {reference.name}, whose layers are {', '.join(reference.layers)}: {error} A gate "
            "compares paths layer by layer; take a model with the same layers, or a reference of the same architecture."
        ) from error


def _preprocessing(wanted: Preprocessing, candidate: ModelRecord) -> dict[str, Any]:
    """Options that give a candidate the reference's preprocessing; none where it states its own.

    Raises:
        ModelError: options cannot express it.
    """
    if candidate.preprocessing is not None:
        return {}
    numbers = {"mean": wanted.mean, "std": wanted.std, "scale": wanted.scale}
    preset = next((name for name, values in PRESETS.items() if {"scale": 1 / 255, **values} == numbers), None)
    scaled = {"preset": preset} if preset else {"mean": wanted.mean, "std": wanted.std}
    given: dict[str, Any] = {**scaled, "channels": wanted.channels, "size": wanted.size, "resize": wanted.resize}
    given |= {"crop_from": wanted.shorter} if wanted.shorter else {}
    resolved, _ = resolve_preprocessing(candidate, **given)
    if resolved.model_copy(update={"name": ""}) != wanted.model_copy(update={"name": ""}):
        raise ModelError(
            f"{candidate.path} does not state its preprocessing, and that of the reference cannot be given as options. Expected "
            "the preprocessing in the model's metadata, or in a file beside it, as docs/models.md describes."
        )
    return {"preprocessing" if name == "preset" else name: value for name, value in given.items()}

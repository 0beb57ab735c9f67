"""`cp.run` and `cp.load`: from a model and images, or from a directory, to a published set.

Belongs here: Python arguments to a configuration, and what to do where they do not fit. The stages are `pipeline.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clusterpaths.common import roots
from clusterpaths.common.text import did_you_mean
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, ConfigError
from clusterpaths.sets.directory import RECORD
from clusterpaths.sets.find import find_named, list_sets
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import open_storage

PathLike = str | os.PathLike[str]


def run(model: PathLike | None = None, data: PathLike | None = None, **options: Any) -> PublishedSet:
    """Run the pipeline: extract activations, cluster each layer, publish the set. What is cached is not computed again.

        paths = cp.run(model="resnet18.onnx", data="photos/", k="auto")
        paths = cp.run(sample=True)     # drawn faces and a small model, without a download

    Args:
        model: an ONNX image classifier.
        data: the directory of the images; of another data set than a directory of images, name it with `dataset`.
        options: fields of `RunConfig` by name, the options of the command line: k, distance, layers, seed, subset,
            cache_root, workers … `dataset` is "folder" if it is left out; k may be a dict of layers to numbers.

    Returns:
        The published set; the one that is there, if it was published before.

    Raises:
        ConfigError: unknown options or values, or nothing to run on.
        ClusterPathsError: as `clusterpaths.pipeline.run`.
    """
    from clusterpaths.pipeline import (
        run as run_pipeline,  # ONNX Runtime and scikit-learn, which a wrong option does not need
    )
    from clusterpaths.running.inputs import require_inputs

    config = configure(model, data, options)
    require_inputs(config)
    published = run_pipeline(config).published
    assert published  # none only for a plan, which `configure` refuses
    return published


def configure(model: PathLike | None, data: PathLike | None, options: dict[str, Any]) -> RunConfig:
    """The configuration of `run`.

    Raises:
        ConfigError: as `run`.
    """
    require_options("run", options, RunConfig.model_fields, [*RunConfig.model_fields, "data"])
    if options.get("plan"):
        raise ConfigError(
            "run(plan=True) would publish no set to return. For a dry run call "
            "clusterpaths.pipeline.run(RunConfig(plan=True, …)), whose outcome has the plan."
        )
    if data is not None and "data_root" in options:
        raise ConfigError("data and data_root are the same directory of images: give one of them.")
    paths = {"model": model, "data_root": data}
    given = {name: os.fspath(value) for name, value in paths.items() if value is not None} | options
    if not options.get("sample") and "dataset" not in options:
        if missing := [name for name, value in (("model", "model"), ("data", "data_root")) if value not in given]:
            raise ConfigError(
                f"run() needs {' and '.join(f'{name}=…' for name in missing)}: an ONNX image classifier and a directory of "
                "images. run(sample=True) needs neither; other data sets are named, as in dataset='torchvision:CIFAR10'."
            )
        given["dataset"] = "folder"
    return validated("run", given)


def require_options(function: str, options: Iterable[str], known: Iterable[str], near: Iterable[str]) -> None:
    """Check the names of a function's options; `near` are those that an unknown one may have meant.

    Raises:
        ConfigError: an unknown one.
    """
    if unknown := [name for name in options if name not in set(known)]:
        raise ConfigError(
            f"{function}() has no option {unknown[0]!r}.{did_you_mean(unknown[0], near)} "
            "Expected fields of clusterpaths.RunConfig, which are the options of the command line."
        )


def validated(function: str, given: dict[str, Any]) -> RunConfig:
    """The configuration of a function's options; k may be a dict of layers to numbers.

    Raises:
        ConfigError: values that do not hold.
    """
    if isinstance(each := given.get("k"), Mapping):
        given = given | {"k": ",".join(f"{layer}={k}" for layer, k in each.items())}
    try:
        return RunConfig(**given)
    except ValidationError as error:
        problems = "; ".join(_problem(entry) for entry in error.errors())
        raise ConfigError(f"{function}() cannot use these options: {problems}.") from error


def _problem(entry: Any) -> str:
    """One of pydantic's errors, as Python names the option."""
    name = f"{entry['loc'][0]}: " if entry["loc"] else ""
    got = "" if entry["type"] == "value_error" else f", got {entry['input']!r}"
    return f"{name}{entry['msg'].removeprefix('Value error, ')}{got}"


def load(path: PathLike) -> PublishedSet:
    """A published set.

    Args:
        path: the set's directory, such as activation_cache/CelebA/set_01, or s3://BUCKET/PREFIX/CelebA/set_01; the directory
            above, for its newest set; or the name alone (CelebA, CelebA/set_01), looked up in activation_cache.

    Raises:
        CacheError: there is no such set, or its files are missing or inconsistent.
    """
    given = os.fspath(path)
    folder = open_storage(given if "://" in given else Path(given).expanduser())
    if not folder.exists(RECORD):
        if sets := list_sets(folder):
            folder /= sets[-1]
        elif "://" not in given and not folder.path.exists() and _is_name(given):
            return _checked(find_named(roots.cache_root(), given))
        else:
            raise CacheError(
                f"There is no published set at {folder}.{_nearest(folder.parent.path, folder.name)} Expected a set's directory, "
                "with set.json and paths.parquet, such as activation_cache/CelebA/set_01, or the directory above it."
            )
    folder.local_tree()
    return _checked(open_set(folder))


def _is_name(given: str) -> bool:
    """Whether this may be NAME or NAME/set_NN."""
    return not Path(given).is_absolute() and given.rstrip("/").count("/") <= 1 and roots.cache_root().is_dir()


def _nearest(beside: Path, name: str) -> str:
    try:
        return did_you_mean(name, [one.name for one in beside.iterdir() if one.is_dir()])
    except OSError:
        return ""


def _checked(published: PublishedSet) -> PublishedSet:
    published.check()
    return published

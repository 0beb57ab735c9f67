"""Where the model and the images of a set are now: results, images and models may have been moved or copied since.

Belongs here: the paths that a set's record carries, looked up from where the record lies. What lay beside the results directory
is looked for beside the directory that the results are in now, then where it was: a copied project uses its own files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterpaths.datasets.celeba import celeba_present, locate
from clusterpaths.errors import ConfigError, DatasetError, ModelError
from clusterpaths.records import DatasetSpec, SetRecord
from clusterpaths.storage import Storage

if TYPE_CHECKING:
    from clusterpaths.sets.published import PublishedSet


def model_of(folder: Storage, record: SetRecord) -> Path | None:
    """The set's model; the recorded path where there is none, and None where none is recorded.

    Args:
        folder: the set's, NAME/set_NN of the results directory.
        record: its set.json.
    """
    recorded = str(record.config.get("model") or "")
    there = [path for path in map(Path, _candidates(folder, record, recorded)) if path.is_file()]
    if len(there) > 1:  # of two, the one that the set was made of
        there.sort(key=lambda path: not _has_digest(path, record.model.sha256))
    return there[0] if there else Path(recorded) if recorded else None


def find_model(published: PublishedSet, given: Path | None) -> Path:
    """The model that was named, else the one in the set's record, where it is now.

    Raises:
        ConfigError: neither is known, or the set was made without a model.
    """
    if published.record.without_model:
        raise ConfigError(
            f"{published.path} was made of activations ({published.record.model.file}), without the model: there is nothing to "
            "run. Expected a set that was made with an ONNX model, as by `clusterpaths images`."
        )
    if given is None and published.record.collected:
        raise ConfigError(
            f"{published.path} was collected from a PyTorch model ({published.record.model.file}), which is no file. Export "
            "it with clusterpaths.export_onnx, and name the file with --model."
        )
    if given is not None:
        return given.expanduser().absolute()
    recorded = model_of(published.folder, published.record)
    if recorded is None:
        raise ConfigError(f"{published.path} does not record where its model was. Name the ONNX file with --model.")
    return recorded


def data_of(folder: Storage, record: SetRecord, data_root: Path | None = None) -> DatasetSpec:
    """The set's images and labels; the recorded paths where they are not found.

    Args:
        folder: the set's.
        record: its set.json.
        data_root: the directory of the images, if it is known; labels that lay in it are looked for there.
    """
    recorded, name = record.data_root, record.dataset
    known = [str(data_root.expanduser().absolute())] if data_root else _candidates(folder, record, recorded)
    root = _first(known, lambda path: has_images(DatasetSpec(name=name, root=path)))
    labels = str(record.config.get("labels") or "")
    below = _relative(labels, recorded)
    inside = [os.path.join(root, below)] if below and not below.startswith(os.pardir) else []  # noqa: PTH118 - text
    labels = _first([*inside, *_candidates(folder, record, labels)], lambda path: Path(path).is_file())
    return DatasetSpec(name=name, root=root, labels=labels)


def has_images(spec: DatasetSpec) -> bool:
    """Whether the directory of a data set is there; of CelebA, which is downloaded into an empty one, whether it has images."""
    if spec.name != "celeba":
        return Path(spec.root).exists()
    try:
        return celeba_present(locate(Path(spec.root)))
    except DatasetError:  # several: opening it reports that
        return True


def config_here(folder: Storage, record: SetRecord, data_root: Path | None = None) -> dict[str, Any]:
    """The recorded options of a set, with the directories and files as they are now; results go where the set is."""
    config, spec = dict(record.config), data_of(folder, record, data_root)
    names = _first(
        _candidates(folder, record, str(record.config.get("class_names") or "")), lambda path: Path(path).is_file()
    )
    now = {"model": model_of(folder, record), "data_root": spec.root, "labels": spec.labels, "class_names": names}
    config |= {name: str(path) for name, path in now.items() if config.get(name)}
    return config | {"cache_root": folder.parent.parent.address, "name": folder.parent.name}


def _candidates(folder: Storage, record: SetRecord, recorded: str) -> list[str]:
    """Where a recorded path may be, the likeliest first."""
    before, now = str(record.config.get("cache_root") or ""), folder.parent.parent.address
    relative = _relative(recorded, before) if before != now and Path(now).is_absolute() else ""
    moved = [os.path.normpath(os.path.join(now, relative))] if relative else []  # noqa: PTH118 - text
    return [*moved, recorded] if recorded else []


def _relative(path: str, start: str) -> str:
    """A path relative to a directory; "" where they have nothing in common but the root, or one is no absolute path."""
    if not (Path(path).is_absolute() and Path(start).is_absolute()):
        return ""
    return "" if os.path.commonpath([path, start]) == os.sep else os.path.relpath(path, start)


def _first(candidates: list[str], is_there: Callable[[str], bool]) -> str:
    """The first that is there, else the last."""
    found = (path for path in candidates[:-1] if is_there(path))
    return next(found, candidates[-1] if candidates else "")


def _has_digest(path: Path, sha256: str) -> bool:
    # onnx takes long to import, and two models to choose from are rare
    from clusterpaths.models.external import find_external_files, hash_files
    from clusterpaths.models.load import load_graph

    if hash_files([path]) == sha256:
        return True
    try:
        external, _ = find_external_files(load_graph(path), path.parent)
    except (ModelError, OSError):
        return False
    return bool(external) and hash_files([path, *external.values()]) == sha256

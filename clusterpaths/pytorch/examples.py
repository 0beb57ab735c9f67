"""What the data set behind a loader says of its examples: files, names of classes and attributes.

Belongs here: reading what torchvision's data sets, and those like them, have. What a batch has is `batches.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Where torchvision's data sets, and many others, keep the files of their examples.
_FILES = ("samples", "imgs", "_samples", "_image_files", "image_files", "_images", "image_paths", "files", "paths")
_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Files:
    """The image files of n examples, in their order.

    Attributes:
        root: the directory that all are in.
        names: n names relative to it, parts joined by "/".
        sizes: (n,) bytes.
        mtimes: (n,) nanoseconds since 1970.
    """

    root: str
    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]


def find_files(dataset: Any, positions: Sequence[int]) -> Files | None:
    """The files of the examples at these positions; None where the data set does not say, or they are not there."""
    paths = _paths(dataset)
    if paths is None or not positions or max(positions) >= len(paths):
        return None
    own = [os.path.abspath(paths[at]) for at in positions]  # noqa: PTH100 - hot: 200,000 of them
    try:
        states = [os.stat(path) for path in own]  # noqa: PTH116
    except OSError:
        return None
    root = os.path.commonpath([os.path.dirname(path) for path in own])  # noqa: PTH120
    names = tuple(os.path.relpath(path, root).replace(os.sep, "/") for path in own)
    if len(set(names)) < len(names):  # several examples of one file, such as crops
        return None
    return Files(
        root,
        names,
        np.array([state.st_size for state in states], np.int64),
        np.array([state.st_mtime_ns for state in states], np.int64),
    )


def _paths(dataset: Any) -> list[str] | None:
    """Of all examples of a data set, in order."""
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):  # torch's Subset
        inner = _paths(dataset.dataset)
        return inner and [inner[at] for at in dataset.indices]
    if isinstance(parts := getattr(dataset, "datasets", None), list):  # torch's ConcatDataset
        found = [_paths(part) for part in parts]
        return [path for one in found if one for path in one] if all(found) else None
    if type(dataset).__name__ == "CelebA" and hasattr(dataset, "filename"):
        folder = Path(dataset.root) / dataset.base_folder / "img_align_celeba"
        return [str(folder / name) for name in dataset.filename]
    for name in _FILES:
        entries = getattr(dataset, name, None)
        if not isinstance(entries, (list, tuple)) or not entries or len(entries) != len(dataset):
            continue
        paths = [entry[0] if isinstance(entry, (list, tuple)) and entry else entry for entry in entries]
        if all(isinstance(path, (str, os.PathLike)) for path in paths) and Path(paths[0]).suffix.lower() in _ENDINGS:
            return [os.fspath(path) for path in paths]
    return None


def inner(dataset: Any) -> Any:
    """The data set that subsets are of."""
    while hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        dataset = dataset.dataset
    return dataset


def class_names(dataset: Any) -> tuple[str, ...]:
    """Names of the labels, in order; empty where the data set has none."""
    names = getattr(inner(dataset), "classes", None)
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, (str, tuple, list)) for name in names):
        return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in names)
    return ()


def attribute_names(dataset: Any, count: int) -> tuple[str, ...]:
    """Names of labels that are a row of 0 and 1."""
    own = inner(dataset)
    names = [name for name in getattr(own, "attr_names", None) or getattr(own, "classes", None) or () if name]
    if len(names) == count and all(isinstance(name, str) for name in names):
        return tuple(names)
    return tuple(f"label_{number}" for number in range(count))


def transform_of(dataset: Any) -> Any:
    """The transform that makes an input of an image; None where the data set does not say."""
    return getattr(inner(dataset), "transform", None)

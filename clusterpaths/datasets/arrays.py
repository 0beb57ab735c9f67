"""Images in a NumPy file: uint8, (N, H, W, 3) or grey, with or without labels.

Belongs here: the names and layouts of the arrays that are accepted.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.common.corrupted import one_line, reading
from clusterpaths.datasets.base import ExampleTable
from clusterpaths.datasets.decode import as_rgb
from clusterpaths.datasets.folder_labels import MOST_CLASSES
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec

# Names of the arrays for each split, as in Keras (x_train), MedMNIST (train_images) and common use.
_IMAGES = ("images", "image", "x", "data")
_LABELS = ("labels", "label", "y", "targets")
_SPLITS = {"": "", "train": "train", "val": "valid", "valid": "valid", "test": "test"}
_PLAIN = "{name}"
_WITH_SPLIT = ("{name}_{split}", "{split}_{name}")


@dataclass(frozen=True)
class Arrays:
    """Images of a NumPy file; see `Dataset` for the members. `blocks` are the arrays, in the order of the ids."""

    root: Path
    notes: tuple[str, ...]
    table: ExampleTable
    blocks: tuple[NDArray[np.uint8], ...]
    name: str = "arrays"

    def examples(self) -> ExampleTable:
        """All rows; an example's file name is its number."""
        return self.table

    def read_image(self, file: str) -> Image.Image:
        """One row as an RGB image; OSError for anything but a row's number."""
        return as_rgb(Image.fromarray(self._row(file)))

    def digest(self, file: str) -> int:
        """xxh3_64 of the row's pixels."""
        return xxhash.xxh3_64_intdigest(self._row(file).tobytes())

    def _row(self, file: str) -> NDArray[np.uint8]:
        """(H, W, 3) or (H, W) uint8."""
        at = int(file) if file.isascii() and file.isdigit() else -1
        for block in self.blocks if at >= 0 else ():
            if at < len(block):
                row = np.ascontiguousarray(block[at])
                return row[..., 0] if row.shape[-1:] == (1,) and row.ndim == 3 else row
            at -= len(block)
        raise OSError(errno.EINVAL, f"not the number of an image in {self.root}", file)


def open_arrays(spec: DatasetSpec) -> Arrays:
    """Open a .npy file (memory-mapped) or a .npz file (read completely), or the one that a directory holds.

    In a .npz the images are called images or x, or x_train, x_val and x_test (train_images ... too), the labels labels or
    y, y_train ... The labels of a .npy are beside it as NAME_labels.npy or labels.npy; the record's `labels` names another
    .npy file, which takes precedence. Labels count from 0; `class_names` in a .npz names them.

    Raises:
        DatasetError: no such file, no NumPy file, or arrays that are no uint8 images in this layout.
    """
    path = _find(spec.root)
    is_npy = path.suffix.lower() == ".npy"
    arrays = {path.stem: _load(path)} if is_npy else _load_all(path)
    parts = [("", path.stem, arrays[path.stem], _beside(path))] if is_npy else _parts(path, arrays)
    if spec.labels:
        if len(parts) != 1:
            raise DatasetError(
                f"--labels {spec.labels} cannot label {path.name}, which has {len(parts)} splits. Expected one array of images."
            )
        parts = [(*parts[0][:3], (spec.labels, _load(Path(spec.labels))))]
    notes: list[str] = []
    blocks, splits, labels = [], [], []
    for split, key, images, labelled in parts:
        _check_images(path, key, images)
        blocks.append(images)
        splits += [split] * len(images)
        labels.append(_check_labels(path, labelled, len(images), notes))
    count = len(splits)
    all_labels = np.concatenate(labels)
    return Arrays(
        root=path,
        notes=tuple(notes),
        blocks=tuple(blocks),
        table=ExampleTable(
            ids=np.arange(count, dtype=np.int64),
            files=tuple(f"{number:08d}" for number in range(count)),
            sizes=np.concatenate([np.full(len(block), block[0].nbytes, np.int64) for block in blocks]),
            splits=tuple(splits),
            labels=all_labels,
            class_names=_class_names(path, arrays, int(all_labels.max())),
            mtimes=np.full(count, path.stat().st_mtime_ns, np.int64),  # the file's own: a single row cannot be written
        ),
    )


def _find(root: str) -> Path:
    path = Path(root)
    if path.is_dir():
        found = sorted(
            p for p in path.iterdir() if p.suffix.lower() in (".npy", ".npz") and not p.stem.endswith("labels")
        )
        if len(found) != 1:
            names = ", ".join(p.name for p in found[:5]) or "none"
            raise DatasetError(f"{path} holds {len(found)} NumPy files of images ({names}). Name one with --images.")
        return found[0]
    if not root or not path.exists():
        raise DatasetError(f"The file of arrays {root!r} does not exist. Name a .npy or .npz file with --images.")
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DatasetError(f"{path} is neither .npy nor .npz. Expected a file that numpy.save or numpy.savez wrote.")
    return path


def _load(path: Path) -> NDArray[Any]:
    """An array, memory-mapped: only the rows that are read come into memory."""
    try:
        with reading():
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return array


def _load_all(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with (
            path.open("rb") as stream,
            reading(),
            np.load(stream, allow_pickle=False) as archive,
        ):  # numpy leaves an invalid file open
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read as a NumPy file ({one_line(error)}). Expected what numpy.save or numpy.savez "
        "wrote of plain numbers (no objects, no pickles). Save it again."
    )


def _beside(path: Path) -> tuple[str, NDArray[Any]] | None:
    for other in (path.with_name(f"{path.stem}_labels.npy"), path.with_name("labels.npy")):
        if other.is_file() and other != path:
            return other.name, _load(other)
    return None


_Part = tuple[str, str, NDArray[Any], tuple[str, NDArray[Any]] | None]


def _parts(path: Path, arrays: Mapping[str, NDArray[Any]]) -> list[_Part]:
    """(split, name of the images, images, labels with their name) in the order train, valid, test."""
    folded = {key.lower(): key for key in arrays}
    parts: list[_Part] = []
    for split, means in _SPLITS.items():
        key = _key(folded, _IMAGES, split)
        if key is not None:
            label = _key(folded, _LABELS, split)
            parts.append((means, key, arrays[key], None if label is None else (label, arrays[label])))
    if not parts:
        raise DatasetError(
            f"{path} holds the arrays {', '.join(arrays) or 'none'}. Expected images (or x), or x_train, x_val and x_test; and "
            "labels (or y), or y_train ... Save it again with these names."
        )
    return parts


def _key(folded: Mapping[str, str], names: tuple[str, ...], split: str) -> str | None:
    for pattern in _WITH_SPLIT if split else (_PLAIN,):
        for name in names:
            key = pattern.format(name=name, split=split)
            if key in folded:
                return folded[key]
    return None


def _check_images(path: Path, key: str, images: NDArray[Any]) -> None:
    got = f"The array {key!r} of {path} is {images.dtype} of shape {images.shape}"
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        raise DatasetError(
            f"{got}, channels first. Expected (N, height, width, 3): save array.transpose(0, 2, 3, 1) instead."
        )
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))) or 0 in images.shape:
        raise DatasetError(
            f"{got}. Expected (N, height, width, 3), or (N, height, width) for grey, and none of them 0."
        )
    if images.dtype != np.uint8:
        how = (
            "(array * 255).round().astype('uint8') if it runs from 0 to 1"
            if images.dtype.kind == "f"
            else "astype('uint8')"
        )
        raise DatasetError(f"{got}. Expected uint8, pixels from 0 to 255: save {how}.")


def _check_labels(
    path: Path, labelled: tuple[str, NDArray[Any]] | None, count: int, notes: list[str]
) -> NDArray[np.int32]:
    """(count,) labels; all -1, and a note, where there are none."""
    if labelled is None:
        notes.append(f"There are no labels for {count:,} images of {path.name}.")
        return np.full(count, -1, np.int32)
    key, labels = labelled
    got = f"The labels {key!r} of {path} are {labels.dtype} of shape {labels.shape}"
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        more = " Of one-hot rows save array.argmax(axis=1)." if labels.ndim == 2 else ""
        raise DatasetError(f"{got}. Expected one integer per image, shape ({count},).{more}")
    if len(labels) != count:
        raise DatasetError(f"{got}, and there are {count:,} images. Expected one label per image, in the same order.")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= MOST_CLASSES:
        raise DatasetError(
            f"{got}, from {lowest} to {highest}. Expected class numbers from 0 to {MOST_CLASSES - 1}; leave the labels out "
            "where there are none."
        )
    return labels.astype(np.int32)


def _class_names(path: Path, arrays: Mapping[str, NDArray[Any]], highest: int) -> tuple[str, ...]:
    given = arrays.get("class_names")
    if given is None or path.suffix.lower() == ".npy":
        return tuple(map(str, range(highest + 1)))
    if given.ndim != 1 or given.dtype.kind != "U" or len(given) <= highest:
        raise DatasetError(
            f"class_names of {path} is {given.dtype} of shape {given.shape}. Expected a string for each of {highest + 1} classes."
        )
    return tuple(map(str, given))

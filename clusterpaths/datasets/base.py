"""The interface of data sets: a table of its examples, and their images.

Belongs here: the protocol and its record. A data set itself is one file beside this one.
"""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.errors import DatasetError


@dataclass(frozen=True)
class ExampleTable:
    """One row per example, in the data set's own order (ids ascending); n rows.

    Attributes:
        ids: (n,) int64, 0-based index in the complete data set (CelebA: file number - 1), gaps allowed.
        files: n names relative to the image directory, as a person would look for them.
        sizes: (n,) int64, bytes of each file; with the names this shows whether an image changed.
        splits: n of "train", "valid", "test", or "" where unknown.
        labels: (n,) integers, at least int16, index into class_names, -1 where an example has no (single) label.
        class_names: names of the labels; may be empty.
        attributes: name -> (n,) int8 of 1, -1, or 0 where unknown; may be empty.
        mtimes: (n,) int64, when each file was last written, nanoseconds since 1970; None where files have no times.
    """

    ids: NDArray[np.int64]
    files: tuple[str, ...]
    sizes: NDArray[np.int64]
    splits: tuple[str, ...]
    labels: NDArray[np.integer]
    class_names: tuple[str, ...] = ()
    attributes: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)
    mtimes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def take(self, positions: NDArray[np.int64]) -> ExampleTable:
        """The table of the examples at these positions (0-based rows of this table)."""
        return ExampleTable(
            ids=self.ids[positions],
            files=tuple(self.files[p] for p in positions),
            sizes=self.sizes[positions],
            splits=tuple(self.splits[p] for p in positions),
            labels=self.labels[positions],
            class_names=self.class_names,
            attributes={name: values[positions] for name, values in self.attributes.items()},
            mtimes=None if self.mtimes is None else self.mtimes[positions],
        )

    def of_files(self, files: tuple[str, ...]) -> ExampleTable:
        """The table of the examples with these files, in this table's order."""
        if len(files) == len(self):
            return self
        wanted = set(files)
        return self.take(np.array([at for at, file in enumerate(self.files) if file in wanted], np.int64))

    def choose(self, split: str = "all", subset: int | None = None) -> ExampleTable:
        """The examples of one split, and of these only the first `subset`.

        Raises:
            DatasetError: no example is known to be of that split.
        """
        positions = np.arange(len(self))
        if split != "all":
            positions = np.flatnonzero(np.array(self.splits, dtype=object) == split)
            if len(positions) == 0:
                known = ", ".join(sorted(set(self.splits) - {""})) or "none"
                raise DatasetError(
                    f"No image is known to be of the split {split!r}; splits that are known: {known}. Expected a partition "
                    "file (list_eval_partition.txt) that names these images, or what docs/datasets.md describes for splits in "
                    "this data set. Add it, or use --split all."
                )
        return self.take(positions[:subset])


class Caution(str):
    """A note that is logged as a warning."""

    __slots__ = ()


class Dataset(Protocol):
    """A set of images on disk. Opening one is quick; no image is read before `read_image`."""

    @property
    def name(self) -> str:
        """Registry name, such as "celeba"; part of a cache's identity."""
        ...

    @property
    def root(self) -> Path:
        """The directory that the user named; shown in messages."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how the directory was read, one sentence each (logged; `Caution` as a warning)."""
        ...

    def examples(self) -> ExampleTable:
        """All examples on disk."""
        ...

    def read_image(self, file: str) -> Image.Image:
        """Decode one example's file (a name from the table) to an RGB image at its own size.

        Raises:
            OSError: the file is missing, truncated or no image (what Pillow raises), with a reason
                that reads well in a log line.
        """
        ...

    def digest(self, file: str) -> int:
        """xxh3_64 of one example's stored bytes (its file, or its row of an array), undecoded where that can be.

        Raises:
            OSError: they cannot be read.
        """
        ...


def path_in(folder: Path, file: str) -> Path:
    """The path of an example's file, `file` being its name below `folder`, parts joined by "/".

    Raises:
        OSError: a name that leads out of the directory.
    """
    if not file or "\0" in file or ".." in PurePosixPath(file).parts or PurePosixPath(file).is_absolute():
        raise OSError(errno.EINVAL, f"not the name of a file in {folder}", file)
    return folder / file


def file_digest(path: Path | str) -> int:
    """xxh3_64 of a file's bytes, read a MiB at a time.

    Raises:
        OSError: the file cannot be read.
    """
    hasher = xxhash.xxh3_64()
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - hot: every image
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.intdigest()


def require_directory(root: str) -> None:
    """Check that a data set's root is a directory.

    Raises:
        DatasetError: it does not exist, or is a file; of a zip archive, the message says what to do with it.
    """
    path, what_to_do = Path(root), "Name a directory that holds images with --images."
    if root and path.is_dir():
        return
    if not root or not path.exists():
        raise DatasetError(f"The image directory {root!r} does not exist. {what_to_do}")
    if zipfile.is_zipfile(path):
        raise DatasetError(
            f"The image directory {root!r} is a zip archive, not a directory. Unpack it, as with `unzip {path.name} -d "
            f"{path.stem}`, and name the unpacked directory with --images."
        )
    raise DatasetError(f"The image directory {root!r} is a file, not a directory. {what_to_do}")

"""What every data set offers to the stages: a table of its examples, and their images.

Belongs here: the protocol and its record. A data set itself is one file beside this one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from clusterpaths.errors import DatasetError

# What Pillow's decoders let through on corrupt bytes besides OSError. DecompressionBombWarning only where warnings
# are errors.
_CORRUPT = (
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class ExampleTable:
    """One row an example, in the data set's own order (ids ascending); n rows.

    Attributes:
        ids: (n,) int64, 0-based index in the whole data set (CelebA: file number - 1), gaps allowed.
        files: n names relative to the image folder, as a person would look for them.
        sizes: (n,) int64, bytes of each file; with the names this tells whether an image changed.
        splits: n of "train", "valid", "test", or "" where unknown.
        labels: (n,) int16, index into class_names, -1 where an example has no (single) label.
        class_names: names of the labels; may be empty.
        attributes: name -> (n,) int8 of 1, -1, or 0 where unknown; may be empty.
    """

    ids: NDArray[np.int64]
    files: tuple[str, ...]
    sizes: NDArray[np.int64]
    splits: tuple[str, ...]
    labels: NDArray[np.int16]
    class_names: tuple[str, ...] = ()
    attributes: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)

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
        )

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
                    "file (list_eval_partition.txt) that names these images. Add it, or use --split all."
                )
        return self.take(positions[:subset])


class Dataset(Protocol):
    """A set of images on disk. Opening one is quick; no image is read before `read_image`."""

    @property
    def name(self) -> str:
        """Registry name, such as "celeba"; part of a cache's identity."""
        ...

    @property
    def root(self) -> Path:
        """The folder that the user named; shown in messages."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the folder was understood, one sentence each (logged)."""
        ...

    def examples(self) -> ExampleTable:
        """All examples that are there."""
        ...

    def read_image(self, file: str) -> Image.Image:
        """Decode one example's file (a name from the table) to an RGB image at its own size.

        Raises:
            OSError: the file is missing, truncated or no image (what Pillow raises), with a reason
                that reads well in a log line.
        """
        ...


def open_rgb(path: Path) -> Image.Image:
    """Open any image Pillow knows (grey, CMYK, a PNG named .jpg) and return it fully decoded as RGB.

    Raises:
        OSError: missing, empty, truncated, corrupt, too large to be sane, or no image at all. Pillow reports
            some corrupt files by SyntaxError, struct.error and the like; those too become OSError here.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert("RGB")  # straight to RGB would warn
            return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError as error:
        size = path.stat().st_size
        reason = f"not an image that can be read ({size:,} bytes)" if size else "the file is empty (0 bytes)"
        raise OSError(reason) from error
    except _CORRUPT as error:
        raise OSError(f"corrupt image ({type(error).__name__}: {error})") from error

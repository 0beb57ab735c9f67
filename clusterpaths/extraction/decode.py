"""From files to batches of images for the model."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.datasets import Dataset, ExampleTable
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import Preprocessing

# An OSError with one of these numbers is about one file; any other (an I/O error, a lost network disk) is about the
# machine, and a retry can help. Pillow's errors carry no number.
MISSING = "missing"  # the reason of an example whose file was listed and then deleted
_ABOUT_ONE_FILE = {None, errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


@dataclass(frozen=True)
class Batch:
    """Decoded examples of one batch: m of them could be read."""

    positions: NDArray[np.int64]  # (m,) within the shard
    digests: NDArray[np.uint64]  # (m,)
    pixels: NDArray[np.uint8]  # (m, height, width, 3)
    images: NDArray[np.float32]  # (m, 3, height, width)
    failed: list[tuple[int, str]]  # position within the shard, reason


def decode_batches(
    dataset: Dataset, table: ExampleTable, preprocessing: Preprocessing, batch_size: int
) -> Iterator[Batch]:
    """The table's examples in batches, decoded, resized and normalised.

    In the caller's thread: other workers keep the other cores busy, and a thread to decode ahead cost 4% more.

    Raises:
        OSError: of the machine or its disk, not of a single file.
    """
    for start in range(0, len(table), batch_size):
        yield _decode(dataset, table, start, min(start + batch_size, len(table)), preprocessing)


def _decode(dataset: Dataset, table: ExampleTable, start: int, stop: int, preprocessing: Preprocessing) -> Batch:
    height, width = preprocessing.size
    pixels = np.empty((stop - start, height, width, 3), np.uint8)
    read: list[int] = []
    digests: list[int] = []
    failed: list[tuple[int, str]] = []
    for position in range(start, stop):
        try:
            digest = dataset.digest(
                table.files[position]
            )  # first: a file replaced in between is noticed by the next run
            pixels[len(read)] = fit(dataset.read_image(table.files[position]), preprocessing)
        except OSError as error:
            if error.errno not in _ABOUT_ONE_FILE:
                raise
            failed.append((position, MISSING if error.errno == errno.ENOENT else str(error)))
        else:
            read.append(position)
            digests.append(digest)
    pixels = pixels[: len(read)]
    images = normalise(pixels, preprocessing)
    return Batch(np.array(read, np.int64), np.array(digests, np.uint64), pixels, images, failed)

"""From files to batches of images for the model, decoded ahead of it."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.datasets import Dataset, ExampleTable
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import Preprocessing

_DECODED_AHEAD = 2  # batches; more would only take memory
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


def decode_ahead(
    dataset: Dataset, table: ExampleTable, preprocessing: Preprocessing, batch_size: int
) -> Iterator[Batch]:
    """The table's examples in batches; a thread decodes, resizes and normalises the next ones while one is used.

    Raises:
        OSError: of the machine or its disk, not of a single file.
    """
    starts = iter(range(0, len(table), batch_size))
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
        waiting: deque[Future[Batch]] = deque()

        def submit_next() -> None:
            if (start := next(starts, None)) is not None:
                stop = min(start + batch_size, len(table))
                waiting.append(decoder.submit(_decode, dataset, table, start, stop, preprocessing))

        for _ in range(_DECODED_AHEAD):
            submit_next()
        while waiting:
            batch = waiting.popleft().result()
            submit_next()
            yield batch


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

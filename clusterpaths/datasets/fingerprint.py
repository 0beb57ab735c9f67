"""Fingerprint of a data set: a short text that changes when its images do.

Belongs here: what goes into it. What each file's digest is, is the data set's own; what follows from another
fingerprint is the cache's.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.datasets.base import Dataset, ExampleTable

SAMPLE = 64
"""Examples whose content is read for a quick fingerprint."""


def fingerprint(dataset: Dataset, table: ExampleTable, full: bool = False) -> str:
    """SHA-256 (64 hex digits) over the data set's name and the table's ids, files, sizes and labels.

    With it go the times of all files, and the content of 64 of them that depend on nothing but their number: a file
    of other content is noticed by its size or time, or, where files have no times, if it is among the 64. `full` takes
    the content of every example instead of times and sample: it holds on another machine and after a copy, and reads
    every byte. A file that cannot be read counts as such; it becomes another fingerprint once it can.
    """
    hasher = hashlib.sha256()

    def add(what: str, content: bytes) -> None:
        hasher.update(
            f"{what} {len(content)}\n".encode()
        )  # with lengths, so that different contents never give the same text
        hasher.update(content)

    add("name", dataset.name.encode())
    add("ids", _bytes(table.ids))
    add("files", "\0".join(table.files).encode("utf-8", "surrogateescape"))
    add("sizes", _bytes(table.sizes))
    add("labels", _bytes(table.labels))
    add("classes", "\0".join(table.class_names).encode())
    if full:
        add("content", _contents(dataset, table.files))
    else:
        add("times", b"" if table.mtimes is None else _bytes(table.mtimes))
        add("sample", _contents(dataset, (table.files[position] for position in sample_positions(len(table)))))
    return hasher.hexdigest()


def sample_positions(count: int) -> list[int]:
    """Positions (0-based, ascending) of the examples that are read: one of each of 64 equal parts, chosen by hash.

    By a hash and not by a random generator: the choice must be the same with every version of Python and NumPy.
    """
    if count <= SAMPLE:
        return list(range(count))
    bounds = [part * count // SAMPLE for part in range(SAMPLE + 1)]
    return [
        start + xxhash.xxh3_64_intdigest(f"{part} of {count}".encode()) % (stop - start)
        for part, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def _contents(dataset: Dataset, files: Iterable[str]) -> bytes:
    return b"".join(_content(dataset, file) for file in files)


def _content(dataset: Dataset, file: str) -> bytes:
    try:
        return b"=" + dataset.digest(file).to_bytes(8, "little")
    except OSError:  # extraction lists it as unreadable, and stops if there are too many
        return b"?" + bytes(8)


def _bytes(values: NDArray[np.integer]) -> bytes:
    return values.astype("<i8").tobytes()

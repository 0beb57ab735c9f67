"""Resized images, before they are normalised: what a cache of the format "none" stores.

Belongs here: one file of uint8 pixels per shard, whether it is complete, and reading it with its checksum. Activations are made
of them by `extraction/again.py`. As with activations, nothing counts before the manifest records it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.manifest import PIXELS, CacheIdentity, ShardRecord
from clusterpaths.cache.stores import open_store, size_on_disk
from clusterpaths.errors import CorruptedShardError
from clusterpaths.storage import Storage
from clusterpaths.storage.atomic import disk_errors

_READ = 1 << 20  # bytes at a time on the way to a checksum


class StoredShards(Protocol):
    """What stores of every format offer before and after extraction."""

    def reserve(self, rows: int) -> None:
        """Make room for this many rows; existing rows stay."""

    def complete(self, shards: list[ShardRecord]) -> set[int]:
        """The indexes of those recorded shards whose files are complete."""

    def remove(self) -> None:
        """Remove all of it."""


def open_stored(directory: Storage, identity: CacheIdentity) -> StoredShards:
    """The store of a cache: of activations, or of pixels."""
    if identity.format == "none":
        return PixelStore(directory, identity.preprocessing.size)
    return open_store(directory, identity.format, identity.layers)


def stored_size(identity: CacheIdentity, examples: Iterable[int]) -> tuple[int, int]:
    """Files and bytes that shards of this many examples each will take."""
    each = list(examples)
    if identity.format == "none":
        return len(each), sum(each) * image_bytes(identity.preprocessing.size)
    return size_on_disk(identity.format, identity.layers, sum(each))


def image_bytes(size: tuple[int, int]) -> int:
    """Bytes of one image of (height, width): 12,288 at 64 x 64."""
    return size[0] * size[1] * 3


class PixelStore:
    """pixels/SHARD.rgb: the shard's readable images in order of id, (rows, height, width, 3) uint8 without a header."""

    def __init__(self, directory: Storage, size: tuple[int, int]) -> None:
        self._directory, self._size = directory / PIXELS, size

    def shard(self, record: ShardRecord) -> ShardPixels:
        """The file of one shard, to be written or read; it need not be there."""
        return ShardPixels(self._directory.path / f"{record.index:05d}.rgb", record, self._size)

    def reserve(self, rows: int) -> None:  # noqa: ARG002 - files need no room beforehand
        self._directory.make()

    def complete(self, shards: list[ShardRecord]) -> set[int]:
        return {shard.index for shard in shards if self.shard(shard).is_complete()}

    def remove(self) -> None:
        self._directory.remove_tree()


class ShardPixels:
    """The pixels of one shard.

    Args:
        path: its file.
        record: its place in the manifest; for reading with rows and checksum.
        size: height and width.
    """

    def __init__(self, path: Path, record: ShardRecord, size: tuple[int, int]) -> None:
        self._path, self._record, self._size = path, record, size

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:  # noqa: ARG002
        """As `ActivationStore.write`: (n, height, width, 3) uint8 at rows `row` … of the cache, each after the last."""
        first = row == self._record.start  # what a killed run has left is written over, not added to
        with disk_errors(self._path), self._path.open("wb" if first else "r+b") as file:
            file.seek((row - self._record.start) * image_bytes(self._size))
            file.write(np.ascontiguousarray(values).data)

    def is_complete(self) -> bool:
        """Whether the file has the recorded size."""
        if not self._record.rows:
            return True
        return self._path.is_file() and self._path.stat().st_size == self._record.rows * image_bytes(self._size)

    def check(self) -> None:
        """Read all of it and compare with the checksum.

        Raises:
            CorruptedShardError: the file is gone, has another size, or other bytes than were written.
        """
        if not self.is_complete():
            raise self._damage("are missing or incomplete")
        digest = xxhash.xxh3_64()
        with self._path.open("rb", buffering=0) as file:
            while piece := file.read(_READ):
                digest.update(piece)
        if digest.hexdigest() != self._record.checksums.get(PIXELS):
            raise self._damage("are corrupted: their checksum differs")

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """(n, height, width, 3) uint8 rows start … stop - 1 of the shard, counted from 0.

        Raises:
            CorruptedShardError: they are not there.
        """
        pixels = np.empty((stop - start, *self._size, 3), np.uint8)
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(start * image_bytes(self._size))
                read = file.readinto(pixels.data.cast("B"))
        except FileNotFoundError:
            read = 0
        if read != pixels.nbytes:
            raise self._damage("are missing or incomplete")
        return pixels

    def _damage(self, how: str) -> CorruptedShardError:
        return CorruptedShardError(
            f"The images of shard {self._record.index} in {self._path} {how}. The shard is extracted again.",
            self._record.index,
        )

"""How activations are stored: one .npy file per example, or one chunked zarr array per layer.

Belongs here: reading and writing rows of known ids and row numbers. The meaning of a row is in the manifest.
A store does not write atomically: a shard counts only once the manifest records it, and its bytes have a checksum there.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray

from clusterpaths.cache.arrays import ArrayStore
from clusterpaths.cache.manifest import PIXELS, LayerRecord, ShardRecord, require_manifest
from clusterpaths.cache.zarr_layout import (
    CHUNK_ROWS,
    ZARR_RATIO,
    chunk_file,
    chunk_files,
    chunk_shape,
    codec,
    is_complete_chunk,
)
from clusterpaths.common.corrupted import one_line
from clusterpaths.records import StoredFormat
from clusterpaths.storage import Storage
from clusterpaths.storage.atomic import disk_errors, errno_of

log = logging.getLogger(__name__)

_NPY_HEADER = 128
_BLOCK = 4096  # of common file systems: the disk space of a small file
_configuring = threading.Lock()


class ActivationStore(Protocol):
    """Rows of all layers of one cache."""

    def reserve(self, rows: int) -> None:
        """Make room for this many rows (zarr: grow the arrays); existing rows stay."""

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:
        """Write (n, *shape) values of these n ids, in zarr at rows row … row + n - 1."""

    def read(self, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n, values) in the stored dtype: these ascending rows (n,), which belong to these ids; zarr reads all between."""

    def complete(self, shards: list[ShardRecord]) -> set[int]:
        """The indexes of those recorded shards whose files are complete."""

    def remove(self) -> None:
        """Remove every activation."""


def open_store(directory: Storage, cache_format: StoredFormat, layers: Mapping[str, LayerRecord]) -> ActivationStore:
    """The store of a cache, for the layers that its manifest names.

    Raises:
        ValueError: a cache of the format "none" has none (`pixels.open_stored`).
    """
    if cache_format == "none":
        raise ValueError("should be npy or zarr, got none: such a cache keeps images, no activations.")
    stores: dict[str, type[NpyStore | ZarrStore | ArrayStore]] = {
        "npy": NpyStore,
        "zarr": ZarrStore,
        "arrays": ArrayStore,
    }
    return stores[cache_format](directory, layers)


def size_on_disk(cache_format: StoredFormat, layers: Mapping[str, LayerRecord], examples: int) -> tuple[int, int]:
    """Files and bytes that the activations of this many examples will take; bytes of zarr are an estimate."""
    each = [int(np.prod(layer.shape)) * np.dtype(layer.dtype).itemsize for layer in layers.values()]
    if cache_format == "npy":
        blocks = [-(-(size + _NPY_HEADER) // _BLOCK) * _BLOCK for size in each]
        return examples * len(each), examples * sum(blocks)
    chunks = -(-examples // CHUNK_ROWS)
    return (chunks + 1) * len(each) if chunks else 0, int(examples * sum(each) * ZARR_RATIO)


def activations_on_disk(directory: Storage) -> tuple[int, int]:
    """Files and bytes that the layers' directories of a cache hold now; without activations, its images'."""
    manifest = require_manifest(directory)
    return directory.usage(*((PIXELS,) if manifest.format == "none" else manifest.layers))


class _Store:
    def __init__(self, directory: Storage, layers: Mapping[str, LayerRecord]) -> None:
        self.directory = directory
        self.layers = layers

    def remove(self) -> None:
        for layer in self.layers:
            self.directory.remove_tree(layer)


class NpyStore(_Store):
    """LAYER/ID.npy, in the shape that the model gives it."""

    def reserve(self, rows: int) -> None:  # noqa: ARG002 - files need no room beforehand
        for layer in self.layers:
            (self.directory / layer).make()

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:  # noqa: ARG002
        folder = self.directory.path / layer
        header = _npy_header(values[0])
        with disk_errors(folder):
            for example, value in zip(ids.tolist(), values, strict=True):
                with open(f"{folder}/{example}.npy", "wb", buffering=0) as file:  # noqa: PTH123 - hot: 5 files per image
                    written = os.writev(file.fileno(), [header, value.data])
                    if written != len(header) + value.nbytes:  # a full disk shows as a short write first
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:  # noqa: ARG002
        record = self.layers[layer]
        values = np.empty((len(ids), int(np.prod(record.shape))), record.dtype)
        header, folder = len(_npy_header(np.empty(record.shape, record.dtype))), self.directory.path / layer
        for example, value in zip(ids.tolist(), values, strict=True):
            with open(f"{folder}/{example}.npy", "rb", buffering=0) as file:  # noqa: PTH123 - as above
                # A file that is too short leaves the row unfilled; the shard's checksum then differs.
                os.preadv(file.fileno(), [value.data], header)
        return values

    def complete(self, shards: list[ShardRecord]) -> set[int]:
        sizes: dict[str, dict[str, int]] = {}
        expected: dict[str, int] = {}
        for layer, record in self.layers.items():
            empty = np.empty(record.shape, record.dtype)
            expected[layer] = len(_npy_header(empty)) + empty.nbytes
            folder = self.directory.path / layer
            entries: Iterable[os.DirEntry[str]] = os.scandir(folder) if folder.is_dir() else []
            sizes[layer] = {entry.name: entry.stat().st_size for entry in entries}
        return {
            shard.index
            for shard in shards
            if all(
                sizes[layer].get(f"{example}.npy") == expected[layer]
                for layer in self.layers
                for example in shard.row_ids().tolist()
            )
        }


def _npy_header(value: NDArray[Any]) -> bytes:
    """The bytes before the values of a .npy file; the same for every example of a layer."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(value))
    return stream.getvalue()


class ZarrStore(_Store):
    """LAYER/ is a zarr array of (rows, *shape) in chunks of 64 examples, Blosc with byte shuffle (`zarr_layout.py`)."""

    def __init__(self, directory: Storage, layers: Mapping[str, LayerRecord]) -> None:
        super().__init__(directory, layers)
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def reserve(self, rows: int) -> None:
        for layer, record in self.layers.items():
            with disk_errors(self.directory.path / layer):
                self._reserve(layer, record, rows)
        self._arrays.clear()

    def _reserve(self, layer: str, record: LayerRecord, rows: int) -> None:
        array = self._sound_array(layer, record)
        if array is not None:
            if array.shape[0] < rows:
                self.directory.with_retries(lambda: array.resize((rows, *record.shape)))
            return
        self.directory.remove_tree(layer)
        with self._pipeline():
            self.directory.with_retries(
                lambda: zarr.create_array(
                    self.directory.zarr_store(layer),
                    shape=(rows, *record.shape),
                    chunks=chunk_shape(record),
                    dtype=record.dtype,
                    compressors=codec(record),
                    # Codecs leave a chunk of nothing but the fill value unwritten; zeros are data (a dead layer).
                    fill_value=float("nan"),
                    overwrite=True,
                )
            )

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:
        with disk_errors(self.directory.path / layer):
            if len(ids) % CHUNK_ROWS:  # zarr would extend an existing chunk, and a killed run may have left half of one
                self.directory.remove(f"{layer}/{chunk_file(self.layers[layer], row)}")
            array = self._array(layer)
            try:
                self.directory.with_retries(lambda: array.__setitem__(slice(row, row + len(ids)), values))
            except RuntimeError as error:  # the Rust codecs raise it for an OSError
                if number := errno_of(error):
                    raise OSError(number, os.strerror(number)) from error
                raise

    def read(self, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        array, first, last = self._array(layer), int(rows[0]), int(rows[-1])
        between = np.asarray(self.directory.with_retries(lambda: array[first : last + 1]))
        return (between if len(between) == len(ids) else between[rows - first]).reshape(len(ids), -1)

    def complete(self, shards: list[ShardRecord]) -> set[int]:
        found = {shard.index for shard in shards}
        for layer, record in self.layers.items():
            if self._sound_array(layer, record) is None:
                return set()
            chunks = {shard.index: list(chunk_files(record, shard)) for shard in shards if shard.index in found}
            there = self.directory.complete(layer, itertools.chain.from_iterable(chunks.values()), is_complete_chunk)
            found = {index for index, files in chunks.items() if there.issuperset(files)}
        return found

    def _sound_array(self, layer: str, record: LayerRecord) -> zarr.Array[Any] | None:
        """The array, if its metadata can be read and is of this layer."""
        try:
            array = self._array(layer)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
            # what zarr raises for JSON of another content
            log.warning(
                "%s: its array cannot be opened, and is made again (%s)", self.directory / layer, one_line(error)
            )
            return None
        expected = (record.shape, np.dtype(record.dtype), chunk_shape(record))
        return array if (array.shape[1:], array.dtype, array.chunks) == expected else None

    def _array(self, layer: str) -> zarr.Array[Any]:
        if layer not in self._arrays:
            with self._pipeline():
                self._arrays[layer] = self.directory.with_retries(
                    lambda: zarr.open_array(self.directory.zarr_store(layer), mode="r+", zarr_format=3)
                )
        return self._arrays[layer]

    @contextlib.contextmanager
    def _pipeline(self) -> Iterator[None]:
        """For creating and opening arrays: they use the pipeline configured at that time."""
        with _configuring, zarr.config.set({"codec_pipeline.path": self.directory.zarr_pipeline}):
            yield

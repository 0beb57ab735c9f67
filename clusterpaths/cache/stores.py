"""How activations lie on disk: one .npy an example, or one chunked zarr array a layer.

Belongs here: reading and writing rows of known ids and row numbers. What a row means is the manifest's business.
A store does not write atomically: a shard counts only once the manifest records it, and its bytes have a checksum there.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from clusterpaths.cache.manifest import PIXELS, LayerRecord, ShardRecord, require_manifest
from clusterpaths.records import CacheFormat
from clusterpaths.storage.atomic import disk_errors
from clusterpaths.storage.remote import list_objects, place_of

CHUNK_ROWS = 64
_NPY_HEADER = 128
_BLOCK = 4096  # of common file systems: what a small file really takes
# The share of their plain size that CelebA's five layers take as float16 with Blosc (measured; see the README).
ZARR_RATIO = 0.45
_WIDE = 100_000  # bytes a row
_BLOSC_BLOCK = 1 << 18  # a larger block than Blosc's own choice: zstd gets quicker and smaller by it


class ActivationStore(Protocol):
    """Rows of all layers of one cache."""

    def reserve(self, rows: int) -> None:
        """Make room for this many rows (zarr: grow the arrays); what is there stays."""

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:
        """Write (n, *shape) values of these n ids, in zarr at rows row … row + n - 1."""

    def read(self, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n, values) in the stored dtype: these ascending rows (n,), which belong to these ids; zarr reads all between."""

    def whole(self, shards: list[ShardRecord]) -> set[int]:
        """The indexes of those recorded shards whose files are all there with their full size."""

    def remove(self) -> None:
        """Remove every activation."""


def open_store(directory: Path, cache_format: CacheFormat, layers: Mapping[str, LayerRecord]) -> ActivationStore:
    """The store of a cache, for the layers that its manifest names.

    Raises:
        ValueError: a cache of the format "none" has none (`pixels.open_kept`).
    """
    if cache_format == "none":
        raise ValueError("should be npy or zarr, got none: such a cache keeps images, no activations.")
    if place_of(directory):
        from clusterpaths.cache.remote_arrays import RemoteZarrStore  # which imports this module

        return RemoteZarrStore(directory, layers)
    return (NpyStore if cache_format == "npy" else ZarrStore)(directory, layers)


def size_on_disk(cache_format: CacheFormat, layers: Mapping[str, LayerRecord], examples: int) -> tuple[int, int]:
    """Files and bytes that the activations of this many examples will take; bytes of zarr are an estimate."""
    each = [int(np.prod(layer.shape)) * np.dtype(layer.dtype).itemsize for layer in layers.values()]
    if cache_format == "npy":
        blocks = [-(-(size + _NPY_HEADER) // _BLOCK) * _BLOCK for size in each]
        return examples * len(each), examples * sum(blocks)
    chunks = -(-examples // CHUNK_ROWS)
    return (chunks + 1) * len(each) if chunks else 0, int(examples * sum(each) * ZARR_RATIO)


def activations_on_disk(directory: Path) -> tuple[int, int]:
    """Files and bytes that the layers' folders of a cache hold now; without activations, its images'."""
    manifest = require_manifest(directory)
    if place_of(directory):
        objects = [entry["size"] for layer in manifest.layers for entry in list_objects(directory / layer)]
        return len(objects), sum(objects)
    folders = (PIXELS,) if manifest.format == "none" else manifest.layers
    sizes = [
        os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - a million files: no Path for each
        for kept in folders
        for folder, _, names in os.walk(directory / kept)
        for name in names
    ]
    return len(sizes), sum(sizes)


class _Store:
    def __init__(self, directory: Path, layers: Mapping[str, LayerRecord]) -> None:
        self.directory = directory
        self.layers = layers

    def remove(self) -> None:
        for layer in self.layers:
            shutil.rmtree(self.directory / layer, ignore_errors=True)


class NpyStore(_Store):
    """LAYER/ID.npy, in the shape that the model gives it."""

    def reserve(self, rows: int) -> None:  # noqa: ARG002 - files need no room beforehand
        for layer in self.layers:
            with disk_errors(self.directory / layer):
                (self.directory / layer).mkdir(parents=True, exist_ok=True)

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:  # noqa: ARG002
        folder = self.directory / layer
        header = _npy_header(values[0])
        with disk_errors(folder):
            for example, value in zip(ids.tolist(), values, strict=True):
                with open(f"{folder}/{example}.npy", "wb", buffering=0) as file:  # noqa: PTH123 - hot: 5 files an image
                    written = os.writev(file.fileno(), [header, value.data])
                    if written != len(header) + value.nbytes:  # a full disk shows as a short write first
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:  # noqa: ARG002
        record = self.layers[layer]
        values = np.empty((len(ids), int(np.prod(record.shape))), record.dtype)
        header = len(_npy_header(np.empty(record.shape, record.dtype)))
        for example, value in zip(ids.tolist(), values, strict=True):
            with open(f"{self.directory}/{layer}/{example}.npy", "rb", buffering=0) as file:  # noqa: PTH123 - as above
                # A file that is too short leaves the row unfilled; the shard's checksum then says so.
                os.preadv(file.fileno(), [value.data], header)
        return values

    def whole(self, shards: list[ShardRecord]) -> set[int]:
        sizes: dict[str, dict[str, int]] = {}
        expected: dict[str, int] = {}
        for layer, record in self.layers.items():
            empty = np.empty(record.shape, record.dtype)
            expected[layer] = len(_npy_header(empty)) + empty.nbytes
            folder = self.directory / layer
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
    """LAYER/ is a zarr array of (rows, *shape) in chunks of 64 examples, Blosc with byte shuffle."""

    def __init__(self, directory: Path, layers: Mapping[str, LayerRecord]) -> None:
        super().__init__(directory, layers)
        # The Rust codecs take the GIL out of the way: zarr's own pipeline is slow in threads.
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def _array(self, layer: str) -> zarr.Array[Any]:
        if layer not in self._arrays:
            self._arrays[layer] = zarr.open_array(self.directory / layer, mode="r+")
        return self._arrays[layer]

    def reserve(self, rows: int) -> None:
        for layer, record in self.layers.items():
            folder = self.directory / layer
            with disk_errors(folder):
                if (folder / "zarr.json").is_file():
                    array = zarr.open_array(folder, mode="r+")
                    if (array.shape[1:], array.dtype) == (record.shape, np.dtype(record.dtype)):
                        if array.shape[0] < rows:
                            array.resize((rows, *record.shape))
                        continue
                shutil.rmtree(folder, ignore_errors=True)
                zarr.create_array(
                    folder,
                    shape=(rows, *record.shape),
                    chunks=(CHUNK_ROWS, *record.shape),
                    dtype=record.dtype,
                    compressors=codec(record),
                    # Codecs leave a chunk of nothing but the fill value unwritten; zeros are data (a dead layer).
                    fill_value=float("nan"),
                )
        self._arrays.clear()

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:
        with disk_errors(self.directory / layer):
            if len(ids) % CHUNK_ROWS:  # zarr would fill up what is there, and a killed run may have left half a chunk
                shutil.rmtree(self.directory / layer / "c" / str(row // CHUNK_ROWS), ignore_errors=True)
            try:
                self._array(layer)[row : row + len(ids)] = values
            except RuntimeError as error:  # the Rust codecs' way to say an OSError
                if number := re.search(r"\(os error (\d+)\)", str(error)):
                    raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
                raise

    def read(self, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        first, last = int(rows[0]), int(rows[-1])
        between = np.asarray(self._array(layer)[first : last + 1])
        return (between if len(between) == len(ids) else between[rows - first]).reshape(len(ids), -1)

    def whole(self, shards: list[ShardRecord]) -> set[int]:
        if not all((self.directory / layer / "zarr.json").is_file() for layer in self.layers):
            return set()
        ends = {layer: "/0" * len(record.shape) for layer, record in self.layers.items()}
        return {
            shard.index
            for shard in shards
            if all(
                _whole_chunk(f"{self.directory}/{layer}/c/{chunk}{ends[layer]}")
                for layer in self.layers
                for chunk in chunks_of(shard)
            )
        }


def chunks_of(shard: ShardRecord) -> range:
    """The chunks of a zarr array that hold a recorded shard's rows."""
    return range(shard.start // CHUNK_ROWS, -(-(shard.start + (shard.rows or 0)) // CHUNK_ROWS))


def codec(layer: LayerRecord) -> BloscCodec:
    """lz4 for wide layers, where most of the time would go, zstd for the others, where bytes cost little time.

    CelebA's five layers, measured: 103 KB an image, where lz4 alone gives 115 and zstd alone 87 at twice the time.
    """
    wide = int(np.prod(layer.shape)) * np.dtype(layer.dtype).itemsize >= _WIDE
    if wide:
        return BloscCodec(cname="lz4", clevel=9, shuffle="shuffle", blocksize=_BLOSC_BLOCK)
    return BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", blocksize=_BLOSC_BLOCK)


def _whole_chunk(path: str) -> bool:
    """Whether a chunk's file has the size that Blosc's header (16 bytes, the last four: compressed size) says."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - up to 3,000 a layer
            header = file.read(16)
            return len(header) == 16 and int.from_bytes(header[12:], "little") == os.fstat(file.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError):
        return False

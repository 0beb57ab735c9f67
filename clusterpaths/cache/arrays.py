"""Rows in arrays that another program wrote, read where they are: NumPy, safetensors, HDF5, zarr, one file per example.

Belongs here: where each layer's rows are (arrays.json of a cache of the format "arrays"), and reading them. Nothing is written
to these files. Which files are layers is `activations/find.py`.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from clusterpaths.cache.manifest import LayerRecord, ShardRecord, parse_ids
from clusterpaths.common.corrupted import parse_json, reading
from clusterpaths.errors import CacheError, ConfigError
from clusterpaths.records import Record
from clusterpaths.storage import Storage

ARRAYS = "arrays.json"
COPIED = "copied"  # arrays out of compressed archives, which cannot be read in place
ORDER = "order.npy"
ArrayKind = Literal["npy", "npz", "safetensors", "hdf5", "zarr", "examples"]

_SAFETENSORS = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_ZIP_HEADER = 30  # bytes before the name in a local file header


class ArrayPart(Record):
    """Consecutive rows of one layer: an array in a file."""

    kind: ArrayKind
    path: str
    key: str = Field(default="", description="the array's name in a file of several")
    rows: int
    shape: tuple[int, ...] = Field(description="of one example")
    dtype: str
    ids: str = Field(default="", description="kind examples: the numbers of its files, one example each, as ranges")


class Arrays(Record):
    """The content of arrays.json: where the rows of a cache are."""

    version: int = 1
    source: str = Field(description="the directory or file that was named")
    layers: dict[str, tuple[ArrayPart, ...]]
    ordered: bool = Field(default=True, description="rows are in order of id; else order.npy has the row of each")


class ReadableArray(Protocol):
    """What numpy, h5py and zarr have in common. The first axis is the examples'."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, where: Any) -> Any: ...


def read_arrays(directory: Storage) -> Arrays:
    """Where the rows of a cache are.

    Raises:
        CacheError: arrays.json is missing or cannot be parsed.
    """
    try:
        return Arrays.model_validate_json(directory.read(ARRAYS))
    except (FileNotFoundError, ValidationError) as error:
        raise CacheError(
            f"{directory / ARRAYS}, which records where the activations are, is missing or cannot be parsed. Run "
            "`clusterpaths activations` again with --refresh."
        ) from error


def open_array(kind: ArrayKind, path: str, key: str = "", ids: str = "") -> ReadableArray:
    """An array of a file; only rows that are read come into memory.

    Raises:
        OSError, ValueError: no such file or array, or none that can be read.
        ConfigError: h5py is not installed.
    """
    with reading():
        return _open_array(kind, path, key, ids)


def _open_array(kind: ArrayKind, path: str, key: str, ids: str) -> ReadableArray:
    if kind == "examples":
        return _Files(Path(path), parse_ids(ids))
    if kind == "npy":
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return found
    if kind == "npz":
        return _open_npz(Path(path), key)
    if kind == "safetensors":
        return _open_safetensors(Path(path), key)
    if kind == "hdf5":
        dataset: ReadableArray = import_h5py(path).File(path, "r")[key]
        return dataset
    import zarr

    array: Any = zarr.open_array(path, mode="r")
    codecs = (*array.filters, *array.compressors, *((array.serializer,) if array.serializer else ()))
    if np.dtype(array.dtype).hasobject or any("pickle" in repr(one).lower() for one in codecs):
        raise ValueError("it holds pickled Python objects")  # an older numcodecs would run them
    return array  # type: ignore[no-any-return]


def shape_and_dtype(kind: ArrayKind, path: str, key: str = "", ids: str = "") -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Of an array, also of one in a compressed archive, without its values; raises as `open_array`."""
    with reading():
        if kind == "npz" and is_compressed(Path(path), key):
            with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
                shape, _, dtype = _npy_header(member)
                return shape, dtype
        array = _open_array(kind, path, key, ids)
        return tuple(map(int, array.shape)), np.dtype(array.dtype)


def import_h5py(path: str) -> Any:
    """h5py, which is an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            f"{path} is an HDF5 file, and h5py is not installed: pip install 'clusterpaths[hdf5]'"
        ) from error
    return h5py


def names_in(kind: ArrayKind, path: Path) -> list[str]:
    """The names of all arrays in a file of several.

    Raises:
        OSError, ValueError: it cannot be read.
        ConfigError: h5py is not installed.
    """
    with reading():
        if kind == "npz":
            with zipfile.ZipFile(path) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
        if kind == "safetensors":
            return list(_safetensors_header(path)[0])
        h5py, names = import_h5py(str(path)), list[str]()
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        return names


def is_compressed(path: Path, key: str) -> bool:
    """Whether an array of a .npz file cannot be read in place."""
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(f"{key}.npy").compress_type != zipfile.ZIP_STORED


def _open_npz(path: Path, key: str) -> NDArray[Any]:
    """numpy.savez stores arrays uncompressed: each is a .npy file at some offset, which can be mapped."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        member = archive.getinfo(f"{key}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError("it is compressed")
        file.seek(member.header_offset)
        header = file.read(_ZIP_HEADER)
        name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        file.seek(member.header_offset + _ZIP_HEADER + name + extra)
        shape, fortran, dtype = _npy_header(file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects")
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read: Callable[..., Any] = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The arrays of a file, and where their bytes begin: eight bytes of length, then JSON (the format's specification)."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise ValueError("its header is longer than the file")
        header = parse_json(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _open_safetensors(path: Path, key: str) -> ReadableArray:
    header, start = _safetensors_header(path)
    entry = header[key]
    if entry["dtype"] not in _SAFETENSORS:
        raise ValueError(f"its dtype {entry['dtype']} is not supported")
    dtype = np.dtype(f"<{_SAFETENSORS[entry['dtype']]}" if entry["dtype"] != "BOOL" else "?")
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if end - begin != int(np.prod(shape)) * dtype.itemsize or start + end > path.stat().st_size:
        raise ValueError(f"the bytes of {key} do not fit its shape: the file is incomplete")
    if end == begin:
        return np.empty(shape, dtype)
    values = np.memmap(path, dtype, "r", start + begin, shape)
    return _BFloat16(values) if entry["dtype"] == "BF16" else values


class _BFloat16:
    """The upper halves of float32 values, which numpy has no type for."""

    def __init__(self, halves: NDArray[np.uint16]) -> None:
        self._halves, self.shape, self.dtype = halves, halves.shape, np.dtype(np.float32)

    def __getitem__(self, where: Any) -> NDArray[np.float32]:
        whole: NDArray[np.uint32] = self._halves[where].astype(np.uint32) << 16
        return whole.view(np.float32)


class _Files:
    """A directory of one file per example, 16.npy."""

    def __init__(self, folder: Path, ids: NDArray[np.int64]) -> None:
        self._folder, self._ids = folder, ids
        first = self._load(int(ids[0]))
        self.shape, self.dtype = (len(ids), *first.shape), first.dtype

    def _load(self, number: int) -> NDArray[Any]:
        found: NDArray[Any] = np.load(self._folder / f"{number}.npy", allow_pickle=False)
        return found

    def __getitem__(self, where: Any) -> NDArray[Any]:
        values = np.empty((len(self._ids[where]), *self.shape[1:]), self.dtype)
        for at, number in enumerate(self._ids[where].tolist()):
            one = self._load(number)
            if one.shape != self.shape[1:]:
                raise ValueError(f"{self._folder / f'{number}.npy'} has the shape {one.shape}, others {self.shape[1:]}")
            values[at] = one
        return values


class ArrayStore:
    """The rows of a cache whose activations are in files of another program.

    The rows of a layer count through its parts; values of other types are converted to the layer's dtype.

    Args:
        directory: the cache.
        layers: its layers.
        arrays: where their rows are; None: as arrays.json of the cache has it.
        order: (n,) the row of each example; None: as the cache has it, or that of the rows.
    """

    def __init__(
        self,
        directory: Storage,
        layers: Mapping[str, LayerRecord],
        arrays: Arrays | None = None,
        order: NDArray[np.int64] | None = None,
    ) -> None:
        self._directory, self._layers = directory, layers
        self._arrays, self._order = arrays, order
        self._opened: dict[tuple[str, int], ReadableArray] = {}
        self._lock = threading.Lock()

    def reserve(self, rows: int) -> None:
        """Nothing is written to these files."""

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:  # noqa: ARG002
        """Nothing is written to these files."""
        raise CacheError(
            f"{self._directory} has activations that another program wrote; they cannot be extracted again. Run "
            "`clusterpaths activations` again, or use another --name."
        )

    def read(self, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:  # noqa: ARG002
        """(n, values) in the layer's dtype, of these (n,) ascending rows."""
        arrays, record = self._read_record(), self._layers[layer]
        if self._order is not None:
            rows = self._order[rows]
        parts = arrays.layers[layer]
        edges = np.cumsum([0, *(part.rows for part in parts)])
        of = np.searchsorted(edges, rows, side="right") - 1
        values = np.empty((len(rows), int(np.prod(record.shape))), record.dtype)
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(of) != 0)) + 1
        with np.errstate(over="ignore"):  # the check of values reports what float32 cannot hold
            for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
                part, first = int(of[start]), int(rows[start] - edges[of[start]])
                found = np.asarray(self._open(layer, part, parts[part])[first : first + stop - start])
                if len(found) != stop - start:
                    raise ValueError(f"{parts[part].path} has fewer rows than when it was checked")
                values[start:stop] = found.reshape(stop - start, -1)
        return values

    def complete(self, shards: list[ShardRecord]) -> set[int]:
        """All of them, or none where a file is gone."""
        there = all(Path(part.path).exists() for parts in self._read_record().layers.values() for part in parts)
        return {shard.index for shard in shards} if there else set()

    def remove(self) -> None:
        """Remove what was copied; the files of the other program stay."""
        self._directory.remove_tree(COPIED)

    def _read_record(self) -> Arrays:
        with self._lock:
            if self._arrays is None:
                self._arrays = read_arrays(self._directory)
                if not self._arrays.ordered:
                    self._order = np.load(self._directory.local(ORDER), allow_pickle=False)
            return self._arrays

    def _open(self, layer: str, index: int, part: ArrayPart) -> ReadableArray:
        with self._lock:
            if (layer, index) not in self._opened:
                self._opened[layer, index] = open_array(part.kind, part.path, part.key, part.ids)
            return self._opened[layer, index]

"""Which layers a directory or file of activations has, and which arrays hold their rows.

Belongs here: layouts and names. One array per layer (LAYER.npy, or several in one .npz, .safetensors or HDF5 file), chunks of
them in order of their names (LAYER/features_0-128.npy, as thingsvision writes; or batch_0.npz, batch_1.npz with the same
arrays), a zarr array, or one file per example (LAYER/16.npy). Reading is `cache/arrays.py`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clusterpaths.cache.arrays import COPIED, ArrayKind, ArrayPart, names_in, shape_and_dtype
from clusterpaths.cache.manifest import CLUSTERINGS, PIXELS, SAMPLE, SHARDS, format_ids
from clusterpaths.common.corrupted import parse_json
from clusterpaths.common.text import did_you_mean
from clusterpaths.errors import DatasetError

DESCRIPTIONS = ("examples", "predictions", "labels", "ids")  # files of these names describe rows
_SUFFIXES: dict[str, ArrayKind] = {
    ".npy": "npy", ".npz": "npz", ".safetensors": "safetensors", ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5",
}  # fmt: skip
_OWN = re.compile(rf"set_\d+|examples|{COPIED}|{CLUSTERINGS}|{PIXELS}|{SAMPLE}|{SHARDS}")  # directories of a cache
_RESERVED = ("id", "file", "split", "label", "prediction", "digest")  # other columns of a set's table
_MOST_LISTED = 20
_MOST_ROWS = 2**31 - 1


@dataclass(frozen=True)
class FoundLayer:
    """The arrays of one layer, in order of their rows; n rows.

    Attributes:
        name: of the layer.
        parts: its arrays.
        ids: (n,) ascending, of one file per example; None: rows have an order only.
    """

    name: str
    parts: tuple[ArrayPart, ...]
    ids: str | None = None

    @property
    def rows(self) -> int:
        """How many examples it has."""
        return sum(part.rows for part in self.parts)


_Source = tuple[str, ArrayKind, Path, str, str]  # layer, kind, path, key, ids


def require_source(source: Path) -> None:
    """Check that there is something to read.

    Raises:
        DatasetError: there is not.
    """
    if not source.exists():
        raise DatasetError(
            f"{source} does not exist. Expected a directory with the activations of each layer, or a file of arrays."
        )


def find_arrays(source: Path, wanted: Sequence[str] | None = None, *, chunks: bool = False) -> list[FoundLayer]:
    """The layers of a directory or file, in natural order of their names, or in the order of `wanted`.

    Args:
        source: a directory, or one file of arrays.
        wanted: names, or patterns such as conv*; None: all.
        chunks: files that are called by numbers only (LAYER/0.npy) are chunks of rows, not one example each.

    Raises:
        DatasetError: no arrays, arrays that are no activations, or a name that matches none.
        ConfigError: a package that reads them is not installed.
    """
    require_source(source)
    by_layer: dict[str, list[_Source]] = {}
    for found in _sources(source, chunks):
        by_layer.setdefault(found[0], []).append(found)
    if not by_layer:
        raise DatasetError(
            f"There are no activations in {source}. Expected an array per layer (conv1.npy, or several in one .npz, "
            ".safetensors or .h5 file), a directory per layer with chunks (conv1/features_0-128.npy) or with one file per "
            "example (conv1/0.npy), or zarr arrays."
        )
    return [_read_layer(name, by_layer[name]) for name in _choose(list(by_layer), wanted, source)]


def _sources(source: Path, chunks: bool) -> Iterator[_Source]:
    if source.is_file():
        if source.suffix.lower() not in _SUFFIXES:
            raise DatasetError(
                f"{source} is no file of arrays. Expected {', '.join(_SUFFIXES)}, or a directory of them."
            )
        yield from _of_files([source])
        return
    if _is_zarr(source):
        yield source.stem, "zarr", source, "", ""
        return
    entries = sorted((p for p in source.iterdir() if not p.name.startswith(".")), key=lambda p: natural(p.name))
    yield from _of_files(
        [p for p in entries if p.suffix.lower() in _SUFFIXES and p.is_file() and p.stem not in DESCRIPTIONS]
    )
    for folder in entries:
        if not folder.is_dir() or _OWN.fullmatch(folder.name):
            continue
        if _is_zarr(folder):
            yield folder.name.removesuffix(".zarr"), "zarr", folder, "", ""
        else:
            yield from _of_folder(folder, chunks)


def _is_zarr(folder: Path) -> bool:
    """Whether it is an array of zarr; a group is a directory of them."""
    if (folder / ".zarray").is_file():
        return True
    try:
        return bool(parse_json((folder / "zarr.json").read_bytes()).get("node_type") == "array")
    except (OSError, ValueError, AttributeError):
        return False


def _of_files(files: list[Path]) -> Iterator[_Source]:
    """Files beside each other: one layer each or, of several arrays, the layers of these names."""
    keys = {path: _names(path) for path in files}
    for path in files:
        kind = _SUFFIXES[path.suffix.lower()]
        for key in keys[path]:
            yield (path.stem if len(keys[path]) == 1 else _layer_name(key)), kind, path, key, ""


def _names(path: Path) -> list[str]:
    kind = _SUFFIXES[path.suffix.lower()]
    if kind == "npy":
        return [""]
    try:
        return sorted((name for name in names_in(kind, path) if name not in DESCRIPTIONS), key=natural)
    except (OSError, ValueError) as error:
        raise _unreadable(path, "", error) from error


def _of_folder(folder: Path, chunks: bool) -> Iterator[_Source]:
    """A directory of a layer: one file per example where files are called by numbers, else chunks."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]
    if not files:
        return
    numbered = all(path.suffix == ".npy" and path.stem.isascii() and path.stem.isdigit() for path in files)
    if numbered and not chunks:
        ids = np.array(sorted(int(path.stem) for path in files), np.int64)
        yield folder.name, "examples", folder, "", format_ids(ids)
        return
    for path in sorted(files, key=lambda path: natural(path.name)):
        names = _names(path)
        if len(names) > 1 and folder.name not in names:
            raise DatasetError(
                f"{path} has the arrays {', '.join(names[:_MOST_LISTED])}, and the directory is of the layer {folder.name}. "
                f"Expected one array per file, or one called {folder.name}."
            )
        yield folder.name, _SUFFIXES[path.suffix.lower()], path, names[0] if len(names) == 1 else folder.name, ""


def _layer_name(key: str) -> str:
    """Names of layers become names of directories: encoder/layer1 is encoder.layer1."""
    return key.strip("/").replace("/", ".")


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A sort key by which conv2 comes before conv10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def _choose(names: list[str], wanted: Sequence[str] | None, source: Path) -> list[str]:
    if wanted is None:
        return sorted(names, key=natural)
    chosen: list[str] = []
    for pattern in wanted:
        matching = [
            name for name in sorted(names, key=natural) if name == pattern or fnmatch.fnmatchcase(name, pattern)
        ]
        if not matching:
            listed = ", ".join(sorted(names, key=natural)[:_MOST_LISTED]) + (" …" if len(names) > _MOST_LISTED else "")
            raise DatasetError(
                f"{source} has no layer {pattern!r}.{did_you_mean(pattern, names)} Layers that are there: {listed}. Change "
                "--layers."
            )
        chosen += [name for name in matching if name not in chosen]
    return chosen


def _read_layer(name: str, sources: list[_Source]) -> FoundLayer:
    if name in _RESERVED or name.startswith("distance.") or name in (".", ".."):
        raise DatasetError(f"A layer cannot be called {name!r}: that is another column of a set. Rename its array.")
    parts = []
    for _, kind, path, key, ids in sources:
        try:
            shape, dtype = shape_and_dtype(kind, str(path), key, ids)
        except (OSError, ValueError) as error:
            raise _unreadable(path, key, error) from error
        what = f"The layer {name} ({path}{f', array {key}' if key else ''}) is {dtype} of shape {shape}"
        if dtype.kind not in "fiub":
            raise DatasetError(
                f"{what}. Expected real numbers: floating-point values or integers. Save it with such a dtype."
            )
        if shape and shape[0] > _MOST_ROWS:  # else a header that is no header takes all memory
            raise DatasetError(f"{what}. Expected at most {_MOST_ROWS:,} examples; write the file again.")
        if len(shape) < 2 or 0 in shape:
            more = (
                " A vector of labels or predictions is named with --labels or --predictions." if len(shape) == 1 else ""
            )
            raise DatasetError(f"{what}. Expected (examples, values), or more axes, and none of them 0.{more}")
        parts.append(
            ArrayPart(
                kind=kind, path=str(path.absolute()), key=key, rows=shape[0], shape=shape[1:], dtype=str(dtype), ids=ids
            )
        )
    if len({part.shape for part in parts}) > 1:
        shapes = ", ".join(f"{Path(part.path).name} {part.shape}" for part in parts[:_MOST_LISTED])
        raise DatasetError(
            f"The arrays of the layer {name} have different shapes of one example: {shapes}. Expected equal ones in all chunks."
        )
    return FoundLayer(name, tuple(parts), parts[0].ids or None)


def _unreadable(path: Path, key: str, error: Exception) -> DatasetError:
    where = f"The array {key!r} of {path}" if key else str(path)
    hint = ""
    if "pickle" in str(error) or "Python objects" in str(error):
        hint = " It holds Python objects, which are not loaded, as unpickling can run any code."
    if isinstance(error, KeyError):
        hint = " There is no array of that name."
    return DatasetError(
        f"{where} cannot be read ({type(error).__name__}: {str(error).rstrip('.')}).{hint} Expected an array of plain numbers; "
        "save it again."
    )

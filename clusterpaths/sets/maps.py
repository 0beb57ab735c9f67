"""maps.parquet: where each example of a set lies in each layer, as coordinates along principal components; and umap.parquet,
whose points are shown in place of the first two of them.

Belongs here: writing and reading both. One row per example, in the order of paths.parquet. `clustering/` computes them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from clusterpaths.common.corrupted import reading
from clusterpaths.errors import CacheError
from clusterpaths.records import MapMethod, Record
from clusterpaths.storage.base import stamp_of

MAPS, AXES, POINTS = "maps.parquet", "axes.npz", "umap.parquet"
_RECORD, _OF = b"clusterpaths.maps", b"clusterpaths.maps.of"  # keys of the schema's metadata
_AGAIN = "Run again with the same options: it writes them anew."
_HALF = (1e-3, 6e4)  # largest magnitudes that float16 holds to a thousandth of it, with all that are smaller


class UmapRecord(Record):
    """How UMAP was fitted."""

    sample: int  # examples that it was fitted on, at most: `fit_sample.draw_ids`
    neighbours: int
    min_dist: float
    seed: int
    version: str  # of umap-learn


class MapRecord(Record):
    """How one layer's map was made."""

    method: MapMethod = "pca"
    explained: tuple[float, ...] = ()  # share of the sample's variance, per component
    umap: UmapRecord | None = None  # for that method


@dataclass(frozen=True)
class LayerMap:
    """Where n examples lie in one layer.

    Attributes:
        record: how it was made.
        points: (n, 2) float32, what a map shows.
        components: (n, d) float32, coordinates along the d first principal components of the layer's activations (scaled to unit
            length for cosine); distances between them approximate those between activations. For PCA the first two are `points`.
        residuals: (n,) float32, how far the activations are from all that lies along these components; None where not known.
            `squared_distances` uses both.
    """

    record: MapRecord
    points: NDArray[np.float32]
    components: NDArray[np.float32]
    residuals: NDArray[np.float32] | None = None


def squared_distances(
    component: NDArray[np.float32],
    residual: float,
    components: NDArray[np.float32],
    residuals: NDArray[np.float32],
    near: float = 0.0,
) -> NDArray[np.float32]:
    """(n,) squared distances of activations, approximately, from one example (d,) to n others (n, d).

    What two examples have beyond the components is taken to be at right angles. By that, 0.46 to 0.93 of the ten nearest
    neighbours are found, by the components alone 0.19 to 0.92 (CelebA_CNN's layers, 2,000 images: benchmarks/maps.py).
    For copies of one picture, which point the same way, that is wrong: those whose squared distance can be less than `near` get
    the least that it can be, `least_squared_distances`.
    """
    gaps = components - component
    along = np.einsum("ij,ij->i", gaps, gaps)
    found: NDArray[np.float32] = along + np.square(residuals) + np.float32(residual) ** 2
    if near > 0:
        along += np.square(residuals - np.float32(residual))
        np.copyto(found, along, where=along < near)
    return found


def least_squared_distances(
    component: NDArray[np.float32],
    residual: float,
    components: NDArray[np.float32],
    residuals: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(n,) squared distances that activations have at least; arguments as those of `squared_distances`."""
    return squared_distances(component, residual, components, residuals, near=np.inf)


class Maps:
    """The maps of a set's layers, of an existing file; each is read at first use and not cached: they are large.

    Everything it returns is of the files that were there when it was made.

    Args:
        path: of maps.parquet.
        layers: of the set.
        examples: of the set.
        points: of umap.parquet, whose points are shown if it exists and is of these maps (it is not if a run was stopped after
            it replaced these); else the first two components are.
    """

    def __init__(self, path: Path, layers: Sequence[str], examples: int, points: Path | None = None) -> None:
        self._path, self.layers, self._examples = path, tuple(layers), examples
        fit = points and points.is_file() and made_of(points) in ("", digest_of(path))  # "": an error at first use
        self._points = points if points and fit else path
        self._stamps = {one: stamp_of(one) for one in (path, self._points)}

    @cached_property
    def records(self) -> dict[str, MapRecord]:
        """Layer -> how its map was made.

        Raises:
            CacheError: the file cannot be read.
        """
        try:
            with reading():
                described = json.loads((pq.read_schema(self._points).metadata or {})[_RECORD])
                found = {layer: MapRecord.model_validate(described[layer]) for layer in self.layers}
        except (OSError, ValueError) as error:
            raise self._unreadable(self._points, error) from error
        self._require_unchanged(self._points)
        return found

    def points(self, layer: str) -> NDArray[np.float32]:
        """(n, 2) of one layer.

        Raises:
            CacheError: the file cannot be read, or has another number of rows.
        """
        return np.column_stack([self._numbers(f"{layer}.{axis}", self._points) for axis in "xy"])

    def components(self, layer: str) -> NDArray[np.float32]:
        """(n, d) of one layer.

        Raises:
            CacheError: as `points`.
        """
        column = self._read(f"{layer}.components", self._path)
        try:
            with reading():
                values = column.flatten().to_numpy()
                found: NDArray[np.float32] = values.astype(np.float32, copy=False).reshape(self._examples, -1)
        except ValueError as error:
            raise self._unreadable(self._path, error) from error
        return found

    def residuals(self, layer: str) -> NDArray[np.float32]:
        """(n,) of one layer.

        Raises:
            CacheError: as `points`.
        """
        return self._numbers(f"{layer}.residual", self._path)

    def rounded(self, layer: str, components: NDArray[np.float32]) -> NDArray[np.float32]:
        """Components (m, d) with the precision of those in the file; what is too large for it becomes the largest.

        Raises:
            CacheError: the file cannot be read.
        """
        try:
            with reading():
                dtype = pq.read_schema(self._path).field(f"{layer}.components").type.value_type.to_pandas_dtype()
        except (OSError, ValueError) as error:
            raise self._unreadable(self._path, error) from error
        self._require_unchanged(self._path)
        most = np.finfo(dtype).max
        return components.clip(-most, most).astype(dtype).astype(np.float32)

    def layer(self, layer: str) -> LayerMap:
        """All of one layer; see `points`."""
        return LayerMap(self.records[layer], self.points(layer), self.components(layer), self.residuals(layer))

    def check(self) -> None:
        """Read all of it, with its checksums.

        Raises:
            CacheError: it is corrupted.
        """
        for layer in self.layers:
            self.layer(layer)

    def _numbers(self, name: str, path: Path) -> NDArray[np.float32]:
        """(n,)"""
        try:
            with reading():
                found: NDArray[np.float32] = self._read(name, path).cast(pa.float32()).to_numpy()
        except ValueError as error:
            raise self._unreadable(path, error) from error
        return found

    def _read(self, name: str, path: Path) -> pa.Array:
        try:
            with reading():
                table = pq.read_table(path, columns=[name], page_checksum_verification=True)
        except (OSError, ValueError) as error:
            raise self._unreadable(path, error) from error
        self._require_unchanged(path)
        if len(table) != self._examples or table.num_columns != 1:
            raise CacheError(
                f"{path} has {len(table):,} rows and {table.num_columns} columns {name}; the set has {self._examples:,} "
                f"examples. {_AGAIN}"
            )
        return table.column(0).combine_chunks()

    def _require_unchanged(self, path: Path) -> None:
        if stamp_of(path) != self._stamps[path]:
            raise CacheError(
                f"{path} was replaced or removed after the set was opened. Open the set again: reload the page."
            )

    def _unreadable(self, path: Path, error: Exception) -> CacheError:
        self._require_unchanged(path)
        return CacheError(f"{path} cannot be read: {error}. Expected the maps of a set. {_AGAIN}")


def write_maps(path: Path, maps: Mapping[str, LayerMap]) -> None:
    """Write all layers of a set, whose maps are in memory."""
    largest = {layer: float(np.abs(one.components).max(initial=0)) for layer, one in maps.items()}
    records = {layer: one.record for layer, one in maps.items()}
    with MapsWriter(path, records, largest) as writer:
        writer.write(maps)


class MapsWriter(contextlib.AbstractContextManager["MapsWriter"]):
    """Writes the maps of a set by blocks of examples.

    Components are float16, as distances between them are approximate anyway; or float32 in layers where they are too large or
    too small for that.

    Args:
        path: of the file.
        records: layer -> how its map was made.
        largest: layer -> the largest magnitude of a component.
    """

    def __init__(self, path: Path, records: Mapping[str, MapRecord], largest: Mapping[str, float]) -> None:
        self._path = path
        self._described = json.dumps({layer: one.model_dump(mode="json") for layer, one in records.items()}).encode()
        low, high = _HALF
        self._dtypes = {
            layer: np.float16 if value == 0 or low <= value <= high else np.float32 for layer, value in largest.items()
        }
        self._file: pq.ParquetWriter | None = None

    def write(self, block: Mapping[str, LayerMap]) -> None:
        """The next examples in each layer."""
        columns: dict[str, pa.Array] = {}
        for layer, one in block.items():
            columns[f"{layer}.x"] = pa.array(np.ascontiguousarray(one.points[:, 0], np.float32))
            columns[f"{layer}.y"] = pa.array(np.ascontiguousarray(one.points[:, 1], np.float32))
            flat = pa.array(np.ascontiguousarray(one.components, self._dtypes[layer]).reshape(-1))
            columns[f"{layer}.components"] = pa.FixedSizeListArray.from_arrays(flat, one.components.shape[1])
            residuals = np.zeros(len(one.points)) if one.residuals is None else one.residuals
            columns[f"{layer}.residual"] = pa.array(np.ascontiguousarray(residuals, np.float32))
        table = pa.table(columns).replace_schema_metadata({_RECORD: self._described})
        if self._file is None:
            self._file = pq.ParquetWriter(
                self._path, table.schema, compression="zstd", use_dictionary=False, write_page_checksum=True
            )
        self._file.write_table(table)

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


def write_points(path: Path, maps: Mapping[str, tuple[MapRecord, NDArray[np.float32]]], of: str) -> None:
    """Write umap.parquet.

    Args:
        path: of the file.
        maps: layer -> how its points were made, and they (n, 2) float32.
        of: digest of the maps.parquet that they were made of.
    """
    columns = {
        f"{layer}.{axis}": pa.array(np.ascontiguousarray(points[:, at]))
        for layer, (_, points) in maps.items()
        for at, axis in enumerate("xy")
    }
    records = {layer: record.model_dump(mode="json") for layer, (record, _) in maps.items()}
    table = pa.table(columns).replace_schema_metadata({_RECORD: json.dumps(records).encode(), _OF: of.encode()})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_page_checksum=True)


def made_of(path: Path) -> str:
    """Digest of the maps.parquet that a umap.parquet was made of; empty if it cannot be read."""
    try:
        with reading():
            return str((pq.read_schema(path).metadata or {}).get(_OF, b"").decode())
    except (OSError, ValueError):
        return ""


def digest_of(path: Path) -> str:
    """Digest of a maps.parquet, as `made_of` has it."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest())

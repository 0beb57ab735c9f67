"""Activations in object storage: the arrays of `stores.ZarrStore`, a chunk an object, at the cache's address.

Belongs here: the same store for an s3:// address. Objects are written whole, so a chunk that is there is whole; its bytes
are checked when they are read, as on disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from clusterpaths.cache.manifest import LayerRecord, ShardRecord
from clusterpaths.cache.stores import CHUNK_ROWS, chunks_of, codec
from clusterpaths.storage.objects import patiently, store_of
from clusterpaths.storage.remote import list_objects, place_of, remove_file, remove_tree

# zarrs would make a client of its own, from a copy of this one's settings, and tell nobody of its trouble.
_PIPELINE = {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
_configuring = threading.Lock()
Result = TypeVar("Result")


@contextlib.contextmanager
def _own_pipeline() -> Iterator[None]:
    """For making and opening arrays: they keep the pipeline that is configured then."""
    with _configuring, zarr.config.set(_PIPELINE):
        yield


class RemoteZarrStore:
    """As `stores.ActivationStore`.

    Args:
        directory: the mirror of the cache.
        layers: its layers.
    """

    def __init__(self, directory: Path, layers: Mapping[str, LayerRecord]) -> None:
        place = place_of(directory)
        if place is None:
            raise ValueError(f"{directory} is no mirror")
        self.directory, self.layers = directory, layers
        self._place = place
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def reserve(self, rows: int) -> None:
        for layer, record in self.layers.items():
            try:
                array = self._array(layer)
                if (array.shape[1:], array.dtype) == (record.shape, np.dtype(record.dtype)):
                    if array.shape[0] < rows:
                        self._patiently(lambda array=array, shape=(rows, *record.shape): array.resize(shape))  # type: ignore[misc]
                    continue
            except FileNotFoundError:
                pass
            remove_tree(self.directory / layer)
            with _own_pipeline():
                self._patiently(lambda layer=layer, record=record: self._create(layer, record, rows))  # type: ignore[misc]
        self._arrays.clear()

    def write(self, layer: str, ids: NDArray[np.int64], row: int, values: NDArray[Any]) -> None:
        if len(ids) % CHUNK_ROWS:  # zarr would fill up what is there, and a killed run may have left a chunk
            ends = "/0" * len(self.layers[layer].shape)
            remove_file(self.directory / layer / f"c/{row // CHUNK_ROWS}{ends}")
        array = self._array(layer)

        def put() -> None:
            array[row : row + len(ids)] = values

        self._patiently(put)

    def read(self, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        array, first, last = self._array(layer), int(rows[0]), int(rows[-1])
        between = np.asarray(self._patiently(lambda: array[first : last + 1]))
        return (between if len(between) == len(ids) else between[rows - first]).reshape(len(ids), -1)

    def whole(self, shards: list[ShardRecord]) -> set[int]:
        there: dict[str, set[str]] = {}
        for layer in self.layers:
            prefix = f"{self._place.key}/{layer}/"
            there[layer] = {entry["path"][len(prefix) :] for entry in list_objects(self.directory / layer)}
        if not all("zarr.json" in names for names in there.values()):
            return set()
        ends = {layer: "/0" * len(record.shape) for layer, record in self.layers.items()}
        return {
            shard.index
            for shard in shards
            if all(f"c/{chunk}{ends[layer]}" in there[layer] for layer in self.layers for chunk in chunks_of(shard))
        }

    def remove(self) -> None:
        for layer in self.layers:
            remove_tree(self.directory / layer)

    def _array(self, layer: str) -> zarr.Array[Any]:
        if layer not in self._arrays:
            with _own_pipeline():
                self._arrays[layer] = self._patiently(
                    lambda: zarr.open_array(self._objects(), path=self._name(layer), mode="r+", zarr_format=3)
                )
        return self._arrays[layer]

    def _create(self, layer: str, record: LayerRecord, rows: int) -> None:
        zarr.create_array(
            self._objects(),
            name=self._name(layer),
            shape=(rows, *record.shape),
            chunks=(CHUNK_ROWS, *record.shape),
            dtype=record.dtype,
            compressors=codec(record),
            # A chunk of nothing but the fill value is left unwritten; zeros are data (a dead layer).
            fill_value=float("nan"),
            overwrite=True,
        )

    def _objects(self) -> Any:
        from zarr.storage import ObjectStore

        return ObjectStore(store_of(self._place.bucket))

    def _name(self, layer: str) -> str:
        return f"{self._place.key}/{layer}"

    def _patiently(self, operation: Callable[[], Result]) -> Result:
        return patiently(self._place.bucket, operation)

"""Activations that are not stored: recomputed from the stored pixels, bitwise equal to those at extraction.

Belongs here: the rows of layers out of a cache of the format "none". `rows.LayerRows` reads through it. ONNX Runtime's
results may depend on which images share a run (its size chooses kernels; dynamic quantization looks at all of it), so
the very runs of the extraction are made again: the same session options, outputs, and images in each run.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.manifest import Manifest, ShardRecord
from clusterpaths.cache.pixels import PixelStore, ShardPixels
from clusterpaths.errors import CacheError, ModelError
from clusterpaths.models.external import hash_files
from clusterpaths.models.session import TapSession
from clusterpaths.preprocessing.prepare import normalise
from clusterpaths.records import ModelRecord
from clusterpaths.storage import Storage


class RecomputedRows:
    """Rows of some layers of a cache without activations; for one thread at a time.

    Memory: one run of the model, and these layers' rows of its output.

    Args:
        directory: the cache.
        manifest: its manifest, of the format "none".
        layers: their names.

    Raises:
        CacheError: the manifest does not record how the model is run.
    """

    def __init__(self, directory: Storage, manifest: Manifest, layers: tuple[str, ...]) -> None:
        if manifest.runner is None:
            raise CacheError(
                f"The manifest in {directory} does not record how the model is run, which a cache without activations requires. "
                "Run the flow on it once more, or with --refresh."
            )
        self._layers, self._preprocessing = layers, manifest.preprocessing
        self._store = PixelStore(directory, manifest.preprocessing.size)
        self._sessions = _sessions_of(manifest.runner)
        self.forget()

    def forget(self) -> None:
        """Check the checksum of every shard again from here on, and drop the computed rows."""
        self._shard: Shard | None = None
        self._span, self._rows = (0, 0), dict[str, NDArray[np.float32]]()

    def read(self, record: ShardRecord, start: int, stop: int) -> dict[str, NDArray[np.float32]]:
        """Layer -> (n, width) float32 rows start … stop - 1 of a recorded shard, counted from 0.

        The checksum of the shard's pixels is checked whenever it is another shard than the last time.

        Raises:
            CorruptedShardError: its pixels are corrupted.
            ModelError: the model file is missing or was replaced.
        """
        shard = self.shard(record)
        pieces = []
        for first, last in shard.runs(start, stop):
            if self._span != (first, last):
                self._span, self._rows = (first, last), self.compute(shard, first, last)
            pieces.append({layer: rows[max(start - first, 0) : stop - first] for layer, rows in self._rows.items()})
        if len(pieces) == 1:
            return pieces[0]
        return {layer: np.concatenate([piece[layer] for piece in pieces]) for layer in self._layers}

    def shard(self, record: ShardRecord) -> Shard:
        """A shard with verified pixels."""
        if self._shard is None or self._shard.record != record:
            self.forget()
            self._shard = Shard(record, self._store.shard(record))
        return self._shard

    def compute(self, shard: Shard, first: int, last: int) -> dict[str, NDArray[np.float32]]:
        """Layer -> (n, width) float32 rows of one of a shard's runs; thread-safe."""
        images = normalise(shard.pixels.read(first, last), self._preprocessing)
        with self._sessions.borrow() as session:
            found = session.run(images).layers
        return {layer: found[layer].reshape(last - first, -1) for layer in self._layers}


class Shard:
    """A shard with verified pixels, and where the model's runs began and ended."""

    def __init__(self, record: ShardRecord, pixels: ShardPixels) -> None:
        pixels.check()
        self.record, self.pixels = record, pixels
        self.edges = run_edges(record)

    def runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """First row and the one after the last of each run that holds some of rows start … stop - 1."""
        at = int(np.searchsorted(self.edges, start, side="right")) - 1
        until = int(np.searchsorted(self.edges, stop, side="left"))
        edges = self.edges[at : until + 1].tolist()
        return list(pairwise(edges))


def run_edges(record: ShardRecord) -> NDArray[np.int64]:
    """Where the runs of a shard's extraction began and ended, in its rows: [0, 8, 15, 16] for runs of 8, 7 and 1 image.

    A run took `record.batch` planned examples, without those that could not be read.
    """
    if record.batch is None:
        raise CacheError(
            f"Shard {record.index} does not record how its images were batched. Run the flow with --refresh."
        )
    ids = record.planned_ids()
    readable = ~np.isin(ids, [failure.id for failure in record.failed])
    counts = np.add.reduceat(readable, np.arange(0, len(ids), record.batch), dtype=np.int64)
    return np.concatenate([[0], np.cumsum(counts[counts > 0])])


class _Sessions:
    """Sessions of one model, shared by all layers that are read at a time; a run has one for itself."""

    def __init__(self, model: ModelRecord) -> None:
        self._model = model
        self._idle: list[TapSession] = []
        self._lock = threading.Lock()
        self._checked = False

    @contextlib.contextmanager
    def borrow(self) -> Iterator[TapSession]:
        with self._lock:
            session = self._idle.pop() if self._idle else None
            if not self._checked:
                require_unchanged(self._model)
                self._checked = True
        # With the outputs that extraction had: the set of outputs decides what ONNX Runtime fuses, and so the last bits.
        session = session or TapSession(self._model)
        yield session
        with self._lock:
            self._idle.append(session)


def require_unchanged(model: ModelRecord) -> None:
    """Check that the model's file and weights are those of the record.

    Raises:
        ModelError: they are missing or were replaced.
    """
    files = [Path(model.path), *(Path(model.external[location]) for location in sorted(model.external))]
    try:
        found = hash_files(files)
    except OSError as error:
        raise ModelError(
            f"{model.path} cannot be read ({error.strerror}), and without activations in the cache the model has to run "
            "again. Restore it, or run the flow with --model and its new path."
        ) from error
    if found != model.sha256:
        raise ModelError(
            f"{model.path} is another model now: its sha256 is {found}, expected {model.sha256}. Without activations in the "
            "cache it has to run again. Restore the old one, or use another --name."
        )


# Weak references: sessions of a large model must not outlive the rows that use them.
_shared: weakref.WeakValueDictionary[str, _Sessions] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


def _sessions_of(model: ModelRecord) -> _Sessions:
    with _sharing:
        key = model.model_dump_json()
        sessions = _shared.get(key)
        if sessions is None:
            _shared[key] = sessions = _Sessions(model)
        return sessions

"""Stage fit: the centroids and principal axes of one layer, from the activations of a sample to a file in clusterings/.

Belongs here: reading and files, each in a directory that is named by the fingerprint of its settings, so that an interrupted or
repeated run reuses it. The numerics are `kmeans.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clusterpaths.cache.extracted import ExtractionRecord
from clusterpaths.cache.manifest import CLUSTERINGS
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering import kmeans
from clusterpaths.clustering.assign import FitRecord, digest_of, read_axes, read_centroids, write_axes
from clusterpaths.clustering.identity import FitIdentity
from clusterpaths.errors import CorruptedShardError
from clusterpaths.storage import Storage

_RECORD = "fit.json"


def fit_layer(
    sample: ExtractionRecord, identity: FitIdentity, layer: str, progress: Callable[[int], None] | None = None
) -> FitRecord:
    """Fit one layer on the examples of the sample, or find the fit of an earlier run.

    `progress` is called with the number of values that were read since its last call.

    Raises:
        CorruptedShardError: bytes on disk differ from their checksum.
    """
    directory = sample.storage
    own = f"{CLUSTERINGS}/{layer}-{identity.layer_fingerprint(layer)[:16]}"
    if found := _read_fit(directory, own):
        return found
    rows = LayerRows(directory, layer, identity.fit_ids(layer, sample.example_ids()), progress)
    try:
        fit = kmeans.fit(rows, identity.k_per_layer[layer], identity.distance, identity.seed)
    except CorruptedShardError:
        raise
    except Exception:
        for _ in rows.blocks():  # corrupted bytes with NaN fail before their checksum is compared; this compares it
            pass
        raise
    record = FitRecord(
        layer=layer,
        directory=own,
        digest=digest_of(fit.centroids),
        distance=identity.distance,
        distinct=fit.distinct,
        passes=fit.passes,
        num_fitted=len(rows),
        axes=fit.axes.digest,
    )
    with directory.write(record.file) as partial, partial.open("wb") as file:
        np.save(file, fit.centroids)
    write_axes(directory, record.axes_file, fit.axes)
    directory.write_bytes(f"{own}/{_RECORD}", record.model_dump_json().encode())
    return record


def _read_fit(directory: Storage, own: str) -> FitRecord | None:
    try:
        record = FitRecord.model_validate_json(directory.read(f"{own}/{_RECORD}"))
    except (FileNotFoundError, ValueError):  # pydantic's error is a ValueError
        return None  # written last and atomically: without it there is no fit; one of before there were axes is none
    centroids = read_centroids(directory, record.file)
    if centroids is None or digest_of(centroids) != record.digest:
        return None
    axes = read_axes(directory, record.axes_file)
    if axes is None or axes.digest != record.axes:
        return None
    return record.model_copy(update={"found": True})


def forget_fits(directory: Storage) -> None:
    """Remove fits and labels: they may have been made of corrupted bytes."""
    directory.remove_tree(CLUSTERINGS)

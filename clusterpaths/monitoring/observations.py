"""What was observed of new images: when, and which route each took. One table for images that were run here and for logs.

Belongs here: the columns, and their parquet form in a window's directory. `route.py` makes them of images, `prediction_log.py`
of a service's logs.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.common.corrupted import reading
from clusterpaths.errors import CacheError

ROWS = "rows.parquet"
_TYPES = {
    "time": pa.timestamp("us", tz="UTC"), "item": pa.uint64(), "content": pa.uint64(), "name": pa.string(), "status": pa.int8(),
    "ood_score": pa.float64(), "prediction": pa.int32(),
}  # fmt: skip
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
FIRST, LAST = (
    (time.replace(tzinfo=datetime.UTC) - _EPOCH) // datetime.timedelta(microseconds=1)
    for time in (datetime.datetime.min, datetime.datetime.max)
)
"""The times that have a text."""


class Status(IntEnum):
    """What became of one item of the source."""

    ROUTED = 0  # in the window's tests
    DUPLICATE = 1  # the content of an earlier one
    UNUSABLE = 2  # no image, or one on which the model's activations or scores are not finite
    LATE = 3  # of a time whose window was closed before it came


@dataclass(frozen=True)
class Observations:
    """n items of a source in order of time, L layers. Items that are not routed have clusters of -1.

    Attributes:
        times: (n,) int64, microseconds since 1970, UTC.
        items: (n,) uint64, identity of the item in its source: what was observed before is not observed again.
        contents: (n,) uint64, digest of what the item holds.
        names: n names, of files or of a log's rows.
        status: (n,) int8 of `Status`.
        clusters: (n, L) int16.
        distances: (n, L) float32 to the own centroid; NaN where not known.
        ood_scores: (n,) float64.
        predictions: (n,) int32, -1 for none.
    """

    times: NDArray[np.int64]
    items: NDArray[np.uint64]
    contents: NDArray[np.uint64]
    names: NDArray[np.object_]
    status: NDArray[np.int8]
    clusters: NDArray[np.int16]
    distances: NDArray[np.float32]
    ood_scores: NDArray[np.float64]
    predictions: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.times)

    def take(self, positions: NDArray[np.integer] | NDArray[np.bool_]) -> Observations:
        """The items at these positions, or where a mask is true."""
        return Observations(*(getattr(self, one.name)[positions] for one in fields(self)))

    def with_status(self, status: NDArray[np.int8]) -> Observations:
        """The same items with another status."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return Observations(**(values | {"status": status}))

    @property
    def routed(self) -> Observations:
        """Those whose route is known and counts."""
        return self.take(self.status == Status.ROUTED)

    def count(self, status: Status) -> int:
        """How many items have this status."""
        return int((self.status == status).sum())


def empty_observations(num_layers: int) -> Observations:
    """None."""
    return Observations(
        np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.object_), np.empty(0, np.int8),
        np.empty((0, num_layers), np.int16), np.empty((0, num_layers), np.float32), np.empty(0), np.empty(0, np.int32),
    )  # fmt: skip


def join_observations(parts: Sequence[Observations]) -> Observations:
    """All items of at least one table, by time; of equal times by name."""
    joined = Observations(
        *(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Observations))
    )
    by_name = np.argsort(
        joined.names, kind="stable"
    )  # as objects: an array of fixed width takes that of the longest name
    return joined.take(by_name[np.argsort(joined.times[by_name], kind="stable")])


def write_rows(folder: Path, rows: Observations, layers: Sequence[str]) -> None:
    """Write rows.parquet: the columns of `Observations`, with the columns cluster.LAYER and distance.LAYER."""
    columns: dict[str, object] = {
        "time": pa.array(rows.times, pa.timestamp("us", tz="UTC")),
        "item": rows.items,
        "content": rows.contents,
        "name": pa.array(rows.names, pa.string()),
        "status": rows.status,
        "ood_score": rows.ood_scores,
        "prediction": rows.predictions,
    }
    columns |= {f"cluster.{layer}": np.ascontiguousarray(rows.clusters[:, i]) for i, layer in enumerate(layers)}
    columns |= {f"distance.{layer}": np.ascontiguousarray(rows.distances[:, i]) for i, layer in enumerate(layers)}
    pq.write_table(pa.table(columns), folder / ROWS)


def read_rows(file: Path, layers: Sequence[str]) -> Observations:
    """The rows of a window.

    Raises:
        CacheError: the file is missing or corrupted.
    """
    clusters, distances = ([f"{prefix}.{layer}" for layer in layers] for prefix in ("cluster", "distance"))
    types = _TYPES | dict.fromkeys(clusters, pa.int16()) | dict.fromkeys(distances, pa.float32())
    one = _read(file, types)
    n = len(one["item"])
    return Observations(
        one["time"].astype("datetime64[us]").astype(np.int64),
        one["item"],
        one["content"],
        one["name"],
        one["status"],
        np.stack([one[name] for name in clusters], axis=1) if n else np.empty((0, len(layers)), np.int16),
        np.stack([one[name] for name in distances], axis=1) if n else np.empty((0, len(layers)), np.float32),
        one["ood_score"],
        one["prediction"],
    )


def read_identities(file: Path) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Items of all rows of a window, and contents of those that were tested.

    Raises:
        CacheError: as `read_rows`.
    """
    one = _read(file, {name: _TYPES[name] for name in ("item", "content", "status")})
    return one["item"], one["content"][one["status"] == Status.ROUTED]


def _read(file: Path, types: Mapping[str, pa.DataType]) -> dict[str, NDArray[Any]]:
    """Columns of these types; none has gaps."""
    try:
        with reading(), pq.ParquetFile(file) as opened:
            table = opened.read(columns=list(types))
            for name, kind in types.items():
                if table[name].type != kind or table[name].null_count:
                    raise ValueError(f"its column {name} is of {table[name].type}, or has gaps")
            return {name: table[name].to_numpy() for name in types}
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{file} cannot be read: {error}. Expected the rows of a window. Restore it from a backup, or watch on under "
            "another --series: recorded windows are never written again."
        ) from error


def read_time(text: str) -> int:
    """Microseconds since 1970 of an ISO time with a time zone, as `as_time` writes it."""
    return (datetime.datetime.fromisoformat(text) - _EPOCH) // datetime.timedelta(microseconds=1)


def as_time(value: int) -> str:
    """ISO time, UTC, of microseconds since 1970; in seconds, or finer where it is not of a full second."""
    time = _EPOCH + datetime.timedelta(microseconds=value)
    return time.isoformat(timespec="microseconds" if value % 1_000_000 else "seconds")

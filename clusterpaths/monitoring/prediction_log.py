"""The prediction log: what a service wrote of each image that it answered with a path model, read as observations.

Belongs here: reading parquet and CSV files; what a service writes is `log_format.py`'s. A log is a file, or a directory with
files at any depth; files whose name begins with a dot are not complete.

Columns: `time` (parquet: timestamp with a time zone; CSV: ISO time), `id` (rows with the same one are duplicates), `path`
(parquet: list of integers; CSV: 0-1-4), `ood_score`; optional `distances` (of parquet) and `prediction` (-1: none). A parquet
file names its set in its metadata, under clusterpaths.log; a CSV file in a column `fingerprint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pydantic
import xxhash
from numpy.typing import NDArray

from clusterpaths.common.corrupted import one_line, reading, what_does_not_fit
from clusterpaths.errors import DatasetError
from clusterpaths.monitoring.log_format import LOG_KEY, LogNote
from clusterpaths.monitoring.observations import (
    FIRST,
    LAST,
    Observations,
    Status,
    empty_observations,
    join_observations,
)
from clusterpaths.sets.published import PublishedSet

REQUIRED = ("time", "id", "path", "ood_score")
_KINDS = (".parquet", ".csv")


def log_files(source: Path) -> list[Path]:
    """The complete files of a log, by name.

    Raises:
        DatasetError: there is no such file or directory, or it is of another kind.
    """
    if source.is_file() and source.suffix in _KINDS:
        return [source]
    if not source.is_dir():
        raise DatasetError(
            f"The prediction log {source} {'is no parquet or CSV file' if source.exists() else 'does not exist'}. Expected a "
            "file *.parquet or *.csv, or a directory of them, that a service wrote with the path model."
        )
    found = (path for kind in _KINDS for path in source.rglob(f"*{kind}"))
    return sorted(
        path
        for path in found
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )


Keep = Callable[[Observations], NDArray[np.bool_]]


def read_log(files: Sequence[Path], published: PublishedSet, keep: Keep | None = None) -> Observations:
    """The rows of a log's files, which must be of this set.

    Args:
        files: parquet or CSV.
        published: the set.
        keep: which rows of a file are wanted, (n,) bool; all if left out. Only these are held, one file at a time.

    Raises:
        DatasetError: a file cannot be read, is of another set, lacks a column, or holds values out of range.
    """
    return join_observations([empty_observations(len(published.layers)), *_each(files, published, keep)])


def _each(files: Sequence[Path], published: PublishedSet, keep: Keep | None) -> Iterator[Observations]:
    for file in files:
        try:
            rows = _LogFile(file, published).observations()
        # columns of other types than expected, and bytes that are no text
        except (ValueError, TypeError, ArithmeticError, NotImplementedError) as error:
            raise DatasetError(
                f"The prediction log {file} cannot be read: {one_line(error)}. Correct it, or move it away."
            ) from error
        yield rows if keep is None else rows.take(keep(rows))


class _LogFile:
    """One file of a log."""

    def __init__(self, file: Path, published: PublishedSet) -> None:
        self._file, self._set = file, published
        self._table = self._read()
        self._require_set()

    def observations(self) -> Observations:
        """Its rows."""
        names = self._table["id"].cast(pa.string()).to_numpy(zero_copy_only=False)
        items = _digests(names)
        scores = self._scores()
        return Observations(
            times=self._times(),
            items=items,
            contents=items,
            names=np.asarray(names, np.object_),
            status=np.where(np.isfinite(scores), Status.ROUTED, Status.UNUSABLE).astype(np.int8),
            clusters=self._paths(),
            distances=self._distances(),
            ood_scores=scores,
            predictions=self._predictions(),
        )

    def _read(self) -> pa.Table:
        try:
            with reading():
                if self._file.suffix == ".csv":
                    # text: a path such as 1-2-3 would be read as a date
                    types = dict.fromkeys(("time", "id", "path", "fingerprint", "distances"), pa.string())
                    return pacsv.read_csv(
                        self._file, convert_options=pacsv.ConvertOptions(column_types=types, null_values=[""])
                    )
                with pq.ParquetFile(self._file) as opened:
                    table = opened.read()
        except (OSError, ValueError) as error:
            raise self._wrong(f"cannot be read: {error}") from error
        return table

    def _require_set(self) -> None:
        if missing := [name for name in REQUIRED if name not in self._table.column_names]:
            raise self._wrong(
                f"has no column {', '.join(missing)}; it has {', '.join(self._table.column_names) or 'none'}. Expected "
                f"{', '.join(REQUIRED)}"
            )
        if empty := [name for name in REQUIRED if self._table[name].null_count]:
            raise self._wrong(f"has rows without {', '.join(empty)}. Expected a value in each row")
        if pc.any(pc.equal(self._table["id"].cast(pa.string()), "")).as_py():
            raise self._wrong("has rows with an empty id. Expected one that is unique per row")
        record = self._set.record
        for fingerprint, name in self._named():
            if fingerprint != record.fingerprint:
                raise self._wrong(
                    f"was written with the path model of another set: {name or 'fingerprint'} {fingerprint[:12]}; "
                    f"{self._set.name} has {record.fingerprint[:12]}. A cluster's number means another cluster there. Watch it "
                    "with --reference of that set"
                )

    def _named(self) -> list[tuple[str, str]]:
        """Fingerprints and names of the sets that the file names."""
        if self._file.suffix == ".csv":
            if "fingerprint" not in self._table.column_names:
                raise self._wrong(
                    "has no column fingerprint. Expected the fingerprint of the set whose path model wrote it, as in set.json"
                )
            return [(str(one), "") for one in pc.unique(self._table["fingerprint"]).to_pylist()]
        note = (self._table.schema.metadata or {}).get(LOG_KEY.encode())
        if note is None:
            raise self._wrong(
                f"has no {LOG_KEY} in its metadata. Expected a file that a service wrote with a path model"
            )
        try:
            found = LogNote.model_validate_json(note)
        except pydantic.ValidationError as error:
            raise self._wrong(f"has a {LOG_KEY} that is not one: {what_does_not_fit(error)}") from error
        return [(found.fingerprint, found.set)]

    def _times(self) -> NDArray[np.int64]:
        column = self._table["time"]
        try:
            if pa.types.is_string(column.type):
                column = pc.cast(column, pa.timestamp("us", tz="UTC"))
            elif not pa.types.is_timestamp(column.type) or column.type.tz is None:
                raise self._wrong(f"has times of {column.type}. Expected timestamps with a time zone")
            finer = column.type.unit == "ns"  # is cut off; a coarser one must not overflow
            found: NDArray[np.int64] = (
                column.cast(pa.timestamp("us", tz="UTC"), safe=not finer).cast(pa.int64()).to_numpy()
            )
            if len(found) and not (found.min() >= FIRST and found.max() <= LAST):
                raise pa.ArrowInvalid("they are not of the years 1 to 9999")
        except pa.ArrowInvalid as error:
            raise self._wrong(
                f"has times that cannot be read: {one_line(error)}. Expected ISO times with a time zone, such as "
                "2026-01-31T09:30:00Z"
            ) from error
        return found

    def _paths(self) -> NDArray[np.int16]:
        layers, column = self._set.layers, self._table["path"]
        try:
            values = pc.split_pattern(column, "-") if pa.types.is_string(column.type) else column
            lengths = pc.unique(pc.list_value_length(values)).to_pylist()
            flat = pc.list_flatten(values).cast(pa.int64()).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._wrong(
                f"has paths that cannot be read: {one_line(error)}. Expected one cluster per layer"
            ) from error
        if pc.list_flatten(values).null_count:
            raise self._wrong("has paths with missing clusters. Expected one cluster per layer")
        if set(lengths) - {len(layers)}:
            raise self._wrong(
                f"has paths of {', '.join(map(str, lengths))} layers. Expected {len(layers)}: {', '.join(layers)}"
            )
        paths: NDArray[np.int64] = flat.reshape(-1, len(layers))
        if len(paths) and ((paths < 0) | (paths >= np.array(self._set.k))).any():
            raise self._wrong(
                f"has clusters from {paths.min()} to {paths.max()}. Expected 0 to k - 1, with k = "
                f"{', '.join(map(str, self._set.k))} per layer"
            )
        return paths.astype(np.int16)

    def _distances(self) -> NDArray[np.float32]:
        shape = len(self._table), len(self._set.layers)
        column = self._table["distances"] if "distances" in self._table.column_names else None
        if column is None or not pa.types.is_list(column.type):  # of a CSV file: for people
            return np.full(shape, np.nan, np.float32)
        flat: NDArray[np.floating[Any]] = pc.list_flatten(column).to_numpy()
        if set(pc.unique(pc.list_value_length(column)).to_pylist()) - {shape[1]}:
            raise self._wrong(f"has {flat.size:,} distances in {shape[0]:,} rows. Expected {shape[1]} in each")
        return flat.reshape(shape).astype(np.float32)

    def _scores(self) -> NDArray[np.float64]:
        try:
            found: NDArray[np.float64] = self._table["ood_score"].cast(pa.float64()).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._wrong(f"has OOD scores that are no numbers: {one_line(error)}") from error
        return found

    def _predictions(self) -> NDArray[np.int32]:
        if "prediction" not in self._table.column_names:
            return np.full(len(self._table), -1, np.int32)
        try:
            found: NDArray[np.int64] = self._table["prediction"].cast(pa.int64()).fill_null(-1).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._wrong(f"has predictions that are no class indices: {one_line(error)}") from error
        classes = len(self._set.record.class_names) or np.iinfo(np.int32).max
        if len(found) and (found.min() < -1 or found.max() >= classes):
            raise self._wrong(f"has predictions from {found.min()} to {found.max()}. Expected -1 to {classes - 1}")
        return found.astype(np.int32)

    def _wrong(self, what: str) -> DatasetError:
        return DatasetError(f"The prediction log {self._file} {what}. Correct it, or move it away.")


def _digests(texts: NDArray[np.object_]) -> NDArray[np.uint64]:
    return np.array([xxhash.xxh3_64_intdigest(str(text).encode()) for text in texts], np.uint64)

"""manifest.json: what a cache was made of, and which of its shards are complete.

Belongs here: the record, the comparison of a stored one with what a run requires, and recording shards.
A shard exists once it is recorded, not before: first in a small file of its own, shards/INDEX.json, so that recording one costs
the same however many there are; the manifest takes these in when a run begins and when its extraction ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from clusterpaths.common.corrupted import what_does_not_fit
from clusterpaths.errors import CacheError
from clusterpaths.models.outputs import NO_LOGITS
from clusterpaths.records import (
    CacheDtype,
    ModelIdentity,
    Preprocessing,
    Record,
    StoredFormat,
    fingerprint,
)
from clusterpaths.storage import Storage

MANIFEST = "manifest.json"
SHARDS = "shards"  # records that the manifest has not taken in yet
PIXELS = "pixels"  # of a cache without activations
SAMPLE = "sample"  # activations that such a cache has while it is clustered: of the examples that layers are fitted on
CLUSTERINGS = "clusterings"  # intermediate results from activations to a set


class LayerRecord(Record):
    """One layer of a cache."""

    tensor: str = Field(description="its name in the graph")
    shape: tuple[int, ...] = Field(description="of one example")
    dtype: CacheDtype = Field(description="float32 where float16 was wanted but cannot hold the values")


class FailedExample(Record):
    """An example without activations."""

    id: int
    file: str
    reason: str


class ShardRecord(Record):
    """Consecutive examples. Planned with `rows` None; complete once `rows` is set."""

    index: int
    ids: str = Field(description="ids it was planned for, as ranges: 0-4 9 11-12")
    start: int = Field(description="its first row in a zarr array; a multiple of the chunk's rows")
    rows: int | None = Field(default=None, description="examples with activations, in order of id")
    failed: tuple[FailedExample, ...] = ()
    checksums: dict[str, str] = Field(default_factory=dict, description="layer -> xxh3_64 of its rows' bytes, in order")
    batch: int | None = Field(
        default=None, description="planned examples a model run took; format none only, to make the same runs again"
    )

    def planned_ids(self) -> NDArray[np.int64]:
        return parse_ids(self.ids)

    def planned_among(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) which planned ids are among these, ascending. Looked up: of many shards, comparing each with all is quadratic."""
        planned = self.planned_ids()
        return ids[np.searchsorted(ids, planned).clip(max=len(ids) - 1)] == planned if len(ids) else planned < 0

    def row_ids(self) -> NDArray[np.int64]:
        """Ids of its rows, in order: the planned ones without the failed."""
        ids = self.planned_ids()
        return ids[~np.isin(ids, [failure.id for failure in self.failed])] if self.failed else ids


def as_planned(shard: ShardRecord) -> ShardRecord:
    """The shard as it was planned, without what was made of it."""
    return shard.model_copy(update={"rows": None, "failed": (), "checksums": {}, "batch": None})


class CacheIdentity(Record):
    """What must be equal for activations to be reused."""

    model: ModelIdentity
    layers: dict[str, LayerRecord]
    dataset: str
    preprocessing: Preprocessing
    dtype: CacheDtype = Field(description="the requested one; each layer records its own")
    format: StoredFormat
    scores: str | None = Field(
        default=None,
        description="the output whose rows are stored as class scores, none: no output; null: not recorded",
    )
    providers: tuple[str, ...] = Field(
        default=(), description="ONNX Runtime's execution providers of the last run; no part of the identity"
    )
    runner: dict[str, Any] | None = Field(default=None, description="of caches made before 2026-11-28; not used")

    @property
    def key(self) -> str:
        """16 hex digits that tell the shards of different caches apart: model, layers, images, preprocessing, format."""
        fields: Any = {"model": {"sha256"}, "layers": True, "dataset": True, "preprocessing": True, "format": True}
        return fingerprint(self.model_dump(mode="json", include=fields))[:16]


class Manifest(CacheIdentity):
    """The content of manifest.json."""

    version: int = 1
    shards: tuple[ShardRecord, ...] = ()

    @property
    def identity(self) -> CacheIdentity:
        """Without its shards."""
        return CacheIdentity(**{name: getattr(self, name) for name in CacheIdentity.model_fields})


class _RecordedShard(Record):
    """The content of shards/INDEX.json."""

    cache: str = Field(description="`CacheIdentity.key`")
    shard: ShardRecord


def read_manifest(directory: Storage) -> Manifest | None:
    """The manifest of a cache with all shards recorded since, or None where there is none.

    Raises:
        CacheError: the file is not a manifest, or of a later version.
    """
    return read_version(directory)[0]


def read_version(directory: Storage) -> tuple[Manifest | None, str]:
    """As `read_manifest`, and which version it is, for `write_manifest`."""
    content, version = directory.read_version(MANIFEST)
    return (None if content is None else _with_recorded(directory, _parse(directory, content))), version


def record_shard(directory: Storage, identity: CacheIdentity, record: ShardRecord) -> None:
    """Record a complete shard; safe between threads, processes and machines.

    Ignored by readers if the cache was planned again since, for other images, rows, layers or another model.
    """
    content = _RecordedShard(cache=identity.key, shard=record)
    directory.write_bytes(_record_file(record.index), (content.model_dump_json() + "\n").encode())


def _record_file(index: int) -> str:
    return f"{SHARDS}/{index:05d}.json"


def _with_recorded(directory: Storage, manifest: Manifest) -> Manifest:
    """The manifest with the shards that were recorded after it was written."""
    files = directory.local_tree(SHARDS)
    if not files.is_dir():
        return manifest
    key, found = manifest.key, dict[int, ShardRecord]()
    for file in files.glob("[0-9]*.json"):
        with contextlib.suppress(FileNotFoundError, ValidationError):  # taken in meanwhile; of another version
            one = _RecordedShard.model_validate_json(file.read_bytes())
            if one.cache == key:
                found[one.shard.index] = one.shard
    return manifest.model_copy(update={"shards": tuple(_latest(shard, found) for shard in manifest.shards)})


def _latest(planned: ShardRecord, found: dict[int, ShardRecord]) -> ShardRecord:
    record = found.get(planned.index, planned)
    return record if (record.ids, record.start) == (planned.ids, planned.start) else planned


def _parse(directory: Storage, content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise CacheError(
            f"{directory / MANIFEST} cannot be parsed: {what_does_not_fit(error)}. It was "
            "written by another version or changed by hand. Use another --name, or --refresh to extract again."
        ) from error


def require_manifest(directory: Storage) -> Manifest:
    """The manifest of a cache, which must exist.

    Raises:
        CacheError: there is none.
    """
    return _required(directory, read_manifest(directory))


def _required(directory: Storage, manifest: Manifest | None) -> Manifest:
    if manifest is None:
        raise CacheError(
            f"{directory / MANIFEST} is missing. Expected the cache that this run planned; something removed it "
            "since. Run the flow again."
        )
    return manifest


def write_manifest(directory: Storage, manifest: Manifest, version: str = "") -> None:
    """Atomically.

    Raises:
        CacheError: of a cache in object storage: the manifest there is not of the version (see `read_version`; "": that there
            is none) that this one was made from.
    """
    if not directory.replace(MANIFEST, _content(manifest), version):
        raise CacheError(
            f"{directory / MANIFEST} was changed by another run since this one read it; nothing was written. "
            "Wait for the other run to end and run the same command again."
        )


def _content(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=1) + "\n").encode()


def consolidate(directory: Storage) -> Manifest:
    """Take all recorded shards into the manifest, and return it."""
    if not any(directory.local_tree(SHARDS).glob("[0-9]*.json")):
        return require_manifest(directory)
    manifest = change_manifest(directory, lambda manifest: manifest)
    directory.remove_tree(SHARDS)
    return manifest


def forget_shard(directory: Storage, index: int) -> None:
    """A shard's bytes do not count any more; the next plan extracts it again."""

    def forgotten(manifest: Manifest) -> Manifest:
        shards = (as_planned(shard) if shard.index == index else shard for shard in manifest.shards)
        return manifest.model_copy(update={"shards": tuple(shards)})

    directory.remove(_record_file(index))
    change_manifest(directory, forgotten)


def change_manifest(directory: Storage, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Read, change and write the manifest as one step, and return it; `change` may be called again."""
    written: list[Manifest] = []

    def changed(content: bytes | None) -> bytes:
        stored = _required(directory, None if content is None else _parse(directory, content))
        written.append(change(_with_recorded(directory, stored)))
        return _content(written[-1])

    directory.update(MANIFEST, changed)
    return written[-1]


def require_same(
    stored: Manifest, required: CacheIdentity, directory: Storage, *, format_asked: bool, dtype_asked: bool
) -> None:
    """Check that a stored cache is what a run requires.

    Raises:
        CacheError: it is not; all differences are listed, then what to do.
    """
    differences = []
    if stored.model.sha256 != required.model.sha256:
        differences.append(
            f"model: stored {stored.model.file} (sha256 {stored.model.sha256[:12]}), "
            f"required {required.model.file} ({required.model.sha256[:12]})"
        )
    if stored.dataset != required.dataset:
        differences.append(f"data set: stored {stored.dataset}, required {required.dataset}")
    for field in ("size", "mean", "std", "scale", "resize", "channels", "shorter", "antialias", "resize_to", "crop"):
        has, wants = getattr(stored.preprocessing, field), getattr(required.preprocessing, field)
        if has != wants:
            differences.append(f"preprocessing {field}: stored {has}, required {wants}")
    for layer, wanted in required.layers.items():
        has = stored.layers.get(layer)
        if has is None:
            differences.append(f"layers: stored {', '.join(stored.layers)}, required also {layer}")
        elif (has.tensor, has.shape) != (wanted.tensor, wanted.shape):
            differences.append(
                f"layer {layer}: stored {has.tensor} {has.shape}, required {wanted.tensor} {wanted.shape}"
            )
    if stored.scores and required.scores not in (stored.scores, None, NO_LOGITS):
        differences.append(f"class scores: stored of the output {stored.scores}, required {required.scores}")
    if format_asked and stored.format != required.format:
        differences.append(f"cache format: stored {stored.format}, required {required.format}")
    if dtype_asked and stored.dtype != required.dtype:
        differences.append(f"cache dtype: stored {stored.dtype}, required {required.dtype}")
    if differences:
        raise CacheError(
            f"The activations in {directory} are not those of this run; nothing was changed. Differences: "
            + "; ".join(differences)
            + ". Use another --name to preserve both, or --refresh to delete the stored activations."
        )


def format_ids(ids: NDArray[np.int64]) -> str:
    """Ascending ids as ranges: [0 1 2 3 4 9 11 12] is "0-4 9 11-12"."""
    if len(ids) == 0:
        return ""
    breaks = np.flatnonzero(np.diff(ids) != 1)
    firsts, lasts = ids[np.r_[0, breaks + 1]], ids[np.r_[breaks, len(ids) - 1]]
    return " ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True))


def parse_ids(text: str) -> NDArray[np.int64]:
    """The inverse of `format_ids`; (n,) int64."""
    ranges = [part.partition("-") for part in text.split()]
    pieces = [np.arange(int(first), int(last or first) + 1, dtype=np.int64) for first, _, last in ranges]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

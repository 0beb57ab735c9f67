"""Before extraction: which shards are to be extracted, and what they will take on disk.

Belongs here: comparing what a run wants with what a cache has. Nothing is written: `begin.py` carries the plan out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.cache.examples import read_parts
from clusterpaths.cache.fit_sample import FIT_ROWS, fit_size, nested_samples
from clusterpaths.cache.manifest import (
    CacheIdentity,
    LayerRecord,
    Manifest,
    ShardRecord,
    as_planned,
    format_ids,
    parse_ids,
    read_version,
    require_same,
)
from clusterpaths.cache.pixels import open_stored, stored_size
from clusterpaths.cache.registry import known_examples, present_examples, read_registry, register, version_of
from clusterpaths.cache.stores import size_on_disk
from clusterpaths.cache.zarr_layout import slots
from clusterpaths.clustering.identity import require_enough
from clusterpaths.config import NO_FIT_ALL, RunConfig
from clusterpaths.datasets import ExampleTable, open_dataset, read_table
from clusterpaths.datasets.fingerprint import fingerprint
from clusterpaths.errors import CacheError, ConfigError, DiskError
from clusterpaths.extraction.decode import MISSING
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models.check import tap_again
from clusterpaths.models.outputs import NO_LOGITS
from clusterpaths.records import DatasetSpec, ModelIdentity, ModelRecord, Preprocessing
from clusterpaths.storage import Storage, StoredRecord


class ExtractionPlan(StoredRecord):
    """What a run will do: numbers of examples, files and bytes."""

    manifest: Manifest
    pending: tuple[int, ...]
    ids: str
    sample: str
    wanted: int
    cached: int
    values: int
    files: int
    bytes: int
    free: int | None
    refresh: bool
    version: str = ""
    registry: Any = Field(
        default=None, exclude=True, repr=False, description="pyarrow.Table to write, until extraction begins"
    )

    @property
    def missing(self) -> int:
        """Examples to extract."""
        return self.wanted - self.cached

    def example_ids(self) -> NDArray[np.int64]:
        """(wanted,) ascending."""
        return parse_ids(self.ids)

    def sample_ids(self) -> NDArray[np.int64]:
        """Of these, the ones that layers are fitted on, ascending."""
        return parse_ids(self.sample)

    def shards_of(self, ids: NDArray[np.int64]) -> list[ShardRecord]:
        """Shards with some of these examples."""
        return [shard for shard in self.manifest.shards if shard.planned_among(ids).any()]

    def text(self) -> str:
        """One sentence for the log."""
        layers = ", ".join(f"{name} {'x'.join(map(str, layer.shape))}" for name, layer in self.manifest.layers.items())
        return (
            f"{self.wanted:,} examples ({self.cached:,} in the cache, {self.missing:,} to extract "
            f"in {len(self.pending)} shards); {len(self.manifest.layers)} layers ({layers}), {self.values:,} values per example; "
            f"{self.needed()} in {self.directory}; {self.room()}."
        )

    def needed(self) -> str:
        """Files and bytes that are added."""
        size = "" if self.manifest.format == "npy" else "about "
        content = f"{self.manifest.dtype} {self.manifest.format}"
        if self.manifest.format == "none":
            content = "images and, during the run, activations of the sample,"
        return f"{self.files:,} more files, {size}{human_bytes(self.bytes)} more as {content}"

    def room(self) -> str:
        """What is free where they go."""
        return "there is no bound there" if self.free is None else f"{human_bytes(self.free)} free on that disk"


def plan_run(
    config: RunConfig, model: ModelRecord, dataset: DatasetSpec, preprocessing: Preprocessing
) -> tuple[ExtractionPlan, ExtractionJob]:
    """The plan of a configured run, and the job that its shards' extraction needs.

    Raises:
        ConfigError: fewer examples than clusters, or --fit all on a cache without activations.
        CacheError: as `plan_extraction`.
    """
    opened, every, directory = open_dataset(dataset), read_table(dataset), config.cache_dir
    by_content = config.fingerprint == "full"
    stored = read_stored(directory, refresh=config.refresh)
    known = known_examples(read_registry(directory), stored.read)
    registry = register(every, known, opened, by_content=by_content or config.refresh)
    table = present_examples(registry).of_files(every.choose(config.split, config.subset).files)
    require_enough(len(table), config.k_per_layer(model.layers))
    dtype = config.cache_dtype or ("float32" if config.cache_format == "none" else "float16")
    required = CacheIdentity(
        model=ModelIdentity(file=Path(model.path).name, sha256=model.sha256),
        layers={tap.layer: LayerRecord(tensor=tap.identity, shape=tap.shape, dtype=dtype) for tap in model.taps},
        dataset=dataset.name,
        preprocessing=preprocessing,
        dtype=dtype,
        scores=model.outputs.name or NO_LOGITS,
        format=config.cache_format or ("zarr" if directory.request_per_file else "npy"),
        providers=model.providers,
    )
    plan = plan_extraction(
        directory,
        stored,
        required,
        table,
        config.shard_size,
        workers=config.workers,
        refresh=config.refresh,
        format_asked=config.cache_format is not None,
        dtype_asked=config.cache_dtype is not None,
        fit_most=None if config.fit == "all" else fit_size(config.largest_k(model.layers)),
    ).model_copy(update={"registry": registry})
    if plan.manifest.format == "none" and config.fit == "all":  # the format was left out: it is the stored cache's
        raise ConfigError(f"The cache in {plan.directory} is one of images. {NO_FIT_ALL}.")
    if set(plan.manifest.layers) != set(model.layers):  # a cache with more layers stays complete
        tensors = {layer: record.tensor for layer, record in plan.manifest.layers.items()}
        model = tap_again(model, tensors, preprocessing.size)
    job = ExtractionJob(
        directory=plan.directory,
        model=model,
        dataset=dataset,
        preprocessing=preprocessing,
        cache=plan.manifest.identity,
        batch_size=model.batch or config.batch_size,
        max_failed=int(config.max_failures * len(table) + 1e-9),  # 0.29 * 100 is slightly below 29
        dataset_fingerprint=fingerprint(opened, every, full=by_content),
        registry=version_of(registry),
    )
    return plan, job


@dataclass(frozen=True)
class StoredCache:
    """What a cache has before a run.

    Attributes:
        manifest: None: there is none, or it cannot be parsed and is to be made again.
        version: of the manifest, for `write_manifest`.
        read: what was read of the examples, as `cache.examples.read_parts` has it.
        with_part: recorded shards with a complete part.
    """

    manifest: Manifest | None
    version: str
    read: pa.Table
    with_part: set[int]


def read_stored(directory: Storage, *, refresh: bool = False) -> StoredCache:
    """What a cache has; of one to be made again (`refresh`), only what is known of its examples counts.

    Raises:
        CacheError: the manifest cannot be parsed; not with `refresh`.
    """
    try:
        manifest, version = read_version(directory)
    except CacheError:
        if not refresh:
            raise
        manifest, version = None, ""
    recorded = [shard for shard in manifest.shards if shard.rows is not None] if manifest else []
    return StoredCache(manifest, version, *read_parts(directory, recorded))


def plan_extraction(
    directory: Storage,
    cache: StoredCache,
    required: CacheIdentity,
    table: ExampleTable,
    shard_size: int,
    *,
    workers: int = 1,
    refresh: bool = False,
    format_asked: bool = True,
    dtype_asked: bool = True,
    fit_most: int | None = FIT_ROWS,
) -> ExtractionPlan:
    """Compare the examples wanted (`table`, with registered ids) with what the cache in `directory` has. Nothing is written.

    `format_asked` and `dtype_asked`: whether the user named them; else those of an existing cache are used. `fit_most`: how
    many examples layers are fitted on at most, which are extracted first; None: all.

    Raises:
        CacheError: the cache is of another model, data set or preprocessing.
    """
    stored, version = (None, "") if refresh else (cache.manifest, cache.version)
    if stored is None:
        manifest = Manifest(**dict(required))
        reused: list[ShardRecord] = []
        done = np.empty(0, np.int64)
    else:
        require_same(stored, required, directory, format_asked=format_asked, dtype_asked=dtype_asked)
        reused, done = _reusable(stored, directory, table, cache.read, cache.with_part)
        manifest = stored.model_copy(update={"providers": required.providers})
    planned = np.concatenate([done, *(shard.planned_ids() for shard in reused if shard.rows is None)])
    missing = table.ids[~np.isin(table.ids, planned)]
    groups = [table.ids] if fit_most is None else nested_samples(table.ids, fit_most)
    sample = groups[0]
    shards = (*reused, *_new_shards(missing, groups, reused, shard_size, workers))
    manifest = manifest.model_copy(update={"shards": shards})
    pending = tuple(shard.index for shard in shards if shard.rows is None and shard.planned_among(table.ids).any())
    of_run = set(pending)
    files, size = stored_size(manifest, [len(shard.planned_ids()) for shard in shards if shard.index in of_run])
    if manifest.format == "none":  # and, for a while, activations of the sample
        more_files, more = size_on_disk("zarr", manifest.layers, len(sample))
        files, size = files + more_files, size + more
    return ExtractionPlan(
        directory=directory.address,
        manifest=manifest,
        pending=pending,
        ids=format_ids(table.ids),
        sample=format_ids(sample),
        wanted=len(table),
        cached=int(np.isin(table.ids, done).sum()),
        values=sum(int(np.prod(layer.shape)) for layer in manifest.layers.values()),
        files=files,
        bytes=size,
        free=directory.free_bytes(),
        refresh=refresh,
        version=version,
    )


def _reusable(
    stored: Manifest, directory: Storage, table: ExampleTable, read: pa.Table, with_part: set[int]
) -> tuple[list[ShardRecord], NDArray[np.int64]]:
    """Of a stored cache: the shards to reuse (as planned where their files are missing), and the ids that are done."""
    recorded = [shard for shard in stored.shards if shard.rows is not None]
    complete = open_stored(directory, stored).complete(recorded) & with_part
    reused = []
    for shard in stored.shards:
        if shard.rows is not None and shard.index not in complete:
            shard = as_planned(shard)
        # A shard that was planned and not extracted is unchanged where this run wants all of it: a resumed run
        # then has the same batches as an uninterrupted one.
        if shard.rows is not None or shard.planned_among(table.ids).all():
            reused.append(shard)
    return reused, _done([shard for shard in reused if shard.rows is not None], table, read)


def _done(shards: list[ShardRecord], table: ExampleTable, read: pa.Table) -> NDArray[np.int64]:
    """Ids that need no extraction: with rows, or failed and the file is still the one that failed."""
    none = np.empty(0, np.int64)
    rows = np.unique(np.concatenate([none, *(shard.row_ids() for shard in shards)]))
    tried = np.concatenate([none, *(shard.planned_ids() for shard in shards)])
    failed = read.filter(pc.and_(read["error"].is_valid(), pc.is_in(read["id"], pa.array(tried))))
    at = np.searchsorted(table.ids, failed["id"].to_numpy()).clip(max=len(table) - 1)
    same = (table.ids[at] == failed["id"].to_numpy()) & (table.sizes[at] == failed["size"].to_numpy())
    if table.mtimes is not None:
        same &= table.mtimes[at] == failed["mtime"].fill_null(-1).to_numpy()
    # A file that was missing is listed again now: it is extracted.
    same &= ~np.array([error == MISSING for error in failed["error"].to_pylist()], bool)
    return np.union1d(rows, failed["id"].to_numpy()[same])


def _new_shards(
    missing: NDArray[np.int64], groups: list[NDArray[np.int64]], reused: list[ShardRecord], most: int, workers: int
) -> list[ShardRecord]:
    """Shards of the missing ids, group by group and in order: the first ones are those that layers are fitted on.

    They have at most `most` examples, and fewer where a group would not be enough for two shards a worker.
    """
    index = max((shard.index for shard in reused), default=-1) + 1
    start = max((shard.start + slots(len(shard.planned_ids())) for shard in reused), default=0)
    shards: list[ShardRecord] = []
    for group in groups:
        new = missing[np.isin(missing, group)]
        size = min(most, max(slots(-(-len(new) // (2 * workers))), 1))
        for at in range(0, len(new), size):
            ids = new[at : at + size]
            shards.append(ShardRecord(index=index + len(shards), ids=format_ids(ids), start=start))
            start += slots(len(ids))
    return shards


def check_room(plan: ExtractionPlan) -> None:
    """Check that the disk has room, before anything is written.

    Raises:
        DiskError: with smaller formats and their sizes.
    """
    if plan.free is None or plan.bytes <= plan.free:
        return
    smaller = {name: layer.model_copy(update={"dtype": "float16"}) for name, layer in plan.manifest.layers.items()}
    _, zarr_bytes = size_on_disk("zarr", smaller, plan.missing)
    without = plan.manifest.model_copy(update={"format": "none"})
    _, pixel_bytes = stored_size(without, [plan.missing])
    ways = (
        f"--cache-format zarr with --cache-dtype float16 takes about {human_bytes(zarr_bytes)}; --cache-format none, which "
        f"runs the model again, {human_bytes(pixel_bytes)}; "
    )
    content = "images" if plan.manifest.format == "none" else "activations"
    raise DiskError(
        f"Not enough room: the {content} will take {human_bytes(plan.bytes)} in {plan.directory}, and "
        f"{human_bytes(plan.free)} are free on that disk. Nothing was written. Smaller: "
        f"{'' if plan.manifest.format == 'none' else ways}--subset N takes the first N examples only; "
        "--cache-root names another disk."
    )


def human_bytes(count: int) -> str:
    """1,234,567 is "1.2 MB"."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"

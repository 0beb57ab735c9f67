"""Before and after extraction: which shards are to be made, what they will take, and what came of them.

Belongs here: comparing what a run wants with what a cache has. `plan_extraction` only reads; `begin_extraction`
makes it so; `finish_extraction` joins the examples and checks the share of failures.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.cache.examples import EXAMPLES, PARTS, join_parts, part_path, read_examples
from clusterpaths.cache.fit_sample import fit_positions
from clusterpaths.cache.manifest import (
    CLUSTERINGS,
    MANIFEST,
    PIXELS,
    CacheIdentity,
    LayerRecord,
    Manifest,
    ShardRecord,
    change_manifest,
    format_ids,
    read_manifest,
    read_version,
    require_manifest,
    require_same,
    unmade,
    update_shards,
    write_manifest,
)
from clusterpaths.cache.pixels import kept_size, open_kept
from clusterpaths.cache.stores import CHUNK_ROWS, open_store, size_on_disk
from clusterpaths.config import RunConfig
from clusterpaths.datasets import Dataset, ExampleTable, open_dataset, read_table
from clusterpaths.datasets.fingerprint import fingerprint
from clusterpaths.errors import CacheError, ConfigError, DiskError, ExtractionError
from clusterpaths.extraction.extract import MISSING, ExtractionJob, too_many_failures
from clusterpaths.models.check import tap_again
from clusterpaths.records import DatasetSpec, ModelIdentity, ModelRecord, Preprocessing, Record
from clusterpaths.storage.atomic import disk_errors
from clusterpaths.storage.remote import address_of, fetch_folder, local_folder, place_of, remove_file, remove_tree


class ExtractionPlan(Record):
    """What a run will do, in numbers."""

    directory: str
    manifest: Manifest
    pending: tuple[int, ...]
    ids: str
    wanted: int
    cached: int
    values: int
    files: int
    bytes: int
    free: int | None
    refresh: bool
    version: str = ""

    @property
    def missing(self) -> int:
        """Examples to extract."""
        return self.wanted - self.cached

    def text(self) -> str:
        """One sentence for log and terminal."""
        layers = ", ".join(f"{name} {'x'.join(map(str, layer.shape))}" for name, layer in self.manifest.layers.items())
        size = "about " if self.manifest.format == "zarr" else ""
        kept = f"{self.manifest.dtype} {self.manifest.format}"
        if self.manifest.format == "none":
            kept = "images, without activations,"
        room = "there is no bound there" if self.free is None else f"{human_bytes(self.free)} free on that disk"
        return (
            f"{self.wanted:,} examples ({self.cached:,} in the cache, {self.missing:,} to extract "
            f"in {len(self.pending)} shards); {len(self.manifest.layers)} layers ({layers}), {self.values:,} values an example; "
            f"{self.files:,} more files, {size}{human_bytes(self.bytes)} more as {kept} "
            f"in {self.directory}; {room}."
        )


def plan_run(
    config: RunConfig, model: ModelRecord, dataset: DatasetSpec, preprocessing: Preprocessing
) -> tuple[ExtractionPlan, ExtractionJob]:
    """The plan of a run as it was configured, and what its shards' extraction needs to know.

    Raises:
        ConfigError: fewer examples than clusters.
        CacheError: as `plan_extraction`.
    """
    opened, every = open_dataset(dataset), read_table(dataset)
    by_content = config.fingerprint == "full"
    table = every.choose(config.split, config.subset)
    require_enough(len(table), config.k_per_layer(model.layers))
    dtype = config.cache_dtype or ("float32" if config.cache_format == "none" else "float16")
    required = CacheIdentity(
        model=ModelIdentity(file=Path(model.path).name, sha256=model.sha256),
        layers={tap.layer: LayerRecord(tensor=tap.identity, shape=tap.shape, dtype=dtype) for tap in model.taps},
        dataset=dataset.name,
        preprocessing=preprocessing,
        dtype=dtype,
        format=config.cache_format or ("zarr" if place_of(config.cache_dir) else "npy"),
        providers=model.providers,
    )
    plan = plan_extraction(
        config.cache_dir,
        required,
        table,
        config.shard_size,
        refresh=config.refresh,
        format_asked=config.cache_format is not None,
        dtype_asked=config.cache_dtype is not None,
        dataset=opened,
        by_content=by_content,
    )
    if set(plan.manifest.layers) != set(model.layers):  # a cache of more layers is kept complete
        tensors = {layer: record.tensor for layer, record in plan.manifest.layers.items()}
        model = tap_again(model, tensors, preprocessing.size)
    job = ExtractionJob(
        directory=plan.directory,
        model=model,
        dataset=dataset,
        preprocessing=preprocessing,
        batch_size=model.batch or config.batch_size,
        max_failed=int(config.max_failures * len(table) + 1e-9),  # 0.29 * 100 is a hair below 29
        dataset_fingerprint=fingerprint(opened, every, full=by_content),
    )
    if plan.manifest.format == "none":
        plan = plan.model_copy(update={"manifest": plan.manifest.model_copy(update={"runner": model})})
    return plan, job


def require_enough(examples: int, k_per_layer: dict[str, int]) -> None:
    """Raises:
    ConfigError: fewer examples than clusters in some layer.
    """
    layer, k = max(k_per_layer.items(), key=lambda item: item[1])
    if examples < k:
        raise ConfigError(
            f"{examples} examples cannot make {k} clusters (layer {layer}): expected at least as many examples as "
            f"clusters. Take more examples (--subset, --split), or fewer clusters with --k {examples or 1}."
        )


def plan_extraction(
    directory: Path,
    required: CacheIdentity,
    table: ExampleTable,
    shard_size: int,
    *,
    refresh: bool = False,
    format_asked: bool = True,
    dtype_asked: bool = True,
    dataset: Dataset | None = None,
    by_content: bool = False,
) -> ExtractionPlan:
    """Compare the examples wanted (`table`) with what the cache in `directory` has. Nothing is written.

    `format_asked` and `dtype_asked` tell whether the user named them; else an existing cache's are taken. Images whose
    times are not those of then are read again and compared by their digests where `dataset` is given; `by_content` does
    it with all of them.

    Raises:
        CacheError: the cache is of another model, data set or preprocessing, or images changed since.
    """
    stored, version = (None, "") if refresh else read_version(directory)
    if stored is None:
        manifest = Manifest(**dict(required))
        kept: list[ShardRecord] = []
        done = np.empty(0, np.int64)
    else:
        require_same(stored, required, directory, format_asked=format_asked, dtype_asked=dtype_asked)
        kept, done = _keep(stored, directory, table, dataset, by_content)
        manifest = stored.model_copy(update={"providers": required.providers})
    planned = np.concatenate([done, *(shard.planned_ids() for shard in kept if shard.rows is None)])
    missing = table.ids[~np.isin(table.ids, planned)]
    shards = (*kept, *_new_shards(missing, table.ids, kept, shard_size))
    manifest = manifest.model_copy(update={"shards": shards})
    pending = tuple(
        shard.index for shard in shards if shard.rows is None and np.isin(shard.planned_ids(), table.ids).any()
    )
    files, size = kept_size(manifest, [len(shard.planned_ids()) for shard in shards if shard.index in pending])
    return ExtractionPlan(
        directory=address_of(directory),
        manifest=manifest,
        pending=pending,
        ids=format_ids(table.ids),
        wanted=len(table),
        cached=int(np.isin(table.ids, done).sum()),
        values=sum(int(np.prod(layer.shape)) for layer in manifest.layers.values()),
        files=files,
        bytes=size,
        free=_free_bytes(directory),
        refresh=refresh,
        version=version,
    )


def _keep(
    stored: Manifest, directory: Path, table: ExampleTable, dataset: Dataset | None, by_content: bool
) -> tuple[list[ShardRecord], NDArray[np.int64]]:
    """Of a stored cache: the shards to keep (unmade where files of theirs are gone), and the ids that are done."""
    recorded = [shard for shard in stored.shards if shard.rows is not None]
    whole = open_kept(directory, stored).whole(recorded)
    fetch_folder(directory / PARTS)
    whole = {index for index in whole if part_path(directory, index).is_file()}
    done = _check_unchanged(directory, sorted(whole), table, dataset, by_content)
    kept = []
    for shard in stored.shards:
        if shard.rows is not None and shard.index not in whole:
            shard = unmade(shard)
        # A shard that was planned and not made is kept as it is where this run wants all of it: a resumed run then
        # makes the very same batches as an uninterrupted one.
        if shard.rows is not None or np.isin(shard.planned_ids(), table.ids).all():
            kept.append(shard)
    return kept, done


def _check_unchanged(
    directory: Path, shards: list[int], table: ExampleTable, dataset: Dataset | None, by_content: bool
) -> NDArray[np.int64]:
    """Ids that need no extraction: with rows, or failed and the file still the same.

    Raises:
        CacheError: files of examples with rows have other names, sizes or contents now.
    """
    if not shards:
        return np.empty(0, np.int64)
    parts = pa.concat_tables([_read_identity(part_path(directory, shard)) for shard in shards])
    ids = parts["id"].to_numpy()
    at = np.searchsorted(table.ids, ids)
    at[at == len(table)] = 0
    there = table.ids[at] == ids
    files = np.array(parts["file"].to_pylist(), object)
    same = ~there | ((np.array(table.files, object)[at] == files) & (table.sizes[at] == parts["size"].to_numpy()))
    failed = parts["error"].is_valid().to_numpy()
    if dataset is not None:
        touched = np.full(len(ids), by_content)
        if table.mtimes is not None:
            touched |= parts["mtime"].fill_null(0).to_numpy() != table.mtimes[at]
        for row in np.flatnonzero(there & same & touched & parts["digest"].is_valid().to_numpy()):
            same[row] = _digest(dataset, str(files[row])) == parts["digest"][int(row)].as_py()
    changed = files[~same & ~failed]
    if len(changed):
        raise CacheError(
            f"The images are not those that the activations in {address_of(directory)} were made of; nothing was changed. "
            f"{len(changed):,} of {int(there.sum()):,} files have another name, size or content than then, the first are "
            f"{', '.join(changed[:3])}. Use another --name to keep both, or --refresh to throw the stored activations away."
        )
    # One that was missing is listed again, or this run would not want it: it is read again.
    missing = np.array([error == MISSING for error in parts["error"].to_pylist()], bool)
    return np.sort(ids[same & ~missing])


def _read_identity(path: Path) -> pa.Table:
    """What tells whether images changed; parts from before mtime and digest have nulls there."""
    table = pq.read_table(path)
    for name, kind in (("mtime", pa.int64()), ("digest", pa.uint64())):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), kind))
    return table.select(["id", "file", "size", "error", "mtime", "digest"])


def _digest(dataset: Dataset, file: str) -> int | None:
    try:
        return dataset.digest(file)
    except OSError:
        return None  # gone, or not to be read: not what was read then


def _new_shards(
    missing: NDArray[np.int64], wanted: NDArray[np.int64], kept: list[ShardRecord], shard_size: int
) -> list[ShardRecord]:
    """Shards of the missing ids in order; those that a clustering is fitted on have shards of their own, the first."""
    index = max((shard.index for shard in kept), default=-1) + 1
    start = max((shard.start + _slots(len(shard.planned_ids())) for shard in kept), default=0)
    shards: list[ShardRecord] = []
    fit = fit_positions(wanted)
    fitted = np.isin(missing, wanted[fit]) if fit is not None else np.zeros(len(missing), bool)
    for group in (missing[fitted], missing[~fitted]):
        for at in range(0, len(group), shard_size):
            ids = group[at : at + shard_size]
            shards.append(ShardRecord(index=index + len(shards), ids=format_ids(ids), start=start))
            start += _slots(len(ids))
    return shards


def _slots(examples: int) -> int:
    """Rows that a shard holds in a zarr array: whole chunks, so that no two shards ever write to one chunk."""
    return -(-examples // CHUNK_ROWS) * CHUNK_ROWS


def _free_bytes(directory: Path) -> int | None:
    """Of the disk; None in object storage, which has no end."""
    if place_of(directory):
        return None
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return shutil.disk_usage(existing).free


def check_room(plan: ExtractionPlan) -> None:
    """Stop before anything is written where the disk cannot hold it.

    Raises:
        DiskError: with the smaller format, and what it would take.
    """
    if plan.free is None or plan.bytes <= plan.free:
        return
    smaller = {name: layer.model_copy(update={"dtype": "float16"}) for name, layer in plan.manifest.layers.items()}
    _, zarr_bytes = size_on_disk("zarr", smaller, plan.missing)
    without = plan.manifest.model_copy(update={"format": "none"})
    _, pixel_bytes = kept_size(without, [plan.missing])
    ways = (
        f"--cache-format zarr with --cache-dtype float16 takes about {human_bytes(zarr_bytes)}; --cache-format none, which "
        f"runs the model again, {human_bytes(pixel_bytes)}; "
    )
    kept = "images" if plan.manifest.format == "none" else "activations"
    raise DiskError(
        f"Not enough room: the {kept} will take {human_bytes(plan.bytes)} in {plan.directory}, and "
        f"{human_bytes(plan.free)} are free on that disk. Nothing was written. Smaller: "
        f"{'' if plan.manifest.format == 'none' else ways}--subset N takes the first N examples only; "
        "--cache-root names another disk."
    )


def begin_extraction(plan: ExtractionPlan) -> None:
    """Write the planned manifest and make room for the shards' rows; with refresh, remove the old cache first.

    Raises:
        DiskError: the folder cannot be written.
    """
    directory = local_folder(plan.directory)
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    store = open_kept(directory, plan.manifest)
    if plan.refresh:
        remove_cache(directory)
        # what a refresh that was killed left, or a cache whose manifest is not understood
        for kept in (PIXELS, *plan.manifest.layers):
            remove_tree(directory / kept)
    write_manifest(directory, plan.manifest, plan.version)
    rows = max((shard.start + _slots(len(shard.planned_ids())) for shard in plan.manifest.shards), default=0)
    store.reserve(rows)


def remove_cache(directory: Path) -> None:
    """Remove the activations (or pixels) of a cache and all that describes them; its sets stay."""
    try:
        stored = read_manifest(directory)
    except CacheError:  # whose message says to refresh
        stored = None
    remove_file(directory / MANIFEST)  # first: from here on nothing counts as recorded
    remove_file(directory / EXAMPLES)
    for made_of_them in (PARTS, CLUSTERINGS):
        remove_tree(directory / made_of_them)
    if stored is not None:
        open_kept(directory, stored).remove()


def widen_layers(directory: Path, layers: list[str]) -> tuple[int, ...]:
    """Keep these layers as float32 from now on; returns the shards that are to be made again, all of them."""
    manifest = require_manifest(directory)
    open_store(directory, manifest.format, {name: manifest.layers[name] for name in layers}).remove()
    wider = {
        name: layer.model_copy(update={"dtype": "float32"}) if name in layers else layer
        for name, layer in manifest.layers.items()
    }
    shards = tuple(unmade(shard) for shard in manifest.shards)
    change_manifest(directory, lambda now: now.model_copy(update={"layers": wider, "shards": shards}))
    rows = max((shard.start + _slots(len(shard.planned_ids())) for shard in shards), default=0)
    open_store(directory, manifest.format, wider).reserve(rows)
    return tuple(shard.index for shard in shards)


def examples_in(directory: Path, shards: tuple[int, ...]) -> dict[int, int]:
    """How many examples each of these shards is planned for."""
    wanted = set(shards)
    return {s.index: len(s.planned_ids()) for s in require_manifest(directory).shards if s.index in wanted}


def forget_shard(directory: Path, index: int) -> None:
    """Take a shard whose bytes are damaged out of the books: the next plan makes it again."""
    manifest = read_manifest(directory)
    for shard in manifest.shards if manifest else ():
        if shard.index == index:
            update_shards(directory, unmade(shard))


class ExtractionRecord(Record):
    """What extraction left: the examples of this run, and those of them that could not be read."""

    directory: str
    num_examples: int
    failed: tuple[tuple[int, str, str], ...]
    ids: str


def finish_extraction(directory: Path, wanted: NDArray[np.int64], max_failed: int) -> ExtractionRecord:
    """Join examples.parquet and say which of the wanted examples have activations.

    Raises:
        ExtractionError: more than `max_failed` of them could not be read, or none is left.
    """
    manifest = require_manifest(directory)
    recorded = [shard for shard in manifest.shards if shard.rows is not None]
    join_parts(directory, [shard.index for shard in recorded])
    examples = read_examples(directory, ["id", "row"])
    ids = examples["id"].to_numpy()
    with_rows = ids[examples["row"].is_valid().to_numpy()]
    failures = [failure for shard in recorded for failure in shard.failed]
    lost = set(wanted[~np.isin(wanted, with_rows)].tolist())
    failed = {failure.id: failure for failure in failures if failure.id in lost}
    if len(failed) > max_failed:
        raise ExtractionError(too_many_failures(len(failed), max_failed, list(failed.values())))
    usable = wanted[np.isin(wanted, with_rows)]
    if len(usable) == 0:
        raise ExtractionError(too_many_failures(len(failed), len(failed) - 1, list(failed.values())))
    return ExtractionRecord(
        directory=address_of(directory),
        num_examples=len(usable),
        failed=tuple((failure.id, failure.file, failure.reason) for failure in failed.values()),
        ids=format_ids(usable),
    )


def human_bytes(count: int) -> str:
    """1,234,567 is "1.2 MB"."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"

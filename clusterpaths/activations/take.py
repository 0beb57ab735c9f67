"""Activations that are there become a cache: every value is read once and checked, none is copied that can be read in place.

Belongs here: the records that extraction would have written: manifest, examples, registry. What runs on them is `run.py`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from clusterpaths.activations.config import ActivationsConfig
from clusterpaths.activations.describe import Description, describe
from clusterpaths.activations.find import FoundLayer, find_arrays
from clusterpaths.cache.arrays import ARRAYS, COPIED, ORDER, ArrayPart, Arrays, ArrayStore, is_compressed
from clusterpaths.cache.examples import class_type, make_part, read_parts, write_part
from clusterpaths.cache.fit_sample import draw_ids, fit_size
from clusterpaths.cache.manifest import (
    CacheIdentity,
    LayerRecord,
    Manifest,
    ShardRecord,
    format_ids,
    read_version,
    require_same,
)
from clusterpaths.cache.manifest import write_manifest as write
from clusterpaths.cache.registry import known_examples, register, version_of, write_registry
from clusterpaths.cache.rows import block_rows
from clusterpaths.clustering.identity import require_enough
from clusterpaths.config import RunConfig
from clusterpaths.datasets import clear_caches, open_dataset
from clusterpaths.datasets.activations import NAME, write_shown
from clusterpaths.errors import CacheError, ExtractionError
from clusterpaths.extraction.begin import remove_cache
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.plan import ExtractionPlan
from clusterpaths.models.outputs import NO_LOGITS, check_on_rows
from clusterpaths.preprocessing.prepare import NO_PREPROCESSING
from clusterpaths.records import CacheDtype, DatasetSpec, ModelIdentity, ModelOutputs, ModelRecord, Tap
from clusterpaths.running.progress import Tracker
from clusterpaths.storage import Storage

Progress = Callable[..., AbstractContextManager[Tracker]]
log = logging.getLogger(__name__)
SHARD = 1024  # examples; part of the digest of activations, so no option


def take_activations(
    source: Path | Mapping[str, NDArray[Any]],
    config: ActivationsConfig,
    run: RunConfig,
    progress: Progress,
    predictions: NDArray[Any] | None = None,
    labels: NDArray[Any] | None = None,
) -> tuple[ModelRecord, ExtractionPlan, ExtractionJob]:
    """Check the activations and describe them as a complete cache.

    Args:
        source: a directory or file of arrays; or arrays in memory by layer, (n, …) each, which are written to the cache.
        config: which layers, and what describes the rows.
        run: names the cache.
        progress: shows how far the check is, as `Report.progress`.
        predictions: (n,) class numbers or (n, classes) scores, in place of a file.
        labels: (n,) class numbers, in place of a file.

    Raises:
        DatasetError: no activations, other numbers of rows, or what describes them does not fit.
        ExtractionError: values that are not finite.
        CacheError: the cache is of other activations.
    """
    directory = run.cache_dir
    if directory.request_per_file:
        raise CacheError(
            f"{directory} is in object storage, and activations are read from where they are on this machine. Expected a "
            "directory on this machine: name one with --cache-root."
        )
    directory.make()
    given = isinstance(source, Mapping)
    if given:
        assert isinstance(source, Mapping)
        path = _write_given(directory, source)
    else:
        assert isinstance(source, Path)
        path = source
    found = _in_place(directory, find_arrays(path, config.layers, chunks=config.chunks))
    about = describe(config, None if given else path, found, predictions, labels)
    for note in about.notes:
        log.warning(note)
    layers = {layer.name: _record(layer) for layer in found}
    arrays = Arrays(
        source=str(path.absolute()), layers={layer.name: layer.parts for layer in found}, ordered=about.order is None
    )
    outputs = _outputs(about)
    ids = about.table.ids
    shards = [
        ShardRecord(index=at // SHARD, ids=format_ids(ids[at : at + SHARD]), start=at, rows=len(ids[at : at + SHARD]))
        for at in range(0, len(ids), SHARD)
    ]
    _require_not_other_cache(directory)
    if config.refresh:
        remove_cache(directory, stored_rows=False)  # copies for this run are there already
    shards = _checked(
        directory, ArrayStore(directory, layers, arrays, about.order), layers, shards, config.workers, progress
    )
    identity = CacheIdentity(
        model=ModelIdentity(file="arrays in memory" if given else path.name, sha256=_digest(layers, shards, about)),
        layers=layers,
        dataset=NAME,
        preprocessing=NO_PREPROCESSING,
        dtype="float32",
        format="arrays",
        scores=outputs.name or NO_LOGITS,
    )
    stored, version = read_version(directory)
    if stored is not None:
        require_same(stored, identity, directory, format_asked=True, dtype_asked=False)
    _write_arrays(directory, arrays, about)
    manifest = Manifest(**dict(identity), shards=tuple(shards))
    spec = DatasetSpec(name=NAME, root=directory.address)
    registry = _write_examples(directory, spec, about, shards, outputs)
    write(directory, manifest, version)
    model = ModelRecord(
        path="",
        sha256=identity.model.sha256,
        external={},
        input="",
        batch=None,
        size=NO_PREPROCESSING.size,
        outputs=outputs,
        taps=tuple(Tap(layer=name, tensor=name, shape=record.shape) for name, record in layers.items()),
        preprocessing=None,
    )
    require_enough(len(ids), run.k_per_layer(model.layers))
    sample = ids if run.fit == "all" else draw_ids(ids, fit_size(run.largest_k(model.layers)))
    plan = ExtractionPlan(
        directory=directory.address,
        manifest=manifest,
        pending=(),
        ids=format_ids(ids),
        sample=format_ids(sample),
        wanted=len(ids),
        cached=len(ids),
        values=sum(int(np.prod(record.shape)) for record in layers.values()),
        files=0,
        bytes=0,
        free=directory.free_bytes(),
        refresh=config.refresh,
    )
    job = ExtractionJob(
        directory=directory.address,
        model=model,
        dataset=spec,
        preprocessing=NO_PREPROCESSING,
        cache=identity,
        batch_size=1,
        max_failed=0,
        registry=version_of(registry),
    )
    return model, plan, job


def _record(layer: FoundLayer) -> LayerRecord:
    halves = all(part.dtype == "float16" for part in layer.parts)
    dtype: CacheDtype = "float16" if halves else "float32"
    return LayerRecord(tensor=layer.name, shape=layer.parts[0].shape, dtype=dtype)


def _write_given(directory: Storage, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Arrays in memory as files of the cache, in a directory named by their content: those of other runs stay complete."""
    digest = xxhash.xxh3_64()
    for name, values in arrays.items():
        digest.update(f"{name} {np.shape(values)} ".encode())
        digest.update(np.ascontiguousarray(values).data)
    folder = f"{COPIED}/{digest.hexdigest()}"
    for name, values in arrays.items():
        _copy(directory, f"{folder}/{name}.npy", np.asarray(values))
    return directory.path / folder


def _copy(directory: Storage, file: str, values: NDArray[Any]) -> Path:
    if not directory.exists(file):
        with directory.write(file) as partial, partial.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)
    return directory.path / file


def _in_place(directory: Storage, layers: list[FoundLayer]) -> list[FoundLayer]:
    """Layers whose parts can be read in place: compressed archives are unpacked into the cache."""
    return [
        FoundLayer(one.name, tuple(_unpacked(directory, one.name, part) for part in one.parts), one.ids)
        for one in layers
    ]


def _unpacked(directory: Storage, layer: str, part: ArrayPart) -> ArrayPart:
    if part.kind != "npz" or not is_compressed(Path(part.path), part.key):
        return part
    state = Path(part.path).stat()
    version = xxhash.xxh3_64_hexdigest(f"{part.path} {state.st_size} {state.st_mtime_ns}".encode())
    with np.load(part.path, allow_pickle=False) as archive:
        copy = _copy(directory, f"{COPIED}/{version}/{layer}.npy", archive[part.key])
    return part.model_copy(update={"kind": "npy", "path": str(copy), "key": ""})


def _outputs(about: Description) -> ModelOutputs:
    reason = "given with the activations"
    if about.scores is not None:
        described = ModelOutputs(
            name="predictions", kind="logits", layout="(N, C)", classes=about.scores.shape[1], reason=reason
        )
        return check_on_rows(described, about.scores)
    if about.predictions is None:
        return ModelOutputs(reason="no predictions were given with the activations")
    classes = max(int(about.predictions.max(initial=-1)) + 1, len(about.class_names), len(about.table.class_names))
    numbers = all(name.isdigit() for name in about.class_names)
    return ModelOutputs(
        name="predictions",
        kind="logits",
        layout="(N,)",
        classes=classes,
        reason=reason,
        class_names=() if numbers else about.class_names,
        class_names_source="" if numbers else reason,
    )


def _require_not_other_cache(directory: Storage) -> None:
    stored, _ = read_version(directory)
    if stored is not None and stored.format != "arrays":
        raise CacheError(
            f"{directory} is a cache of activations that a run extracted, of the model {stored.model.file}. Nothing was "
            "changed. Use another --name."
        )


def _write_arrays(directory: Storage, arrays: Arrays, about: Description) -> None:
    if about.order is not None:
        with directory.write(ORDER) as partial, partial.open("wb") as file:
            np.save(file, about.order)
    directory.write_bytes(ARRAYS, (arrays.model_dump_json(indent=1) + "\n").encode())


def _checked(
    directory: Storage,
    store: ArrayStore,
    layers: dict[str, LayerRecord],
    shards: list[ShardRecord],
    workers: int,
    progress: Progress,
) -> list[ShardRecord]:
    """The shards with their checksums.

    Raises:
        ExtractionError: values that are not finite, or beyond float32.
    """

    def read(shard: ShardRecord) -> ShardRecord:
        ids = shard.row_ids()
        sums = {name: _checksum(store, name, record, shard.start, ids) for name, record in layers.items()}
        return shard.model_copy(update={"checksums": sums})

    sizes = {str(shard.index): shard.rows or 0 for shard in shards}
    with (
        progress("extraction", directory.address, sizes, sum(sizes.values())) as tracker,
        ThreadPoolExecutor(workers, thread_name_prefix="check") as pool,
    ):

        def done(shard: ShardRecord) -> ShardRecord:
            found = read(shard)
            tracker.finish(str(shard.index))
            return found

        return list(pool.map(done, shards))


def _checksum(store: ArrayStore, name: str, record: LayerRecord, start: int, ids: NDArray[np.int64]) -> str:
    digest, step = xxhash.xxh3_64(), block_rows(int(np.prod(record.shape)))
    for first in range(0, len(ids), step):
        own = ids[first : first + step]
        try:
            values = store.read(name, own, start + first + np.arange(len(own)))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ExtractionError(
                f"The activations of the layer {name} cannot be read, examples {own[0]} to {own[-1]}: {error}. Expected "
                "complete files; write them again."
            ) from error
        finite = np.isfinite(values)
        if not finite.all():
            bad = np.flatnonzero(~finite.all(axis=1))
            raise ExtractionError(
                f"The layer {name} has values that are not finite (NaN or infinite, or beyond float32): {int((~finite).sum()):,} "
                f"in {len(bad):,} of the {len(own):,} examples from {own[0]} to {own[-1]}, the first in example {own[bad[0]]}. "
                "Such rows cannot be clustered: leave these examples or this layer (--layers) out."
            )
        digest.update(values.data)
    return digest.hexdigest()


def _digest(layers: dict[str, LayerRecord], shards: list[ShardRecord], about: Description) -> str:
    """SHA-256 that stands for the model: of all activations and predictions."""
    digest = hashlib.sha256(format_ids(about.table.ids).encode())
    for name, record in layers.items():
        digest.update(f"\n{name} {record.shape} {record.dtype} ".encode())
        digest.update(" ".join(shard.checksums[name] for shard in shards).encode())
    for values in (about.predictions, about.scores):
        digest.update(b"\n" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _write_examples(
    directory: Storage, spec: DatasetSpec, about: Description, shards: list[ShardRecord], outputs: ModelOutputs
) -> pa.Table:
    """What the examples look like, the registry and the shards' tables; returns the registry."""
    table = about.table
    write_shown(directory, about.images, dict(zip(table.files, about.texts, strict=True)) if about.texts else {})
    clear_caches()
    dataset = open_dataset(spec)
    nothing, _ = read_parts(directory, [])
    registry = register(table, known_examples(None, nothing), dataset)
    write_registry(directory, registry)
    digests = np.array([dataset.digest(file) for file in table.files], np.uint64)
    at = 0
    for shard in shards:
        count = shard.rows or 0
        own = slice(at, at + count)
        part = make_part(
            table.take(np.arange(at, at + count)),
            shard.index,
            np.arange(at, at + count),
            [None] * count,
            None if about.scores is None else about.scores[own],
            outputs,
            digests[own],
        )
        if about.predictions is not None:
            column = part.column_names.index("prediction")
            part = part.set_column(
                column, "prediction", pa.array(about.predictions[own].astype(class_type(outputs.classes)))
            )
        write_part(directory, shard.index, part)
        at += count
    return registry

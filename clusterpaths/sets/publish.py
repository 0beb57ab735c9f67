"""Stage publish: write the next set atomically.

Belongs here: the documents that dashboards read (their shape is a contract), and their binary versions. Existing readers
treat every directory whose name begins with set_ as a complete set, so partial sets have another name.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.cache.examples import PARTS
from clusterpaths.cache.extracted import ExtractionRecord
from clusterpaths.cache.manifest import CLUSTERINGS
from clusterpaths.cache.predictions import are_stored, check_stored, read_predictions
from clusterpaths.cache.registry import attribute_names, class_names, require_registry
from clusterpaths.clustering.assign import FitRecord, assigner_of
from clusterpaths.clustering.choice import Choice
from clusterpaths.clustering.identity import SetIdentity
from clusterpaths.clustering.trace import TraceRecord
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.metrics.paths import count_paths, purity
from clusterpaths.models.outputs import NO_LOGITS
from clusterpaths.preprocessing.check import CHECK, PreprocessingCheck
from clusterpaths.records import ModelIdentity, ModelOutputs, SetRecord, StageTime
from clusterpaths.sets.attributes import write_attributes
from clusterpaths.sets.class_names import name_classes
from clusterpaths.sets.directory import CENTROIDS, PATHS, RECORD
from clusterpaths.sets.find import list_sets, next_set
from clusterpaths.sets.place import write_maps_of
from clusterpaths.sets.published import PublishedSet, open_set
from clusterpaths.storage import Storage


def publish_set(
    config: RunConfig,
    job: ExtractionJob,
    extraction: ExtractionRecord,
    identity: SetIdentity,
    fits: tuple[FitRecord, ...],
    traced: TraceRecord,
    stages: tuple[StageTime, ...] = (),
    choice: Choice | None = None,
    check: PreprocessingCheck | None = None,
    name: str | None = None,
) -> PublishedSet:
    """Write the next set, then metadata.json beside it.

    Safe to repeat with the same `name`: a set that an earlier try has published is not published again.

    Args:
        config: of the run.
        job: settings of the extraction.
        extraction: its examples.
        identity: of the set.
        fits: of the layers.
        traced: the paths.
        stages: how long they took.
        choice: of k or the distance.
        check: of the preprocessing.
        name: of the set; `next_set` if left out.

    Raises:
        DiskError: no room or no permission; partial files are removed.
        ModelError: the kind of output that was named with --output-kind does not hold.
    """
    directory = extraction.storage
    name = name or next_set(directory)
    if name in list_sets(directory):
        earlier = open_set(directory / name)
        if earlier.record.fingerprint == identity.fingerprint():
            describe_newest(earlier)
            return earlier
    paths = pq.read_table(traced.file)
    layers = tuple(identity.layers)
    table = np.column_stack([paths[layer].to_numpy() for layer in layers])  # (n, layers)
    registry = require_registry(directory)
    path_of = count_paths(table).of_example
    outputs = check_stored(directory, job.model.outputs)
    decided = _with_predictions(paths, directory, outputs)
    by_labels = purity(path_of, paths["label"].to_numpy())
    by_predictions = purity(path_of, decided["prediction"].to_numpy())
    own_names, label_names, source = name_classes(outputs, class_names(registry), check.class_order if check else None)
    outputs = outputs.model_copy(update={"class_names_source": source})
    record = SetRecord(
        set=name,
        fingerprint=identity.fingerprint(),
        model=ModelIdentity(file=Path(job.model.path).name or job.cache.model.file, sha256=job.model.sha256),
        dataset=job.dataset.name,
        data_root=job.dataset.root,
        dataset_fingerprint=job.dataset_fingerprint,
        preprocessing=job.preprocessing,
        layers=layers,
        tensors={layer: identity.layers[layer].tensor for layer in layers},
        logits=outputs.name or NO_LOGITS,
        outputs=outputs,
        k_per_layer=identity.k_per_layer,
        distance=identity.distance,
        seed=identity.seed,
        num_examples=len(paths),
        num_failed=len(extraction.failed),
        class_names=own_names,
        label_names=label_names,
        attributes=attribute_names(registry),
        clusters=traced.clusters,
        purity_labels=by_labels and by_labels.value,
        purity_predictions=by_predictions and by_predictions.value,
        chance_labels=by_labels and by_labels.chance,
        chance_predictions=by_predictions and by_predictions.chance,
        choice=choice.sentence if choice else "",
        stages=stages,
        config=_to_repeat(config, job),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    centroids = {fit.layer: assigner_of(directory, fit).centroids for fit in fits}
    with directory.publish(record.set, last=RECORD) as partial:
        (partial / "centroids.json").write_text(
            json.dumps({layer: _rounded(centroids[layer]) for layer in layers}), encoding="utf-8"
        )
        (partial / "paths.json").write_text(_paths_json(paths["id"].to_numpy(), table), encoding="utf-8")
        arrays: dict[str, Any] = {layer: centroids[layer] for layer in layers}
        np.savez(partial / CENTROIDS, **arrays)
        if decided is paths:
            shutil.copyfile(traced.file, partial / PATHS)
        else:
            pq.write_table(decided, partial / PATHS, compression="zstd")
        write_maps_of(lambda name: contextlib.nullcontext(partial / name), extraction, fits)
        if record.attributes:
            write_attributes(partial, registry, paths["id"].to_numpy())
        if choice:
            (partial / "choice.json").write_text(choice.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if check:
            (partial / CHECK).write_text(check.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (partial / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    published = PublishedSet(directory / record.set, record)
    describe_newest(published)
    return published


def add_maps(published: PublishedSet, extraction: ExtractionRecord, fits: tuple[FitRecord, ...]) -> None:
    """Add the maps to a set that was published without, and remove intermediate files; other documents stay as they are.

    Safe to repeat: maps.parquet comes last.

    Raises:
        CacheError: a shard is not assigned, or was extracted again since.
        DiskError: no room or no permission.
    """
    write_maps_of(published.folder.write, extraction, fits)
    published.cache.remove_tree(CLUSTERINGS)


def _to_repeat(config: RunConfig, job: ExtractionJob) -> dict[str, Any]:
    """The given options, with the resolved directories and model, for later runs; but for the map, which later runs change."""
    given = config.model_dump(mode="json", exclude_unset=True, exclude={"map"})
    given |= {"model": job.model.path, "cache_root": job.storage.parent.address, "name": job.storage.name}
    if config.class_names:
        given["class_names"] = str(config.class_names.expanduser().absolute())
    if config.sample:
        return given | {"sample": True}  # the default of `clusterpaths sample`, so it is not among what was given
    labels = (
        {"labels": job.dataset.labels} if job.dataset.labels else {}
    )  # given, it may be relative to a directory of then
    return given | {"dataset": job.dataset.name, "data_root": job.dataset.root} | labels


def _with_predictions(paths: pa.Table, directory: Storage, outputs: ModelOutputs) -> pa.Table:
    """The table with predictions of the kind that the rows turned out to be; the same table where it has these."""
    if are_stored(directory, outputs):
        return paths
    found = read_predictions(directory, paths["id"].to_numpy(), outputs)
    at = paths.column_names.index("prediction")
    return paths.set_column(at, "prediction", pa.array(found))


def describe_newest(published: PublishedSet) -> None:
    """Write metadata.json for the newest set beside this one, or this one, and remove intermediate files.

    Safe to repeat: a run that was killed right after publishing does it when resumed, or the next run of other settings.
    """
    directory = published.cache
    newest = list_sets(directory)[-1]
    with contextlib.suppress(CacheError):  # a set of another program, or one that is corrupted
        record = published.record if newest == published.record.set else open_set(directory / newest).record
        directory.write_json("metadata.json", metadata(record))
    directory.remove_tree(CLUSTERINGS)
    directory.remove_partials("", PARTS)


def metadata(record: SetRecord) -> dict[str, Any]:
    """metadata.json: the keys that dashboards read, then more."""
    return {
        "num_examples": record.num_examples,
        "layers": list(record.layers),
        "k": max(record.k_per_layer.values()),  # one number: the largest; k_per_layer has each
        "distance": record.distance,
        "k_per_layer": record.k_per_layer,
        "set": record.set,
        "seed": record.seed,
        "num_failed": record.num_failed,
        "model": record.model.model_dump(),
        "dataset": record.dataset,
        "preprocessing": record.preprocessing.model_dump(),
        "class_names": list(record.class_names),
        **({} if record.same_classes else {"label_names": list(record.label_names)}),
        "attributes": list(record.attributes),
        "clusters": {layer: summary.model_dump() for layer, summary in record.clusters.items()},
        "created": record.created,
    }


def _rounded(centroids: NDArray[np.float32]) -> list[list[float]]:
    """Nine significant digits round-trip a float32 exactly, and halve the file."""
    return [[float(f"{value:.9g}") for value in row] for row in centroids.tolist()]


def _paths_json(ids: NDArray[np.int64], table: NDArray[np.int16]) -> str:
    rows = (f'"example_{example:04d}": {path}' for example, path in zip(ids.tolist(), table.tolist(), strict=True))
    return "{" + ",\n".join(rows) + "}\n"

"""The cost of each stage: first one by one on the same images in one process, then overlapping as in a run.

One by one, a stage reads its input from memory, so that its time includes nothing else; the share of a core that was busy
shows whether it waited. Overlapping, extraction and clustering run in as many threads as a run has workers. Also counted:
images through the model, and how often each layer's rows were read.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from machine import Material, Meter, cache_size
from numpy.typing import NDArray

from clusterpaths.cache.manifest import parse_ids, require_manifest
from clusterpaths.cache.rows import BLOCK_BYTES, MAX_BLOCK_ROWS, LayerRows, to_float32
from clusterpaths.cache.stores import open_store
from clusterpaths.cache.zarr_layout import CHUNK_ROWS
from clusterpaths.clustering import cluster, kmeans, reading, seeding
from clusterpaths.clustering.identity import identify
from clusterpaths.common.threads import one_thread
from clusterpaths.config import RunConfig, available_cores
from clusterpaths.datasets import open_dataset, read_table
from clusterpaths.datasets.acquire import acquire
from clusterpaths.evaluation import evaluate
from clusterpaths.extraction import extract, plan
from clusterpaths.extraction.begin import begin_extraction
from clusterpaths.extraction.finish import ExtractionRecord, finish_extraction
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import CacheFormat
from clusterpaths.report.page import write_report
from clusterpaths.running import stages
from clusterpaths.sets import publish
from clusterpaths.storage import open_storage

GROUP = 256  # images that go through the early stages together: a whole number of chunks
WITHOUT_CACHE = "none"  # the format that stores no activations


def measure(
    material: Material, images: int, formats: Sequence[CacheFormat], workers: int | None = None
) -> dict[str, Any]:
    """The stages by themselves, and a complete run in one process, with each format."""
    workers = workers or available_cores()
    root = material.images(images)
    alone, held = measure_alone(material, root, [name for name in formats if name != WITHOUT_CACHE])
    clustered = measure_clustering(held)
    held.clear()
    return {
        "images": images,
        "workers": workers,
        "alone": [*alone, *clustered],
        "whole": {name: measure_whole(material, root, name, workers) for name in formats},
        "one_worker": {name: measure_whole(material, root, name, 1, rest=False) for name in formats},
    }


def measure_model(material: Material, model: Path, images: int, formats: Sequence[str]) -> dict[str, Any]:
    """Another model over the same images: extraction and clustering with one worker and with one per core."""
    other, root, workers = replace(material, model=model), material.images(images), available_cores()
    wholes = {name: measure_whole(other, root, name, workers, rest=False) for name in formats}
    single = {name: measure_whole(other, root, name, 1, rest=False) for name in formats}
    return {"images": images, "workers": workers, "alone": [], "whole": wholes, "one_worker": single}


def config_of(material: Material, root: Path, name: str, **more: Any) -> RunConfig:
    """A run's configuration; results in work/stages/NAME."""
    options = {"model": material.model, "data_root": root, "cache_root": material.work / "stages", "name": name}
    return RunConfig.model_validate({**options, "preprocessing": "imagenet", **more})


def measure_alone(
    material: Material, root: Path, formats: Sequence[CacheFormat]
) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.float16]]]:
    """Digest to write, each alone in one thread; and every layer's activations, (n, width)."""
    config = config_of(material, root, "alone")
    model, preprocessing = stages.instrument(config, stages.check_model(config))
    spec = acquire(config)
    dataset, table = open_dataset(spec), read_table(spec)
    planned, _ = plan.plan_run(config, model, spec, preprocessing)
    layers, total = planned.manifest.layers, len(table)
    stores = {}
    for name in formats:
        stores[name] = open_store(open_storage(material.work / "stages" / f"written-{name}"), name, layers)
        stores[name].reserve(total)
    session = TapSession(model, {layer: record.dtype for layer, record in layers.items()})
    held = {layer: np.empty((total, *record.shape), record.dtype) for layer, record in layers.items()}
    steps = ["digest", "decode", "resize", "normalise", "inference", *(f"write {name}" for name in formats)]
    meters = {step: Meter() for step in steps}
    session.run_blank()  # the first run allocates
    for start in range(0, total, GROUP):
        files = table.files[start : start + GROUP]
        with meters["digest"]:
            for file in files:
                dataset.digest(file)
        with meters["decode"]:
            decoded = [dataset.read_image(file) for file in files]
        with meters["resize"]:
            pixels = np.stack([fit(image, preprocessing) for image in decoded])
        with meters["normalise"]:
            inputs = normalise(pixels, preprocessing)
        with meters["inference"]:
            outputs = [
                session.run(inputs[at : at + config.batch_size]) for at in range(0, len(files), config.batch_size)
            ]
        for layer, values in held.items():
            values[start : start + len(files)] = np.concatenate([output.layers[layer] for output in outputs])
        for name in formats:
            with meters[f"write {name}"]:
                for layer, values in held.items():
                    for at in range(start, start + len(files), CHUNK_ROWS):
                        ids = table.ids[at : min(at + CHUNK_ROWS, start + len(files))]
                        stores[name].write(layer, ids, at, values[at : at + len(ids)])
    shutil.rmtree(material.work / "stages")
    notes = {
        "digest": "reads the file's bytes",
        "inference": f"batches of {config.batch_size}, to float16 in the graph",
    }
    timings = [meter.result(step, total, notes.get(step, "")) for step, meter in meters.items()]
    return timings, {layer: values.reshape(total, -1) for layer, values in held.items()}


class HeldRows:
    """Rows of one layer in memory; `meter` stands still while they are made float32, as if they were read at once."""

    def __init__(self, values: NDArray[np.float16]) -> None:
        self._values = values
        self.width = values.shape[1]
        self.block_rows = int(np.clip(BLOCK_BYTES // (self.width * 4), 1, MAX_BLOCK_ROWS))
        self.fit: NDArray[np.int64] | None = None
        self.meter: Meter | None = None

    def __len__(self) -> int:
        return len(self._values)

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[reading.Where, NDArray[np.float32]]]:
        places = np.arange(len(self)) if positions is None else positions
        for start in range(0, len(places), self.block_rows):
            where = places[start : start + self.block_rows]
            yield where, self._converted(where)

    def _converted(self, positions: Any) -> NDArray[np.float32]:
        if self.meter is None:
            raise RuntimeError("rows were read outside of a meter")
        self.meter.__exit__(None, None, None)
        values = to_float32(np.ascontiguousarray(self._values[positions]))
        self.meter.__enter__()
        return values


def measure_clustering(held: dict[str, NDArray[np.float16]]) -> list[dict[str, Any]]:
    """Fit and assignment of all layers, one after the other, on rows in memory."""
    meters = {step: Meter() for step in ("fit", "assign")}
    count = len(next(iter(held.values())))
    labels, distances = np.empty(count, np.int16), np.empty(count, np.float32)
    with one_thread():
        for values in held.values():
            rows = HeldRows(values)
            with meters["fit"] as rows.meter:
                centroids = kmeans.fit(rows, 5, "cosine", 0).centroids
            with meters["assign"] as rows.meter:
                kmeans.assign(rows, centroids, "cosine", labels, distances)
    notes = {"fit": f"a run fits on at most {seeding.fit_size(5):,} rows: no cost an image beyond them"}
    return [meter.result(step, count, notes.get(step, "")) for step, meter in meters.items()]


@dataclass
class Counts:
    """Counts: images that the model ran on (blank ones left out), and rows read of each layer."""

    images: int = 0
    batches: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    bounded_seconds: float = 0.0  # while any layer was fitted on a sample: no more, however many images there are


@contextmanager
def counting() -> Iterator[Counts]:
    """Count model runs and rows read through `LayerRows`, in this process; format none recomputes what it reads."""
    counts, lock = Counts(), threading.Lock()
    going, began = 0, 0.0  # layers that are still at what is bounded, since when
    run, blocks, take, fit_layer = TapSession.run, LayerRows.blocks, LayerRows.take, kmeans.fit

    def counted_run(session: TapSession, images: NDArray[np.float32], *more: Any) -> Outputs:
        if not (images == 0.5).all():  # a blank one shows that the model runs; it is none of the data
            with lock:  # sessions run in several threads
                counts.images += len(images)
                counts.batches += 1
        return run(session, images, *more)

    def count_rows(layer: str, number: int) -> None:
        with lock:
            counts.rows[layer] = counts.rows.get(layer, 0) + number

    def counted_blocks(rows: LayerRows, *positions: Any) -> Iterator[tuple[reading.Where, NDArray[np.float32]]]:
        for where, block in blocks(rows, *positions):
            count_rows(rows.layer, len(block))
            yield where, block

    def counted_take(rows: LayerRows, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        count_rows(rows.layer, len(positions))
        return take(rows, positions)

    def timed(*arguments: Any) -> kmeans.Fit:
        """A layer's fit, timed: on a bounded number of rows, but for one pass over all."""
        nonlocal going, began
        with lock:
            going, began = going + 1, began if going else time.perf_counter()
        try:
            return fit_layer(*arguments)
        finally:
            with lock:
                going -= 1
                if not going:
                    counts.bounded_seconds += time.perf_counter() - began

    with (
        mock.patch.object(kmeans, "fit", timed),
        mock.patch.object(TapSession, "run", counted_run),
        mock.patch.object(LayerRows, "blocks", counted_blocks),
        mock.patch.object(LayerRows, "take", counted_take),
    ):
        yield counts


def measure_whole(material: Material, root: Path, cache_format: str, workers: int, rest: bool = True) -> dict[str, Any]:
    """A run's stages in this process, shards and layers in `workers` threads as a flow has them; and what was counted.

    Without `rest`, extraction and clustering alone: what grows with the number of images.
    """
    config = config_of(material, root, f"whole-{cache_format}", cache_format=cache_format)
    timings: list[dict[str, Any]] = []
    total = 0

    def measured(stage: str, work: Callable[[], Any], note: str = "") -> Any:
        with Meter() as meter:
            result = work()
        timings.append(meter.result(stage, total, note))
        return result

    def in_threads(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, items))

    def extract_one(shard: int) -> float:
        started = time.perf_counter()
        extract.extract_shard(job, shard)
        return time.perf_counter() - started

    def cluster_all() -> list[cluster.ClusteringRecord]:
        return in_threads(lambda layer: cluster.cluster_layer(done, asked, layer), asked.layers)

    model, preprocessing = stages.instrument(config, stages.check_model(config))
    planned, job = plan.plan_run(config, model, acquire(config), preprocessing)
    total, together = planned.wanted, f"{workers} threads"
    begin_extraction(planned)
    with counting() as counts:
        shards = measured("extract", lambda: in_threads(extract_one, planned.pending), together)
        extract.release_sessions()
        done = finish_extraction(job.storage, parse_ids(planned.ids), job.max_failed)
        settings, choice = stages.choose_settings(config, model, done)
        asked = identify(settings, model, done)
        layers = measured("cluster", cluster_all, together)
    if rest:
        how = "the model runs for each" if cache_format == WITHOUT_CACHE else "checksums with it"
        measured("read", lambda: read_all(done), f"all layers once, one after the other, to float32; {how}")
        traced = measured("trace", lambda: cluster.trace_paths(done, asked, layers))
        published = measured(
            "publish", lambda: publish.publish_set(config, job, done, asked, layers, traced, choice=choice)
        )
        images = open_dataset(acquire(config)).read_image
        measured("evaluate", lambda: evaluate.evaluate_set(published, job), "on samples: bounded in N")
        measured("report", lambda: write_report(published, images), "bounded in N")
    result = {
        "stages": timings,
        "shard_seconds": shards,
        "bounded_seconds": counts.bounded_seconds,
        "model_images": counts.images,
        "model_batches": counts.batches,
        "layer_reads": {layer: rows / total for layer, rows in counts.rows.items()},
        "cache_bytes_per_image": cache_size(Path(job.directory)) / total,
        "inertia": {record.layer: record.summary.inertia for record in layers},
    }
    config.cache_dir.remove_tree()
    return result


def read_all(extraction: ExtractionRecord) -> None:
    """Read every row of every layer once, in the order of ids."""
    for layer in require_manifest(extraction.storage).layers:
        for _ in LayerRows(extraction.storage, layer, parse_ids(extraction.ids)).blocks():
            pass


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    cores = len(next(iter(result["whole"].values()))["stages"][0]["cores"])
    columns = [
        "stage",
        "ms per image",
        "CPU ms per image",
        "cores busy, this process",
        *(f"core {i}, all processes" for i in range(cores)),
        "",
    ]
    heading = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines = [f"{result['images']:,} images."]
    if result["alone"]:
        lines += ["", "Each by itself:", "", *heading, *map(line, result["alone"])]
    for name, whole in result["whole"].items():
        reads = ", ".join(f"{layer} {times:.2f}" for layer, times in whole["layer_reads"].items())
        again = " (recomputed)" if name == WITHOUT_CACHE else ""
        lines += [
            "",
            f"Overlapping as in a run, {name}, {result['workers']} workers; {whole['model_images']:,} images through the model; "
            f"number of times each layer was read{again}: {reads}; {whole['cache_bytes_per_image'] / 1000:.0f} KB per image:",
            "",
            *heading,
            *map(line, whole["stages"]),
        ]
        single = {row["stage"]: row["ms"] for row in result["one_worker"][name]["stages"]}
        lines += ["", f"With one worker: {', '.join(f'{stage} {ms:.3f} ms' for stage, ms in single.items())} an image."]
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    """One stage."""
    cores = " | ".join(f"{share:.0%}" for share in row["cores"])
    return f"| {row['stage']} | {row['ms']:.3f} | {row['cpu_ms']:.3f} | {row['busy']:.2f} | {cores} | {row['note']} |"

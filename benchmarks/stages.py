"""The cost of each stage: first one by one on the same images in one thread, then as a complete run has them.

One by one, a stage reads its input from memory, so that its time includes nothing else; the share of a core that was busy
shows whether it waited. The complete run is `clusterpaths.pipeline.run` in this process, with as many threads as a run has
workers, and with one. Also counted: images through the model, and what was read of the cache.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import xxhash
from inertia import HeldRows
from machine import Material, Meter, cache_size
from numpy.typing import NDArray
from tapping import plain_session

from clusterpaths import pipeline
from clusterpaths.cache import fit_sample
from clusterpaths.cache.rows import block_rows
from clusterpaths.cache.stores import NpyStore, ZarrStore, open_store
from clusterpaths.cache.zarr_layout import CHUNK_ROWS
from clusterpaths.clustering import kmeans
from clusterpaths.clustering.assign import Assigner
from clusterpaths.common.threads import one_thread
from clusterpaths.config import RunConfig, available_cores
from clusterpaths.datasets import open_dataset, read_table
from clusterpaths.datasets.acquire import acquire
from clusterpaths.extraction import plan
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import CacheFormat
from clusterpaths.running import stages
from clusterpaths.running.report import Outcome
from clusterpaths.running.runner import InProcess
from clusterpaths.running.timer import StageTimer
from clusterpaths.storage import open_storage

K = 5
GROUP = 256  # images that go through the early stages together: a whole number of chunks
SHOWN = ("extract", "fit", "assign", "trace", "publish", "evaluate", "report")  # the others take no time that grows
EXTRACTING = ("extract", "assign")  # stages that run the model on images of the data set


def measure(
    material: Material, images: int, formats: Sequence[CacheFormat], workers: int | None = None
) -> dict[str, Any]:
    """The stages by themselves, and complete runs in one process with each format."""
    root, sample = material.images(images), sample_of(images)
    alone = measure_alone(material, root, [name for name in formats if name != "none"], sample)
    return {"alone": alone, **measure_runs(material, images, formats, workers or available_cores())}


def measure_model(material: Material, model: Path, images: int, formats: Sequence[str]) -> dict[str, Any]:
    """Runs of another model over the same images, without evaluation, with one worker and with one per core."""
    other = replace(material, model=model)
    return {"alone": [], **measure_runs(other, images, formats, available_cores(), evaluate=False)}


def measure_runs(
    material: Material, images: int, formats: Sequence[str], workers: int, evaluate: bool = True
) -> dict[str, Any]:
    """A run of each format with `workers`, and one with one worker that ends when the set is published."""
    wholes = {name: measure_run(material, images, name, workers, evaluate) for name in formats}
    single = {name: measure_run(material, images, name, 1, evaluate=False) for name in formats}
    return {"images": images, "workers": workers, "sample": sample_of(images), "whole": wholes, "one_worker": single}


def sample_of(images: int) -> int:
    """How many examples layers are fitted on here: as in a run, but half of few images, so that the others are fused."""
    return min(fit_sample.fit_size(K), images // 2)


@contextmanager
def fitting_on(sample: int) -> Iterator[None]:
    """Runs fit on this many examples."""
    with mock.patch.multiple(fit_sample, FIT_ROWS=sample, FIT_ROWS_PER_CLUSTER=0):
        yield


def config_of(material: Material, images: int, name: str, **more: Any) -> RunConfig:
    """A run's configuration; results in work/stages/NAME. Few images are in smaller shards, so that there are several."""
    options = {"model": material.model, "data_root": material.images(images), "name": name}
    options |= {"cache_root": material.work / "stages", "preprocessing": "imagenet", "check_preprocessing": False}
    return RunConfig.model_validate({**options, "k": str(K), "shard_size": max(32, min(512, images // 8)), **more})


def measure_alone(material: Material, root: Path, formats: Sequence[CacheFormat], count: int) -> list[dict[str, Any]]:
    """Digest to fit, each alone in one thread, over the first `count` images of a data root."""
    options = {"model": material.model, "data_root": root, "cache_root": material.work / "stages", "subset": count}
    config = RunConfig.model_validate({**options, "name": "alone", "preprocessing": "imagenet"})
    model, preprocessing = stages.instrument(config, stages.check_model(config))
    spec = acquire(config)
    dataset, files, ids = open_dataset(spec), read_table(spec).files[:count], read_table(spec).ids[:count]
    layers = plan.plan_run(config, model, spec, preprocessing)[0].manifest.layers
    dtypes = {layer: record.dtype for layer, record in layers.items()}
    stores = {}
    for name in formats:
        stores[name] = open_store(open_storage(material.work / "stages" / f"written-{name}"), name, layers)
        stores[name].reserve(count)
    meters: dict[str, Meter] = defaultdict(Meter)
    plain, tapped = plain_session(material.model, str(model.logits)), TapSession(model, dtypes)
    tapped.run_blank()  # the first run allocates
    held = {layer: np.empty((count, *record.shape), record.dtype) for layer, record in layers.items()}
    batches: list[NDArray[np.float32]] = []
    for start in range(0, count, GROUP):
        stop = min(start + GROUP, count)
        with meters["digest"]:
            for file in files[start:stop]:
                dataset.digest(file)
        with meters["decode"]:
            decoded = [dataset.read_image(file) for file in files[start:stop]]
        with meters["resize"]:
            pixels = np.stack([fit(image, preprocessing) for image in decoded])
        with meters["normalise"]:
            inputs = normalise(pixels, preprocessing)
        own = [inputs[at : at + config.batch_size] for at in range(0, len(inputs), config.batch_size)]
        batches += own
        with meters["inference"]:
            for batch in own:
                plain.run([model.logits], {model.input: batch})
        with meters["inference with taps"]:
            outputs = [tapped.run(batch).layers for batch in own]
        for layer, values in held.items():
            values[start:stop] = np.concatenate([output[layer] for output in outputs])
        chunks = [slice(at, min(at + CHUNK_ROWS, stop)) for at in range(start, stop, CHUNK_ROWS)]
        with meters["hash"]:
            for values in held.values():
                xxhash.xxh3_64(values[start:stop].data).digest()
        for name, store in stores.items():
            with meters[f"write {name}"]:
                for layer, values in held.items():
                    for rows in chunks:
                        store.write(layer, ids[rows], rows.start, values[rows])
    shutil.rmtree(material.work / "stages")
    centroids = {}
    with one_thread():
        for layer, values in held.items():
            with meters[f"fit {layer}"]:
                rows_of = HeldRows(values.reshape(count, -1), np.arange(count))
                centroids[layer] = kmeans.fit(rows_of, K, "cosine", 0).centroids
    for step, keep in (("inference with assignment", True), ("inference with assignment, no activations", False)):
        session = TapSession(model, dtypes, centroids, keep)
        session.run_blank()
        with meters[step]:
            for batch in batches:
                session.run(batch)
    for layer, values in held.items():
        assigner, rows = Assigner(centroids[layer], "cosine"), values.reshape(count, -1)
        assigner.products(rows[:1])  # creates its session
        with meters["assign from the cache"]:
            step_rows = block_rows(rows.shape[1])
            assigner.assign([assigner.products(rows[at : at + step_rows]) for at in range(0, count, step_rows)])
    notes = {
        "digest": "reads the file's bytes",
        "inference": f"without taps, batches of {config.batch_size}",
        "inference with taps": "to float16 in the graph",
        "inference with assignment": "and with the products that labels need",
        "inference with assignment, no activations": "as for the format none, in float16",
        "hash": "checksums of all layers",
        "assign from the cache": "activations in memory, of all layers",
    }
    fits = {
        step: f"{K} clusters on {count:,} examples: no cost beyond them" for step in meters if step.startswith("fit")
    }
    return [meter.result(step, count, (notes | fits).get(step, "")) for step, meter in meters.items()]


class MeteredTimer(StageTimer):
    """Also measures CPU time and cores of the pipeline's stages, and knows which one is running."""

    def __init__(self) -> None:
        super().__init__()
        self.meters: dict[str, Meter] = defaultdict(Meter)
        self.stage = ""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[list[str]]:
        before, self.stage = self.stage, stage
        with self.meters[stage], super().__call__(stage) as details:
            yield details
        self.stage = before


class TimedRunner(InProcess):
    """Also records what each piece took.

    Attributes:
        pieces: name of the stage, its arguments, seconds.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.pieces: list[tuple[str, tuple[Any, ...], float]] = []

    def submit(self, stage: Callable[..., Any], *args: Any, name: str = "") -> Future[Any]:
        def timed() -> Any:
            started = time.perf_counter()
            result = stage(*args)
            self.pieces.append((stage.__name__, args, time.perf_counter() - started))
            return result

        found: Future[Any] = super().submit(timed, name=name)  # type: ignore[assignment]
        return found

    def fused(self) -> list[tuple[int, float]]:
        """Images and seconds of each shard that was extracted and assigned at once."""
        return [
            (len(args[1].planned_ids()), seconds)
            for stage, args, seconds in self.pieces
            if stage == "extract_shard" and args[2]
        ]


@dataclass
class Counts:
    """What was counted, by stage.

    Attributes:
        images: that the model ran on.
        rows: of each layer, read from the cache.
        examples: layer -> ids of all examples that were read.
    """

    images: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    rows: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    examples: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


@contextmanager
def counting(timer: MeteredTimer) -> Iterator[Counts]:
    """Count model runs and rows read from the cache, in this process."""
    counts, lock, run = Counts(), threading.Lock(), TapSession.run

    def counted_run(session: TapSession, images: NDArray[np.float32]) -> Outputs:
        if not (images == 0.5).all():  # a blank one shows that the model runs; it is none of the data
            with lock:  # sessions run in several threads
                counts.images[timer.stage] += len(images)
        return run(session, images)

    def counted(read: Callable[..., Any]) -> Callable[..., Any]:
        def counted_read(store: Any, layer: str, ids: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
            with lock:
                counts.rows[timer.stage][layer] += len(ids)
                counts.examples[layer].update(ids.tolist())
            values: NDArray[Any] = read(store, layer, ids, rows)
            return values

        return counted_read

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(TapSession, "run", counted_run))
        for store in (NpyStore, ZarrStore):
            patches.enter_context(mock.patch.object(store, "read", counted(store.read)))
        yield counts


def measure_run(material: Material, images: int, cache_format: str, workers: int, evaluate: bool) -> dict[str, Any]:
    """A complete run in this process, shards and layers in `workers` threads; and what was counted."""
    config = config_of(material, images, f"whole-{cache_format}", cache_format=cache_format, evaluate=evaluate)
    timer, runner, sample = MeteredTimer(), TimedRunner(workers), sample_of(images)
    with fitting_on(sample), counting(timer) as counts, mock.patch.object(pipeline, "StageTimer", return_value=timer):
        outcome = pipeline.run(config, runner)
    details = {stage.stage: stage.detail for stage in outcome.stages}
    fits = [seconds for stage, _, seconds in runner.pieces if stage == "fit_layer"]
    result = {
        "stages": [timer.meters[stage].result(stage, images, details[stage]) for stage in SHOWN if stage in details],
        "shards": runner.fused(),
        "fit_seconds": sum(fits),
        "model_images": {stage: counts.images[stage] for stage in SHOWN if stage in counts.images},
        "layer_reads": {
            stage: {layer: rows / sample for layer, rows in counts.rows[stage].items()}
            for stage in SHOWN
            if stage in counts.rows
        },
        "examples_read": {layer: len(ids) for layer, ids in counts.examples.items()},
        "cache_bytes_per_image": cache_size(Path(outcome.job.directory)) / images,
        "inertia": inertia_of(outcome),
    }
    config.cache_dir.remove_tree()
    return result


def inertia_of(outcome: Outcome) -> dict[str, float]:
    """Of each layer of the published set."""
    if outcome.published is None:
        raise RuntimeError("the run published no set")
    return {layer: summary.inertia for layer, summary in outcome.published.record.clusters.items()}


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
    lines = [f"{result['images']:,} images, fitted on {result['sample']:,} of them."]
    if result["alone"]:
        lines += ["", f"Each by itself, over {result['sample']:,} images:", "", *heading, *map(line, result["alone"])]
    for name, whole in result["whole"].items():
        extracted = sum(whole["model_images"].get(stage, 0) for stage in EXTRACTING)
        reads = [
            f"to {stage} {min(times.values()):.1f} to {max(times.values()):.1f} times"
            for stage, times in whole["layer_reads"].items()
        ]
        lines += [
            "",
            f"A complete run, {name}, {result['workers']} workers; {extracted:,} images through the model; "
            f"{max(whole['examples_read'].values(), default=0):,} examples read from the cache, {', '.join(reads)}; "
            f"{whole['cache_bytes_per_image'] / 1000:.0f} KB per image:",
            "",
            *heading,
            *map(line, whole["stages"]),
        ]
        rows = result["one_worker"][name]["stages"]
        told = ", ".join(f"{row['stage']} {row['ms']:.3f} ms" for row in rows)
        lines += ["", f"With one worker, without evaluation: {told} per image."]
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    """One stage."""
    cores = " | ".join(f"{share:.0%}" for share in row["cores"])
    return f"| {row['stage']} | {row['ms']:.3f} | {row['cpu_ms']:.3f} | {row['busy']:.2f} | {cores} | {row['note']} |"

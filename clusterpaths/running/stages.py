"""The stages as functions of a run's configuration and of the results of earlier stages.

Belongs here: arguments of each stage, decisions that follow from options, and logs. The work is done in the stage's own
directory. Each function takes and returns records, so that it can run in another process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from clusterpaths.cache.extracted import ExtractionRecord
from clusterpaths.cache.fit_sample import FIT_ROWS, draw_ids
from clusterpaths.cache.manifest import ShardRecord
from clusterpaths.cache.predictions import check_stored, read_predictions
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering import fit, trace
from clusterpaths.clustering.assign import FitRecord
from clusterpaths.clustering.choice import Choice
from clusterpaths.clustering.choose import choose
from clusterpaths.clustering.identity import FitIdentity, SetIdentity, identify
from clusterpaths.clustering.trace import TraceRecord
from clusterpaths.common import roots
from clusterpaths.comparison import compare
from clusterpaths.comparison.compare import CompareConfig
from clusterpaths.comparison.record import Comparison
from clusterpaths.config import AUTO, RunConfig, available_cores
from clusterpaths.datasets import clear_caches, open_dataset, read_table
from clusterpaths.datasets.acquire import acquire
from clusterpaths.datasets.base import Caution
from clusterpaths.datasets.registry import find_source
from clusterpaths.datasets.variety import check_variety
from clusterpaths.errors import ClusterPathsError, ModelError
from clusterpaths.evaluation import evaluate
from clusterpaths.evaluation.record import Evaluation
from clusterpaths.extraction import again, extract, plan
from clusterpaths.extraction.begin import begin_extraction
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.plan import ExtractionPlan
from clusterpaths.models import check
from clusterpaths.models.providers import choose_providers, require_ran
from clusterpaths.naming.carry_over import carry_over_to_new
from clusterpaths.preprocessing.check import CachedCheck, PreprocessingCheck, cached_check, write_check
from clusterpaths.preprocessing.prepare import default_preset, resolve_preprocessing
from clusterpaths.records import DatasetSpec, MapMethod, ModelRecord, Preprocessing, StageTime, Tap
from clusterpaths.report import page
from clusterpaths.report.comparison import headline
from clusterpaths.report.comparison import write_comparison as write_comparison_files
from clusterpaths.running.inputs import model_path
from clusterpaths.running.progress import counter
from clusterpaths.sets import find, points, publish
from clusterpaths.sets.class_names import about_labels, is_misnamed
from clusterpaths.sets.find import find_named
from clusterpaths.sets.images import find_images, image_reader
from clusterpaths.sets.places import data_of
from clusterpaths.sets.published import PublishedSet

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def check_model(config: RunConfig) -> ModelRecord:
    """Check that the model loads, takes images and has the layers, before anything is downloaded.

    Raises:
        ConfigError: an unavailable execution provider, or --k for a layer that is not clustered.
        ModelError: as `models.check.check_model`, or the model is not the one that `model_sha256` names.
    """
    path, providers = model_path(config), choose_providers(config.providers)
    model = check.check_model(
        path, config.layers, config.default_size, config.logits, providers, config.output_kind, config.class_names
    )
    config.k_per_layer(model.layers)
    if config.model_sha256 not in (None, model.sha256):
        raise ModelError(
            f"{model.path} has changed: its sha256 is {model.sha256}, expected {config.model_sha256}. It was replaced "
            "after it had been announced; the new model is announced separately and has its own run."
        )
    for warning in model.warnings:
        log.warning(warning)
    if model.outputs.is_multi_label:
        log.warning(
            "The output %s is multi-label: an image has a set of labels, no predicted class. What compares paths with "
            "predictions is left out.",
            model.logits,
        )
    log.info("%s: layers %s; outputs: %s", model.path, ", ".join(model.layers), model.outputs.text())
    return model


def download(config: RunConfig) -> DatasetSpec:
    """The data set on disk: existing, downloaded, or the drawn sample.

    Raises:
        ConfigError, DownloadError, DatasetError: as `datasets.acquire.acquire`.
    """
    spec = acquire(config, log.info)
    for note in open_dataset(spec).notes:
        log.log(logging.WARNING if isinstance(note, Caution) else logging.INFO, note)
    return spec


def instrument(config: RunConfig, model: ModelRecord) -> tuple[ModelRecord, Preprocessing]:
    """The tapped model, run once on a blank image, and the preprocessing.

    Raises:
        ConfigError: options that do not fit together, or a requested provider that did not start.
        ModelError: as `models.check.instrument_model`.
    """
    preprocessing, source = resolve_preprocessing(
        model,
        config.preprocessing,
        config.mean,
        config.std,
        config.size,
        default=default_preset(model, find_source(config.dataset).preprocessing),
        channels=config.channels,
        resize=config.resize,
        crop_from=config.crop_from,
    )
    tapped = check.instrument_model(model, preprocessing.size, config.reduce)
    require_ran(config.providers, tapped.providers)
    stated = model.preprocessing or config.preprocessing or config.mean
    log.log(logging.INFO if stated else logging.WARNING, source)
    log.info("Tapped %s; runs on %s", ", ".join(map(_described, tapped.taps)), tapped.providers[0])
    return tapped, preprocessing


def _described(tap: Tap) -> str:
    shape = f"{tap.layer} {'x'.join(map(str, tap.shape))}"
    return shape if tap.reduce == "none" else f"{shape} ({tap.reduce} of {'x'.join(map(str, tap.full_shape))})"


def check_preprocessing(
    config: RunConfig, model: ModelRecord, dataset: DatasetSpec, preprocessing: Preprocessing
) -> tuple[ModelRecord, Preprocessing, CachedCheck | None]:
    """The model with the order of its classes, the preprocessing to use, and the check.

    Warns if another preset is clearly better, or if the classes are not in the data set's order.
    """
    table = read_table(dataset).choose(config.split, config.subset)
    checked = cached_check(config.cache_dir, model, open_dataset(dataset), table, preprocessing)
    if checked is None:
        log.info("Preprocessing is not checked: %d examples are too few.", len(table))
        return model, preprocessing, None
    check = checked.check
    used = check.best if check.alarming and config.preprocessing == AUTO else preprocessing
    if not check.alarming:
        log.info(check.sentence)
    elif used == check.best:
        log.info("%s Used, as --preprocessing is auto.", check.sentence)
    else:
        log.warning(check.sentence)
    if ordered := check.class_order:
        log.log(logging.INFO if ordered.verdict == "data set" else logging.WARNING, ordered.sentence)
        model = model.model_copy(update={"outputs": model.outputs.model_copy(update={"order": ordered.order})})
    return model, used, checked


def make_plan(
    config: RunConfig,
    model: ModelRecord,
    dataset: DatasetSpec,
    preprocessing: Preprocessing,
    checked: CachedCheck | None,
) -> tuple[ExtractionPlan, ExtractionJob]:
    """Which shards to extract and how much disk they need; fails if there is not enough.

    Raises:
        ConfigError, CacheError: as `extraction.plan.plan_run`.
        DiskError: as `extraction.plan.check_room`.
    """
    planned, job = plan.plan_run(config, model, dataset, preprocessing)
    log.info(planned.text())
    plan.check_room(planned)
    if planned.missing:
        for warning in check_variety(open_dataset(dataset), read_table(dataset).choose(config.split, config.subset)):
            log.warning(warning)
    if not config.plan:
        begin_extraction(planned)
        if checked:
            write_check(config.cache_dir, checked)
    return planned.model_copy(update={"registry": None}), job


def extract_shard(
    job: ExtractionJob, shard: ShardRecord, fits: tuple[FitRecord, ...], sample: ShardRecord | None
) -> ShardRecord:
    """Extract, assign and record one shard.

    Raises:
        Float16OverflowError, ExtractionError, DiskError: as `extraction.extract.extract_shard`.
    """
    record = extract.extract_shard(job, shard, fits, sample, _counter_of(job, shard))
    for failure in record.failed:
        log.warning("Left out example %d, %s: %s", failure.id, failure.file, failure.reason)
    return record


def assign_shard(
    job: ExtractionJob, shard: ShardRecord, fits: tuple[FitRecord, ...], sample: ShardRecord | None
) -> ShardRecord:
    """Assign one shard from the cache.

    Raises:
        CorruptedShardError: stored bytes differ from those that were extracted.
    """
    again.assign_shard(job, shard, fits, sample, _counter_of(job, shard))
    return shard


def run_again(
    job: ExtractionJob, shard: ShardRecord, fits: tuple[FitRecord, ...], sample: ShardRecord | None
) -> ShardRecord:
    """Run the model on one shard's stored images, to store activations of the sample's.

    Raises:
        CorruptedShardError: stored bytes differ from those that were extracted.
    """
    again.run_again(job, shard, fits, sample, _counter_of(job, shard))
    return shard


def _counter_of(job: ExtractionJob, shard: ShardRecord) -> Callable[[int], None] | None:
    return counter("extraction", job.directory, str(shard.index))


def choose_settings(config: RunConfig, model: ModelRecord, sample: ExtractionRecord) -> tuple[RunConfig, Choice | None]:
    """The configuration with numbers for every "auto", and the choice; None if nothing is "auto".

    Raises:
        ConfigError: too few examples.
        CorruptedShardError: a shard cannot be read, or, if read in full, its checksum differs. Of a large data set single
            rows are read; clustering detects corruption later.
    """
    if not config.chooses:
        return config, None
    directory, ids = sample.storage, draw_ids(sample.example_ids(), FIT_ROWS)
    predictions = read_predictions(directory, ids, check_stored(directory, model.outputs))
    rows = {layer: LayerRows(directory, layer, ids) for layer in model.layers}
    try:
        choice = choose(rows, predictions, k=config.asked_k(model.layers), distance=config.distance, seed=config.seed)
    except ClusterPathsError:
        raise
    except Exception:
        for each in rows.values():
            for (
                _
            ) in each.blocks():  # corrupted bytes may give NaN before the checksum is verified; reading all raises then
                pass
        raise
    log.info(choice.sentence)
    if choice.advice:
        log.info(choice.advice)
    k = ",".join(f"{layer}={number}" for layer, number in choice.k_per_layer.items())
    return config.model_copy(update={"k": k, "distance": choice.distance}), choice


def find_set(
    config: RunConfig, fits: FitIdentity, extraction: ExtractionRecord
) -> tuple[SetIdentity, PublishedSet | None]:
    """The identity of the set to publish, and an existing set with the same identity."""
    identity = identify(fits, extraction)
    found = None if config.refresh else find.find_set(extraction.storage, identity.fingerprint())
    if found:
        publish.describe_newest(found)
        log.info("%s already has this result: same model, images, settings and seed", found.folder)
    return identity, found


def fit_layer(sample: ExtractionRecord, identity: FitIdentity, layer: str) -> FitRecord:
    """Fit one layer.

    Raises:
        CorruptedShardError: stored bytes differ from those that were extracted.
    """
    record = fit.fit_layer(sample, identity, layer, counter("fitting", sample.directory, layer))
    log.info("%s: %d clusters fitted on %d examples", layer, identity.k_per_layer[layer], record.num_fitted)
    return record


def trace_paths(extraction: ExtractionRecord, identity: SetIdentity, fits: tuple[FitRecord, ...]) -> TraceRecord:
    """The cluster paths of all examples.

    Raises:
        CacheError: as `clustering.trace.trace_paths`.
    """
    traced = trace.trace_paths(extraction, identity, fits)
    for layer, summary in traced.clusters.items():
        log.info("%s: %s examples per cluster, inertia %.6g", layer, list(summary.sizes), summary.inertia)
        if summary.note:
            log.warning("%s: %s", layer, summary.note)
    return traced


def publish_set(
    config: RunConfig,
    job: ExtractionJob,
    extraction: ExtractionRecord,
    identity: SetIdentity,
    fits: tuple[FitRecord, ...],
    traced: TraceRecord,
    stages: tuple[StageTime, ...],
    choice: Choice | None,
    check: PreprocessingCheck | None,
    name: str,
) -> PublishedSet:
    """Publish the set of that name, atomically; a retry finds the one that an earlier try has published."""
    published = publish.publish_set(config, job, extraction, identity, fits, traced, stages, choice, check, name)
    if not check and published.record.about_class_names:
        log.info(published.record.about_class_names)
    if about := about_labels(published.record):
        log.log(logging.WARNING if is_misnamed(published.record) else logging.INFO, about)
    log.info("Published %s", published.folder)
    return published


def add_maps(published: PublishedSet, extraction: ExtractionRecord, fits: tuple[FitRecord, ...]) -> None:
    """Add the maps to a set that was published without; safe to repeat.

    Raises:
        CacheError, DiskError: as `sets.publish.add_maps`.
    """
    publish.add_maps(published, extraction, fits)
    log.info(
        "Added the maps of %s, which was published before there were maps; its other documents are unchanged",
        published.folder,
    )


def show_points(published: PublishedSet, method: MapMethod) -> None:
    """Make the points of a set's maps those of a method; safe to repeat.

    Raises:
        CacheError, ConfigError, DiskError: as `sets.points.show_points`.
    """
    points.show_points(published, method)
    log.info("The maps of %s show points by %s", published.folder, method.upper())


def evaluate_set(config: RunConfig, published: PublishedSet, job: ExtractionJob) -> Evaluation:
    """Evaluate the paths: metrics.json in the set's directory.

    Raises:
        CorruptedShardError: stored bytes differ from those that were extracted.
    """
    workers = min(config.workers, available_cores())  # of a cluster there may be more
    evaluation = evaluate.evaluate_set(
        published, job, images=config.evaluation_images, causal=config.causal, workers=workers, say=log.info
    )
    for note in evaluation.notes:
        log.info(note)
    if evaluation.alignment:
        daf, knn = evaluation.alignment.daf, evaluation.alignment.deep_knn
        log.info(
            "Decision alignment %.3f [%.3f, %.3f] on %d held-out examples; nearest neighbours in the last layer %s",
            daf.value, daf.low, daf.high, daf.n, f"{knn.value:.3f}" if knn else "not measured",
        )  # fmt: skip
    if evaluation.steering:
        most = max(evaluation.steering, key=lambda one: one.steered.value)
        log.info(
            "Moved to another cluster of %s, %.3f [%.3f, %.3f] of examples are decided as that cluster's are; by a random vector "
            "of equal length, %.3f",
            most.layer, most.steered.value, most.steered.low, most.steered.high, most.random.value,
        )  # fmt: skip
    return evaluation


def find_sets(config: CompareConfig) -> tuple[PublishedSet, PublishedSet]:
    """Both sets, looked up by name in the cache root."""
    clear_caches()
    root = config.cache_root or roots.cache_root()
    return find_named(root, config.first), find_named(root, config.second)


def compare_sets(first: PublishedSet, second: PublishedSet, top: int = compare.TOP) -> Comparison:
    """What changed from the first set to the second."""
    comparison = compare.compare_sets(first, second, top=top)
    log.info(headline(comparison))
    return comparison


def write_comparison(comparison: Comparison, second: PublishedSet, data_root: Path | None = None) -> Path:
    """JSON and page in the second set's directory; returns the page."""
    images = find_images(
        second,
        data_root,
        lambda error: log.warning("The page has no images: %s Name the directory with --images.", error),
    )
    document, page = write_comparison_files(comparison, second, images)
    log.info("Comparison: %s and %s", page, document)
    return page


def write_report(published: PublishedSet) -> Path:
    """report.html beside the set's documents, for a browser; with names that were carried over from the set before."""
    if carried := carry_over_to_new(published):
        log.info(
            "Carried %d names over from %s by matched clusters; %d without a good match",
            carried[1],
            carried[0],
            carried[2],
        )
    dataset = open_dataset(data_of(published.folder, published.record))
    report = page.write_report(published, image_reader(published, dataset))
    log.info("Report: %s", report)
    return report

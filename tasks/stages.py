"""The stages as Prefect tasks. Each is a wrapper: what it does is the library's function of the same name.

Cache policy: none, on every task. What a stage made lies on disk under its own record, and the library looks there
before it works; a stored Prefect result would be no proof that the files still exist. So a retried run goes through
all stages again and each says in milliseconds that its work is done.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from clusterpaths import chain
from clusterpaths.clustering import cluster, parallel_fit
from clusterpaths.clustering.choice import Choice
from clusterpaths.clustering.question import Question, ask
from clusterpaths.clustering.question import choose_settings as choose_for
from clusterpaths.config import AUTO, RunConfig
from clusterpaths.datasets import open_dataset, read_table
from clusterpaths.datasets.acquire import acquire
from clusterpaths.errors import ClusterPathsError, DamagedShardError, DownloadError, Float16OverflowError, ModelError
from clusterpaths.extraction import extract, plan
from clusterpaths.models.inspect import inspect_model
from clusterpaths.preprocessing.check import KeptCheck, PreprocessingCheck, check_once, keep_check
from clusterpaths.records import DatasetSpec, ModelRecord, Preprocessing, StageTime, Tap
from clusterpaths.report import page as report_page
from clusterpaths.sets import find, publish
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage.remote import address_of, local_folder
from tasks.artifacts import show_model
from tasks.progress import TOGETHER, tracker


async def network_may_recover(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Retry a download that the network broke, and nothing that a user has to put right."""
    return isinstance(await state.aresult(raise_on_failure=False), DownloadError)


async def machine_may_recover(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Retry what the disk or the machine broke; errors raised on purpose come back the same."""
    return not isinstance(await state.aresult(raise_on_failure=False), ClusterPathsError)


def _on_machine(name: str, run_name: str | None = None) -> dict[str, Any]:
    """Options of tasks that work on local files."""
    return {
        "name": name,
        "task_run_name": run_name or name,
        "cache_policy": NO_CACHE,
        "retries": 2,
        "retry_delay_seconds": exponential_backoff(backoff_factor=2),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": machine_may_recover,
    }


@task(name="check model", task_run_name="check model", cache_policy=NO_CACHE)
def check_model(config: RunConfig) -> ModelRecord:
    """It loads, takes images, and has the layers. Fails here, not after an hour's download."""
    log = get_run_logger()
    model = chain.check_model(config)
    if config.model_sha256 not in (None, model.sha256):
        raise ModelError(
            f"{model.path} is another model now: its sha256 is {model.sha256}, expected {config.model_sha256}. It was replaced "
            "after it had been announced; the new one is announced by itself and has its own run."
        )
    for warning in model.warnings:
        log.warning(warning)
    log.info("%s: layers %s; logits %s", model.path, ", ".join(model.layers), model.logits or "none")
    size = config.size or (None if model.preprocessing else config.default_size)
    show_model(inspect_model(Path(model.path), config.layers, config.logits, size, model.sha256))
    return model


@task(
    name="download",
    task_run_name="download",
    cache_policy=NO_CACHE,
    retries=4,
    retry_delay_seconds=exponential_backoff(backoff_factor=10),  # 10, 20, 40, 80 s
    retry_jitter_factor=0.5,
    retry_condition_fn=network_may_recover,
)
def download(config: RunConfig) -> DatasetSpec:
    """Accept what is there, or fetch it, or draw the sample."""
    log = get_run_logger()
    spec = acquire(config, log.info)
    for note in open_dataset(spec).notes:
        log.info(note)
    return spec


@task(name="instrument", task_run_name="instrument", cache_policy=NO_CACHE)
def instrument(config: RunConfig, model: ModelRecord) -> tuple[ModelRecord, Preprocessing]:
    """Tap the layers, and run a blank image through the tapped graph."""
    log = get_run_logger()
    tapped, preprocessing, source = chain.instrument(config, model)
    said = model.preprocessing or config.preprocessing or config.mean
    log.log(logging.INFO if said else logging.WARNING, source)
    log.info("Tapped %s; runs on %s", ", ".join(map(_described, tapped.taps)), tapped.providers[0])
    return tapped, preprocessing


def _described(tap: Tap) -> str:
    shape = "x".join(map(str, tap.shape))
    return (
        f"{tap.layer} {shape}"
        if tap.reduce == "none"
        else f"{tap.layer} {shape} ({tap.reduce} of {'x'.join(map(str, tap.full_shape))})"
    )


@task(**_on_machine("check preprocessing"))
def check_preprocessing(
    config: RunConfig, model: ModelRecord, dataset: DatasetSpec, preprocessing: Preprocessing
) -> tuple[Preprocessing, KeptCheck | None]:
    """What the run goes on with, and what the check found; warns where another preset is clearly better."""
    log = get_run_logger()
    table = read_table(dataset).choose(config.split, config.subset)
    kept = check_once(config.cache_dir, model, open_dataset(dataset), table, preprocessing)
    if kept is None:
        log.info("Preprocessing is not checked: %d examples are too few.", len(table))
        return preprocessing, None
    check = kept.check
    if not check.alarming:
        log.info(check.sentence)
        return preprocessing, kept
    if config.preprocessing == AUTO:
        log.info("%s Taken, for --preprocessing auto.", check.sentence)
        return check.best, kept
    log.warning(check.sentence)
    return preprocessing, kept


@task(**_on_machine("plan"))
def make_plan(
    config: RunConfig,
    model: ModelRecord,
    dataset: DatasetSpec,
    preprocessing: Preprocessing,
    check: KeptCheck | None,
) -> tuple[plan.ExtractionPlan, extract.ExtractionJob]:
    """Which shards are to be made and what they will take; stops here where there is no room."""
    planned, job = plan.plan_run(config, model, dataset, preprocessing)
    get_run_logger().info(planned.text())
    plan.check_room(planned)
    if not config.plan:
        plan.begin_extraction(planned)
        if check:
            keep_check(config.cache_dir, check)
    return planned, job


@task(**_on_machine("extract shard", "extract shard {number}/{total}"))
def extract_shard(job: extract.ExtractionJob, index: int, number: int, total: int) -> list[str]:  # noqa: ARG001 - names
    """Extract and record one shard; returns layers that need float32 first (then nothing is recorded)."""
    progress = tracker("extraction", job.directory)
    try:
        record = extract.extract_shard(job, index, progress.counter(str(index)) if progress else None)
    except Float16OverflowError as overflow:
        return overflow.layers
    for failure in record.failed:
        get_run_logger().warning("Left out example %d, %s: %s", failure.id, failure.file, failure.reason)
    return []


@task(**_on_machine("cluster", "cluster {layer}"))
def cluster_layer(extraction: plan.ExtractionRecord, question: Question, layer: str) -> cluster.ClusteringRecord | int:
    """Cluster one layer; returns the index of a shard instead where its bytes turn out damaged."""
    log = get_run_logger()
    try:
        progress = tracker("clustering", extraction.directory)
        record = cluster.cluster_layer(extraction, question, layer, progress.counter(layer) if progress else None)
    except DamagedShardError as damage:
        log.warning(str(damage))
        return damage.shard
    _tell(record)
    return record


@task(**_on_machine("cluster", "cluster {layers}"))
def cluster_layers(
    extraction: plan.ExtractionRecord, question: Question, layers: tuple[str, ...], workers: int
) -> list[cluster.ClusteringRecord] | int:
    """Cluster layers whose every reading runs the model, together; returns the index of a shard that is damaged."""
    try:
        progress = tracker("clustering", extraction.directory)
        count = progress.counter(TOGETHER) if progress else None
        records = cluster.cluster_layers(extraction, question, layers, workers, count)
    except DamagedShardError as damage:
        get_run_logger().warning(str(damage))
        return damage.shard
    for record in records:
        _tell(record)
    return records


def _tell(record: cluster.ClusteringRecord) -> None:
    log, sizes = get_run_logger(), list(record.summary.sizes)
    log.info("%s: %s examples a cluster, inertia %.6g", record.layer, sizes, record.summary.inertia)
    if record.summary.note:
        log.warning("%s: %s", record.layer, record.summary.note)


@task(**_on_machine("begin fit", "begin fit of {layer}"))
def begin_fit(extraction: plan.ExtractionRecord, question: Question, layer: str) -> parallel_fit.LayerFit | int:
    """First centroids of a layer that is fitted in parts; returns the index of a shard instead where it is damaged."""
    try:
        return parallel_fit.begin_fit(extraction, question, layer)
    except DamagedShardError as damage:
        get_run_logger().warning(str(damage))
        return damage.shard


@task(**_on_machine("fit part", "fit {fit.layer} pass {fit.iteration} part {part}"))
def fit_part(
    extraction: plan.ExtractionRecord, question: Question, fit: parallel_fit.LayerFit, part: int
) -> int | None:
    """Assign and add up one part of a layer's rows; returns the index of a shard instead where it is damaged."""
    try:
        return parallel_fit.fit_part(extraction, question, fit, part)
    except DamagedShardError as damage:
        get_run_logger().warning(str(damage))
        return damage.shard


@task(**_on_machine("join parts", "join parts of {fit.layer} pass {fit.iteration}"))
def advance_fit(
    extraction: plan.ExtractionRecord, question: Question, fit: parallel_fit.LayerFit
) -> parallel_fit.LayerFit:
    """Centroids for the next pass, or the layer's clustering."""
    return parallel_fit.advance_fit(extraction, question, fit)


@task(**_on_machine("choose"))
def choose_settings(
    config: RunConfig, model: ModelRecord, extraction: plan.ExtractionRecord
) -> tuple[RunConfig, Choice | None] | int:
    """Numbers for --k auto and --distance auto; returns the index of a shard instead where its bytes are damaged."""
    log = get_run_logger()
    try:
        resolved, choice = choose_for(config, model, extraction)
    except DamagedShardError as damage:
        log.warning(str(damage))
        return damage.shard
    if choice:
        log.info(choice.sentence)
        if choice.advice:
            log.info(choice.advice)
    return resolved, choice


@task(name="find set", task_run_name="find set", cache_policy=NO_CACHE)
def find_set(
    config: RunConfig, model: ModelRecord, extraction: plan.ExtractionRecord
) -> tuple[Question, PublishedSet | None]:
    """The question that this run asks, and the set that already answers it."""
    question = ask(config, model, extraction)
    found = None if config.refresh else find.find_set(local_folder(extraction.directory), question.fingerprint())
    if found:
        publish.describe_newest(found)
        get_run_logger().info(
            "%s already answers this question: same model, images, settings and seed", address_of(found.path)
        )
    return question, found


@task(**_on_machine("trace"))
def trace(extraction: plan.ExtractionRecord, question: Question, clusterings: list[cluster.ClusteringRecord]) -> Path:
    """Join the layers to cluster paths."""
    return cluster.trace_paths(extraction, question, clusterings)


@task(**_on_machine("publish"))
def publish_set(
    config: RunConfig,
    job: extract.ExtractionJob,
    extraction: plan.ExtractionRecord,
    question: Question,
    clusterings: list[cluster.ClusteringRecord],
    traced: Path,
    stages: tuple[StageTime, ...],
    choice: Choice | None = None,
    check: PreprocessingCheck | None = None,
) -> PublishedSet:
    """The next set appears, whole."""
    published = publish.publish_set(config, job, extraction, question, clusterings, traced, stages, choice, check)
    get_run_logger().info("Published %s", address_of(published.path))
    return published


@task(**_on_machine("report"))
def write_report(published: PublishedSet) -> Path:
    """report.html beside the set's documents, for a browser."""
    record = published.record
    dataset = open_dataset(DatasetSpec(name=record.dataset, root=record.data_root))
    report = report_page.write_report(published, dataset.read_image)
    get_run_logger().info("Report: %s", report)
    return report

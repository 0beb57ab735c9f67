"""The stages of a run, one after the other in this process and without Prefect: for scripts, notebooks and benchmarks.

Belongs here: what each stage is given. What the flows add to it (retries, progress, the queue for a cache, mending of
damaged shards, the report) is not here.
"""

from __future__ import annotations

from clusterpaths.cache.manifest import parse_ids
from clusterpaths.clustering.cluster import cluster_layer, cluster_layers, shares_readings, trace_paths
from clusterpaths.clustering.question import ask, choose_settings
from clusterpaths.config import SAMPLE_MODEL, RunConfig
from clusterpaths.datasets.acquire import acquire
from clusterpaths.datasets.registry import find_source
from clusterpaths.extraction.extract import ExtractionJob, extract_shard, release_sessions
from clusterpaths.extraction.plan import begin_extraction, check_room, finish_extraction, plan_run
from clusterpaths.models import check
from clusterpaths.models.providers import choose_providers, require_ran
from clusterpaths.preprocessing.prepare import default_preset, resolve_preprocessing
from clusterpaths.records import ModelRecord, Preprocessing
from clusterpaths.sets.find import find_set
from clusterpaths.sets.publish import publish_set
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage.remote import local_folder


def run_stages(config: RunConfig) -> tuple[PublishedSet, ExtractionJob]:
    """The set that answers the configuration's question, made where it is not there, and the job that filled its cache.

    Raises:
        ClusterPathsError: whatever a stage refuses; a damaged shard too, which a flow would make again.
    """
    model, preprocessing, _ = instrument(config, check_model(config))
    plan, job = plan_run(config, model, acquire(config), preprocessing)
    check_room(plan)
    begin_extraction(plan)
    for shard in plan.pending:
        extract_shard(job, shard)
    release_sessions()
    extraction = finish_extraction(local_folder(job.directory), parse_ids(plan.ids), job.max_failed)
    settings, choice = choose_settings(config, model, extraction)
    question = ask(settings, model, extraction)
    found = None if config.refresh else find_set(local_folder(job.directory), question.fingerprint())
    if found:
        return found, job
    if shares_readings(extraction):
        clusterings = cluster_layers(extraction, question, list(question.layers))
    else:
        clusterings = [cluster_layer(extraction, question, layer) for layer in question.layers]
    traced = trace_paths(extraction, question, clusterings)
    return publish_set(config, job, extraction, question, clusterings, traced, choice=choice), job


def check_model(config: RunConfig) -> ModelRecord:
    """Stage check: the run's model loads, takes images, and has the layers.

    Raises:
        ConfigError: an execution provider that is not there, or --k for a layer that is not clustered.
        ModelError: as `models.check.check_model`.
    """
    drawn = config.sample or config.dataset == "faces"
    path = config.model or check.default_model(SAMPLE_MODEL if drawn else "CelebA_CNN")
    providers = choose_providers(config.providers)
    model = check.check_model(path.expanduser(), config.layers, config.default_size, config.logits, providers)
    config.k_per_layer(model.layers)
    return model


def instrument(config: RunConfig, model: ModelRecord) -> tuple[ModelRecord, Preprocessing, str]:
    """Stage instrument: the tapped model, how its images are prepared, and one sentence on where that comes from.

    Raises:
        ConfigError: options that do not fit together, or a provider that was asked for and did not start.
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
    return tapped, preprocessing, source

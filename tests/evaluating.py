"""What tests of the stage evaluate share: the stages up to a published set, without Prefect."""

from __future__ import annotations

from pathlib import Path

from clusterpaths.cache.manifest import parse_ids
from clusterpaths.cluster import cluster_layer, trace_paths
from clusterpaths.config import SAMPLE_MODEL, RunConfig
from clusterpaths.datasets.acquire import acquire
from clusterpaths.extract import ExtractionJob, extract_shard
from clusterpaths.models.check import check_model, default_model, instrument_model
from clusterpaths.plan import begin_extraction, finish_extraction, plan_run
from clusterpaths.preprocessing import resolve_preprocessing
from clusterpaths.publish import publish_set
from clusterpaths.question import ask


def publish(config: RunConfig) -> tuple[Path, ExtractionJob]:
    """The set's folder, and the job that filled its cache."""
    model = check_model(config.model or default_model(SAMPLE_MODEL), config.layers)
    preprocessing, _ = resolve_preprocessing(model, config.preprocessing)
    model = instrument_model(model, preprocessing.size)
    plan, job = plan_run(config, model, acquire(config), preprocessing)
    begin_extraction(plan)
    for index in plan.pending:
        extract_shard(job, index)
    extraction = finish_extraction(Path(job.directory), parse_ids(plan.ids), job.max_failed)
    question = ask(config, model, extraction)
    clusterings = [cluster_layer(extraction, question, layer) for layer in question.layers]
    traced = trace_paths(extraction, question, clusterings)
    return publish_set(config, job, extraction, question, clusterings, traced).path, job

"""The stages that are many tasks: a shard or a layer each, as many at once as there are workers.

Belongs here: submitting and collecting. A run that cannot go on stops submitting, and lets what runs finish and be
recorded before it lets go of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from prefect import get_run_logger
from prefect.futures import PrefectFuture, as_completed, wait

from clusterpaths.cache.manifest import parse_ids
from clusterpaths.cluster import ClusteringRecord
from clusterpaths.errors import CacheError
from clusterpaths.extract import ExtractionJob, release_sessions
from clusterpaths.plan import ExtractionPlan, ExtractionRecord, finish_extraction, forget_shard, widen_layers
from clusterpaths.question import Question
from tasks.progress import tracking
from tasks.stages import cluster_layer, extract_shard

Result = TypeVar("Result")


def extract(job: ExtractionJob, plan: ExtractionPlan, workers: int) -> ExtractionRecord:
    """Extract the planned shards and join what is known of their examples.

    A layer that float16 cannot hold is kept as float32 from then on, and all shards are made again.
    """
    pending = plan.pending
    while wider := _extract_shards(job, pending, workers):
        names = ", ".join(wider)
        get_run_logger().warning("%s: values beyond float16's range, kept as float32; all shards are made again", names)
        pending = widen_layers(Path(job.directory), wider)
    return finish_extraction(Path(job.directory), parse_ids(plan.ids), job.max_failed)


def cluster(
    job: ExtractionJob, extraction: ExtractionRecord, question: Question, workers: int
) -> list[ClusteringRecord]:
    """Cluster every layer; a shard whose bytes turn out damaged is extracted again first.

    Raises:
        CacheError: a shard is damaged again right after it was made: the disk cannot be trusted.
    """
    records: dict[str, ClusteringRecord] = {}
    made_again: set[int] = set()
    while missing := [layer for layer in question.layers if layer not in records]:
        calls = [lambda layer=layer: cluster_layer.submit(extraction, question, layer) for layer in missing]
        results = list(_bounded(calls, workers))
        records |= {result.layer: result for result in results if isinstance(result, ClusteringRecord)}
        damaged = {result for result in results if isinstance(result, int)}
        if damaged & made_again:
            raise CacheError(
                f"Shard {min(damaged & made_again)} of {job.directory} was damaged, made again, and is damaged again. "
                "Expected the disk to give back what was written. Check it, or use another --cache-root."
            )
        made_again |= damaged
        for shard in sorted(damaged):  # only now: other layers were reading by the same books
            forget_shard(Path(job.directory), shard)
        _extract_shards(job, tuple(sorted(damaged)), workers)
    return [records[layer] for layer in question.layers]


def _extract_shards(job: ExtractionJob, shards: tuple[int, ...], workers: int) -> list[str]:
    """Returns the layers that need float32; then not all shards were made."""
    if not shards:
        return []
    total = len(shards)
    calls = [
        lambda number=number, index=index: extract_shard.submit(job, index, number, total)
        for number, index in enumerate(shards, start=1)
    ]
    with tracking(job, shards):
        try:
            return next((wider for wider in _bounded(calls, workers) if wider), [])
        finally:
            release_sessions()


def _bounded(calls: list[Callable[[], PrefectFuture[Result]]], workers: int) -> Iterator[Result]:
    """Results as they come, never more than `workers` tasks at a time; on leaving, those that run are waited for."""
    queue = list(reversed(calls))
    running: list[PrefectFuture[Result]] = []
    try:
        while queue or running:
            while queue and len(running) < workers:
                running.append(queue.pop()())
            done = next(as_completed(running))
            running.remove(done)
            yield done.result()
    finally:
        wait(running)

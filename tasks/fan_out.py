"""The stages that are many tasks: a shard or a layer each, as many at once as there are workers.

Belongs here: submitting and collecting. A run that cannot go on stops submitting, and lets what runs finish and be
recorded before it lets go of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from prefect import get_run_logger
from prefect.futures import PrefectFuture, as_completed, wait

from clusterpaths.cache.manifest import parse_ids
from clusterpaths.clustering.choice import Choice
from clusterpaths.clustering.cluster import ClusteringRecord, shares_readings
from clusterpaths.clustering.parallel_fit import fits_in_parts
from clusterpaths.clustering.question import Question
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError
from clusterpaths.evaluation.record import Evaluation
from clusterpaths.extraction.extract import ExtractionJob
from clusterpaths.extraction.plan import ExtractionPlan, ExtractionRecord, finish_extraction, forget_shard, widen_layers
from clusterpaths.records import ModelRecord
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage.remote import local_folder
from tasks.engine import release_everywhere
from tasks.evaluating import evaluate_set
from tasks.progress import TOGETHER, Tracker, tracking_layers, tracking_shards
from tasks.stages import advance_fit, begin_fit, choose_settings, cluster_layer, cluster_layers, extract_shard, fit_part

Result = TypeVar("Result")


def extract(job: ExtractionJob, plan: ExtractionPlan, workers: int) -> ExtractionRecord:
    """Extract the planned shards and join what is known of their examples.

    A layer that float16 cannot hold is kept as float32 from then on, and all shards are made again.
    """
    pending = plan.pending
    while wider := _extract_shards(job, pending, workers):
        names = ", ".join(wider)
        get_run_logger().warning("%s: values beyond float16's range, kept as float32; all shards are made again", names)
        pending = widen_layers(local_folder(job.directory), wider)
    return finish_extraction(local_folder(job.directory), parse_ids(plan.ids), job.max_failed)


def cluster(
    job: ExtractionJob, extraction: ExtractionRecord, question: Question, workers: int
) -> list[ClusteringRecord]:
    """Cluster every layer; a shard whose bytes turn out damaged is extracted again first.

    Of very many examples, each layer is fitted in parts by all workers; of fewer, each layer by one, or all by one where
    every reading runs the model.

    Raises:
        CacheError: a shard is damaged again right after it was made: the disk cannot be trusted.
    """
    records: dict[str, ClusteringRecord] = {}
    mender = _Mender(job, workers)
    if fits_in_parts(extraction):
        for layer in question.layers:
            _fit_in_parts(mender, extraction, question, layer, workers)
    elif shares_readings(extraction):
        every = tuple(question.layers)
        with tracking_layers(extraction, list(every), workers=1, together=True) as progress:
            progress.begin(TOGETHER)
            made = mender.until_whole(lambda: cluster_layers.submit(extraction, question, every, workers).result())
            progress.finish(TOGETHER)
        return made
    while missing := [layer for layer in question.layers if layer not in records]:
        calls = {layer: lambda layer=layer: cluster_layer.submit(extraction, question, layer) for layer in missing}
        with tracking_layers(extraction, missing, workers) as progress:
            results = list(_tracked(calls, workers, progress))
        records |= {result.layer: result for result in results if isinstance(result, ClusteringRecord)}
        mender.mend({result for result in results if isinstance(result, int)})  # now that no layer reads the cache
    return [records[layer] for layer in question.layers]


def _fit_in_parts(mender: _Mender, extraction: ExtractionRecord, question: Question, layer: str, workers: int) -> None:
    """Leaves the layer's clustering where `cluster_layer` finds it."""
    fit = mender.until_whole(lambda: begin_fit(extraction, question, layer))
    while not fit.done:
        calls = [
            lambda fit=fit, part=part: fit_part.submit(extraction, question, fit, part) for part in range(fit.parts)
        ]
        damaged = {shard for shard in _bounded(calls, workers) if shard is not None}
        if damaged:
            mender.mend(damaged)  # and this pass again: parts that are done are kept
        else:
            fit = advance_fit(extraction, question, fit)
            get_run_logger().info("%s: pass %d over %d parts is done", layer, fit.iteration, fit.parts)


def choose(
    job: ExtractionJob, config: RunConfig, model: ModelRecord, extraction: ExtractionRecord, workers: int
) -> tuple[RunConfig, Choice | None]:
    """Numbers for every "auto" of the configuration; a damaged shard is extracted again first.

    Raises:
        CacheError: as `cluster`.
    """
    return _Mender(job, workers).until_whole(lambda: choose_settings(config, model, extraction))


def evaluate(job: ExtractionJob, published: PublishedSet, workers: int) -> Evaluation:
    """What the paths of a set are worth; a damaged shard is extracted again first.

    Raises:
        CacheError: as `cluster`.
    """
    return _Mender(job, workers).until_whole(lambda: evaluate_set(published, job))


class _Mender:
    """Makes shards again whose bytes turned out damaged, each once."""

    def __init__(self, job: ExtractionJob, workers: int) -> None:
        self._job, self._workers = job, workers
        self._made_again: set[int] = set()

    def mend(self, damaged: set[int]) -> None:
        """Raises:
        CacheError: a shard is damaged again right after it was made: the disk cannot be trusted.
        """
        if damaged & self._made_again:
            raise CacheError(
                f"Shard {min(damaged & self._made_again)} of {self._job.directory} was damaged, made again, and is "
                "damaged again. Expected the disk to give back what was written. Check it, or use another --cache-root."
            )
        self._made_again |= damaged
        for shard in sorted(damaged):
            forget_shard(local_folder(self._job.directory), shard)
        _extract_shards(self._job, tuple(sorted(damaged)), self._workers)

    def until_whole(self, work: Callable[[], Result | int]) -> Result:
        """What `work` returns once it finds no damaged shard; it returns a shard's index where it does."""
        while isinstance(result := work(), int):
            self.mend({result})
        return result


def _extract_shards(job: ExtractionJob, shards: tuple[int, ...], workers: int) -> list[str]:
    """Returns the layers that need float32; then not all shards were made."""
    if not shards:
        return []
    total = len(shards)
    calls = {
        str(index): lambda number=number, index=index: extract_shard.submit(job, index, number, total)
        for number, index in enumerate(shards, start=1)
    }
    with tracking_shards(job, shards, workers) as progress:
        try:
            for wider in _tracked(calls, workers, progress):
                if wider:
                    return wider
            return []
        finally:
            release_everywhere()


def _tracked(
    calls: dict[str, Callable[[], PrefectFuture[Result]]], workers: int, progress: Tracker
) -> Iterator[Result]:
    """As `_bounded`; each part's begin and end are told."""
    parts = dict[PrefectFuture[Result], str]()

    def begin(part: str) -> PrefectFuture[Result]:
        progress.begin(part)
        future = calls[part]()
        parts[future] = part
        return future

    yield from _bounded(
        [lambda part=part: begin(part) for part in calls], workers, lambda future: progress.finish(parts[future])
    )


def _bounded(
    calls: list[Callable[[], PrefectFuture[Result]]],
    workers: int,
    ended: Callable[[PrefectFuture[Result]], None] = lambda _: None,
) -> Iterator[Result]:
    """Results as they come, never more than `workers` tasks at a time; on leaving, those that run are waited for."""
    queue = list(reversed(calls))
    running: list[PrefectFuture[Result]] = []
    try:
        while queue or running:
            while queue and len(running) < workers:
                running.append(queue.pop()())
            done = next(as_completed(running))
            running.remove(done)
            ended(done)
            yield done.result()
    finally:
        wait(running)

"""The stages from a model and images to a published set, in their order, once.

    from clusterpaths.config import RunConfig
    from clusterpaths.pipeline import run

    outcome = run(RunConfig(subset=1000))

Belongs here: the order, and what is repeated if a shard is corrupted or a layer exceeds float16. running/stages.py defines
each stage. Flows call the same function with Prefect's runner and report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

import numpy as np

from clusterpaths.cache.fit_sample import FIT_ROWS
from clusterpaths.cache.manifest import parse_ids, require_manifest
from clusterpaths.clustering.choice import Choice
from clusterpaths.clustering.cluster import ClusteringRecord, trace_paths
from clusterpaths.clustering.identity import SetIdentity
from clusterpaths.common.malloc import share_arenas
from clusterpaths.config import AUTO, RunConfig
from clusterpaths.errors import CacheError, CorruptedShardError, Float16OverflowError, InputError
from clusterpaths.evaluation.record import Evaluation
from clusterpaths.extraction.begin import mark_missing, widen_layers
from clusterpaths.extraction.extract import ExtractionJob, release_sessions
from clusterpaths.extraction.finish import ExtractionRecord, finish_extraction
from clusterpaths.extraction.plan import ExtractionPlan, examples_in
from clusterpaths.records import ModelRecord
from clusterpaths.running import stages
from clusterpaths.running.progress import Tracker
from clusterpaths.running.report import Outcome, Report
from clusterpaths.running.runner import Future, InProcess, Runner, run_pieces
from clusterpaths.running.timer import StageTimer
from clusterpaths.sets.find import find_earlier
from clusterpaths.sets.published import PublishedSet

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)


def run(config: RunConfig, runner: Runner | None = None, report: Report | None = None) -> Outcome:
    """Publish the set of the configuration, or find it if it was published before.

    Args:
        config: of the run.
        runner: where stages run; `config.workers` threads of this process if left out.
        report: shows the run; a progress bar in a terminal if left out.

    Raises:
        ClusterPathsError: any error of a stage; recorded results are preserved.
    """
    share_arenas()
    runner, report, timer = runner or InProcess(config.workers), report or Report(), StageTimer()
    results = config.cache_dir  # activation_cache/CelebA: activations, then set_01, set_02 …

    results.require()  # of s3:// results: an error comes before a download, not after it
    with timer("check"):
        model = runner.run(stages.check_model, config)
        report.model(config, model)
    with timer("download"):
        dataset = runner.run(stages.download, config)
    with timer("instrument"):
        model, preprocessing = runner.run(stages.instrument, config, model)

    with results.lock(config.wait, log.warning), ExitStack() as until_done:
        checked = None
        if config.check_preprocessing and (config.preprocessing == AUTO or not config.plan):
            with timer("check preprocessing"):
                preprocessing, checked = runner.run(stages.check_preprocessing, config, model, dataset, preprocessing)
        check = checked.check if checked else None
        plan, job = runner.run(stages.make_plan, config, model, dataset, preprocessing, checked)
        if config.plan:
            return Outcome(None, False, job, plan, preprocessing, check)
        pieces = _Pieces(job, until_done.enter_context(runner), report)
        with timer("extract") as details:
            extraction = pieces.extract(plan)
            details.append(f"{plan.missing:,} of {plan.wanted:,} examples")
        settings, choice = config, None
        if config.chooses:
            with timer("choose"):
                settings, choice = pieces.choose(config, model, extraction)
        identity, published = runner.run(stages.find_set, settings, model, extraction)
        new = published is None
        if published is None:
            with timer("cluster"):
                clusterings = pieces.cluster(extraction, identity)
            with timer("trace"):
                traced = runner.run(trace_paths, extraction, identity, clusterings)
            with timer("publish"):
                published = runner.run(
                    stages.publish_set,
                    config, job, extraction, identity, clusterings, traced, timer.stages, choice, check,
                )  # fmt: skip
        if config.evaluate:
            with timer("evaluate"):
                report.evaluation(pieces.evaluate(published))
        if config.compare and new:
            with timer("compare"):
                compare_with_earlier(published, runner, report, config.alert_below)
        with timer("report"):
            page = runner.run(stages.write_report, published)

    outcome = Outcome(published, new, job, plan, preprocessing, check, choice, page, timer.stages)
    report.outcome(outcome)
    return outcome


def compare_with_earlier(published: PublishedSet, runner: Runner, report: Report, alert_below: float) -> None:
    """Compare a new set with the one before, or with an earlier model's.

    A published set stays published: if no earlier set is comparable, that is logged, and the run continues.
    """
    earlier = find_earlier(published)
    if earlier is None:
        log.info("There is no earlier set on the same images to compare %s with", published.path)
        return
    try:
        comparison = runner.run(stages.compare_sets, earlier, published)
    except InputError as error:
        log.warning("Not compared: %s", error)
        return
    page = runner.run(stages.write_comparison, comparison, published)
    report.comparison(comparison, page, alert_below)


class _Pieces:
    """The stages that consist of many pieces, or are repeated after a corrupted shard is repaired."""

    def __init__(self, job: ExtractionJob, runner: Runner, report: Report) -> None:
        self._job, self._runner, self._report = job, runner, report
        self._directory = job.storage
        self._repaired: set[int] = set()

    def extract(self, plan: ExtractionPlan) -> ExtractionRecord:
        """Extract the planned shards and join the tables of their examples.

        A layer that float16 cannot hold is stored as float32 from then on, and all shards are extracted again.
        """
        pending = plan.pending
        while pending:
            try:
                self._extract_shards(pending)
                break
            except Float16OverflowError as overflow:
                layers = ", ".join(overflow.layers)
                log.warning(
                    "%s: values beyond float16's range, stored as float32; all shards are extracted again", layers
                )
                pending = widen_layers(self._directory, overflow.layers)
        return finish_extraction(self._directory, parse_ids(plan.ids), self._job.max_failed)

    def choose(
        self, config: RunConfig, model: ModelRecord, extraction: ExtractionRecord
    ) -> tuple[RunConfig, Choice | None]:
        """Replace every "auto" of the configuration."""
        return self._repairing(lambda: self._runner.run(stages.choose_settings, config, model, extraction))

    def cluster(self, extraction: ExtractionRecord, identity: SetIdentity) -> list[ClusteringRecord]:
        """Cluster every layer, each in one worker."""
        records: dict[str, ClusteringRecord] = {}
        while missing := [layer for layer in identity.layers if layer not in records]:
            calls = {
                layer: self._call(stages.cluster_layer, extraction, identity, layer, name=f"cluster {layer}")
                for layer in missing
            }
            with self._clustering_progress(extraction, missing) as progress:
                found, corrupted = self._pieces(calls, progress.finish)
            records |= found
            self._repair(corrupted)  # now that no layer reads the cache
        return [records[layer] for layer in identity.layers]

    def evaluate(self, published: PublishedSet) -> Evaluation:
        """Compute the metrics of a set."""
        return self._repairing(lambda: self._runner.run(stages.evaluate_set, published, self._job))

    def _extract_shards(self, shards: tuple[int, ...]) -> None:
        """Raises:
        Float16OverflowError: then not all shards were extracted.
        """
        calls = {
            str(index): self._call(stages.extract_shard, self._job, index, name=f"extract shard {number}/{len(shards)}")
            for number, index in enumerate(shards, start=1)
        }
        sizes = {str(shard): count for shard, count in examples_in(self._directory, shards).items()}
        with self._report.progress("extraction", self._job.directory, sizes, sum(sizes.values())) as progress:
            try:
                self._pieces(calls, progress.finish)
            finally:
                self._runner.everywhere(release_sessions)

    def _clustering_progress(self, extraction: ExtractionRecord, parts: list[str]) -> AbstractContextManager[Tracker]:
        """The rows of a layer are read to fit and to assign, those that are sketched four times more."""
        examples, manifest = len(parse_ids(extraction.ids)), require_manifest(self._directory)
        rows = 2 * examples + 4 * min(examples, FIT_ROWS)
        sizes = {layer: rows * int(np.prod(record.shape)) for layer, record in manifest.layers.items()}
        return self._report.progress("clustering", extraction.directory, {p: sizes[p] for p in parts}, examples)

    def _pieces(
        self, calls: Mapping[Key, Callable[[], Future[Result]]], finished: Callable[[Key], None] = lambda _: None
    ) -> tuple[dict[Key, Result], set[int]]:
        """Results of the pieces, and corrupted shards that pieces found; all started pieces have ended."""
        results: dict[Key, Result] = {}
        corrupted: set[int] = set()

        def ended(key: Key, future: Future[Result]) -> None:
            finished(key)
            try:
                results[key] = future.result()
            except CorruptedShardError as damage:
                corrupted.add(self._logged(damage))

        run_pieces(self._runner, calls, ended)
        return results, corrupted

    def _call(self, stage: Callable[..., Result], *args: object, name: str) -> Callable[[], Future[Result]]:
        return lambda: self._runner.submit(stage, *args, name=name)

    def _repairing(self, work: Callable[[], Result]) -> Result:
        """Repeat `work` until it finds no corrupted shard."""
        while True:
            try:
                return work()
            except CorruptedShardError as damage:
                self._repair({self._logged(damage)})

    def _logged(self, damage: CorruptedShardError) -> int:
        log.warning(str(damage))
        return damage.shard

    def _repair(self, corrupted: set[int]) -> None:
        """Extract corrupted shards again, each at most once.

        Raises:
            CacheError: a shard is corrupted again right after it was extracted.
        """
        if corrupted & self._repaired:
            raise CacheError(
                f"Shard {min(corrupted & self._repaired)} of {self._job.directory} was corrupted, extracted again, and "
                "is corrupted again. The disk does not return what was written. Check it, or use another --cache-root."
            )
        self._repaired |= corrupted
        for shard in sorted(corrupted):
            mark_missing(self._directory, shard)
        if corrupted:
            self._extract_shards(tuple(sorted(corrupted)))

"""The stages from a model and images to a published set, in their order, once.

    from clusterpaths.config import RunConfig
    from clusterpaths.pipeline import run

    outcome = run(RunConfig(subset=1000))

Belongs here: the order. running/stages.py defines each stage, running/pieces.py those of many shards and layers. Flows call
the same function with Prefect's runner and report.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass

from clusterpaths.clustering.identity import identify, identify_fits
from clusterpaths.common.extras import require_umap
from clusterpaths.common.malloc import share_arenas
from clusterpaths.config import AUTO, RunConfig
from clusterpaths.errors import InputError
from clusterpaths.evaluation.evaluate import stored_evaluation
from clusterpaths.evaluation.record import Evaluation
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.plan import ExtractionPlan
from clusterpaths.preprocessing.check import PreprocessingCheck
from clusterpaths.records import ModelRecord
from clusterpaths.report.markdown import advice
from clusterpaths.running import stages
from clusterpaths.running.pieces import Pieces
from clusterpaths.running.report import Outcome, Report
from clusterpaths.running.runner import InProcess, Runner
from clusterpaths.running.timer import StageTimer
from clusterpaths.sets.accepted import find_accepted
from clusterpaths.sets.find import find_earlier, next_set
from clusterpaths.sets.points import pending_method
from clusterpaths.sets.published import PublishedSet

log = logging.getLogger(__name__)


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
    runner, report = runner or InProcess(config.workers), report or Report()
    timer = StageTimer(report.stage)
    results = config.cache_dir  # activation_cache/CelebA: activations, then set_01, set_02 …

    results.require(writes=True)  # of s3:// results: an error comes before a download, not after it
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
                model, preprocessing, checked = runner.run(
                    stages.check_preprocessing, config, model, dataset, preprocessing
                )
        check = checked.check if checked else None
        plan, job = runner.run(stages.make_plan, config, model, dataset, preprocessing, checked)
        if config.plan:
            outcome = Outcome(None, False, job, plan, preprocessing, check)
            report.outcome(outcome)
            return outcome
        prepared = Prepared(model, plan, job, check)
        outcome = cluster_prepared(config, prepared, until_done.enter_context(runner), report, timer)

    report.outcome(outcome)
    return outcome


@dataclass(frozen=True)
class Prepared:
    """What is clustered: activations that are cached, or planned to be extracted.

    Attributes:
        model: with the layers.
        plan: which examples are cached and which are to be extracted.
        job: settings of the extraction.
        check: of the preprocessing, if it was run.
    """

    model: ModelRecord
    plan: ExtractionPlan
    job: ExtractionJob
    check: PreprocessingCheck | None = None


def cluster_prepared(
    config: RunConfig, prepared: Prepared, runner: Runner, report: Report, timer: StageTimer
) -> Outcome:
    """The stages from extraction to the report.

    Args:
        config: of the run.
        prepared: what is clustered.
        runner: inside its context; the results are locked.
        report: shows the run.
        timer: measures the stages.
    """
    if config.map == "umap":
        require_umap()  # now, not after hours
    results, model, check = config.cache_dir, prepared.model, prepared.check
    pieces = Pieces(prepared.plan, prepared.job, runner, report, timer)
    sample = pieces.sample()
    settings, choice = config, None
    if config.chooses:
        with timer("choose"):
            settings, choice = pieces.on_sample(stages.choose_settings, config, model, sample)
    published, complete = None, pieces.complete
    if complete:
        fits = identify_fits(settings, model, sample)
        identity, published = runner.run(stages.find_set, settings, fits, pieces.extraction())
    if published is None or not published.has_maps:
        fits, fitted, extraction = pieces.cluster(settings, model)
        found, identity = published, identify(fits, extraction)
        published = (
            found if found and found.record.fingerprint == identity.fingerprint() else None
        )  # or it was repaired
        if not complete:
            identity, published = runner.run(stages.find_set, settings, fits, extraction)
        if published and not published.has_maps:
            with timer("maps") as did:
                did.images = extraction.num_examples
                runner.run(stages.add_maps, published, extraction, fitted)
    new = published is None
    if published is None:
        with timer("trace") as did:
            did.images = extraction.num_examples
            traced = runner.run(stages.trace_paths, extraction, identity, fitted)
        with timer("publish"):
            published = runner.run(
                stages.publish_set,
                config, pieces.job, extraction, identity, fitted, traced, timer.stages, choice, check,
                next_set(results),  # here: a retry of the stage publishes no second one
            )  # fmt: skip
    if method := pending_method(published, config.map):
        with timer("map") as did:
            did.images = published.num_examples if method == "umap" else 0
            runner.run(stages.show_points, published, method)
    if config.evaluate:
        with timer("evaluate"):
            report.evaluation(evaluate(config, pieces, published))
    pieces.release_sample()
    if config.compare and new:
        with timer("compare"):
            compare_with_earlier(published, runner, report, config.alert_below)
    with timer("report"):
        page = runner.run(stages.write_report, published)

    return Outcome(
        published, new, pieces.job, prepared.plan, prepared.job.preprocessing, check, choice, page, timer.stages,
        advice(published),
    )  # fmt: skip


def compare_with_earlier(published: PublishedSet, runner: Runner, report: Report, alert_below: float) -> None:
    """Compare a new set with the one before, a new model's with the accepted set or, without one, an earlier model's.

    A published set stays published: if no earlier set is comparable, that is logged, and the run continues.
    """
    try:
        earlier = find_accepted(published) or find_earlier(published)
        if earlier is None:
            log.info("There is no earlier set on the same images to compare %s with", published.path)
            return
        comparison = runner.run(stages.compare_sets, earlier, published)
    except InputError as error:
        log.warning("Not compared: %s", error)
        return
    page = runner.run(stages.write_comparison, comparison, published)
    report.comparison(comparison, page, alert_below)


def evaluate(config: RunConfig, pieces: Pieces, published: PublishedSet) -> Evaluation:
    """The metrics of a set: stored ones, or measured on its sample."""
    stored = stored_evaluation(published, images=config.evaluation_images, causal=config.causal)
    return stored or pieces.on_sample(stages.evaluate_set, config, published, pieces.job)

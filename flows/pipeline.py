"""The chain from a model and images to a published set: what every flow of this folder runs.

Belongs here: the stages in their order, once. What a flow is called and what it can be asked is the flow's own file.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger

from clusterpaths.common.malloc import share_arenas
from clusterpaths.config import AUTO, RunConfig
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage.lock import locked_cache
from clusterpaths.storage.remote import require_storage
from flows.running import set_up_logging
from tasks import artifacts, comparing, stages
from tasks import fan_out as many
from tasks.engine import engine
from tasks.stage_timer import StageClock


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        published: the set that answers the question; None for a plan only.
        new: whether this run made it; else it was there.
    """

    published: PublishedSet | None
    new: bool


def cluster_paths(config: RunConfig) -> Outcome:
    """Run all stages; to be called inside a flow."""
    set_up_logging()
    share_arenas()
    results = config.cache_dir  # activation_cache/CelebA: activations, then set_01, set_02 …
    log, clock = get_run_logger(), StageClock()

    require_storage(results)  # of s3:// results: told before a download, not after it
    with clock("check"):
        model = stages.check_model(config)
    with clock("download"):
        dataset = stages.download(config)
    with clock("instrument"):
        model, preprocessing = stages.instrument(config, model)

    with locked_cache(results, config.wait, log.warning), ExitStack() as until_done:
        kept = None
        if config.check_preprocessing and (config.preprocessing == AUTO or not config.plan):
            with clock("check preprocessing"):
                preprocessing, kept = stages.check_preprocessing(config, model, dataset, preprocessing)
        plan, job = stages.make_plan(config, model, dataset, preprocessing, kept)
        check = kept.check if kept else None
        if config.plan:
            return Outcome(None, new=False)
        workers = until_done.enter_context(engine(config, set_up_logging))  # threads, or Dask workers
        with clock("extract") as note:
            extraction = many.extract(job, plan, workers)
            note.append(f"{plan.wanted - plan.cached:,} of {plan.wanted:,} examples")
        settings, choice = config, None
        if config.chooses:
            with clock("choose"):
                settings, choice = many.choose(job, config, model, extraction, workers)
        question, published = stages.find_set(settings, model, extraction)
        new = published is None
        if published is None:
            with clock("cluster"):
                clusterings = many.cluster(job, extraction, question, workers)
            with clock("trace"):
                traced = stages.trace(extraction, question, clusterings)
            with clock("publish"):
                published = stages.publish_set(
                    config, job, extraction, question, clusterings, traced, clock.stages, choice, check
                )
        if config.evaluate:
            with clock("evaluate"):
                many.evaluate(job, published, workers)
        if config.compare and new:
            with clock("compare"):
                comparing.compare_with_predecessor(config, published)
        with clock("report"):
            report = stages.write_report(published)

    artifacts.show_stages(clock.stages, plan.wanted, plan.wanted - plan.cached, results)
    artifacts.show_set(published, report)
    if choice:
        artifacts.show_choice(choice)
    if check:
        artifacts.show_preprocessing(check, preprocessing)
    log.info("%s Report: %s", artifacts.in_one_sentence(published), report)
    return Outcome(published, new)


def path_of(outcome: Outcome) -> Path | None:
    """The set's folder: what a flow returns."""
    return outcome.published.path if outcome.published else None

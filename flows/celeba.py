"""Cluster paths of CelebA: `python flows/celeba.py`, quickest with `--sample` or `--subset 5`."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from clusterpaths.cache.lock import locked_cache
from clusterpaths.config import RunConfig
from flows.running import run  # first: it settles Prefect's environment
from tasks import artifacts, many, stages
from tasks.clock import StageClock


@flow(name="celeba", flow_run_name="{config.result_name}")
def celeba(config: RunConfig) -> Path | None:
    """Cluster paths of CelebA or of the embedded sample: which route each image takes through a model's layers."""
    results = config.cache_dir  # activation_cache/CelebA: activations, then set_01, set_02 …
    log, clock = get_run_logger(), StageClock()

    with clock("check"):
        model = stages.check_model(config)
    with clock("download"):
        dataset = stages.download(config)
    with clock("instrument"):
        model, preprocessing = stages.instrument(config, model)

    with locked_cache(results, config.wait, log.warning):
        plan, job = stages.make_plan(config, model, dataset, preprocessing)
        if config.plan:
            return None
        with clock("extract"):
            extraction = many.extract(job, plan, config.workers)
        question, published = stages.find_set(config, model, extraction)
        if published is None:
            with clock("cluster"):
                clusterings = many.cluster(job, extraction, question, config.workers)
            with clock("trace"):
                traced = stages.trace(extraction, question, clusterings)
            with clock("publish"):
                published = stages.publish_set(job, extraction, question, clusterings, traced, clock.stages)
        with clock("report"):
            report = stages.write_report(published)

    artifacts.show_stages(clock.stages)
    artifacts.show_set(published, report)
    log.info("%s Report: %s", artifacts.in_one_sentence(published), report)
    return published.path


def main(argv: list[str] | None = None) -> None:
    """Run from a shell."""
    run(celeba, RunConfig, argv)


if __name__ == "__main__":
    main()

"""What the Prefect UI shows of a finished run: a table of stages, and a page on the set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from clusterpaths.cache.stores import activations_on_disk
from clusterpaths.clustering.choice import Choice
from clusterpaths.extraction.plan import human_bytes
from clusterpaths.metrics.paths import PathCounts, count_paths
from clusterpaths.models.inspect import Inspection
from clusterpaths.preprocessing.check import PreprocessingCheck
from clusterpaths.records import Preprocessing, StageTime
from clusterpaths.report.page import EXEMPLARS
from clusterpaths.sets.published import PublishedSet

TOP_PATHS = 10
PER_IMAGE = {"cluster", "trace"}


def show_stages(stages: tuple[StageTime, ...], examples: int, extracted: int, results: Path) -> None:
    """Table artifact: seconds and images a second of each stage, in order, and the cache's size in the end."""
    rows = []
    for stage in stages:
        images = extracted if stage.stage == "extract" else examples if stage.stage in PER_IMAGE else None
        rate = f"{images / stage.seconds:,.0f}" if images and stage.seconds else ""
        rows.append(
            {"stage": stage.stage, "seconds": round(stage.seconds, 2), "images a second": rate, "what": stage.detail}
        )
    files, size = activations_on_disk(results)
    rows.append(
        {"stage": "cache", "seconds": "", "images a second": "", "what": f"{human_bytes(size)} in {files:,} files"}
    )
    create_table_artifact(rows, key="stage-times", description="How long each stage took")


def show_model(inspection: Inspection) -> None:
    """Markdown artifact: what `clusterpaths inspect` says of the model."""
    create_markdown_artifact(f"```\n{inspection.text()}```\n", key="model", description=Path(inspection.file).name)


def show_choice(choice: Choice) -> None:
    """Table artifact: every layer, distance and k that was tried."""
    rows = [
        {
            "layer": point.layer,
            "distance": point.distance,
            "k": point.k,
            "decision alignment": "" if point.daf is None else round(point.daf, 3),
            "95%": "" if point.interval is None else "{:.3f} to {:.3f}".format(*point.interval),
            "stability": round(point.stability, 2),
            "chosen": "yes" if point.chosen else "",
        }
        for point in choice.points
    ]
    create_table_artifact(rows, key="choice", description=f"{choice.sentence} {choice.advice}".strip())


def show_preprocessing(check: PreprocessingCheck, used: Preprocessing) -> None:
    """Markdown artifact: the verdict, and how each known preprocessing does."""
    title = "# The preprocessing is most likely wrong" if check.speaks_against(used) else "# Preprocessing"
    create_markdown_artifact(
        f"{title}\n\n{check.sentence}\n\n{check.table}", key="preprocessing", description=check.verdict
    )


def show_set(published: PublishedSet, report: Path) -> None:
    """Markdown artifact: sizes of clusters, the most frequent paths, purity, times."""
    create_markdown_artifact(set_as_markdown(published, report), key="cluster-paths", description=published.record.set)


def set_as_markdown(published: PublishedSet, report: Path) -> str:
    """The page on a set."""
    record = published.record
    lines = [
        f"# {published.path.parent.name} / {record.set}",
        f"{record.num_examples:,} examples, {record.num_failed:,} left out; {record.distance} distance, seed {record.seed}; "
        f"model {record.model.file} ({record.model.sha256[:12]}).",
        f"Report with pictures: `{report}`",
        "",
        "## Sizes of clusters",
        "| layer | k | examples a cluster | exemplars in the report | inertia | note |",
        "|---|---|---|---|---|---|",
    ]
    for layer in record.layers:
        summary = record.clusters[layer]
        sizes = " ".join(map(str, summary.sizes))
        exemplars = " ".join(str(min(size, EXEMPLARS)) for size in summary.sizes)
        numbers = f"{len(summary.sizes)} | {sizes} | {exemplars} | {summary.inertia:.6g}"
        lines.append(f"| {layer} | {numbers} | {summary.note} |")
    lines += [
        "",
        *_frequent_paths(published),
        "",
        *_purity(published),
        "",
        "## Times",
        "| stage | seconds | what |",
        "|---|---|---|",
    ]
    lines += [f"| {stage.stage} | {stage.seconds:.2f} | {stage.detail} |" for stage in record.stages]
    return "\n".join(lines)


def _count_paths(published: PublishedSet) -> PathCounts:
    layers = list(published.record.layers)
    table = pq.read_table(published.path / "paths.parquet", columns=layers)
    return count_paths(np.column_stack([table[layer].to_numpy() for layer in layers]))


def _frequent_paths(published: PublishedSet) -> list[str]:
    record = published.record
    found = _count_paths(published)
    top = list(zip(found.paths.tolist(), found.counts.tolist(), strict=True))[:TOP_PATHS]
    lines = [
        f"## The {len(top)} most frequent of {len(found.counts):,} paths",
        f"| path ({' → '.join(record.layers)}) | examples | share |",
        "|---|---|---|",
    ]
    lines += [f"| {' → '.join(map(str, path))} | {n:,} | {n / record.num_examples:.1%} |" for path, n in top]
    return lines


def _purity(published: PublishedSet) -> list[str]:
    record = published.record
    known = {"labels": record.purity_labels, "the model's predictions": record.purity_predictions}
    return [
        f"Weighted path purity with {name}: {value:.3f} (share of examples in the majority class of their path)."
        for name, value in known.items()
        if value is not None
    ]


def in_one_sentence(published: PublishedSet) -> str:
    """What a terminal shows last."""
    record = published.record
    paths = _count_paths(published).counts
    purity = "" if record.purity_labels is None else f"; path purity with labels {record.purity_labels:.2f}"
    return f"{record.set}: {record.num_examples:,} examples on {len(paths):,} paths of {len(record.layers)} layers{purity}."

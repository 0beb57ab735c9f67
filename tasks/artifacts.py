"""What the Prefect UI shows of a finished run: a table of stages, and a page on the set."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from clusterpaths.publish import PublishedSet
from clusterpaths.records import StageTime

TOP_PATHS = 10


def show_stages(stages: tuple[StageTime, ...]) -> None:
    """Table artifact: seconds a stage, in order."""
    rows = [{"stage": stage.stage, "seconds": round(stage.seconds, 2), "what": stage.detail} for stage in stages]
    create_table_artifact(rows, key="stage-times", description="How long each stage took")


def show_set(published: PublishedSet, report: str) -> None:
    """Markdown artifact: sizes of clusters, the most frequent paths, purity, times."""
    create_markdown_artifact(set_as_markdown(published, report), key="cluster-paths", description=published.record.set)


def set_as_markdown(published: PublishedSet, report: str) -> str:
    """The page on a set."""
    record = published.record
    lines = [
        f"# {published.path.parent.name} / {record.set}",
        f"{record.num_examples:,} examples, {record.num_failed:,} left out; {record.distance} distance, seed {record.seed}; "
        f"model {record.model.file} ({record.model.sha256[:12]}).",
        f"Report with pictures: `{report}`",
        "",
        "## Sizes of clusters",
        "| layer | k | examples a cluster | inertia | note |",
        "|---|---|---|---|---|",
    ]
    for layer in record.layers:
        summary = record.clusters[layer]
        sizes = " ".join(map(str, summary.sizes))
        lines.append(f"| {layer} | {len(summary.sizes)} | {sizes} | {summary.inertia:.6g} | {summary.note} |")
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


def _frequent_paths(published: PublishedSet) -> list[str]:
    record = published.record
    table = pq.read_table(published.path / "paths.parquet", columns=list(record.layers))
    paths, counts = np.unique(
        np.column_stack([table[layer].to_numpy() for layer in record.layers]), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")[:TOP_PATHS]
    lines = [
        f"## The {len(order)} most frequent of {len(counts):,} paths",
        f"| path ({' → '.join(record.layers)}) | examples | share |",
        "|---|---|---|",
    ]
    lines += [
        f"| {' → '.join(map(str, paths[i]))} | {counts[i]:,} | {counts[i] / record.num_examples:.1%} |" for i in order
    ]
    return lines


def _purity(published: PublishedSet) -> list[str]:
    record = published.record
    known = [("labels", record.purity_labels), ("predictions", record.purity_predictions)]
    return [
        f"Weighted path purity with {name}: {value:.3f} (the share of examples in the majority class of their path)."
        for name, value in known
        if value is not None
    ]

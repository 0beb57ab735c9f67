"""A set, a comparison and a run's numbers as Markdown and as rows of tables: for the Prefect UI, logs and notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clusterpaths.cache.stores import activations_on_disk
from clusterpaths.clustering.choice import Choice
from clusterpaths.comparison.record import Comparison, ExampleChange
from clusterpaths.evaluation.record import Evaluation
from clusterpaths.extraction.plan import human_bytes
from clusterpaths.models.inspect import Inspection
from clusterpaths.preprocessing.check import PreprocessingCheck
from clusterpaths.records import Preprocessing, StageTime
from clusterpaths.report import evaluation as evaluation_section
from clusterpaths.report.comparison import class_name, headline
from clusterpaths.report.page import EXEMPLARS
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage

TOP_PATHS = 10
PER_IMAGE = {"cluster", "trace"}

Rows = list[dict[str, Any]]  # of a table: one dict for each, column to value


def inspection(found: Inspection) -> str:
    """What `clusterpaths inspect` prints of a model."""
    return f"```\n{found.text()}```\n"


def stage_rows(stages: tuple[StageTime, ...], examples: int, extracted: int, cache: Storage) -> Rows:
    """Seconds and images a second of each stage, in order, and the cache's size in the end.

    Args:
        stages: of a run.
        examples: that the run clusters.
        extracted: those of them that were not cached.
        cache: its directory.
    """
    rows: Rows = []
    for stage in stages:
        images = extracted if stage.stage == "extract" else examples if stage.stage in PER_IMAGE else None
        rate = f"{images / stage.seconds:,.0f}" if images and stage.seconds else ""
        rows.append(
            {"stage": stage.stage, "seconds": round(stage.seconds, 2), "images a second": rate, "what": stage.detail}
        )
    files, size = activations_on_disk(cache)
    in_files = f"{human_bytes(size)} in {files:,} files"
    return [*rows, {"stage": "cache", "seconds": "", "images a second": "", "what": in_files}]


def choice_rows(choice: Choice) -> Rows:
    """Every layer, distance and k that was tried."""
    return [
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


def evaluation_rows(evaluation: Evaluation) -> Rows:
    """Every measure with its interval."""
    return [
        {
            "about": group.title,
            "measure": row.name,
            "value": round(row.value, 4),
            "95% interval": row.interval,
            "examples": row.n,
        }
        for group in evaluation_section.evaluation_rows(evaluation)
        for row in group.rows
    ]


def preprocessing(check: PreprocessingCheck, used: Preprocessing) -> str:
    """The verdict, and how each known preprocessing does."""
    title = "# The preprocessing is most likely wrong" if check.speaks_against(used) else "# Preprocessing"
    return f"{title}\n\n{check.sentence}\n\n{check.table}"


def published_set(published: PublishedSet, report: Path) -> str:
    """Sizes of clusters, the most frequent paths, purity, times."""
    record = published.record
    lines = [
        f"# {published.cache.name} / {record.set}",
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


def _frequent_paths(published: PublishedSet) -> list[str]:
    record = published.record
    found = published.paths
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
    paths = published.paths.counts
    purity = "" if record.purity_labels is None else f"; path purity with labels {record.purity_labels:.2f}"
    return f"{record.set}: {record.num_examples:,} examples on {len(paths):,} paths of {len(record.layers)} layers{purity}."


def comparison_rows(compared: Comparison) -> Rows:
    """Agreement and matched clusters of each layer."""
    return [
        {
            "layer": layer.layer,
            "kept": f"{layer.agreement:.1%}",
            "95% interval": _interval(layer.agreement_interval),
            "adjusted Rand": round(layer.adjusted_rand, 4),
            "clusters": ", ".join(f"{_name(m.first)}→{_name(m.second)}" for m in layer.matches),
        }
        for layer in compared.layers
    ]


def comparison(compared: Comparison, page: Path) -> str:
    """What changed from one set to another."""
    c = compared
    lines = [
        f"# {headline(c)}",
        f"{_cell(c.first.model.file)} ({c.first.model.sha256[:12]}), seed {c.first.seed}, before; "
        f"{_cell(c.second.model.file)} ({c.second.model.sha256[:12]}), seed {c.second.seed}, after.",
        f"Page with pictures: `{page}`",
        "",
        f"**{c.paths_kept:,} of {c.num_examples:,} paths are kept: {c.path_agreement:.1%}** (95% interval "
        f"{_interval(c.path_agreement_interval)}); on average an example keeps {c.layers_kept:.1%} of its layers; adjusted "
        f"Rand index of whole paths {c.path_adjusted_rand:.3f}. Only before: {c.only_first:,}; only after: {c.only_second:,}.",
        "",
        "| layer | kept | 95% interval | adjusted Rand |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {_cell(x.layer)} | {x.agreement:.1%} | {_interval(x.agreement_interval)} | {x.adjusted_rand:.3f} |"
        for x in c.layers
    ]
    lines += ["", *_decisions(c), "", *_moved(c)]
    return "\n".join(lines)


def _decisions(c: Comparison) -> list[str]:
    if c.decisions is None:
        return ["Decisions: at least one side has no predictions."]
    lines = ["## Decisions", f"{c.decisions.changed:,} of {c.decisions.num_examples:,} changed."]
    if c.decisions.num_labelled:
        before, after = (
            right / c.decisions.num_labelled for right in (c.decisions.right_first, c.decisions.right_second)
        )
        lines.append(f"Right on {c.decisions.num_labelled:,} labelled: {before:.1%} before, {after:.1%} after.")
    changed = [pair for pair in c.decisions.counts if pair.examples]
    if changed:
        lines += ["", "| before | after | examples | such as |", "|---|---|---|---|"]
    return lines + [
        f"| {_cell(class_name(c, pair.first))} | {_cell(class_name(c, pair.second))} | {pair.count:,} | "
        f"{_cell(', '.join(example.file for example in pair.examples[:3]))} |"
        for pair in changed
    ]


def _moved(c: Comparison) -> list[str]:
    if not c.moved:
        return ["No example moved."]
    layers = " → ".join(_cell(layer.layer) for layer in c.layers)
    lines = ["## Examples that moved most", f"| example | file | before ({layers}) | after, in the first's numbers |"]
    return [*lines, "|---|---|---|---|", *(_row(example) for example in c.moved)]


def _row(example: ExampleChange) -> str:
    before = " → ".join(map(str, example.path_first))
    after = " → ".join("new" if cluster < 0 else str(cluster) for cluster in example.path_renamed)
    return f"| {example.id} | {_cell(example.file)} | {before} | {after} |"


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1%} to {ends[1]:.1%}"


def _name(cluster: int | None) -> str:
    return "–" if cluster is None else str(cluster)


def _cell(text: str) -> str:
    """Names come from elsewhere: they must not end a table's cell or become HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")

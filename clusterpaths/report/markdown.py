"""A set, a comparison and a run's numbers as Markdown and as rows of tables: for the Prefect UI, logs and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterpaths.cache.stores import activations_on_disk
from clusterpaths.clustering.choice import Choice
from clusterpaths.comparison.record import Comparison, ExampleChange
from clusterpaths.evaluation.fewer_layers import Shorter, has_many_singletons, shorter_paths
from clusterpaths.evaluation.record import Evaluation, read_evaluation
from clusterpaths.extraction.plan import human_bytes
from clusterpaths.models.inspect import Inspection
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.words import headline as headline_of_window
from clusterpaths.monitoring.words import name_of_test, sentences
from clusterpaths.preprocessing.check import PreprocessingCheck
from clusterpaths.records import Preprocessing, StageTime
from clusterpaths.report import evaluation as evaluation_section
from clusterpaths.report.comparison import class_name, headline
from clusterpaths.report.numbers import percent
from clusterpaths.report.page import EXEMPLARS
from clusterpaths.report.side_by_side import better, metric_rows
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import Storage

TOP_PATHS = 10

Rows = list[dict[str, Any]]  # of a table: one dict for each, column to value


def inspection(found: Inspection) -> str:
    """What `clusterpaths inspect` prints of a model."""
    return f"```\n{found.text()}```\n"


def stage_rows(stages: tuple[StageTime, ...], cache: Storage) -> Rows:
    """Seconds and images per second of each stage, in order, then the size of the cache.

    Args:
        stages: of a run.
        cache: directory of the cache.
    """
    rows: Rows = []
    for stage in stages:
        rate = f"{stage.images / stage.seconds:,.0f}" if stage.images and stage.seconds else ""
        rows.append({"stage": stage.stage, "seconds": round(stage.seconds, 2), "images/s": rate, "what": stage.detail})
    files, size = activations_on_disk(cache)
    in_files = f"{human_bytes(size)} in {files:,} files"
    return [*rows, {"stage": "cache", "seconds": "", "images/s": "", "what": in_files}]


def choice_rows(choice: Choice) -> Rows:
    """Every point of the sweep over layer, distance and k."""
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
            "by chance": "" if row.chance is None else round(row.chance, 4),
            "examples": row.n,
        }
        for group in evaluation_section.evaluation_rows(evaluation)
        for row in group.rows
    ]


def preprocessing(check: PreprocessingCheck, used: Preprocessing) -> str:
    """The verdict, and the agreement of each known preprocessing."""
    title = "# The preprocessing is most likely wrong" if check.speaks_against(used) else "# Preprocessing"
    return f"{title}\n\n{check.sentence}\n\n{check.table}"


def published_set(published: PublishedSet, report: Path, advised: str = "") -> str:
    """Sizes of clusters, the most frequent paths, purity, times.

    Args:
        published: the set.
        report: its report.html.
        advised: its `advice`, which takes seconds on a large set.
    """
    record = published.record
    lines = [
        f"# {published.cache.name} / {record.set}",
        f"{record.num_examples:,} examples, {record.num_failed:,} left out; {record.distance} distance, seed {record.seed}; "
        f"model {record.model.file} ({record.model.sha256[:12]}).",
        f"Report with images: `{report}`",
        "",
        "## Cluster sizes",
        "| layer | k | examples per cluster | exemplars in the report | inertia | note |",
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
        *filter(None, [advised]),
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
    names = {"labels": "labels", "predictions": "the model's predictions"}
    return [
        f"Weighted path purity with {names[name]}: {found.value:.3f}, by chance {found.chance:.3f} (share of examples in "
        f"the majority class of their path; chance: the same with permuted {name})."
        for name, found in published.purities.items()
    ]


def in_one_sentence(published: PublishedSet) -> str:
    """The last line in a terminal."""
    record = published.record
    paths = published.paths.counts
    where = f"{record.set}: {record.num_examples:,} examples on {len(paths):,} paths of {len(record.layers)} layers"
    return f"{where}{_how_good(published)}."


def advice(published: PublishedSet) -> str:
    """What to do where many examples are singletons, with what it would give; empty elsewhere."""
    if not has_many_singletons(published):
        return ""
    counts = published.paths.counts
    singletons = int((counts == 1).sum())
    said = f"{singletons:,} of the {len(counts):,} paths have one example only, so they show no pattern."
    complete, *shorter = shorter_paths(published)
    if not shorter:
        return f"{said} Better: a smaller --k, or more images."
    if complete.alignment is None:
        few = next((one for one in shorter if one.singletons * 3 < one.paths), shorter[-1])
        return f"{said} Paths of {_layers_of(few)} are {few.paths:,}: --layers {','.join(few.layers)}; or more images."
    best = max(shorter, key=lambda one: (one.alignment or 0, -one.paths))
    always = percent(complete.majority or 0)
    return (
        f"{said} On {complete.held_out:,} examples left out they give {percent(complete.alignment)} of the decisions (the most "
        f"frequent alone: {always}); {_layers_of(best)} only: {best.paths:,} paths, {percent(best.alignment or 0)}. Better: "
        f"--layers {','.join(best.layers)}, --k auto, or more images."
    )


def _layers_of(one: Shorter) -> str:
    return ", ".join(one.layers)


def _how_good(published: PublishedSet) -> str:
    """What the paths say, with what would be so by chance: decision alignment if it was measured, else purity."""
    evaluation = read_evaluation(published)
    alignment = evaluation.alignment if evaluation else None
    if alignment:
        return (
            f"; they give {percent(alignment.daf.value)} of the model's decisions on {alignment.daf.n:,} held-out examples "
            f"(the most frequent decision alone: {percent(alignment.majority.value)})"
        )
    for name, found in published.purities.items():
        return f"; path purity with {name} {found.value:.2f} (by chance {found.chance:.2f})"
    return ""


def comparison_rows(compared: Comparison) -> Rows:
    """Agreement and matched clusters of each layer."""
    return [
        {
            "layer": layer.layer,
            "unchanged": f"{layer.agreement:.1%}",
            "95% interval": _interval(layer.agreement_interval),
            "adjusted Rand": round(layer.adjusted_rand, 4),
            "shared information": "" if layer.shared_information is None else round(layer.shared_information, 4),
            "clusters": ", ".join(f"{_name(m.first)}→{_name(m.second)}" for m in layer.matches),
        }
        for layer in compared.layers
    ]


def comparison(compared: Comparison, page: Path) -> str:
    """What changed from one set to another."""
    c = compared
    unchanged = (
        f"**{c.paths_kept:,} of {c.num_examples:,} paths are unchanged: {c.path_agreement:.1%}** (95% interval "
        f"{_interval(c.path_agreement_interval)}); layer agreement {c.layers_kept:.1%}; adjusted "
        f"Rand index of complete paths {c.path_adjusted_rand:.3f}."
    )
    if not c.same_k:
        unchanged = "The sets have different numbers of clusters, so paths are not compared."
    marks = "", " ▲"
    sides = metric_rows(c)
    lines = [
        f"# {headline(c)}",
        f"{_cell(c.first.model.file)} ({c.first.model.sha256[:12]}), seed {c.first.seed}, before; "
        f"{_cell(c.second.model.file)} ({c.second.model.sha256[:12]}), seed {c.second.seed}, after.",
        f"Page with images: `{page}`",
        "",
        f"{unchanged} Only before: {c.only_first:,}; only after: {c.only_second:,}.",
        "",
        *better(c),
        "",
        f"| | {_cell(c.first.name)} | {_cell(c.second.name)} |",
        "|---|---|---|",
        *(
            f"| {_cell(row.name)} | {row.first}{marks[row.better == 0]} | {row.second}{marks[row.better == 1]} |"
            for row in sides
        ),
        "",
        "| layer | unchanged | 95% interval | adjusted Rand | shared information |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {_cell(x.layer)} | {x.agreement:.1%} | {_interval(x.agreement_interval)} | {x.adjusted_rand:.3f} | "
        f"{'' if x.shared_information is None else f'{x.shared_information:.3f}'} |"
        for x in c.layers
    ]
    lines += ["", *_decisions(c), "", *_moved(c)]
    return "\n".join(lines)


def window_rows(windows: Sequence[WindowRecord]) -> Rows:
    """A row for each window."""
    return [
        {
            "window": one.number or "",
            "from": one.start,
            "to": one.end,
            "images": one.num_images,
            "verdict": "no images" if not one.num_images else "drifted" if one.drifted else "no drift",
            "p": f"{one.verdict.p_value:.2g}",
            "first layer": one.verdict.first_layer or "",
            "new paths": f"{one.new_paths / one.num_images:.1%}" if one.num_images else "",
        }
        for one in windows
    ]


def window(found: WindowRecord) -> str:
    """One window: its verdict, its tests and what grew."""
    lines = [
        f"# {_cell(headline_of_window(found))}",
        f"{found.start} to {found.end}, from `{_cell(found.source)}`.",
        "",
        *(f"- {_cell(sentence)}" for sentence in sentences(found)),
        "",
        "| test | p | corrected | effect | by chance |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {_cell(name_of_test(test))} | {test.p_value:.2g} | {test.adjusted_p_value:.2g} | {test.effect:.3f} | "
        f"{test.effect_by_chance:.3f} |"
        for test in found.verdict.tests
    ]
    return "\n".join(lines)


def _decisions(c: Comparison) -> list[str]:
    if c.decisions is None:
        return ["At least one side has no predictions."]
    lines = ["## Predictions", f"{c.decisions.changed:,} of {c.decisions.num_examples:,} changed."]
    if c.decisions.num_labelled:
        before, after = (
            correct / c.decisions.num_labelled for correct in (c.decisions.right_first, c.decisions.right_second)
        )
        lines.append(f"Accuracy on {c.decisions.num_labelled:,} labelled: {before:.1%} before, {after:.1%} after.")
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
        return ["All paths are unchanged."]
    layers = " → ".join(_cell(layer.layer) for layer in c.layers)
    lines = ["## Examples that changed most", f"| example | file | before ({layers}) | after, in the first's numbers |"]
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
    """Escape untrusted names: they must not end a table cell or become HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")

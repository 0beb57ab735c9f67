"""The `compare` flow's tasks: find two sets, compare them, write the page, show it, tell the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from clusterpaths.common import roots
from clusterpaths.comparison import compare
from clusterpaths.comparison.record import Comparison, ExampleChange
from clusterpaths.config import RunConfig
from clusterpaths.datasets import look_anew, open_dataset
from clusterpaths.errors import DatasetError, InputError
from clusterpaths.records import DatasetSpec
from clusterpaths.report.comparison import class_name, headline
from clusterpaths.report.comparison import write_comparison as write_files
from clusterpaths.sets.find import find_earlier, find_named
from clusterpaths.sets.published import PublishedSet

COMPARED = "cluster-paths.compared"
DIVERGED = "cluster-paths.diverged"


@task(name="find sets", task_run_name="find sets", cache_policy=NO_CACHE)
def find_sets(config: compare.CompareConfig) -> tuple[PublishedSet, PublishedSet]:
    """Both sets, looked up by name in the cache root."""
    look_anew()
    root = (config.cache_root or roots.cache_root()).expanduser().absolute()
    return find_named(root, config.first), find_named(root, config.second)


@task(name="compare sets", task_run_name="compare sets", cache_policy=NO_CACHE)
def compare_sets(first: PublishedSet, second: PublishedSet, top: int = compare.TOP) -> Comparison:
    """What changed from the first to the second."""
    comparison = compare.compare_sets(first, second, top=top)
    get_run_logger().info(headline(comparison))
    return comparison


@task(name="write comparison", task_run_name="write comparison", cache_policy=NO_CACHE)
def write_comparison(comparison: Comparison, second: PublishedSet, data_root: Path | None = None) -> Path:
    """JSON and page in the second set's folder; returns the page."""
    document, page = write_files(comparison, second, image_reader(second, data_root))
    get_run_logger().info("Comparison: %s and %s", page, document)
    return page


def image_reader(second: PublishedSet, data_root: Path | None) -> Callable[[str], Image.Image]:
    """Reads images of the folder that was named, which must be there, or of the one that the set remembers, if it still is."""
    record = second.record
    try:
        root = data_root.expanduser().absolute() if data_root else record.data_root
        return open_dataset(DatasetSpec(name=record.dataset, root=str(root))).read_image
    except DatasetError as error:
        if data_root:
            raise
        get_run_logger().warning("The page has no pictures: %s Name the folder with --data-root.", error)
        return _gone


def _gone(file: str) -> Image.Image:
    raise FileNotFoundError(file)


@task(name="show comparison", task_run_name="show comparison", cache_policy=NO_CACHE)
def show_comparison(comparison: Comparison, page: Path) -> None:
    """Markdown artifact with what changed, table artifact with a row for each layer."""
    create_markdown_artifact(as_markdown(comparison, page), key="comparison", description=headline(comparison))
    rows = [
        {
            "layer": layer.layer,
            "kept": f"{layer.agreement:.1%}",
            "95% interval": _interval(layer.agreement_interval),
            "adjusted Rand": round(layer.adjusted_rand, 4),
            "clusters": ", ".join(f"{_name(m.first)}→{_name(m.second)}" for m in layer.matches),
        }
        for layer in comparison.layers
    ]
    create_table_artifact(rows, key="comparison-layers", description="Each layer; clusters before→after")


@task(name="tell server", task_run_name="tell server", cache_policy=NO_CACHE)
def announce_comparison(comparison: Comparison, alert_below: float = compare.ALERT_BELOW) -> None:
    """Emit the events that automations wait for; a trigger cannot compare numbers, so the second says it is under."""
    first, second = comparison.first.name, comparison.second.name
    log = get_run_logger()
    events = [COMPARED]
    if comparison.path_agreement < alert_below:
        events.append(DIVERGED)
        log.warning("Path agreement %.3f is under %.3f: raising %s", comparison.path_agreement, alert_below, DIVERGED)
    for event in events:
        emit_event(
            event=event,
            resource={
                "prefect.resource.id": f"cluster-paths.{second.replace('/', '.')}",
                "prefect.resource.name": second,
                "cluster-paths.compared-with": first,
            },
            payload={
                "path_agreement": comparison.path_agreement,
                "alert_below": alert_below,
                "first": first,
                "second": second,
                "headline": headline(comparison),
                "examples": comparison.num_examples,
                "decisions_changed": comparison.decisions.changed if comparison.decisions else None,
            },
        )


def compare_with_predecessor(config: RunConfig, published: PublishedSet) -> Path | None:
    """Compare a new set with the one before, or with an earlier model's; returns the page.

    A published set stays published: where nothing fits to compare it with, that is said, and the run goes on.
    """
    log = get_run_logger()
    earlier = find_earlier(published)
    if earlier is None:
        log.info("There is no earlier set on the same images to compare %s with", published.path)
        return None
    try:
        comparison = compare_sets(earlier, published)
    except InputError as error:
        log.warning("Not compared: %s", error)
        return None
    page = write_comparison(comparison, published)
    show_comparison(comparison, page)
    announce_comparison(comparison, config.alert_below)
    return page


def as_markdown(comparison: Comparison, page: Path) -> str:
    """The page as the Prefect UI shows it."""
    c = comparison
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

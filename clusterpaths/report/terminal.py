"""The result of a run, or of a dry run, as a terminal shows it: a few rows, and what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

from clusterpaths.common import roots
from clusterpaths.evaluation.accuracy import accuracy
from clusterpaths.evaluation.record import Measure, read_evaluation
from clusterpaths.extraction.plan import ExtractionPlan
from clusterpaths.report.numbers import percent
from clusterpaths.report.numbers import seconds as in_words
from clusterpaths.sets.published import PublishedSet

PLANNED = ("Next: the same command without --plan",)


def plan_rows(plan: ExtractionPlan) -> dict[str, str]:
    """Of a dry run: name -> value."""
    layers = ", ".join(f"{name} {'x'.join(map(str, layer.shape))}" for name, layer in plan.manifest.layers.items())
    shards = f"{len(plan.pending):,} shard{'' if len(plan.pending) == 1 else 's'}"
    return {
        "images": f"{plan.wanted:,}: {plan.cached:,} in the cache, {plan.missing:,} to extract in {shards}",
        "layers": f"{layers}; {plan.values:,} values per image",
        "disk": f"{plan.needed()} in {plan.directory}; {plan.room()}",
    }


def result_rows(published: PublishedSet, report: Path | None, *, new: bool, seconds: float) -> dict[str, str]:
    """Of a published set: name -> value.

    Args:
        published: the set.
        report: its report.html.
        new: whether this run published it.
        seconds: that the run took.
    """
    record = published.record
    left_out = f", {record.num_failed:,} unreadable ones left out" if record.num_failed else ""
    before = "" if new else " (published before: same model, images, settings and seed)"
    each = ", ".join(f"{layer} {k}" for layer, k in record.k_per_layer.items())
    return {
        "set": f"{published.cache.name}/{record.set}{before}",
        "examples" if record.without_model else "images": f"{record.num_examples:,}{left_out}{_correct(published)}",
        "clusters": f"{each} ({record.distance}, seed {record.seed})",
        "cluster paths": f"{len(published.paths.counts):,}",
        **_quality(published),
        "time": in_words(seconds),
        "report": str(report or ""),
    }


def _correct(published: PublishedSet) -> str:
    """How many have a label, and whether the model predicts it: a wrong preprocessing or class order shows here first."""
    labelled = int((published.labels >= 0).sum())
    if not labelled or not (published.predictions >= 0).any():
        return ""
    if not published.same_classes:
        return f"; {labelled:,} have a label, of other classes than the model's"
    found = accuracy(published)
    return f"; {found.n:,} have a label, {_interval(found)} of them predicted correctly" if found else ""


def _quality(published: PublishedSet) -> dict[str, str]:
    """The two numbers that say what the paths are worth, each beside what it would be by chance."""
    rows = {}
    evaluation = read_evaluation(published)
    if evaluation and (alignment := evaluation.alignment):
        rows["decision alignment"] = (
            f"{_interval(alignment.daf)} of the decisions on {alignment.daf.n:,} held-out images "
            f"(the most frequent decision alone: {percent(alignment.majority.value)})"
        )
    for name, found in published.purities.items():
        rows.setdefault("path purity", f"{found.value:.2f} with {name} (by chance {found.chance:.2f})")
    return rows


def _interval(measure: Measure) -> str:
    return f"{percent(measure.value)} ({percent(measure.low)} to {percent(measure.high)})"


def next_steps(published: PublishedSet) -> tuple[str, ...]:
    """What to open, and the command that shows the set in a browser."""
    root = published.cache.parent
    elsewhere = "" if str(root) == str(roots.cache_root()) else f" --cache-root {shlex.quote(str(root))}"
    return (f"Next: open the report, or explore all sets in a browser: clusterpaths serve{elsewhere}",)

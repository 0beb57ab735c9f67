"""A decision as Markdown: for the summary of a CI system and for Prefect's artifacts."""

from __future__ import annotations

from clusterpaths.gate.decide import interval, number
from clusterpaths.gate.record import Check, GateRecord

_MARKS = {"passed": "✅ passed", "failed": "❌ failed", "not measurable": "⚠️ not measurable"}


def markdown(record: GateRecord) -> str:
    """A heading with the verdict, a table with a row for each rule, and the reasons."""
    lines = [
        f"## Gate: {'accepted ✅' if record.accepted else 'rejected ❌'}",
        "",
        f"`{record.candidate.set}` ({record.candidate.model.file}) against `{record.reference.set}` "
        f"({record.reference.model.file}), {record.examples:,} common examples, policy: {_cell(record.policy_source)}",
        "",
        "| rule | measured | 95% interval | limit | outcome |",
        "|---|---:|---|---|---|",
        *map(_row, record.checks),
    ]
    if record.reasons:
        lines += ["", *(f"- {reason}" for reason in record.reasons)]
    if record.notes:
        lines += ["", *record.notes]
    if record.comparison:
        lines += ["", f"What changed, example by example: `{record.candidate.set}/{record.comparison}`"]
    return "\n".join(lines) + "\n"


def _row(check: Check) -> str:
    found = check.measured
    about = f"<br>{_cell(found.about)}" if found and found.about else ""
    value = number(found.value, check.unit) if found else ""
    limit = f"{check.sign} {number(check.limit, check.unit)}" + (" (interval)" if check.judged == "bound" else "")
    cells = [
        f"{_cell(check.title)}<br>`{_cell(check.rule)}`", value + about, interval(found) if found else "", limit,
        _MARKS[check.outcome] + (", tolerated" if check.tolerated else ""),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

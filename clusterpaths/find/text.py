"""A list as text for a terminal."""

from __future__ import annotations

from clusterpaths.common.text import times
from clusterpaths.explore.records import Lift
from clusterpaths.find.record import (
    DuplicateGroup,
    Found,
    LabelError,
    LabelErrors,
    NearDuplicates,
    Region,
    UnderCovered,
)


def describe(found: Found) -> str:
    """A headline, a line per entry, and how the list was made."""
    lines = [headline(found)]
    entries: tuple[LabelError | DuplicateGroup | Region, ...] = found.entries
    for number, entry in enumerate(entries, found.offset + 1):
        lines.append(f"{number:>4}  {_line(entry)}")
    left = found.total - found.offset - len(found.entries)
    if left > 0:
        lines.append(f"      and {left:,} more")
    if isinstance(found, UnderCovered) and found.error_share is not None:
        lines.append(f"Of the set's predictions {found.error_share:.1%} are wrong.")
    return "\n".join([*lines, found.note])


def headline(found: Found) -> str:
    """How many there are."""
    if isinstance(found, LabelErrors):
        return f"{_count(found.total, 'likely label error')} among {found.labelled:,} labels"
    if isinstance(found, NearDuplicates):
        if not found.total:
            return "No near duplicates"
        across = f"; {_count(found.across_splits, 'group')} across splits" if found.across_splits else ""
        return f"{_count(found.total, 'group')} of near duplicates ({found.examples:,} examples){across}"
    return _count(found.total, "under-covered region")


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}" if number else f"No {word}s"


def lift_text(lift: Lift) -> str:
    """What is over-represented, and how much."""
    name = lift.name.replace("_", " ") if lift.kind == "attribute" else f"{lift.kind} {lift.name}"
    return f"{name} ({times(lift.lift)})"


def _line(entry: LabelError | DuplicateGroup | Region) -> str:
    if isinstance(entry, LabelError):
        one = entry.example
        return f"{entry.confidence:.3f}  {one.id}  {one.file}  label {one.label}, likely {entry.suggested}"
    if isinstance(entry, DuplicateGroup):
        kind = "identical" if entry.exact else f"at {entry.distance:.3f}"
        notes = [f"across {' and '.join(entry.splits)}"] if entry.across_splits else []
        notes += ["different labels"] if entry.labels_differ else []
        files = ", ".join(one.file or str(one.id) for one in entry.examples[:4]) + (", …" if entry.count > 4 else "")
        return f"{kind}: {files}" + (f" ({'; '.join(notes)})" if notes else "")
    errors = (
        ""
        if entry.error_share is None or entry.error_interval is None
        else f", {entry.error_share:.0%} wrong ({entry.error_interval[0]:.0%} to {entry.error_interval[1]:.0%})"
    )
    lifts = f": {', '.join(map(lift_text, entry.lifts[:3]))}" if entry.lifts else ""
    return f"path {entry.path}, {entry.count:,} examples, {entry.sparse_share:.0%} sparse{errors}{lifts}"

"""Text of records for templates.

Belongs here: formatting of what occurs dozens of times on a page. Templates have the HTML.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Iterator, Sequence

from clusterpaths.explore.records import ExampleRow, Lift, SetSummary
from clusterpaths.report.numbers import percent
from clusterpaths.server.addresses import image_url, set_url


def thumbs_of(
    summary: SetSummary, examples: Iterable[ExampleRow], query: str = ""
) -> Iterator[tuple[ExampleRow, str, str, str, str]]:
    """(example, address, address of the image, alternative text, hint) of each; without images the second is empty.

    `query`: of the list that they are, which the address of each keeps (`pages/lists.py`).
    """
    page = f"{set_url(summary)}/examples/"
    before, after = image_url(summary, 0).split("/0/") if summary.dataset else ("", "")
    for one in examples:
        words = example_words(one)
        hint = f"{words} · {one.file}" if one.file else words
        hint += f" · path {path_text(one.path)}"
        if one.distance is not None:
            hint += f" · distance {one.distance:.3g}"
        yield one, f"{page}{one.id}{query}", f"{before}/{one.id}/{after}" if summary.dataset else "", words, hint


def any_wrong(lists: Iterable[Iterable[ExampleRow]]) -> bool:
    """Whether the prediction of one of these examples is incorrect."""
    return any(one.right is False for examples in lists for one in examples)


def example_words(example: ExampleRow) -> str:
    """The alternative text of an example's image."""
    words = f"Example {example.id}"
    if example.prediction is not None:
        words += f", prediction {example.prediction}"
    if example.label is not None:
        words += f", label {example.label}"
    return f"{words}, incorrect" if example.right is False else words


def path_text(path: Sequence[int]) -> str:
    """3-2-1-0-4."""
    return "-".join(map(str, path))


def path_words(example: ExampleRow) -> tuple[str, str]:
    """An example's path, and its number of examples."""
    return path_text(example.path), f"{example.path_count:,} example{'' if example.path_count == 1 else 's'}"


def time_words(text: str, *, short: bool = False) -> str:
    """2026-11-23T14:03:05Z -> 23 November 2026, 14:03 UTC; short: 23 Nov 14:03; unchanged if it is not a time."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time.day} {time:%b %H:%M}" if short else f"{time.day} {time:%B %Y, %H:%M} UTC"


def span_words(start: str, end: str, *, short: bool = False) -> str:
    """23 November 2026, 14:03:05 to 15:03:05 UTC; short: 23 Nov 14:03 to 15:03; unchanged if they are not times."""
    try:
        first, last = datetime.datetime.fromisoformat(start), datetime.datetime.fromisoformat(end)
    except ValueError:
        return f"{start} to {end}"
    same = first.date() == last.date()
    if short:
        return f"{time_words(start, short=True)} to {f'{last:%H:%M}' if same else time_words(end, short=True)}"
    day = "" if same else f"{last.day} {last:%B %Y}, "
    return f"{first.day} {first:%B %Y, %H:%M:%S} to {day}{last:%H:%M:%S} UTC"


def signed(number: float) -> str:
    """With two digits and a real minus sign."""
    return f"{number:.2f}".replace("-", "−")


def lift_rows(lifts: Iterable[Lift]) -> Iterator[tuple[bool, str, str, str, str, str, str, str]]:
    """(clear, kind, name, count, share, share outside, lift, interval) of each: the table of lifts."""
    for one in lifts:
        low, high = one.interval
        yield (
            one.clear,
            one.kind,
            one.name.replace("_", " "),
            f"{one.count:,} of {one.known:,}",
            percent(one.share, 1),
            percent(one.share_outside, 1),
            "only here" if one.lift is None else f"×{one.lift:.2f}" if one.count else "×0",
            f"{low:.2f} or more" if high is None else f"{low:.2f} to {high:.2f}" if low else f"{high:.2f} or less",
        )


def attribute_choices(names: Iterable[str], asked: Collection[str]) -> list[tuple[str, str, bool, bool]]:
    """(name, its words, asked for, asked against) of each attribute."""
    return [(name, name.replace("_", " "), name in asked, f"-{name}" in asked) for name in names]

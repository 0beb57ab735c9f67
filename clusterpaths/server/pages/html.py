"""Pieces of pages that are made in Python: there are dozens of them on a page, and as macros of the templates they were
half of the time that it took.

Belongs here: such pieces, and the addresses in them. Everything that comes from elsewhere is escaped here. All other HTML is
templates/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape  # text, not Markup: half the time in what is put together here
from typing import TYPE_CHECKING
from urllib.parse import quote

from markupsafe import Markup

from clusterpaths.explore.records import ClassShare, ExampleRow, Lift, PathSummary, SetSummary
from clusterpaths.report.numbers import percent

if TYPE_CHECKING:
    from clusterpaths.server.pages.view import SetView


@lru_cache(4096)
def encoded(name: str) -> str:
    """A name as one part of an address."""
    return quote(name, safe="")


def address(summary: SetSummary) -> str:
    """Of a set's overview."""
    return f"/explore/{encoded(summary.model)}/{encoded(summary.set)}"


def image_url(summary: SetSummary, example: int, size: int = 160) -> str:
    """Of one example's image, its longer side so long; the version lets browsers keep it for an hour."""
    return (
        f"/api/v1/models/{encoded(summary.model)}/sets/{encoded(summary.set)}/examples/{example}/image"
        f"?size={size}&v={encoded(summary.version)}"
    )


def example_words(example: ExampleRow) -> str:
    """The alternative text of an example's image."""
    parts = [f"Example {example.id}"]
    parts += [f"prediction {example.prediction}"] if example.prediction is not None else []
    parts += [f"label {example.label}"] if example.label is not None else []
    parts += ["wrong"] if example.right is False else []
    return ", ".join(parts)


def thumb(summary: SetSummary, example: ExampleRow) -> Markup:
    """An example's image with its link; a hatched tile with the id where the set has no images."""
    return Markup(_thumb(summary, example))


def thumbs(summary: SetSummary, examples: Iterable[ExampleRow], kind: str = "row") -> Markup:
    """Examples' images in rows."""
    items = "".join(f"<li>{_thumb(summary, example)}</li>" for example in examples)
    return Markup(f'<ul class="thumbs {escape(kind)}">\n{items}\n</ul>\n')


def _thumb(summary: SetSummary, example: ExampleRow) -> str:
    words = escape(example_words(example))
    if summary.dataset:
        picture = (
            f'<img src="{escape(image_url(summary, example.id))}" alt="{words}" width="160" height="160" loading="lazy" '
            'decoding="async">'
        )
    else:
        picture = f'<span class="gone"><span><span class="hidden">{words}, no image: </span>{example.id}</span></span>'
    rest = [example.file, f"path {'-'.join(map(str, example.path))}"]
    rest += [f"distance {example.distance:.3g}"] if example.distance is not None else []
    hint = " · ".join((words, *(escape(part) for part in rest if part)))
    wrong = " wrong" if example.right is False else ""
    return f'<a class="thumb{wrong}" href="{address(summary)}/examples/{example.id}" title="{hint}">{picture}</a>'


def signed(number: float) -> str:
    """With two digits and a real minus sign."""
    return f"{number:.2f}".replace("-", "−")


def share_bar(share: float, usual: float | None = None, kind: str = "pred") -> Markup:
    """A share as a bar that needs no style attribute; `usual`: a mark."""
    mark = ""
    if usual is not None:
        place = f'x="{100 * usual:.2f}%" y="0"'
        mark = (
            f'<rect class="halo" {place} width="4" height="8" transform="translate(-2 0)"/>'
            f'<rect class="mark" {place} width="2" height="8" transform="translate(-1 0)"/>'
        )
    return Markup(
        '<svg class="sharebar" width="100%" height="8" aria-hidden="true"><rect class="track" width="100%" height="8" '
        f'rx="2"/><rect class="{escape(kind)}" width="{100 * share:.2f}%" height="8" rx="2"/>{mark}</svg>'
    )


def path_row(view: SetView, path: PathSummary, largest: int, other: Sequence[int] | None = None) -> Markup:
    """A line of a list of paths; of `other`, layers that differ are marked."""
    text = "-".join(map(str, path.path))
    classes = _most(path.prediction, "predictions", path.count) + _most(path.label, "labels", path.count)
    return Markup(
        f'<li>\n<div class="what">{view.route(path.path, other)}</div>\n'
        f'<div class="count"><a href="{view.path_url(path.path)}"><strong>{path.count:,}</strong><span class="hidden"> '
        f"examples on path {text}</span></a> <span>{escape(percent(path.share, 1))}</span>"
        f'{share_bar(path.count / (largest or 1))}</div>\n<dl class="major">\n'
        f"{classes or '<div><dt>classes</dt><dd>not known</dd></div>'}\n</dl>\n"
        f"{thumbs(view.summary, path.exemplars)}</li>\n"
    )


def _most(one: ClassShare | None, word: str, count: int) -> str:
    """The most frequent class, with how many are known where not all of `count` are."""
    if one is None:
        return ""
    name, known = escape(one.name), round(one.count / one.share) if one.share else 0
    of = f" <small>of {known:,}</small>" if known < count else ""
    return (
        f'<div><dt>{word}</dt><dd><strong class="clamp" title="{name}">{name}</strong> '
        f"{escape(percent(one.share))}{of}</dd></div>"
    )


def found_item(view: SetView, example: ExampleRow, labelled: bool) -> Markup:
    """One of the examples that were asked for; `labelled`: whether the set has labels at all."""
    odd = said = verdict = ""
    if example.ood_score is not None:
        odd = (
            ' <small title="OOD score: how many spreads it lies farther from its centroids than is usual for their examples, '
            f'on average over the layers; below 0: nearer">unusual {signed(example.ood_score)}</small>'
        )
    if example.prediction:
        name = escape(example.prediction)
        said = f'<strong class="clamp" title="{name}">{name}</strong>'
    if example.right is not None:
        verdict = f' <span class="mark">{"✓ right" if example.right else f"✗ {escape(str(example.label))}"}</span>'
    elif example.label or labelled:
        verdict = f" <small>{f'label {escape(example.label)}' if example.label else 'no label'}</small>"
    path, count = "-".join(map(str, example.path)), example.path_count
    examples = f"{count:,} example{'' if count == 1 else 's'}"
    return Markup(
        f'<li>\n{_thumb(view.summary, example)}\n<div class="facts-of">\n'
        f'<p class="id"><a href="{view.example_url(example.id)}">{example.id}</a>{odd}</p>\n<p>{said}{verdict}</p>\n'
        f'<p class="line"><a href="{view.path_url(example.path)}" aria-label="path {path}, {examples}" '
        f'title="path {path}: {examples}">{view.line(example.path)}</a></p>\n</div>\n</li>\n'
    )


@lru_cache(1024)
def attribute_choice(name: str, on: bool, off: bool) -> Markup:
    """Any, with or without an attribute."""
    value, shown = escape(name), escape(name.replace("_", " "))
    with_, without = (" selected" if chosen else "" for chosen in (on, off))
    return Markup(
        f'<label class="tri{" set" if on or off else ""}"><span>{shown}</span><select name="attribute">'
        f'<option value="">any</option><option value="{value}"{with_}>with</option>'
        f'<option value="-{value}"{without}>without</option></select></label>\n'
    )


def lift_rows(lifts: Iterable[Lift]) -> Markup:
    """The body of the table of lifts."""
    return Markup("".join(map(_lift_row, lifts)))


def _lift_row(one: Lift) -> str:
    low, high = one.interval
    interval = f"{low:.2f} or more" if high is None else f"{low:.2f} to {high:.2f}" if low else f"{high:.2f} or less"
    lift = "only here" if one.lift is None else f"×{one.lift:.2f}" if one.count else "×0"
    unclear = "" if one.clear else ' class="unclear"'
    return (
        f'<tr{unclear}><td>{escape(one.kind)}</td><th scope="row">{escape(one.name.replace("_", " "))}</th>'
        f'<td class="num">{one.count:,} of {one.known:,}</td><td class="num">{escape(percent(one.share, 1))}</td>'
        f'<td class="num">{escape(percent(one.share_outside, 1))}</td><td class="num">{lift}</td>'
        f'<td class="num">{interval}</td></tr>\n'
    )

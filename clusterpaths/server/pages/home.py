"""/: all models and their sets.

Belongs here: summaries of sets, and their representative examples. `explore/library.py` finds sets.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from clusterpaths.common.disclosure import describe
from clusterpaths.common.lru import LRUCache
from clusterpaths.errors import ClusterPathsError
from clusterpaths.explore.library import Library
from clusterpaths.explore.paths import path_page
from clusterpaths.explore.records import ExampleRow, SetSummary
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.pages.rendering import render
from clusterpaths.server.pages.words import time_words
from clusterpaths.sets.accepted import read_accepted

STRIP = 10
CACHED = 256  # strips, each a few hundred bytes

router = APIRouter()


@dataclass(frozen=True)
class Strip:
    """Preview of a set: one example of each of its most frequent paths."""

    examples: tuple[ExampleRow, ...]
    paths: int
    largest: float


@dataclass(frozen=True)
class SetCard:
    """Summary of one set; `strip` is None except for the newest set of a model. `accepted`: whether it is an accepted set."""

    summary: SetSummary
    clusters: str
    made: str
    strip: Strip | None
    accepted: bool = False


@dataclass(frozen=True)
class ModelCard:
    """One model's directory, newest set first."""

    name: str
    sets: tuple[SetCard, ...]
    problems: tuple[str, ...]


_strips: LRUCache[Strip] = LRUCache(CACHED)


@router.get("/", response_class=HTMLResponse)
def home_page(request: Request, library: LibraryOf) -> HTMLResponse:
    """The list, newest first; or how to make a first set."""
    cards = []
    accepted, problem = _accepted(library)
    for model in library.models():
        newest = sorted(model.sets, key=lambda s: (s.created, s.set), reverse=True)
        problems = list(model.problems)
        sets = []
        for place, summary in enumerate(newest):
            try:
                strip = _strip(library, summary) if place == 0 else None
            except ClusterPathsError as error:  # it was complete when it was listed
                problems.append(f"{summary.set}: {describe(error)[1]}")
                continue
            is_accepted = f"{summary.model}/{summary.set}" in accepted
            sets.append(SetCard(summary, _clusters(summary), time_words(summary.created), strip, is_accepted))
        cards.append(ModelCard(model.name, tuple(sets), tuple(problems)))
    cards.sort(key=lambda card: card.sets[0].summary.created if card.sets else "", reverse=True)
    return render(
        request,
        "home.html",
        models=tuple(card for card in cards if card.sets),
        broken=tuple(card for card in cards if not card.sets and card.problems),
        comparable=sum(len(card.sets) for card in cards) > 1,
        problem=problem,
    )


def _accepted(library: Library) -> tuple[set[str], str]:
    """Names of the accepted sets, and why they are not known."""
    try:
        document = read_accepted(library.root)
    except (ClusterPathsError, OSError) as error:
        return set(), describe(error)[1] if isinstance(error, ClusterPathsError) else "accepted.json cannot be read."
    return {entries[-1].set for entries in document.lines.values() if entries}, ""


def _strip(library: Library, summary: SetSummary) -> Strip:
    """Computed once per set: opening all sets for each request would be slow.

    Raises:
        ClusterPathsError: the set cannot be opened.
    """

    def make() -> Strip:
        page = path_page(library.set(summary.model, summary.set), limit=STRIP, exemplars=1)
        return Strip(
            examples=tuple(path.exemplars[0] for path in page.paths if path.exemplars),
            paths=page.total,
            largest=page.paths[0].share if page.paths else 0.0,
        )

    return _strips.get((library.root, summary.model, summary.set), make, version=summary.version)


def _clusters(summary: SetSummary) -> str:
    """k in words: one number if all layers have the same."""
    ks = summary.k_per_layer
    if len(set(ks.values())) == 1:
        return f"{next(iter(ks.values()))} clusters per layer"
    return "clusters: " + ", ".join(f"{k} in {layer}" for layer, k in ks.items())

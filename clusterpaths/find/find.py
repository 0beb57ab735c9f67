"""One answer per kind of data work: the list, page by page.

Belongs here: from a kind to its module. The command, the API, the pages and the assistant's tools call these.
"""

from __future__ import annotations

from collections.abc import Callable

from clusterpaths.errors import ConfigError, NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.find.label_errors import find_label_errors, label_errors_page
from clusterpaths.find.near_duplicates import find_near_duplicates, near_duplicates_page
from clusterpaths.find.record import KINDS, LABEL_ERRORS, NEAR_DUPLICATES, UNDER_COVERED, Found
from clusterpaths.find.under_covered import find_under_covered, layer_at, under_covered_page


def find(index: SetIndex, kind: str, *, layer: str = "", limit: int = 50, offset: int = 0) -> Found:
    """A piece of the list of this kind; of under-covered regions by a layer [the last one].

    Raises:
        ConfigError: a layer for a kind that has none.
        NotFoundError: no such kind or layer; or the set has not what it needs.
    """
    return _PAGES[_known(kind, layer)](index, **_by(layer), limit=max(limit, 0), offset=max(offset, 0))


def prepare(index: SetIndex, kind: str, layer: str = "") -> int:
    """Compute and cache the list: of a large set, that takes seconds. Returns its number of entries. Raises: as `find`."""
    return _TOTALS[_known(kind, layer)](index, **_by(layer))


def is_prepared(index: SetIndex, kind: str, layer: str = "") -> bool:
    """Whether the list is computed. Raises: as `find`."""
    known = _known(kind, layer)
    return index.has((known, layer_at(index, layer)) if known == UNDER_COVERED else known)


def _known(kind: str, layer: str) -> str:
    if kind not in KINDS:
        raise NotFoundError(f"There is no kind {kind[:80]!r}. There are {', '.join(KINDS)}.")
    if layer and kind != UNDER_COVERED:
        raise ConfigError(
            f"The list {kind} is not by a layer, here {layer[:80]!r}. Only {UNDER_COVERED} is; take it out."
        )
    return kind


def _by(layer: str) -> dict[str, str]:
    return {"layer": layer} if layer else {}


_PAGES: dict[str, Callable[..., Found]] = {
    LABEL_ERRORS: label_errors_page,
    NEAR_DUPLICATES: near_duplicates_page,
    UNDER_COVERED: under_covered_page,
}
_TOTALS: dict[str, Callable[..., int]] = {
    LABEL_ERRORS: lambda index: len(find_label_errors(index).rows),
    NEAR_DUPLICATES: lambda index: len(find_near_duplicates(index)),
    UNDER_COVERED: lambda index, layer="": len(find_under_covered(index, layer)),
}

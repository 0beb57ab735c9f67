"""One answer per kind of data work: the list, page by page.

Belongs here: from a kind to its module. The command, the API, the pages and the assistant's tools call these.
"""

from __future__ import annotations

from collections.abc import Callable

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.find.label_errors import find_label_errors, label_errors_page
from clusterpaths.find.near_duplicates import find_near_duplicates, near_duplicates_page
from clusterpaths.find.record import KINDS, Found
from clusterpaths.find.under_covered import find_under_covered, under_covered_page


def find(index: SetIndex, kind: str, *, limit: int = 50, offset: int = 0) -> Found:
    """A piece of the list of this kind.

    Raises:
        NotFoundError: no such kind; or the set has not what it needs.
    """
    return _PAGES[_known(kind)](index, limit=max(limit, 0), offset=max(offset, 0))


def prepare(index: SetIndex, kind: str) -> int:
    """Compute and cache the list: of a large set, that takes seconds. Returns its number of entries. Raises: as `find`."""
    return _TOTALS[_known(kind)](index)


def is_prepared(index: SetIndex, kind: str) -> bool:
    """Whether the list is computed. Raises: NotFoundError: no such kind."""
    return index.has(_known(kind))


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise NotFoundError(f"There is no kind {kind[:80]!r}. There are {', '.join(KINDS)}.")
    return kind


_PAGES: dict[str, Callable[..., Found]] = {
    "label-errors": label_errors_page,
    "near-duplicates": near_duplicates_page,
    "under-covered": under_covered_page,
}
_TOTALS: dict[str, Callable[[SetIndex], int]] = {
    "label-errors": lambda index: len(find_label_errors(index).rows),
    "near-duplicates": lambda index: len(find_near_duplicates(index)),
    "under-covered": lambda index: len(find_under_covered(index)),
}

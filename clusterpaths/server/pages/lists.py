"""The list that an example's page was opened from: its place in it, its neighbours, and the way back.

Belongs here: lists in the address of an example, ?in=LIST and the fields of a `Question`. Each list is one row of LISTS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from clusterpaths.errors import ConfigError, NotFoundError
from clusterpaths.explore.ask import prepare, select
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.paths import parse_path
from clusterpaths.find.label_errors import find_label_errors
from clusterpaths.find.near_duplicates import find_near_duplicates
from clusterpaths.find.record import LABEL_ERRORS, NEAR_DUPLICATES, UNDER_COVERED
from clusterpaths.find.under_covered import find_under_covered
from clusterpaths.server.addresses import query_of
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.questions import ORDERS, Pairs, filters_of, question_of, tidy
from clusterpaths.server.slow_lists import compute_in_turn

LONGEST = 1 << 16  # characters of a list's query in a form: as many as an address can have
ASKED = 36  # examples per page of the ask page
ON_PATH = 48  # of a path
FOUND: dict[str, int] = {
    LABEL_ERRORS: 48,
    NEAR_DUPLICATES: 25,
    UNDER_COVERED: 15,
}  # examples, groups or regions per page

Rows = NDArray[np.integer]


class ListRows(NamedTuple):
    """A list of examples in its order."""

    name: str  # of LISTS
    pairs: Pairs
    rows: Rows


@dataclass(frozen=True)
class Listed:
    """An example's place in a list; addresses are empty if there is none."""

    number: int  # from 1 on; 0: it is not in the list
    total: int
    words: str
    back: str
    before: str
    after: str
    query: str  # of the addresses of its examples, ? included


@dataclass(frozen=True)
class _List:
    per_page: int
    rows: Callable[[SetIndex, Pairs], Rows]  # in the list's order
    words: Callable[[Pairs], str]
    address: Callable[[SetIndex, Pairs, int], str]  # of a page of it, from 1 on
    groups: Callable[[SetIndex, Pairs], list[Rows]] | None = None  # that `rows` joins; a page has so many of these

    def page_of(self, index: SetIndex, pairs: Pairs, place: int) -> int:
        """The page with the example at this place, from 1 on."""
        if self.groups is not None:
            ends = np.cumsum([len(rows) for rows in self.groups(index, pairs)])
            place = int(np.searchsorted(ends, place, side="right"))
        return place // self.per_page + 1


def list_query(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """The query of an example's address that keeps its place in a list, ? included."""
    return query_of([("in", name), *pairs])


async def list_of(request: Request, index: SetIndex, query: str, example: int) -> str:
    """The query of an example's address, handed on by a page that leads back to it; empty without a list.

    Raises:
        ConfigError: an invalid query.
        NotFoundError: no such example, or a name that the set does not have.
        CacheError: a file of the set cannot be read.
    """
    if len(query) > LONGEST:
        raise ConfigError(f"The query of a list has {len(query):,} characters. Expected at most {LONGEST:,}.")
    pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True)
    await compute_list(request, index, pairs)

    def found() -> str:
        place = listed(index, read_list(index, pairs), index.row_of(example))
        return place.query if place else ""

    return await run_in_threadpool(found)


def read_list(index: SetIndex, given: Pairs) -> ListRows | None:
    """The list of a query, for `listed`; None if the query has none.

    Raises:
        ConfigError: an invalid query.
        NotFoundError: a name that the set does not have.
        CacheError: a file of the set cannot be read.
    """
    if not given:
        return None
    names = [value for name, value in given if name == "in"]
    found = LISTS.get(names[0]) if len(names) == 1 else None
    if found is None:
        raise ConfigError(
            f"The address of an example has {'no list' if not names else f'the list {names[0][:80]!r}'}. Expected one "
            f"parameter in, with one of {', '.join(LISTS)}, beside the filters of the list."
        )
    pairs = [pair for pair in given if pair[0] != "in"]
    if names[0] not in FOUND:
        pairs = [pair for pair in tidy(pairs, index.layers) if pair[0] != "page"]
    return ListRows(names[0], pairs, found.rows(index, pairs))


def listed(index: SetIndex, given: ListRows | None, row: int) -> Listed | None:
    """The place of the example in this row in a list."""
    if given is None:
        return None
    name, pairs, rows = given
    found = LISTS[name]
    places = np.flatnonzero(rows == row)
    at = int(places[0]) if len(places) else -1
    query, view = list_query(name, pairs), set_view(index)

    def neighbour(place: int) -> str:
        return view.example_url(int(index.ids[rows[place]]), query) if at >= 0 and 0 <= place < len(rows) else ""

    return Listed(
        number=at + 1,
        total=len(rows),
        words=found.words(pairs),
        back=found.address(index, pairs, found.page_of(index, pairs, max(at, 0))),
        before=neighbour(at - 1),
        after=neighbour(at + 1),
        query=query,
    )


async def compute_list(request: Request, index: SetIndex, given: Pairs) -> None:
    """Compute a list of `clusterpaths/find` that `listed` needs, in turn; an invalid query is left to it."""
    for kind in FOUND:
        if ("in", kind) in given:
            with contextlib.suppress(NotFoundError, ConfigError):
                await compute_in_turn(request, index, kind, _one(given, "layer"))


def _selected(index: SetIndex, pairs: Pairs) -> Rows:
    question, _ = question_of(pairs)
    prepare(index, question)
    return select(index, question)


def _label_errors(index: SetIndex, pairs: Pairs) -> Rows:
    _require_no_filters(LABEL_ERRORS, pairs)
    return find_label_errors(index).rows


def _duplicates(index: SetIndex, pairs: Pairs) -> list[Rows]:
    _require_no_filters(NEAR_DUPLICATES, pairs)
    return [group.rows for group in find_near_duplicates(index)]


def _regions(index: SetIndex, pairs: Pairs) -> list[Rows]:
    _require_no_filters(UNDER_COVERED, [pair for pair in pairs if pair[0] != "layer"])
    return [region.rows for region in find_under_covered(index, _one(pairs, "layer"))]


def _require_no_filters(name: str, pairs: Pairs) -> None:
    if pairs:
        raise ConfigError(f"The list {name} has no filters. Take {pairs[0][0][:80]!r} out.")


def _joined(groups: Callable[[SetIndex, Pairs], list[Rows]]) -> Callable[[SetIndex, Pairs], Rows]:
    """All examples of groups that have none in common, group by group."""
    return lambda index, pairs: np.concatenate([np.empty(0, np.int64), *groups(index, pairs)])


def _one_cluster(index: SetIndex, pairs: Pairs) -> Rows:
    clusters = [value for name, value in pairs if name == "cluster"]
    if len(clusters) > 1:
        raise ConfigError(f"The list cluster has the clusters {', '.join(clusters)[:80]}. Expected one.")
    return _selected(index, pairs)


def _selection_words(pairs: Pairs) -> str:
    """The filters and the order."""
    words = ", ".join(f"{one.name} {one.value}" for one in filters_of(pairs)) or "all examples"
    order = _one(pairs, "order")
    return f"{words}; {ORDERS[order]}" if order else words


def _asked(index: SetIndex, pairs: Pairs, page: int) -> str:
    return f"{set_view(index).url}/ask{query_of([*pairs, *([('page', str(page))] if page > 1 else [])])}"


def _of_path(index: SetIndex, pairs: Pairs, page: int) -> str:
    path = set_view(index).path_url(parse_path(index, _one(pairs, "path")))
    return f"{path}?page={page}#examples" if page > 1 else f"{path}#examples"


def _of_cluster(index: SetIndex, pairs: Pairs, _page: int) -> str:
    layer, _, cluster = _one(pairs, "cluster").rpartition(":")
    return f"{set_view(index).cluster_url(layer, int(cluster))}#exemplars" if cluster else set_view(index).url


def _found(kind: str) -> Callable[[SetIndex, Pairs, int], str]:
    return lambda index, pairs, page: found_url(index, kind, _one(pairs, "layer"), page)


def found_url(index: SetIndex, kind: str, layer: str = "", page: int = 1) -> str:
    """A page of a list of `clusterpaths/find`."""
    given = [*([("layer", layer)] if layer else []), *([("page", str(page))] if page > 1 else [])]
    return f"{set_view(index).url}/find/{kind}{query_of(given)}"


def _one(pairs: Pairs, name: str) -> str:
    return next((value for key, value in pairs if key == name), "")


LISTS = {
    "ask": _List(ASKED, _selected, _selection_words, _asked),
    "path": _List(ON_PATH, _selected, _selection_words, _of_path),
    "cluster": _List(ASKED, _one_cluster, _selection_words, _of_cluster),
    LABEL_ERRORS: _List(
        FOUND[LABEL_ERRORS],
        _label_errors,
        lambda _: "likely label errors, least probable first",
        _found(LABEL_ERRORS),
    ),
    NEAR_DUPLICATES: _List(
        FOUND[NEAR_DUPLICATES],
        _joined(_duplicates),
        lambda _: "near duplicates, group by group",
        _found(NEAR_DUPLICATES),
        _duplicates,
    ),
    UNDER_COVERED: _List(
        FOUND[UNDER_COVERED],
        _joined(_regions),
        lambda pairs: f"under-covered{f' in {layer}' if (layer := _one(pairs, 'layer')) else ''}, region by region",
        _found(UNDER_COVERED),
        _regions,
    ),
}

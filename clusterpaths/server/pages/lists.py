"""The list that an example's page was opened from: its place in it, its neighbours, and the way back.

Belongs here: lists in the address of an example, ?in=LIST and the fields of a `Question`. Each list is one row of LISTS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import ConfigError, NotFoundError
from clusterpaths.explore.ask import prepare, select
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.paths import parse_path
from clusterpaths.explore.records import Question
from clusterpaths.find.label_errors import find_label_errors
from clusterpaths.server.addresses import query_of
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.questions import ORDERS, Pairs, filters_of, question_of, tidy

ASKED = 36  # examples per page of the ask page
ON_PATH = 48  # of a path
SUSPECTS = 48  # likely label errors
LABEL_ERRORS = "label-errors"

Rows = NDArray[np.integer]


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


def list_query(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """The query of an example's address that keeps its place in a list, ? included."""
    return query_of([("in", name), *pairs])


def list_of(index: SetIndex, query: str, example: int) -> str:
    """The query of an example's address, handed on by a page that leads back to it; empty without a list.

    Raises:
        ConfigError: an invalid query.
        NotFoundError: no such example, or a name that the set does not have.
        CacheError: a file of the set cannot be read.
    """
    pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True)
    read_list(index, pairs)
    place = listed(index, pairs, index.row_of(example))
    return place.query if place else ""


def listed(index: SetIndex, given: Pairs, row: int) -> Listed | None:
    """The place of the example in this row in the list of the query; None if the query has none.

    Raises:
        ConfigError: an invalid query.
        NotFoundError: a name that the set does not have.
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
    pairs = [pair for pair in tidy([pair for pair in given if pair[0] != "in"], index.layers) if pair[0] != "page"]
    rows = found.rows(index, pairs)
    places = np.flatnonzero(rows == row)
    at = int(places[0]) if len(places) else -1
    query, view = list_query(names[0], pairs), set_view(index)

    def neighbour(place: int) -> str:
        return view.example_url(int(index.ids[rows[place]]), query) if at >= 0 and 0 <= place < len(rows) else ""

    return Listed(
        number=at + 1,
        total=len(rows),
        words=found.words(pairs),
        back=found.address(index, pairs, max(at, 0) // found.per_page + 1),
        before=neighbour(at - 1),
        after=neighbour(at + 1),
        query=query,
    )


def read_list(index: SetIndex, given: Pairs) -> None:
    """Read and compute what `listed` needs, which may take seconds; an invalid query is left to it.

    Raises:
        CacheError: a file of the set cannot be read.
    """
    if ("in", LABEL_ERRORS) in given:
        with contextlib.suppress(NotFoundError):
            find_label_errors(index)
    for name, value in given:
        if name == "within":
            with contextlib.suppress(NotFoundError, ConfigError, ValueError):
                prepare(index, Question(within=(value,)))


def _selected(index: SetIndex, pairs: Pairs) -> Rows:
    question, _ = question_of(pairs)
    prepare(index, question)
    return select(index, question)


def _label_errors(index: SetIndex, pairs: Pairs) -> Rows:
    if pairs:
        raise ConfigError(f"The list {LABEL_ERRORS} has no filters. Take {pairs[0][0][:80]!r} out.")
    return find_label_errors(index).rows


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


def _of_label_errors(index: SetIndex, _pairs: Pairs, page: int) -> str:
    return f"{set_view(index).url}/find/{LABEL_ERRORS}" + (f"?page={page}" if page > 1 else "")


def _one(pairs: Pairs, name: str) -> str:
    return next((value for key, value in pairs if key == name), "")


LISTS = {
    "ask": _List(ASKED, _selected, _selection_words, _asked),
    "path": _List(ON_PATH, _selected, _selection_words, _of_path),
    "cluster": _List(ASKED, _selected, _selection_words, _of_cluster),
    LABEL_ERRORS: _List(
        SUSPECTS, _label_errors, lambda _: "likely label errors, least probable first", _of_label_errors
    ),
}

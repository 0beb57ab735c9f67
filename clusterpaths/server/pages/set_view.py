"""View of a set for pages.

Belongs here: the addresses of clusters and paths, and their colours. `sankey.py` has the data of the Sankey.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

from markupsafe import Markup

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import Routes
from clusterpaths.explore.routes import routes
from clusterpaths.naming.record import Name
from clusterpaths.naming.resolve import SetNames, names_of
from clusterpaths.server.addresses import api_url, encoded, pairs_of, query_of, set_url

COLOURS = 7  # of classes; the eighth colour of report.css is for all others
OTHER = 7
NO_CLASS = 8  # hatched: no class is known


class SetView:
    """View of a set with its names. Colour encodes classes: the most frequent ones have one each, others are grey."""

    def __init__(self, index: SetIndex, names: SetNames) -> None:
        self.summary, self.names = index.summary, names
        self.layers = tuple(index.layers)
        self.n = index.summary.num_examples
        self.has_images = bool(index.summary.dataset)
        self.has_distances = index.distances is not None
        self.url = set_url(index.summary)
        self.routes: Routes = routes(index)
        self._steps: dict[tuple[str, int, int, bool], str] = {}

    @cached_property
    def base_rates(self) -> dict[str, float]:
        """Shares of the classes among all examples: the marks on a group's bars."""
        return {one.name: one.share for one in self.routes.classes}

    @cached_property
    def colours(self) -> tuple[tuple[int, ...], ...]:
        """The colour of each cluster's majority class, else one of its number: colours[layer][cluster]."""
        if self.routes.source is None:
            return tuple(tuple(c % 8 for c in range(self.summary.k_per_layer[layer])) for layer in self.layers)
        found: dict[str, list[int]] = {layer: [] for layer in self.layers}
        for info in self.routes.clusters:  # by layer, then number
            found[info.layer].append(self.colour(info.majority.name) if info.majority else NO_CLASS)
        return tuple(tuple(found[layer]) for layer in self.layers)

    @cached_property
    def _class_colours(self) -> dict[str, int]:
        return {one.name: min(place, OTHER) for place, one in enumerate(self.routes.classes)}

    def colour(self, name: str | None) -> int:
        """Of a class, by name; None: no class is known."""
        return NO_CLASS if name is None else self._class_colours.get(name, OTHER)

    def cluster_colour(self, layer: int, cluster: int) -> int:
        """The colour of a cluster; NO_CLASS for an invalid one."""
        row = self.colours[layer] if layer < len(self.colours) else ()
        return row[cluster] if 0 <= cluster < len(row) else NO_CLASS

    def steps(self, macro: Callable[..., str], path: Sequence[int], other: Sequence[int] | None = None) -> Markup:
        """Render each step of a path by a macro (view, layer, cluster, differs), once per cluster.

        `differs`: the step differs from that of the path `other`.
        """
        name: str = macro.name  # type: ignore[attr-defined]
        found = []
        for layer, cluster in enumerate(path):
            key = name, layer, cluster, other is not None and other[layer] != cluster
            if key not in self._steps:
                self._steps[key] = macro(self, *key[1:])
            found.append(self._steps[key])
        return Markup("".join(found))

    def cluster_name(self, layer: str | int, cluster: int) -> str:
        """Text of a cluster's name; empty where it has none."""
        return self.names.cluster(layer, cluster).text

    def path_name(self, path: Sequence[int]) -> Name:
        """The name of a path: its own, or those of its clusters read as words."""
        return self.names.path(path)

    def cluster_url(self, layer: str | int, cluster: int) -> str:
        name = self.layers[layer] if isinstance(layer, int) else layer
        return f"{self.url}/clusters/{encoded(name)}/{cluster}"

    def path_url(self, path: Sequence[int]) -> str:
        return f"{self.url}/paths/{'-'.join(map(str, path))}"

    def paths_url(self, order: str = "common", page: int = 1) -> str:
        query = {k: v for k, v in (("order", order), ("page", page)) if v not in ("common", 1)}
        return f"{self.url}/paths" + (f"?{urlencode(query)}" if query else "")

    def example_url(self, example: int, query: str = "") -> str:
        """`query`: of the list that it is shown in; see `pages/lists.py`."""
        return f"{self.url}/examples/{example}{query}"

    def ask_url(self, **fields: Any) -> str:
        """The ask page with these filters; see `explore.records.Question`."""
        return f"{self.url}/ask{query_of(pairs_of(fields))}"

    def csv_url(self, **fields: Any) -> str:
        """The selected examples as a CSV file."""
        return f"{api_url(self.summary)}/examples.csv{query_of(pairs_of(fields))}"


_views: WeakKeyDictionary[SetIndex, SetView] = WeakKeyDictionary()


def set_view(index: SetIndex) -> SetView:
    """The view of a set, cached as long as the set and its names are unchanged."""
    found, names = _views.get(index), names_of(index)
    if found is None or found.names.version != names.version:
        found = _views[index] = SetView(index, names)
    return found

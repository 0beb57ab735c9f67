"""View of a set for pages.

Belongs here: the addresses of clusters and paths, and their colours. `sankey.py` has the data of the Sankey.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from clusterpaths.common.lru import LRUCache
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import Routes
from clusterpaths.explore.routes import routes
from clusterpaths.naming.record import Name
from clusterpaths.naming.resolve import SetNames, names_of
from clusterpaths.report.colours import Colours, numbered
from clusterpaths.server.addresses import api_url, encoded, pairs_of, query_of, set_url


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
        self.palette = Colours(self.routes)
        self._steps: dict[tuple[str, int, int, bool], str] = {}

    @cached_property
    def base_rates(self) -> dict[str, float]:
        """Shares of the classes among all examples: the marks on a group's bars."""
        return {one.name: one.share for one in self.routes.classes}

    @property
    def colours(self) -> tuple[tuple[int, ...], ...]:
        """The colour of each cluster's majority class, else one of its number: colours[layer][cluster]."""
        return self.palette.clusters

    def colour(self, name: str | None) -> int:
        """Of a class, by name; None: no class is known."""
        return self.palette.of_class(name)

    def cluster_colour(self, layer: int, cluster: int) -> int:
        """The colour of a cluster; that of no class for an invalid one."""
        return self.palette.of_cluster(layer, cluster)

    def cluster_marks(self, layer: int, cluster: int) -> str:
        """Classes of a cluster's chip in report.css: the colour of its class, and that and the pattern of its number."""
        return f"f{self.cluster_colour(layer, cluster)} {numbered(cluster)}"

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
        return Markup("".join(found))  # noqa: S704 - results of a macro, which escapes

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

    def alike_url(self, example: int, depth: float = 0.0, query: str = "") -> str:
        """The examples nearest to one, at a depth from 0 to 1; see `explore/alike.py`. `query`: as of `example_url`."""
        fields = [*([f"depth={depth:.4g}"] if depth else []), *([query.removeprefix("?")] if query else [])]
        return f"{self.example_url(example)}/alike" + ("?" if fields else "") + "&".join(fields)

    def ask_url(self, **fields: Any) -> str:
        """The ask page with these filters; see `explore.records.Question`."""
        return f"{self.url}/ask{query_of(pairs_of(fields))}"

    def map_url(self, **fields: Any) -> str:
        """The map with these filters; `layer`: the one that is shown large."""
        return f"{self.url}/map{query_of(pairs_of(fields))}"

    def csv_url(self, **fields: Any) -> str:
        """The selected examples as a CSV file."""
        return f"{api_url(self.summary)}/examples.csv{query_of(pairs_of(fields))}"


def set_view(index: SetIndex) -> SetView:
    """The view of a set, cached as long as the set and its names are unchanged.

    By the index itself: a dictionary of views with weak keys would hold every index, as a view's names refer to it.
    """
    names = names_of(index)
    views: LRUCache[SetView] = index.once("view", lambda: LRUCache(1))
    return views.get("view", lambda: SetView(index, names), version=names.version)

"""Colours of classes and clusters, the same in the explorer, report.html, comparison.html, explanation.html and notebooks.

Belongs here: which number of the palette a class or a cluster has. `report.css` turns numbers into colours (.f0 to .f8), and
draws clusters by number and pattern instead (.g0 to .g7, .p0 to .p4) where a reader chose that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from clusterpaths.comparison.record import Comparison
from clusterpaths.explore.records import ClassShare, Routes

CLASSES = 7  # the most frequent ones have a colour each; the eighth is that of all others
OTHER = 7
NO_CLASS = 8  # no class is known
NUMBERS = 8  # colours of clusters by number
PATTERNS = 5  # with 8 colours: 40 clusters that differ in colour or pattern

# Okabe and Ito's palette, then grey for no class: --f0 to --f7 and --lab of report.css
PALETTE = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00", "#9a9a9a", "#7b8694")

# (side 0 or 1, layer, cluster there) -> number of the palette
ColourOf = Callable[[int, str, int], int]


class Colours:
    """Of one set. A cluster has the colour of its most frequent class; where no class is known, one by its number."""

    def __init__(self, routes: Routes) -> None:
        self.known = routes.source is not None
        self._routes = routes
        self._places = {one.name: min(place, OTHER) for place, one in enumerate(routes.classes)}

    @property
    def key(self) -> tuple[tuple[str, int, float], ...]:
        """Name, colour and share among all examples of each class that has a colour of its own."""
        return tuple((one.name, place, one.share) for place, one in enumerate(self._routes.classes[:CLASSES]))

    @property
    def others(self) -> int:
        """Number of the other classes."""
        return max(len(self._routes.classes) - CLASSES, 0)

    def of_class(self, name: str | None) -> int:
        """By name; None: no class is known."""
        return NO_CLASS if name is None else self._places.get(name, OTHER)

    def of_majority(self, majority: ClassShare | None, cluster: int) -> int:
        """Of examples by their most frequent class; `cluster`: where they are or come from."""
        if not self.known:
            return cluster % NUMBERS
        return self.of_class(majority.name if majority else None)

    def of_cluster(self, layer: int, cluster: int) -> int:
        """By the layer's position; NO_CLASS for an invalid one."""
        row = self.clusters[layer] if layer < len(self.clusters) else ()
        return row[cluster] if 0 <= cluster < len(row) else NO_CLASS

    def of_band(self, layer: int, source: int, target: int) -> int:
        """Of the examples that go from a cluster to one of the next layer."""
        return self._bands[layer, source, target]

    @cached_property
    def clusters(self) -> tuple[tuple[int, ...], ...]:
        """Of all clusters: clusters[layer][cluster]."""
        found: dict[str, list[int]] = {layer: [] for layer in self._routes.layers}
        for info in self._routes.clusters:  # by layer, then number
            found[info.layer].append(self.of_majority(info.majority, info.cluster))
        return tuple(tuple(row) for row in found.values())

    @cached_property
    def _bands(self) -> dict[tuple[int, int, int], int]:
        at = {layer: place for place, layer in enumerate(self._routes.layers)}
        majorities = {(at[one.layer], one.cluster, one.next_cluster): one.majority for one in self._routes.transitions}
        # a band whose class is not known has the colour of the cluster that it leaves
        return {
            key: self.of_cluster(*key[:2]) if majority is None else self.of_majority(majority, key[1])
            for key, majority in majorities.items()
        }


def numbered(cluster: int) -> str:
    """Classes of a cluster's colour and pattern by its number: "g3 p1"."""
    return f"g{cluster % NUMBERS} p{cluster % PATTERNS}"


def of_comparison(comparison: Comparison, classes: Sequence[str]) -> ColourOf | None:
    """Colours of both sides' clusters; None where no class is known.

    Args:
        comparison: of the two sets.
        classes: by name, in the order of their colours: those of the page's set, so that a class has one colour on a page.
    """
    if not comparison.classes:
        return None
    places = {name: min(place, OTHER) for place, name in enumerate(classes)}
    majorities = {one.layer: (one.majority_first, one.majority_second) for one in comparison.layers}

    def colour(side: int, layer: str, cluster: int) -> int:
        row = majorities[layer][side]
        name = row[cluster] if cluster < len(row) else None
        return NO_CLASS if name is None else places.get(name, OTHER)

    return colour

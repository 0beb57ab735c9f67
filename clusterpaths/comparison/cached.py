"""Comparisons of two sets in memory: computed once, and cached while both sets are unchanged.

Belongs here: the cache of comparisons, and which two sets can be compared. `compare.py` computes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clusterpaths.common.lru import LRUCache
from clusterpaths.comparison.record import Comparison
from clusterpaths.errors import ConfigError
from clusterpaths.sets.published import PublishedSet

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex

CACHED = 16  # comparisons of some 100 kB each
_comparisons: LRUCache[Comparison] = LRUCache(CACHED)


def compare_cached(first: SetIndex, second: SetIndex) -> Comparison:
    """What changed from the first set to the second; about a second at 200,000 examples, then from memory.

    Raises:
        ConfigError: the same set twice, a set without a record, or no layer in common.
        DatasetError: not the same images.
        CacheError: a set that cannot be read.
    """
    if first.folder == second.folder:
        raise ConfigError(
            f"{_name(first)} was given twice. Expected two different sets; choose another for one of them."
        )
    sources = []
    for index in (first, second):
        if isinstance(index.source, PublishedSet):
            sources.append(index.source)
        else:
            raise ConfigError(
                f"{_name(index)} cannot be compared: another program made it, and it does not record its model and "
                "images. Expected two sets that ClusterPaths made; choose another."
            )
    if not set(first.layers) & set(second.layers):
        raise ConfigError(
            f"{_name(first)} and {_name(second)} have no layer in common: {', '.join(first.layers)} and "
            f"{', '.join(second.layers)}. Expected sets that share at least one layer by name; choose others, or cluster "
            "the same layers in both."
        )
    key = (str(first.folder), first.summary.version, str(second.folder), second.summary.version)

    def compare() -> Comparison:
        from clusterpaths.comparison.compare import compare_sets  # imports scipy

        return compare_sets(*sources)

    return _comparisons.get(key, compare)


def _name(index: SetIndex) -> str:
    return f"{index.summary.model}/{index.summary.set}"

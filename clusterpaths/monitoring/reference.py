"""A published set as the reference that windows are compared with."""

from __future__ import annotations

from clusterpaths.monitoring.verdict import Routes
from clusterpaths.sets.published import PublishedSet


def reference_routes(published: PublishedSet) -> Routes:
    """The set's examples, with the OOD scores they would have if each were held out: centroids were fitted on them.

    Raises:
        CacheError: the set's files are missing or corrupted.
    """
    return Routes(published.clusters, published.held_out_scores, published.predictions)

"""Which points a set's maps show: the first two components, or those that UMAP makes of all 16.

Belongs here: umap.parquet of a published set. It replaces the points and nothing else of the maps, and removing it brings back
those of before: so it takes no activations, and the set stays the same. The arithmetic is `clustering/layout.py`.
"""

from __future__ import annotations

import logging
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.fit_sample import draw_ids
from clusterpaths.clustering import layout
from clusterpaths.common.extras import has_umap, require_umap
from clusterpaths.errors import CacheError
from clusterpaths.records import MapMethod
from clusterpaths.sets.maps import MAPS, POINTS, MapRecord, Maps, UmapRecord, digest_of, made_of, write_points
from clusterpaths.sets.published import PublishedSet

log = logging.getLogger(__name__)


def shown_method(published: PublishedSet) -> MapMethod:
    """What the set's points were made by, whether they can be read or not."""
    return "umap" if published.file(POINTS).is_file() else "pca"


def pending_method(published: PublishedSet, wanted: MapMethod | None) -> MapMethod | None:
    """What `show_points` still has to be called with; None: the points are as wanted.

    Args:
        published: a set with maps.
        wanted: None: what the set has.
    """
    shown = shown_method(published)
    if wanted != "pca" and shown == "umap":
        if _complete(published):
            return None
        if wanted is None and not has_umap():
            log.warning(
                "%s does not fit the set's maps, and umap-learn, which would make it again, is not installed: the map is by PCA "
                "again. Run with --map umap where the extra umap is installed.",
                published.path / POINTS,
            )
            return "pca"
        return "umap"
    return wanted if wanted and wanted != shown else None


def show_points(published: PublishedSet, method: MapMethod) -> None:
    """Make the set's points those of a method; safe to repeat, and atomic: a single document comes or goes.

    Raises:
        CacheError: the maps cannot be read.
        ConfigError: umap-learn is not installed.
        DiskError: no room or no permission.
    """
    if method == "pca":
        published.folder.remove(POINTS)
        return
    require_umap(f"The UMAP map of {published.name}")
    maps = {layer: _points(published, layer) for layer in published.layers}
    with published.folder.write(POINTS) as path:
        write_points(path, maps, digest_of(published.file(MAPS)))


def fitted_layout(published: PublishedSet, layer: str) -> layout.Layout:
    """UMAP of a layer whose points were made by it, to place further rows.

    Raises:
        CacheError: the maps cannot be read.
    """
    maps = published.require_maps()
    umap = maps.records[layer].umap
    if umap is None:
        raise CacheError(
            f"{published.file(POINTS)} does not say how the points of layer {layer} were made. Run again with --map umap."
        )
    sample = _sample(published, umap.sample)
    rows, first = np.unique(maps.components(layer)[sample] + np.float32(0), axis=0, return_index=True)
    return layout.Layout(rows, maps.points(layer)[sample][first])


def _points(published: PublishedSet, layer: str) -> tuple[MapRecord, NDArray[np.float32]]:
    maps, seed = Maps(published.file(MAPS), published.layers, published.num_examples), published.record.seed
    record, components = maps.records[layer], maps.components(layer)
    fitted = layout.fit_layout(components[_sample(published, layout.SAMPLE)], seed)
    if fitted is None:
        log.info(
            "%s: UMAP needs more than %d examples that differ in two components: its map stays PCA",
            layer,
            layout.NEIGHBOURS,
        )
        return record, maps.points(layer)
    log.info(
        "%s: UMAP fitted on %s examples; the others are placed by their neighbours", layer, f"{len(fitted.rows):,}"
    )
    umap = UmapRecord(
        sample=layout.SAMPLE,
        neighbours=layout.NEIGHBOURS,
        min_dist=layout.MIN_DIST,
        seed=seed,
        version=version("umap-learn"),
    )
    return record.model_copy(update={"method": "umap", "umap": umap}), fitted.place(components)


def _sample(published: PublishedSet, size: int) -> NDArray[np.int64]:
    """Positions (m,) of the examples that UMAP is fitted on."""
    return np.searchsorted(published.ids, draw_ids(published.ids, size))


def _complete(published: PublishedSet) -> bool:
    """Whether umap.parquet can be read and is of the set's maps."""
    if made_of(published.file(POINTS)) != digest_of(published.file(MAPS)):
        return False
    try:
        maps = published.require_maps()
        for layer in maps.layers:
            maps.points(layer)
    except CacheError:
        return False
    return True

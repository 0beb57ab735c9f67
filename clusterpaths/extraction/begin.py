"""Starting a planned extraction: the manifest, room for the rows, and removal of old results.

Belongs here: changes to an entire cache. One shard is `extract.py`; what is to be extracted is `plan.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from clusterpaths.cache.examples import EXAMPLES, PARTS
from clusterpaths.cache.manifest import (
    CLUSTERINGS,
    MANIFEST,
    PIXELS,
    ShardRecord,
    as_planned,
    change_manifest,
    read_manifest,
    require_manifest,
    update_shards,
    write_manifest,
)
from clusterpaths.cache.pixels import open_stored
from clusterpaths.cache.stores import open_store
from clusterpaths.cache.zarr_layout import slots
from clusterpaths.errors import CacheError
from clusterpaths.extraction.plan import ExtractionPlan
from clusterpaths.storage import Storage


def begin_extraction(plan: ExtractionPlan) -> None:
    """Write the planned manifest and make room for the shards' rows; with refresh, remove the old cache first.

    Raises:
        DiskError: the directory cannot be written.
    """
    directory = plan.storage
    directory.make()
    store = open_stored(directory, plan.manifest)
    if plan.refresh:
        remove_cache(directory)
        # left by a killed refresh, or by a cache whose manifest cannot be parsed
        for name in (PIXELS, *plan.manifest.layers):
            directory.remove_tree(name)
    write_manifest(directory, plan.manifest, plan.version)
    store.reserve(_rows(plan.manifest.shards))


def remove_cache(directory: Storage) -> None:
    """Remove the activations (or pixels) of a cache and all that describes them; its sets stay."""
    try:
        stored = read_manifest(directory)
    except CacheError:  # its message advises --refresh
        stored = None
    directory.remove(MANIFEST)  # first: without it nothing counts as recorded
    directory.remove(EXAMPLES)
    for made_of_them in (PARTS, CLUSTERINGS):
        directory.remove_tree(made_of_them)
    if stored is not None:
        open_stored(directory, stored).remove()


def widen_layers(directory: Storage, layers: list[str]) -> tuple[int, ...]:
    """Store these layers as float32 from now on; returns the shards to extract again, all of them."""
    manifest = require_manifest(directory)
    open_store(directory, manifest.format, {name: manifest.layers[name] for name in layers}).remove()
    wider = {
        name: layer.model_copy(update={"dtype": "float32"}) if name in layers else layer
        for name, layer in manifest.layers.items()
    }
    shards = tuple(as_planned(shard) for shard in manifest.shards)
    change_manifest(directory, lambda now: now.model_copy(update={"layers": wider, "shards": shards}))
    open_store(directory, manifest.format, wider).reserve(_rows(shards))
    return tuple(shard.index for shard in shards)


def mark_missing(directory: Storage, index: int) -> None:
    """Mark a corrupted shard as missing; the next plan extracts it again."""
    manifest = read_manifest(directory)
    for shard in manifest.shards if manifest else ():
        if shard.index == index:
            update_shards(directory, as_planned(shard))


def _rows(shards: Iterable[ShardRecord]) -> int:
    """Of a zarr array that holds all of them."""
    return max((shard.start + slots(len(shard.planned_ids())) for shard in shards), default=0)

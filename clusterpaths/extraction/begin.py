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
    SAMPLE,
    SHARDS,
    Manifest,
    ShardRecord,
    as_planned,
    change_manifest,
    forget_shard,
    read_manifest,
    require_manifest,
    write_manifest,
)
from clusterpaths.cache.pixels import open_stored
from clusterpaths.cache.registry import write_registry
from clusterpaths.cache.zarr_layout import slots
from clusterpaths.errors import CacheError
from clusterpaths.extraction.plan import ExtractionPlan
from clusterpaths.storage import Storage


def begin_extraction(plan: ExtractionPlan) -> None:
    """Write the registry and the planned manifest, and make room for the shards' rows; with refresh, remove the old cache first.

    Raises:
        DiskError: the directory cannot be written.
    """
    directory = plan.storage
    directory.make()
    store = open_stored(directory, plan.manifest)
    write_registry(
        directory, plan.registry
    )  # first: a shard's ids mean nothing without it, and refresh removes digests
    if plan.refresh:
        remove_cache(directory)
        # left by a killed refresh, or by a cache whose manifest cannot be parsed
        for name in (PIXELS, *plan.manifest.layers):
            directory.remove_tree(name)
    if not directory.exists(MANIFEST):
        directory.remove_tree(SHARDS)  # left by a run whose manifest is gone
    write_manifest(directory, plan.manifest, plan.version)
    directory.remove_tree(SHARDS)  # the plan's manifest has these records
    store.reserve(_rows(plan.manifest.shards))


def remove_cache(directory: Storage, *, stored_rows: bool = True) -> None:
    """Remove the activations (or pixels) of a cache and all that describes them; its sets and ids stay.

    `stored_rows`: False keeps the activations themselves.
    """
    try:
        stored = read_manifest(directory)
    except CacheError:  # its message advises --refresh
        stored = None
    directory.remove(MANIFEST)  # first: without it nothing counts as recorded
    directory.remove(EXAMPLES)
    for made_of_them in (SHARDS, PARTS, CLUSTERINGS, SAMPLE):
        directory.remove_tree(made_of_them)
    if stored is not None and stored_rows:
        open_stored(directory, stored).remove()


def widen_layers(directory: Storage, layers: list[str]) -> Manifest:
    """Store these layers as float32 from now on; the manifest, of which all shards are to be extracted again."""
    manifest = require_manifest(directory)
    narrow = {name: manifest.layers[name] for name in layers}
    open_stored(directory, manifest.model_copy(update={"layers": narrow})).remove()
    wider = {
        name: layer.model_copy(update={"dtype": "float32"}) if name in layers else layer
        for name, layer in manifest.layers.items()
    }
    shards = tuple(as_planned(shard) for shard in manifest.shards)
    widened = change_manifest(directory, lambda now: now.model_copy(update={"layers": wider, "shards": shards}))
    directory.remove_tree(SHARDS)
    open_stored(directory, widened).reserve(_rows(shards))
    return widened


def mark_missing(directory: Storage, index: int) -> None:
    """Mark a corrupted shard as missing; the next plan extracts it again."""
    forget_shard(directory, index)
    if (directory / SAMPLE).exists(MANIFEST):
        forget_shard(directory / SAMPLE, index)


def _rows(shards: Iterable[ShardRecord]) -> int:
    """Of a zarr array that holds all of them."""
    return max((shard.start + slots(len(shard.planned_ids())) for shard in shards), default=0)

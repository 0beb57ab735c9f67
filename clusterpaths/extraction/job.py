"""Everything that the work on a shard needs, on any machine."""

from __future__ import annotations

from clusterpaths.cache.manifest import CacheIdentity
from clusterpaths.records import CacheDtype, DatasetSpec, ModelRecord, Preprocessing
from clusterpaths.storage import StoredRecord


class ExtractionJob(StoredRecord):
    """Settings of an extraction."""

    model: ModelRecord
    dataset: DatasetSpec
    preprocessing: Preprocessing
    cache: CacheIdentity
    batch_size: int
    max_failed: int
    dataset_fingerprint: str = ""
    registry: str = ""  # its version: which files the ids of shards stand for

    @property
    def dtypes(self) -> dict[str, CacheDtype]:
        """Layer -> dtype of its activations in the cache."""
        return {layer: record.dtype for layer, record in self.cache.layers.items()}

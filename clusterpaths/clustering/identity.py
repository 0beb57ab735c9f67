"""The identity of a set: everything that its result depends on, and nothing else.

Belongs here: the fingerprints of a set and of one layer's clustering. Batch size, workers and the cache's format
do not change the result and are no part of it.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import LayerRecord, parse_ids, require_manifest
from clusterpaths.config import RunConfig
from clusterpaths.errors import ConfigError
from clusterpaths.extraction.finish import ExtractionRecord
from clusterpaths.extraction.plan import require_enough
from clusterpaths.records import Distance, ModelRecord, Preprocessing, Record, fingerprint
from clusterpaths.storage import Storage

# Raised when the algorithm changes, so that an old result is not reused.
ALGORITHM = 2


class SetIdentity(Record):
    """The identity of a set."""

    algorithm: int = ALGORITHM
    model: str = Field(description="sha256")
    dataset: str
    examples: str = Field(description="sha256 over id, file and size of every example")
    num_examples: int
    preprocessing: Preprocessing
    layers: dict[str, LayerRecord]
    k_per_layer: dict[str, int]
    distance: Distance
    seed: int

    def fingerprint(self) -> str:
        """64 hex digits."""
        return fingerprint(self.model_dump(mode="json"))

    def layer_fingerprint(self, layer: str) -> str:
        """The identity of one layer's clustering: independent of other layers."""
        one = {"layers": {layer: self.layers[layer]}, "k_per_layer": {layer: self.k_per_layer[layer]}}
        return self.model_copy(update=one).fingerprint()


def identify(config: RunConfig, model: ModelRecord, extraction: ExtractionRecord) -> SetIdentity:
    """The identity of the set that a run makes of a finished extraction.

    Raises:
        ConfigError: fewer examples than clusters, or settings that are still to be chosen.
    """
    if config.distance == "auto" or config.chooses:
        raise ConfigError("k or distance is still auto. Call choose_settings first, and ask with what it returns.")
    directory = extraction.storage
    manifest = require_manifest(directory)
    k_per_layer = config.k_per_layer(model.layers)
    require_enough(extraction.num_examples, k_per_layer)
    return SetIdentity(
        model=manifest.model.sha256,
        dataset=manifest.dataset,
        examples=_digest(directory, parse_ids(extraction.ids)),
        num_examples=extraction.num_examples,
        preprocessing=manifest.preprocessing.model_copy(
            update={"name": ""}
        ),  # the numbers matter, not the preset's name
        layers={layer: manifest.layers[layer] for layer in model.layers},
        k_per_layer=k_per_layer,
        distance=config.distance,
        seed=config.seed,
    )


def _digest(directory: Storage, ids: NDArray[np.int64]) -> str:
    examples = read_examples(directory, ["id", "file", "size"])
    wanted = np.isin(examples["id"].to_numpy(), ids)
    rows = zip(*(examples[name].to_pylist() for name in ("id", "file", "size")), strict=True)
    digest = hashlib.sha256()
    for keep, row in zip(wanted, rows, strict=True):
        if keep:
            digest.update(f"{row[0]}\t{row[1]}\t{row[2]}\n".encode())
    return digest.hexdigest()

"""What a set answers: everything that its result depends on, and nothing else.

Belongs here: the fingerprints of a whole set and of one layer's clustering. Batch size, workers and the cache's format
are how a result is made; they are no part of it.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import LayerRecord, parse_ids, require_manifest
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering.choice import Choice
from clusterpaths.clustering.choose import choose
from clusterpaths.config import RunConfig
from clusterpaths.errors import ClusterPathsError, ConfigError
from clusterpaths.extraction.plan import ExtractionRecord, require_enough
from clusterpaths.records import Distance, ModelRecord, Preprocessing, Record, fingerprint
from clusterpaths.storage import Storage

# Raised when the algorithm changes, so that an old result is not taken for a new one.
ALGORITHM = 2


class Question(Record):
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
        """The identity of one layer's clustering: other layers play no part in it."""
        one = {"layers": {layer: self.layers[layer]}, "k_per_layer": {layer: self.k_per_layer[layer]}}
        return self.model_copy(update=one).fingerprint()


def choose_settings(
    config: RunConfig, model: ModelRecord, extraction: ExtractionRecord
) -> tuple[RunConfig, Choice | None]:
    """The run with numbers for every "auto", and how they were chosen; None where all was given.

    Raises:
        ConfigError: too few examples to choose by.
        DamagedShardError: bytes on disk cannot be read, or, of shards that are read whole, are not those that were
            written. The sample of a large data set has but single rows of a shard; clustering then finds the damage.
    """
    if not config.chooses:
        return config, None
    directory, ids = extraction.storage, parse_ids(extraction.ids)
    examples = read_examples(directory, ["id", "prediction"])
    predictions = examples["prediction"].to_numpy()[np.isin(examples["id"].to_numpy(), ids)]
    rows = {layer: LayerRows(directory, layer, ids) for layer in model.layers}
    try:
        choice = choose(rows, predictions, k=config.asked_k(model.layers), distance=config.distance, seed=config.seed)
    except ClusterPathsError:
        raise
    except Exception:
        for each in rows.values():
            for _ in each.blocks():  # NaN in damaged bytes is met before their checksum is; then this says so
                pass
        raise
    k = ",".join(f"{layer}={number}" for layer, number in choice.k_per_layer.items())
    return config.model_copy(update={"k": k, "distance": choice.distance}), choice


def ask(config: RunConfig, model: ModelRecord, extraction: ExtractionRecord) -> Question:
    """The question that a run asks of a finished extraction.

    Raises:
        ConfigError: fewer examples than clusters, or settings that are still to be chosen.
    """
    if config.distance == "auto" or config.chooses:
        raise ConfigError("k or distance is still auto. Call choose_settings first, and ask with what it returns.")
    directory = extraction.storage
    manifest = require_manifest(directory)
    k_per_layer = config.k_per_layer(model.layers)
    require_enough(extraction.num_examples, k_per_layer)
    return Question(
        model=manifest.model.sha256,
        dataset=manifest.dataset,
        examples=_digest(directory, parse_ids(extraction.ids)),
        num_examples=extraction.num_examples,
        preprocessing=manifest.preprocessing.model_copy(update={"name": ""}),  # numbers count, not what they are called
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

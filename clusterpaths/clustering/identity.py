"""The identity of a set: everything that its result depends on, and nothing else.

Belongs here: the fingerprints of a set and of one layer's fit. Batch size, workers and the cache's format
do not change the result and are no part of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.cache.examples import ATTRIBUTE, read_examples
from clusterpaths.cache.extracted import ExtractionRecord
from clusterpaths.cache.fit_sample import draw_ids, fit_size
from clusterpaths.cache.manifest import LayerRecord, require_manifest
from clusterpaths.cache.predictions import kind_of_predictions
from clusterpaths.cache.registry import attribute_names, class_names, require_registry
from clusterpaths.config import RunConfig
from clusterpaths.errors import ConfigError
from clusterpaths.models.class_names import GIVEN
from clusterpaths.records import Distance, ModelRecord, Preprocessing, Record, fingerprint
from clusterpaths.storage import Storage

# Raised when the algorithm changes, so that an old result is not reused.
ALGORITHM = 3


class FitIdentity(Record):
    """The identity of the fits of all layers: of their centroids."""

    algorithm: int = ALGORITHM
    model: str = Field(description="sha256")
    dataset: str
    preprocessing: Preprocessing
    layers: dict[str, LayerRecord]
    k_per_layer: dict[str, int]
    distance: Distance
    seed: int
    fit: Literal["sample", "all"] = Field(description="whether layers are fitted on a sample of many examples")
    fitted_on: dict[str, str] = Field(description="layer -> sha256 over id and content of the examples it is fitted on")
    outputs: str = Field(
        default="",
        description="kind of the model's output where predictions are not the largest score's index; part of a set",
    )
    class_names: tuple[str, ...] = Field(default=(), description="those that were named with a file; part of a set")

    def fingerprint(self) -> str:
        """64 hex digits."""
        unset = {name for name in ("outputs", "class_names") if not getattr(self, name)}  # as before there were these
        return fingerprint(self.model_dump(mode="json", exclude={"fit", *unset}))

    def layer_fingerprint(self, layer: str) -> str:
        """The identity of one layer's fit: independent of other layers, and of examples that it is not fitted on."""
        own = FitIdentity(
            **{name: getattr(self, name) for name in FitIdentity.model_fields}
            | {name: {layer: getattr(self, name)[layer]} for name in ("layers", "k_per_layer", "fitted_on")}
            | {"outputs": "", "class_names": ()}
        )
        return own.fingerprint()

    def fit_ids(self, layer: str, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of these (n,) ascending ids, those that a layer is fitted on."""
        return ids if self.fit == "all" else draw_ids(ids, fit_size(self.k_per_layer[layer]))


class SetIdentity(FitIdentity):
    """The identity of a set."""

    examples: str = Field(description="sha256 over id and content of every example")
    described: str = Field(description="sha256 over what the data set says of them: file, split, label, attributes")
    num_examples: int


def identify_fits(config: RunConfig, model: ModelRecord, sample: ExtractionRecord) -> FitIdentity:
    """The identity of the fits that a run makes of the sample's examples.

    Raises:
        ConfigError: fewer examples than clusters, or settings that are still to be chosen.
    """
    if config.distance == "auto" or config.chooses:
        raise ConfigError("k or distance is still auto. Call choose_settings first, and identify with what it returns.")
    manifest = require_manifest(sample.storage)
    k_per_layer = config.k_per_layer(model.layers)
    require_enough(sample.num_examples, k_per_layer)
    identity = FitIdentity(
        model=manifest.model.sha256,
        dataset=manifest.dataset,
        preprocessing=manifest.preprocessing.model_copy(
            update={"name": ""}
        ),  # the numbers matter, not the preset's name
        layers={layer: manifest.layers[layer] for layer in model.layers},
        k_per_layer=k_per_layer,
        distance=config.distance,
        seed=config.seed,
        fit=config.fit,
        fitted_on={},
        outputs=kind_of_predictions(model.outputs),
        class_names=model.outputs.class_names if model.outputs.class_names_source == GIVEN else (),
    )
    ids = sample.example_ids()
    chosen = {layer: identity.fit_ids(layer, ids) for layer in model.layers}
    of_size = {len(own): own for own in chosen.values()}  # samples of one size are equal
    digests = {size: _digest(sample.storage, own) for size, own in of_size.items()}
    return identity.model_copy(update={"fitted_on": {layer: digests[len(own)] for layer, own in chosen.items()}})


def identify(fits: FitIdentity, extraction: ExtractionRecord) -> SetIdentity:
    """The identity of the set of all examples that are assigned to these fits, as the data set describes them now."""
    ids = extraction.example_ids()
    return SetIdentity(
        **dict(fits),
        examples=_digest(extraction.storage, ids),
        described=_digest_of_descriptions(extraction.storage, ids),
        num_examples=extraction.num_examples,
    )


def require_enough(examples: int, k_per_layer: dict[str, int]) -> None:
    """Raises:
    ConfigError: fewer examples than clusters in some layer.
    """
    layer, k = max(k_per_layer.items(), key=lambda item: item[1])
    if examples < k:
        raise ConfigError(
            f"{examples} examples cannot make {k} clusters (layer {layer}): expected at least as many examples as "
            f"clusters. Take more examples (--subset, --split), or fewer clusters with --k {examples or 1}."
        )


def _digest(directory: Storage, ids: NDArray[np.int64]) -> str:
    """Of contents: their digests, or sizes where a version from before digests read them."""
    examples = read_examples(directory, ["id", "size", "digest"])
    examples = examples.filter(np.isin(examples["id"].to_numpy(), ids))
    content = pc.coalesce(pc.cast(examples["digest"], "string"), pc.cast(examples["size"], "string"))
    return str(_hash(pa.table({"id": examples["id"], "content": content})).hexdigest())


def _digest_of_descriptions(directory: Storage, ids: NDArray[np.int64]) -> str:
    registry = require_registry(directory)
    described = registry.filter(np.isin(registry["id"].to_numpy(), ids))
    names = attribute_names(registry)
    digest = _hash(described.select(["id", "file", "split", "label"]))
    digest.update(json.dumps([class_names(registry), names], ensure_ascii=False).encode())
    for name in names:
        digest.update(described[f"{ATTRIBUTE}{name}"].to_numpy().tobytes())
    return str(digest.hexdigest())


def _hash(table: pa.Table) -> Any:
    """SHA-256 of its rows as lines of text."""
    digest = hashlib.sha256()
    for rows in table.to_batches(1 << 16):  # a text of all of them would take memory that grows with their number
        columns = [pc.cast(column, "string") for column in rows.columns]
        lines = pc.binary_join_element_wise(*columns, "\t")
        digest.update("".join(f"{line}\n" for line in lines.to_pylist()).encode())
    return digest

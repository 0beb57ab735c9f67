"""What the first batch shows: the model's output and layers, and how an image becomes the model's input.

Belongs here: from a batch to the records of the model and the preprocessing. What is stored is `collection.py`'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clusterpaths.config import RunConfig
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.errors import ConfigError
from clusterpaths.models.outputs import NO_LOGITS
from clusterpaths.preprocessing.prepare import NO_PREPROCESSING
from clusterpaths.pytorch import examples, layers, outputs, transforms
from clusterpaths.pytorch.batches import Batch
from clusterpaths.pytorch.network import Network, Seen, as_numpy
from clusterpaths.pytorch.session import Takes
from clusterpaths.records import ModelRecord, Preprocessing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What `collect` was asked for; see there."""

    layers: tuple[str, ...]
    output: str | int | None = None
    reduce: str = "auto"
    class_names: tuple[str, ...] | None = None
    preprocessing: Any = None
    images: bool = True


def describe_model(
    network: Network, digest: str, asked: Asked, config: RunConfig, first: Batch
) -> tuple[ModelRecord, list[Seen]]:
    """The model's record, with the layers that were asked for; and what one forward pass showed of its modules.

    Raises:
        ConfigError: k of a layer that is not among them.
        ModelError: no such layer or output.
    """
    if network.module.training:
        log.warning(
            "The model is in training mode. It runs in evaluation mode here (dropout off, batch norm with its stored "
            "statistics), and is in training mode again afterwards."
        )
    seen, output = network.look(first.inputs)
    found = outputs.find_outputs(output, len(first), asked.output, config.output_kind, _class_names(network, asked))
    if found.name is None and asked.output != NO_LOGITS:
        log.warning("No class scores: %s. Name them with output=…, if the model has some.", found.reason)
    chosen = layers.choose(network, seen, len(first), asked.layers, outputs.shape_of(found, output))
    taps = layers.make_taps(chosen, seen, network, asked.reduce)
    names = tuple(tap.layer for tap in taps)
    config.k_per_layer(names)
    log.info("%s: layers %s; outputs: %s", network.name, ", ".join(names), found.text())
    model = ModelRecord(
        path="",
        sha256=digest,
        external={},
        input="" if first.image is None else first.image[0],
        batch=None,
        size=NO_PREPROCESSING.size if first.image is None else tuple(first.image[1].shape[2:]),
        outputs=found,
        taps=taps,
        preprocessing=None,
    )
    return model, seen


def _class_names(network: Network, asked: Asked) -> tuple[tuple[str, ...], str]:
    if asked.class_names is not None:
        return asked.class_names, outputs.GIVEN
    names = outputs.names_in_config(network.module)
    return names, "the model's configuration" if names else ""


def find_preprocessing(
    asked: Asked, dataset: Any, files: examples.Files | None, first: Batch
) -> tuple[Preprocessing, str]:
    """How an image becomes the model's input, where that is known and holds for the first batch; else why it is not known.

    Raises:
        ConfigError: the one that was given makes something else of the images than the loader does.
    """
    if first.image is None:
        return NO_PREPROCESSING, ""
    images = as_numpy(first.image[1]).astype(np.float32)
    size = (int(images.shape[2]), int(images.shape[3]))
    given = transforms.read_preprocessing(asked.preprocessing, size)
    found = given or transforms.of_transform(examples.transform_of(dataset), size)
    pictures = None
    if files is not None:
        pictures = [open_rgb(Path(files.root) / name) for name in files.names[: len(first)]]
    elif found is None:
        found = transforms.of_values(images)
    if found is None:
        why = "the data set's transform is none of the usual ones"
    else:
        differs = transforms.difference(images, pictures, found)
        if differs <= (transforms.CLOSE if pictures is None else transforms.CLOSE_FILES):
            return found, ""
        why = f"what it makes of the images differs from the loader's tensors by up to {differs:.3g} of 255"
        if given is not None:
            raise ConfigError(f"preprocessing is not that of the loader: {why}. Correct it, or leave it out.")
    return NO_PREPROCESSING, (
        f"How an image becomes the model's input is not known ({why}): perturbed images and explanations of new images are left "
        "out. Name it with preprocessing=…"
    )


def how_images_go_in(network: Network, model: ModelRecord, first: Batch) -> Takes | None:
    """How images alone go into the model; None where it takes more than them."""
    if first.image is None or isinstance(first.inputs, (tuple, list)):
        return None
    key, tensor = first.image
    if isinstance(first.inputs, dict) and len(first.inputs) > 1 and not _ignores_the_rest(network, model, first):
        return None
    return Takes(key, tensor.dtype, tensor.shape[1])


def _ignores_the_rest(network: Network, model: ModelRecord, first: Batch) -> bool:
    """Whether the model computes the same without what is beside the images in a batch, such as their ids."""
    assert first.image is not None
    key, tensor = first.image
    try:
        alone = network.run({key: tensor}, ())
    except Exception:  # noqa: BLE001 - whatever a model does without an input that it needs
        return False
    both = [outputs.scores(model.outputs, output, len(first)) for output in (network.run(first.inputs, ()), alone)]
    return both[0] is not None and both[1] is not None and np.allclose(both[0], both[1], rtol=1e-3, atol=1e-4)

"""`cp.export_onnx`: a PyTorch model and its layers as one ONNX file, for everything that takes a file.

Belongs here: torch's exporter with the layers as outputs, the file's metadata, and the check that the file computes the same.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.extras import require_extra
from clusterpaths.errors import ConfigError, ModelError
from clusterpaths.models.check import LAYERS_KEY, TORCH_KEY
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.models.feed import PREPROCESSING_KEY
from clusterpaths.models.names import SCOPES_KEY
from clusterpaths.pytorch import layers as find
from clusterpaths.pytorch import outputs, transforms
from clusterpaths.pytorch.batches import parse
from clusterpaths.pytorch.network import Network, as_numpy
from clusterpaths.pytorch.values import find_tensor, tensors
from clusterpaths.records import Preprocessing
from clusterpaths.storage.atomic import atomic_write
from clusterpaths.training.export_network import strip_traces

OPSET = 18
ROUNDING = 1e-3  # of the largest value: what two runtimes may differ by
LARGEST_FILE = (1 << 31) - 1  # protobuf's limit


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX file of a PyTorch model; `os.fspath` gives its path.

    Attributes:
        path: of the file.
        layers: that it has as outputs, which `run` takes if none are named.
        output: with the class scores; None: there is none.
        difference: the largest between ONNX Runtime's outputs and torch's on the example, as a share of each one's largest value.
        examples: on how many examples they were compared.
    """

    path: Path
    layers: tuple[str, ...]
    output: str | None
    difference: float
    examples: int

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return (
            f"ExportedModel({str(self.path)!r}, layers={list(self.layers)}, output={self.output!r}): ONNX Runtime's outputs "
            f"equal torch's on {self.examples} examples up to {self.difference:.1e} of their largest value"
        )


def export_onnx(
    model: Any,
    example_input: Any,
    path: str | os.PathLike[str],
    *,
    layers: str | Sequence[str] = "auto",
    output: str | int | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Any = None,
) -> ExportedModel:
    """Write a PyTorch model with its layers as one ONNX file, and check that ONNX Runtime computes the same with it.

        exported = cp.export_onnx(model, x, "mine.onnx", layers=["layer3", "avgpool"], preprocessing="imagenet")
        paths = cp.run(model=exported, data="photos/")

    A set that `collect` made of the same weights and layers is explained with this file, too.

    Args:
        model: torch.nn.Module; it stays where it is, in its mode.
        example_input: a batch of images, (n, 3, height, width), of at least two examples; (tensor, labels) and dicts as of
            `collect`.
        path: of the file; written atomically.
        layers: as of `collect`.
        output: as of `collect`.
        class_names: of the predictions; those of a transformers model's configuration, if left out.
        preprocessing: how an image becomes the input: a record, its fields, or a preset, at the example's size.

    Raises:
        ConfigError: torch's exporter is not installed, or arguments that cannot be used.
        ModelError: as `collect`; the exporter cannot convert the model; or the file computes something else.
        DiskError: no room or no permission.
    """
    require_extra("export_onnx()", "torch", "torch", "onnxscript")
    network, place = Network(model), Path(path).expanduser().absolute()
    first = parse(example_input)
    if first.image is None or len(first) < 2:
        raise ConfigError(
            "example_input should be a batch of at least two images, (n, 3, height, width): of a batch of one the exporter "
            f"takes the 1 for fixed; got {[tuple(tensor.shape) for _, tensor in tensors(first.inputs)]}."
        )
    names = (tuple(class_names), outputs.GIVEN) if class_names else (outputs.names_in_config(network.module), "")
    seen, found = network.look(first.inputs)
    described = outputs.find_outputs(found, len(first), output, None, names)
    asked = (layers,) if isinstance(layers, str) else tuple(layers)
    chosen = find.choose(network, seen, len(first), asked, outputs.shape_of(described, found))
    taps = find.make_taps(chosen, seen, network, "none")
    size = (int(first.image[1].shape[2]), int(first.image[1].shape[3]))
    prepared = transforms.read_preprocessing(preprocessing, size)
    wrapped = _with_layers(network, {tap.layer: tap.tensor for tap in taps}, described.name, first.inputs)
    key, image = first.image
    expected = {
        name: as_numpy(value.float()) for name, value in zip(wrapped.names, _run(network, wrapped, image), strict=True)
    }
    content = _exported(
        network, wrapped, image, key or "input", _metadata(network, taps, prepared, described.class_names)
    )
    differs = _compare(content, key or "input", as_numpy(image), expected)
    atomic_write(place, content)
    return ExportedModel(place, tuple(tap.layer for tap in taps), described.name, differs, len(first))


def _metadata(
    network: Network, taps: Sequence[Any], prepared: Preprocessing | None, class_names: tuple[str, ...]
) -> dict[str, str]:
    metadata = {
        LAYERS_KEY: json.dumps({tap.layer: tap.tensor for tap in taps}, ensure_ascii=False),
        TORCH_KEY: network.digest(),
    }
    if prepared is not None:
        metadata[PREPROCESSING_KEY] = prepared.model_dump_json()
    if class_names:
        metadata[CLASSES_KEY] = json.dumps(list(class_names), ensure_ascii=False)
    return metadata


def _with_layers(network: Network, layers: Mapping[str, str], scores: str | None, inputs: Any) -> Any:
    """A module whose forward returns the class scores and the layers, each under its name in `names`."""
    import torch

    key = next(iter(inputs)) if isinstance(inputs, Mapping) else ""

    class WithLayers(torch.nn.Module):  # type: ignore[misc]  # torch's types are not followed
        names = tuple([scores] if scores else []) + tuple(layers.values())

        def __init__(self) -> None:
            super().__init__()
            self.model = network.module

        def forward(self, x: Any) -> tuple[Any, ...]:
            kept: dict[str, Any] = {}

            def keep(name: str, value: Any) -> None:
                kept[name] = find_tensor(value).clone()  # what follows may be computed in place

            def after(name: str) -> Any:
                return lambda module, args, kwargs, output: keep(name, output)  # noqa: ARG005 - torch's names

            def before(name: str) -> Any:
                return lambda module, args, kwargs: keep(name, [*args, *kwargs.values()])  # noqa: ARG005

            handles = []
            for name in layers.values():
                module = network.modules[name.removesuffix(find.INPUT)]
                if name.endswith(find.INPUT):
                    handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
                else:
                    handles.append(module.register_forward_hook(after(name), with_kwargs=True))
            try:
                output = self.model(**{key: x}) if key else self.model(x)
            finally:
                for handle in handles:
                    handle.remove()
            found = {name or outputs.LOGITS: tensor for name, tensor in tensors(output)}
            return (*([found[scores]] if scores else []), *(kept[name] for name in layers.values()))

    return WithLayers()


def _run(network: Network, wrapped: Any, image: Any) -> Any:
    import torch

    with network.evaluating(), torch.no_grad():
        return wrapped(image.to(network.device))


def _exported(network: Network, wrapped: Any, image: Any, name: str, metadata: dict[str, str]) -> bytes:
    """The file's bytes, weights inside, for any batch."""
    import onnx
    import torch

    shape = ({0: torch.export.Dim("batch")},)
    with network.evaluating(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            program: Any = torch.onnx.export(
                wrapped,
                (image.to(network.device),),
                input_names=[name],
                output_names=list(wrapped.names),
                opset_version=OPSET,
                dynamic_shapes=shape,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            raise ModelError(
                f"torch's exporter cannot convert {network.name} to ONNX: {_first_line(error)}. Its documentation "
                "(torch.onnx.export, dynamo=True) says what it supports; without a file, clusterpaths.collect works on the model "
                "itself."
            ) from error
    proto = program.model_proto
    strip_traces(proto, SCOPES_KEY)
    onnx.helper.set_model_props(proto, metadata)
    if proto.ByteSize() > LARGEST_FILE:
        raise ModelError(f"{network.name} has {proto.ByteSize():,} bytes as ONNX, and one file holds {LARGEST_FILE:,}.")
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else ''}"


def _compare(content: bytes, name: str, image: NDArray[Any], expected: Mapping[str, NDArray[np.float32]]) -> float:
    """The largest difference of an output from torch's, as a share of its largest value.

    Raises:
        ModelError: more than rounding.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    computed = session.run(list(expected), {name: image})
    largest = 0.0
    for (output, wanted), found in zip(expected.items(), computed, strict=True):
        scale = max(float(np.abs(wanted).max()), 1e-6)
        differs = float(np.abs(found.astype(np.float32) - wanted).max()) / scale
        if not differs <= ROUNDING:
            raise ModelError(
                f"The exported file does not compute the same as the model: {output} differs by up to {differs:.3g} of its "
                f"largest value on the example, expected rounding only ({ROUNDING:g}). Nothing was written. A model in half "
                "precision is best exported in float32 (model.float())."
            )
        largest = max(largest, differs)
    return largest

"""Running a model with its taps: the instrumented graph in an ONNX Runtime session.

Belongs here: adding outputs and casts to the graph in memory, and batches in, activations out. The model file is
never changed, and weights in external files are mapped, not copied into the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from clusterpaths.errors import ModelError
from clusterpaths.models.external import reference_files
from clusterpaths.models.reduce import add_reduction
from clusterpaths.records import CacheDtype, ModelRecord, Tap

_ELEM_TYPES = {"float16": onnx.TensorProto.FLOAT16, "float32": onnx.TensorProto.FLOAT}


@dataclass(frozen=True)
class Outputs:
    """Outputs for a batch of n images.

    Attributes:
        layers: layer -> (n, *shape) of float32 or float16, C-contiguous.
        logits: (n, classes) float32, or None where the model has no class scores.
    """

    layers: Mapping[str, NDArray[Any]]
    logits: NDArray[np.float32] | None


class TapSession:
    """One session; create one per worker thread.

    Args:
        model: what `check_model` found.
        dtypes: layer -> "float16" or "float32". float16 is converted by a Cast behind the tap:
            ONNX Runtime does that at 12 to 15 GB/s where numpy does 0.6.
        threads: of one run. One, with one session per worker, scales better on few cores than many in one session.
    """

    def __init__(self, model: ModelRecord, dtypes: Mapping[str, CacheDtype] | None = None, threads: int = 1) -> None:
        self.model = model
        graph, tensors = _instrument(model, dtypes or {})
        self._layers = [tap.layer for tap in model.taps]
        self._names = [tensors[layer] for layer in self._layers] + ([model.logits] if model.logits else [])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        reference_files(graph, model.external, options)
        try:
            self._session = onnxruntime.InferenceSession(
                graph.SerializeToString(), options, providers=list(model.providers)
            )
        except Exception as error:
            raise ModelError(_cannot_load(model.path, _first_line(error))) from error
        self.providers: list[str] = self._session.get_providers()  # those that were actually started

    def run(self, images: NDArray[np.float32]) -> Outputs:
        """Run (n, 3, height, width) float32, regardless of the model's own type and layout.

        Where the model's batch is fixed, in pieces of it, the last one padded.
        """
        fixed = self.model.batch
        if fixed is None or len(images) == fixed:
            return self._run(images)
        pieces = []
        for start in range(0, len(images), fixed):
            piece = images[start : start + fixed]
            missing = fixed - len(piece)
            padded = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)]) if missing else piece
            pieces.append((self._run(np.ascontiguousarray(padded)), len(piece)))
        return Outputs(
            {layer: np.concatenate([out.layers[layer][:n] for out, n in pieces]) for layer in self._layers},
            np.concatenate([out.logits[:n] for out, n in pieces if out.logits is not None])
            if self.model.logits
            else None,
        )

    def run_blank(self) -> Outputs:
        """Run one mid-grey batch: returns shapes, and checks that the model runs."""
        height, width = self.model.size
        return self.run(np.full((self.model.batch or 1, 3, height, width), 0.5, np.float32))

    def _run(self, images: NDArray[np.float32]) -> Outputs:
        try:
            values = self._session.run(self._names, {self.model.input: self._as_input(images)})
        except Exception as error:
            raise ModelError(
                f"{self.model.path} cannot be run on a batch of shape {images.shape}: {_first_line(error)}. "
                "If the model expects another image size, name it with --size HEIGHTxWIDTH."
            ) from error
        for layer, value in zip(self._layers, values, strict=False):
            if value.ndim < 2 or len(value) != len(images):
                raise ModelError(
                    f"Layer {layer} of {self.model.path} outputs shape {value.shape} for {len(images)} images. "
                    "Expected one row per image. Leave it out with --layers."
                )
        logits = np.asarray(values[-1], np.float32) if self.model.logits else None
        return Outputs(dict(zip(self._layers, values, strict=False)), logits)

    def _as_input(self, images: NDArray[np.float32]) -> NDArray[Any]:
        if self.model.layout == "NHWC":
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        if self.model.input_type == "uint8":
            return np.clip(np.rint(images), 0, 255).astype(np.uint8)
        return images.astype(self.model.input_type, copy=False)


def _instrument(model: ModelRecord, dtypes: Mapping[str, CacheDtype]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The graph with every tap, reduced and cast where requested, among its outputs; and each layer's output name."""
    proto = onnx.load(model.path, load_external_data=False)
    graph = proto.graph
    outputs = {output.name for output in graph.output}
    names: dict[str, str] = {}
    for tap in model.taps:
        name = add_tap(proto, tap, dtypes.get(tap.layer, "float32"))
        if name not in outputs:
            graph.output.append(onnx.ValueInfoProto(name=name))  # ONNX Runtime infers the type
            outputs.add(name)
        names[tap.layer] = name
    return proto, names


def add_tap(model: onnx.ModelProto, tap: Tap, dtype: str) -> str:
    """Append the nodes that reduce a tap's tensor and give it this type; returns the name of the result.

    A tap that was never run is left as it is: its type is not known.
    """
    name, has = tap.tensor, tap.dtype
    if not has:
        return name
    if tap.reduce != "none":
        if not has.startswith("float"):
            name, has = _cast(model.graph, name, "float32"), "float32"  # a mean of quantized values is not defined
        name = add_reduction(model, name, tap.reduce, tap.full_shape)
    return name if has == dtype else _cast(model.graph, name, dtype)


def _cast(graph: onnx.GraphProto, tensor: str, dtype: str) -> str:
    name = f"{tensor}__{dtype}"
    if not any(name in node.output for node in graph.node):
        graph.node.append(onnx.helper.make_node("Cast", [tensor], [name], to=_ELEM_TYPES[dtype]))
    return name


def _cannot_load(path: str, reason: str) -> str:
    what_to_do = "Check it with onnx.checker.check_model, or export it again."
    if "opset" in reason.lower() and "support" in reason.lower():
        what_to_do = "Export it again for an older opset, or install a newer onnxruntime."
    elif "is not a registered function/op" in reason or "No Op registered" in reason:
        what_to_do = (
            "It uses an operator of its own. Expected ONNX's own operators only: export it again without that one."
        )
    return f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {reason}. {what_to_do}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")

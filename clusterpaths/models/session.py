"""Running a model with its taps: the instrumented graph in an ONNX Runtime session.

Belongs here: adding outputs and casts to the graph in memory, and batches in, activations out. The model file is
never changed, and weights in external files are mapped, not copied into the graph.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from clusterpaths.errors import ModelError
from clusterpaths.models.dequantise import add_dequantisation
from clusterpaths.models.external import reference_files
from clusterpaths.models.feed import as_input
from clusterpaths.models.load import load_proto
from clusterpaths.models.mapped import LEAST_FILE
from clusterpaths.models.outputs import as_rows
from clusterpaths.models.products import (
    Products,
    ProductSession,
    Values,
    add_products,
    join_products,
    one_thread_options,
    products_of,
)
from clusterpaths.models.reduce import add_reduction
from clusterpaths.records import CacheDtype, ModelRecord, Tap

CPU = "CPUExecutionProvider"
# Of the images of a batch: a larger batch is run in pieces. A ViT-B/16, of 0.6 MB per image, takes 400 MB for 32 images at a
# time and 210 MB for 8, and no more time; an image's values are the same to the bit. Which layers are tapped does not matter:
# the values of a cache would depend on it in the last bit, where kernels differ by the size of a batch.
PIECE = 8 << 20  # bytes
_ELEM_TYPES = {"float16": onnx.TensorProto.FLOAT16, "float32": onnx.TensorProto.FLOAT}


@dataclass(frozen=True)
class Outputs:
    """Outputs for a batch of n images.

    Attributes:
        layers: layer -> (n, *shape) of float32 or float16, C-contiguous; empty where they are not kept.
        logits: (n, width) float32: the raw rows that `models.outputs.decide` reads; None where the model has no such output.
        products: layer -> what its assignment needs; empty where that was not asked for.
    """

    layers: Mapping[str, NDArray[Any]]
    logits: NDArray[np.float32] | None
    products: Mapping[str, Products] = field(default_factory=dict)


class WeightFiles:
    """The files that a session maps its weights from, as they were when it was opened."""

    def __init__(self, model: ModelRecord) -> None:
        self._model = model
        self._found = self._states()

    def require_unchanged(self) -> None:
        """Check that what was just computed is of the model that was opened.

        A file that is replaced by another one stays as it was for the session; one that is written over is another model.

        Raises:
            ModelError: one was written over.
        """
        for path, (file, state) in self._states().items():
            before = self._found.get(path)
            if before and before[0] == file and before[1] != state:
                raise ModelError(
                    f"{path} was written over while it was in use: what is computed from here on is of another model. Expected "
                    "the file that the run began with. Write models to another name and rename them, and run again."
                )

    def _states(self) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
        found = {}
        for path in (self._model.path, *self._model.external.values()):
            with contextlib.suppress(OSError):  # removed: the session still has it
                status = Path(path).stat()
                if path == self._model.path and status.st_size < LEAST_FILE:
                    continue  # it was read
                found[path] = (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)
        return found


class TapSession:
    """One session. Thread-safe: several workers share one, and with it the weights.

    Args:
        model: what `check_model` found.
        dtypes: layer -> "float16" or "float32". float16 is converted by a Cast behind the tap:
            ONNX Runtime does that at 12 to 15 GB/s where numpy does 0.6.
        centroids: layer -> (k, width) float32 or float64: squared lengths of every layer's rows, and these layers' products
            with the centroids, are computed too (`products.py`); None: neither.
        keep: whether activations are among the outputs. Where they are not, they never leave the runtime.
        threads: of one run. One, with several workers, scales better on few cores than many in one run.
        axes: layer -> (d, width): these layers' products with them are computed, too, where they have centroids.
    """

    def __init__(
        self,
        model: ModelRecord,
        dtypes: Mapping[str, CacheDtype] | None = None,
        centroids: Mapping[str, Values] | None = None,
        keep: bool = True,
        threads: int = 1,
        axes: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.model = model
        self._layers = [tap.layer for tap in model.taps]
        self._weights = WeightFiles(model)
        proto = load_proto(model.path)
        dtypes = {layer: (dtypes or {}).get(layer, "float32") for layer in self._layers}
        taps = {tap.layer: add_tap(proto, tap, dtypes[tap.layer]) for tap in model.taps}
        self._products: dict[str, list[str]] = {}
        self._after: dict[str, ProductSession] = {}
        if centroids is not None:
            for tap in model.taps:
                layer, width = tap.layer, math.prod(tap.shape)
                own, along = centroids.get(layer), (axes or {}).get(layer)
                if set(model.providers) == {CPU}:
                    self._products[layer] = add_products(proto, layer, taps[layer], dtypes[layer], width, own, along)
                else:  # another device adds up in another order
                    self._after[layer] = ProductSession(width, dtypes[layer], own, along)
        self._keep = keep
        self._taps = list(taps.values()) if keep or self._after else []
        products = [name for names in self._products.values() for name in names]
        self._names = [*self._taps, *products, *([model.logits] if model.logits else [])]
        outputs = {output.name for output in proto.graph.output}
        # ONNX Runtime infers their types
        proto.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in dict.fromkeys(self._names) if name not in outputs
        )
        self._session = open_session(proto, model, threads)
        self.providers: list[str] = self._session.get_providers()  # those that were actually started
        # ONNX Runtime's documentation of DirectML: one thread at a time may run a session
        self._turn = threading.Lock() if "DmlExecutionProvider" in self.providers else contextlib.nullcontext()

    def run(self, images: NDArray[np.float32]) -> Outputs:
        """Run (n, 3, height, width) float32, regardless of the model's own type and layout.

        Where the model's batch is fixed, in pieces of it, the last one padded; else in equal pieces of limited size.
        """
        fixed = self.model.batch
        most = fixed or self._most(images)
        if len(images) == most or (fixed is None and len(images) < most):
            return self._run(images)
        size = fixed or -(-len(images) // -(-len(images) // most))
        pieces = []
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            missing = size - len(piece) if fixed else 0
            padded = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)]) if missing else piece
            pieces.append((self._run(np.ascontiguousarray(padded)), len(piece)))
        logits = [out.logits[:n] for out, n in pieces if out.logits is not None]
        return Outputs(
            {layer: np.concatenate([out.layers[layer][:n] for out, n in pieces]) for layer in pieces[0][0].layers},
            np.concatenate(logits) if logits else None,
            {
                layer: join_products([out.products[layer].first(n) for out, n in pieces])
                for layer in pieces[0][0].products
            },
        )

    def run_blank(self) -> Outputs:
        """Run one mid-grey batch: returns shapes, and checks that the model runs."""
        height, width = self.model.size
        return self.run(np.full((self.model.batch or 1, 3, height, width), 0.5, np.float32))

    def _most(self, images: NDArray[np.float32]) -> int:
        """Images in a piece. Other devices are made for large batches; a model that computes over a batch gets all of it."""
        if self.providers != [CPU] or self.model.joint:
            return len(images)
        return max(PIECE // (4 * math.prod(images.shape[1:])), 1)

    def _run(self, images: NDArray[np.float32]) -> Outputs:
        given = as_input(images, self.model.layout, self.model.input_type)
        with self._turn:
            values = run_session(self._session, self._names, {self.model.input: given}, self.model)
        self._weights.require_unchanged()
        layers = dict(zip(self._layers, values[: len(self._taps)], strict=False))
        for layer, value in layers.items():
            if value.ndim < 2 or len(value) != len(images):
                raise ModelError(
                    f"Layer {layer} of {self.model.path} outputs shape {value.shape} for {len(images)} images. "
                    "Expected one row per image. Leave it out with --layers."
                )
        products = self._products_of(layers, values[len(self._taps) :])
        logits = as_rows(self.model.outputs, values[-1], len(images)) if self.model.logits else None
        return Outputs(layers if self._keep else {}, logits, products)

    def _products_of(self, layers: Mapping[str, NDArray[Any]], values: list[NDArray[Any]]) -> dict[str, Products]:
        if self._after:
            return {layer: one.run(layers[layer].reshape(len(layers[layer]), -1)) for layer, one in self._after.items()}
        given, found = iter(values), {}
        for layer, names in self._products.items():
            found[layer] = products_of([next(given) for _ in names])
        return found


def open_session(proto: onnx.ModelProto, model: ModelRecord, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session of `proto`, which was made of this model's graph.

    Raises:
        ModelError: ONNX Runtime cannot load it.
    """
    options = one_thread_options()
    options.intra_op_num_threads = threads
    reference_files(proto, model.path, model.external, options)
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=list(model.providers))
    except Exception as error:
        raise ModelError(_cannot_load(model.path, runtime_message(error))) from error


def run_session(
    session: onnxruntime.InferenceSession, names: list[str], given: Mapping[str, NDArray[Any]], model: ModelRecord
) -> list[NDArray[Any]]:
    """Run it once.

    Raises:
        ModelError: it cannot be run on these inputs.
    """
    try:
        values: list[NDArray[Any]] = session.run(names, dict(given))
    except Exception as error:
        shapes = " and ".join(str(value.shape) for value in given.values())
        raise ModelError(
            f"{model.path} cannot be run on a batch of shape {shapes}: {runtime_message(error)}. "
            "If the model expects another image size, name it with --size HEIGHTxWIDTH."
        ) from error
    return values


def add_tap(model: onnx.ModelProto, tap: Tap, dtype: str) -> str:
    """Append the nodes that reduce a tap's tensor and give it this type; returns the name of the result.

    A tap that was never run is left as it is: its type is not known.
    """
    name, has = tap.tensor, tap.dtype
    if not has:
        return name
    if tap.dequantised:
        name, has = add_dequantisation(model, name), "float32"
    if tap.reduce != "none":
        if not has.startswith("float"):
            name, has = _cast(model.graph, name, "float32"), "float32"  # a mean of quantized values is not defined
        name = add_reduction(model, name, tap.reduce, tap.full_shape, tap.channels)
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


def runtime_message(error: BaseException) -> str:
    """All of ONNX Runtime's message: which size it got and which it expected is on its later lines."""
    return " ".join(str(error).split()).rstrip(".")

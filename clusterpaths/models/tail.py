"""A model cut at a layer: values of the layer go in, class scores come out.

Belongs here: the graph behind a layer, and running it. Which values are put in is `evaluation/shifts.py`'s.

The graph keeps what goes past the layer: the branch of a skip connection is computed from the image, as in the whole model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from clusterpaths.models.graph import read_by
from clusterpaths.models.load import load_proto
from clusterpaths.models.outputs import as_rows
from clusterpaths.models.session import as_input, open_session, run_session
from clusterpaths.records import ModelRecord, Tap

_ELEM_TYPES = {
    "float16": onnx.TensorProto.FLOAT16,
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
}
_RESULT = "clusterpaths.result"


def why_uncuttable(model: ModelRecord, tap: Tap) -> str:
    """Why the decision cannot be asked of this layer's values; empty where it can.

    Runs nothing; reads the graph.
    """
    if not model.outputs.has_scores or model.logits is None:
        return "the model has no class scores"
    if tap.dequantised or tap.dtype not in _ELEM_TYPES:
        return f"its values are {tap.dtype or 'of an unknown type'}, which no mean can be added to"
    proto = load_proto(model.path)
    if not cut(proto, tap, model.logits):
        return f"the class scores ({model.logits}) do not depend on it"
    return ""


def cut(model: onnx.ModelProto, tap: Tap, scores: str) -> bool:
    """Reduce a graph to what lies between a layer's tensor, which becomes an input, and the scores, its one output.

    Args:
        model: changed in place.
        tap: the layer.
        scores: the output with class scores.

    Returns:
        Whether the scores depend on the tensor; if not, the graph is left as it was.
    """
    graph = model.graph
    needed, kept = {scores}, set[int]()
    for at in range(len(graph.node) - 1, -1, -1):
        if needed.intersection(graph.node[at].output) - {tap.tensor}:
            kept.add(at)
            needed.update(read_by(graph.node[at]))
    if tap.tensor not in needed:
        return False
    _keep(graph.node, [at in kept for at in range(len(graph.node))])
    _keep(graph.initializer, [tensor.name in needed for tensor in graph.initializer])
    _keep(graph.sparse_initializer, [tensor.values.name in needed for tensor in graph.sparse_initializer])
    _keep(graph.input, [entry.name in needed for entry in graph.input])
    _keep(graph.value_info, [entry.name in needed and entry.name != tap.tensor for entry in graph.value_info])
    for node in graph.node:  # a Split that outputs the tensor beside others
        for at, name in enumerate(node.output):
            if name == tap.tensor:
                node.output[at] = f"{name}__uncut"
    shape = [None, *(tap.full_shape or tap.shape)]
    graph.input.append(onnx.helper.make_tensor_value_info(tap.tensor, _ELEM_TYPES[tap.dtype], shape))
    graph.node.append(onnx.helper.make_node("Identity", [scores], [_RESULT]))  # the layer may be the scores themselves
    del graph.output[:]
    graph.output.append(onnx.ValueInfoProto(name=_RESULT))
    return True


def _keep(entries: Any, wanted: list[bool]) -> None:
    """Delete all others in place: copies of weights would take their memory twice."""
    for at in range(len(entries) - 1, -1, -1):
        if not wanted[at]:
            del entries[at]


class TailSession:
    """The part of a model behind a layer; create one per worker thread.

    Args:
        model: what `check_model` found; with class scores.
        tap: of the layer, one that `why_uncuttable` has nothing against.

    Attributes:
        needs_images: whether a skip connection goes past the layer, so that the image is needed, too.
    """

    def __init__(self, model: ModelRecord, tap: Tap) -> None:
        assert model.logits is not None
        self._model, self._tap = model, tap
        proto = load_proto(model.path)
        if not cut(proto, tap, model.logits):
            raise ValueError(f"should be a layer that {model.logits} depends on, got {tap.layer}")
        self.needs_images = any(entry.name == model.input for entry in proto.graph.input)
        self._session = open_session(proto, model)

    def run(self, values: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows (n, width) of class scores, as `models.outputs.decide` reads them.

        Args:
            values: (n, *shape of the layer's tensor).
            images: (n, 3, height, width) that they are of; read only where `needs_images`.
        """
        fixed = self._model.batch or len(values)
        rows = [self._run(values[at : at + fixed], images[at : at + fixed]) for at in range(0, len(values), fixed)]
        return np.concatenate(rows)

    def _run(self, values: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.float32]:
        count, wanted = len(values), self._model.batch or len(values)
        given: dict[str, NDArray[Any]] = {self._tap.tensor: _padded(values, wanted).astype(self._tap.dtype, copy=False)}
        if self.needs_images:
            given[self._model.input] = as_input(self._model, _padded(images, wanted))
        (result,) = run_session(self._session, [_RESULT], given, self._model)
        return as_rows(self._model.outputs, result, wanted)[:count]


def _padded(rows: NDArray[Any], count: int) -> NDArray[Any]:
    missing = count - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else np.ascontiguousarray(rows)

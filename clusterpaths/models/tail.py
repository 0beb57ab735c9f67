"""A model cut at a layer: values of the layer go in, class scores come out.

Belongs here: the graph behind a layer, and running it. Which values are put in is `evaluation/shifts.py`'s.

The graph keeps what goes past the layer: the branch of a skip connection is computed from the image, as in the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from clusterpaths.models.feed import as_input
from clusterpaths.models.graph import read_by
from clusterpaths.models.load import load_proto
from clusterpaths.models.outputs import as_rows
from clusterpaths.models.session import Outputs, add_tap, open_session, run_session
from clusterpaths.records import CacheDtype, ModelRecord, Tap

_ELEM_TYPES = {
    "float16": onnx.TensorProto.FLOAT16,
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
}
RAW = "raw "  # a layer's name holds no space


def why_uncuttable(model: ModelRecord, tap: Tap) -> str:
    """Why the decision cannot be asked of this layer's values; empty where it can.

    Runs nothing; reads the graph.
    """
    if not model.outputs.has_scores:
        return "the model has no class scores"
    if not model.path:
        return ""  # a live model: values are put into it while it runs
    assert model.logits is not None  # where scores come from
    if tap.dequantised or tap.dtype not in _ELEM_TYPES:
        return f"its values are {tap.dtype or 'of an unknown type'}, which no mean can be added to"
    proto = load_proto(model.path)
    if not cut(proto, tap, [model.logits]):
        return f"the class scores ({model.logits}) do not depend on it"
    return ""


def cut(model: onnx.ModelProto, tap: Tap, wanted: Sequence[str]) -> bool:
    """Reduce a graph to what lies between a layer's tensor, which becomes an input, and these outputs.

    Args:
        model: changed in place.
        tap: the layer.
        wanted: names of tensors, the first of them with class scores.

    Returns:
        Whether the first one depends on the layer; if not, the graph is left as it was.
    """
    graph = model.graph
    if tap.tensor not in _needed(graph, tap.tensor, wanted[:1])[0]:
        return False
    needed, kept = _needed(graph, tap.tensor, wanted)
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
    results = [_result(at) for at in range(len(wanted))]
    # the layer may be the scores themselves
    graph.node.extend(onnx.helper.make_node("Identity", [a], [b]) for a, b in zip(wanted, results, strict=True))
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in results)
    return True


def _result(at: int) -> str:
    return f"clusterpaths.result.{at}"


def _needed(graph: onnx.GraphProto, start: str, wanted: Sequence[str]) -> tuple[set[str], set[int]]:
    """Tensors, and positions of nodes, that the wanted tensors depend on when `start` is given."""
    needed, kept = set(wanted), set[int]()
    for at in range(len(graph.node) - 1, -1, -1):
        if needed.intersection(graph.node[at].output) - {start}:
            kept.add(at)
            needed.update(read_by(graph.node[at]))
    return needed, kept


def _keep(entries: Any, wanted: list[bool]) -> None:
    """Delete all others in place: copies of weights would take their memory twice."""
    for at in range(len(entries) - 1, -1, -1):
        if not wanted[at]:
            del entries[at]


def weights_size(model: ModelRecord) -> int:
    """Bytes of its files."""
    return sum(Path(file).stat().st_size for file in (model.path, *model.external.values()))


def whole(tap: Tap) -> Tap:
    """A tap of the same tensor that is not reduced, as a tail takes it; its layer is named `raw LAYER`."""
    shape = tap.full_shape or tap.shape
    return tap.model_copy(update={"layer": RAW + tap.layer, "reduce": "none", "shape": shape})


class TailSession:
    """The part of a model behind a layer; create one per worker thread.

    Args:
        model: what `check_model` found; with class scores.
        tap: of the layer, one that `why_uncuttable` has nothing against.
        following: taps behind it, whose values are wanted, too.
        dtypes: layer -> "float16" or "float32" of those values.

    Attributes:
        needs_images: whether a skip connection goes past the layer, so that the image is needed, too.
    """

    def __init__(
        self,
        model: ModelRecord,
        tap: Tap,
        following: Sequence[Tap] = (),
        dtypes: Mapping[str, CacheDtype] | None = None,
    ) -> None:
        assert model.logits is not None
        self._model, self._tap = model, tap
        self._layers = [one.layer for one in following]
        proto = load_proto(model.path)
        taps = [add_tap(proto, one, (dtypes or {}).get(one.layer, "float32")) for one in following]
        if not cut(proto, tap, [model.logits, *taps]):
            raise ValueError(f"should be a layer that {model.logits} depends on, got {tap.layer}")
        self.needs_images = any(entry.name == model.input for entry in proto.graph.input)
        self._session = open_session(proto, model)

    def run(self, values: NDArray[np.float32], images: NDArray[np.float32]) -> Outputs:
        """Class scores, and values of the layers that follow.

        Args:
            values: (n, *shape of the layer's tensor).
            images: (n, 3, height, width) that they are of; read only where `needs_images`.
        """
        fixed = self._model.batch or max(len(values), 1)
        parts = [self._run(values[at : at + fixed], images[at : at + fixed]) for at in range(0, len(values), fixed)]
        scores, *following = (np.concatenate(one) for one in zip(*parts, strict=True))
        return Outputs(dict(zip(self._layers, following, strict=True)), scores)

    def _run(self, values: NDArray[np.float32], images: NDArray[np.float32]) -> list[NDArray[Any]]:
        count, wanted = len(values), self._model.batch or len(values)
        given: dict[str, NDArray[Any]] = {self._tap.tensor: _padded(values, wanted).astype(self._tap.dtype, copy=False)}
        if self.needs_images:
            given[self._model.input] = as_input(_padded(images, wanted), self._model.layout, self._model.input_type)
        names = [_result(at) for at in range(1 + len(self._layers))]
        scores, *following = run_session(self._session, names, given, self._model)
        return [one[:count] for one in (as_rows(self._model.outputs, scores, wanted), *following)]


def _padded(rows: NDArray[Any], count: int) -> NDArray[Any]:
    missing = count - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else np.ascontiguousarray(rows)

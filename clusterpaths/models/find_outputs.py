"""Which output of a graph holds the class scores, and of which kind they are.

Belongs here: a graph in, `ModelOutputs` out, with its reason: last operators, shape, type and name. What rows of each kind
mean, and the check on real rows, is `outputs.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from clusterpaths.errors import ConfigError, ModelError
from clusterpaths.models.class_names import GIVEN, METADATA
from clusterpaths.models.inputs import find_image_input
from clusterpaths.models.load import type_name
from clusterpaths.models.outputs import NO_LOGITS
from clusterpaths.models.shapes import whole_shapes
from clusterpaths.records import ModelOutputs, OutputKind

_SCORES = ("logit", "prob", "softmax", "score")
_WEAK = ("class", "pred")  # also in the names of other outputs
_FEATURES = ("embed", "feature", "pool", "hidden", "repr", "latent")
_PLACES = ("box", "bbox", "coord", "landmark", "keypoint", "anchor", "mask")
_FLOATS = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16,
}  # fmt: skip
# Operators that change the layout or the type of scores only.
_PASS_THROUGH = {
    "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout", "Transpose", "QuantizeLinear",
    "DequantizeLinear",
}  # fmt: skip

Dims = tuple[int | None, ...]
_OF_LAYERS = "has shape"


@dataclass(frozen=True)
class _Candidate:
    """An output in the layout of scores."""

    name: str
    layout: str
    width: int | None  # None: open


@dataclass(frozen=True)
class _Candidates:
    usable: tuple[_Candidate, ...]
    rejected: dict[str, str]  # output -> why it holds no scores

    def named(self, name: str) -> _Candidate | None:
        return next((one for one in self.usable if one.name == name), None)


def find_outputs(
    model: onnx.ModelProto,
    path: Path,
    asked: str | None = None,
    kind: OutputKind | None = None,
    class_names: tuple[tuple[str, ...], str] = ((), ""),
    size: tuple[int, int] = (64, 64),
) -> ModelOutputs:
    """The output that holds class scores, and what they are.

    Candidates are float outputs with one row of scores per image. Of several, one whose name says scores (logits,
    probabilities …); else one that is computed from the others, as class scores are from an embedding or from layers that
    were added as outputs. A name that says embedding or boxes is none of them.

    Args:
        model: as loaded from `path`.
        path: for weights in other files.
        asked: the name of an output to take, or "none".
        kind: overrules what the graph says; None: from the graph.
        class_names: names, and where they came from.
        size: (height, width) where the model leaves them open.

    Raises:
        ModelError: there is no such output, or it holds no scores.
    """
    if asked == NO_LOGITS or kind == "none":
        return ModelOutputs(reason="asked for")
    candidates = _candidates(model, path, size)
    makers = {output: node for node in model.graph.node for output in node.output}
    if asked is not None:
        chosen: _Candidate | None = _asked(model.graph, asked, candidates)
    else:
        chosen = _best(candidates.usable, makers)
    if chosen is None:
        reasons = [f"{name} {why}" for name, why in candidates.rejected.items()]
        reasons += [f"{one.name} is not class scores by its name" for one in candidates.usable]
        return ModelOutputs(reason="; ".join(reasons) or "the model has no output")
    given: tuple[OutputKind, str] | None = None if kind is None else (kind, "asked for")
    found, reason = given or _kind_of(chosen, makers)
    # layers that were added as outputs are not worth a word
    beside = [f"{name} ({why})" for name, why in candidates.rejected.items() if not why.startswith(_OF_LAYERS)]
    if beside and kind is None:
        reason += "; not taken: " + ", ".join(beside)
    return _described(chosen, found, reason, kind is not None, class_names)


def _described(
    chosen: _Candidate, kind: OutputKind, reason: str, asked: bool, class_names: tuple[tuple[str, ...], str]
) -> ModelOutputs:
    width = chosen.width or 0
    if kind in ("binary-logit", "binary-sigmoid") and width > 1:
        raise ModelError(
            f"The output {chosen.name!r} has {width} values per image; --output-kind {kind} is for one. Choose logits, "
            "probabilities or multi-label."
        )
    classes = {"values": 0, "binary-logit": 2, "binary-sigmoid": 2}.get(kind, width)
    names, source = class_names
    if source == GIVEN and classes and len(names) != classes:
        raise ConfigError(
            f"{GIVEN} names {len(names):,} classes, and the output {chosen.name!r} has {classes:,}. Expected a name for each."
        )
    if source != METADATA and len(names) != classes:  # a file beside the model may be another model's
        names, source = (), ""
    return ModelOutputs(
        name=chosen.name,
        kind=kind,
        layout=chosen.layout,
        classes=classes,
        reason=reason,
        asked=asked,
        class_names=names,
        class_names_source=source,
    )


def _candidates(model: onnx.ModelProto, path: Path, size: tuple[int, int]) -> _Candidates:
    """The outputs in the layout of scores, and why the others are none."""
    floats, rejected = [], {}
    for output in model.graph.output:
        tensor = output.type.tensor_type
        if not output.type.HasField("tensor_type"):
            rejected[output.name] = "is no tensor"
        elif tensor.elem_type not in _FLOATS:
            values = type_name(tensor.elem_type).lower()
            rejected[output.name] = f"holds {values} values, not scores"
        else:
            floats.append(output)
    batch = find_image_input(model, path).batch
    images, shapes = whole_shapes(model, path, [output.name for output in floats], size)
    usable = []
    for output in floats:
        dims: Dims = shapes.get(output.name) or _declared(output, images)
        if images > 1 and len(dims) > 1 and dims[0] == 1:  # frozen by an exporter: such a model runs on one image
            dims = (images, *dims[1:])
        layout = _layout(dims, images, batch)
        if layout is None:
            rejected[output.name] = _why_no_scores(dims, images)
        else:
            usable.append(_Candidate(output.name, *layout))
    return _Candidates(tuple(usable), rejected)


def _declared(output: onnx.ValueInfoProto, images: int) -> Dims:
    """The shape that the file declares, its first axis taken for the batch."""
    tensor = output.type.tensor_type
    if not tensor.HasField("shape"):
        return images, None
    dims = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    return (dims[0] or images, *dims[1:]) if dims else ()


def _layout(dims: Dims, images: int, batch: int | None) -> tuple[str, int | None] | None:
    """The layout in words and the number of scores; None for another shape."""
    if len(dims) == 1 and batch == 1 and dims[0] != 1:
        return "(C)", dims[0]  # a batch of 1, squeezed
    if not dims or dims[0] != images:
        return None
    if len(dims) == 1:
        return "(N)", 1
    axes = [axis for axis, size in enumerate(dims[1:], 1) if size != 1]
    if len(axes) > 1:
        return None
    at = axes[0] if axes else 1
    text = ", ".join("C" if axis in axes else "1" for axis in range(1, len(dims)))
    return f"(N, {text})", dims[at]


def _why_no_scores(dims: Dims, images: int) -> str:
    shape = "x".join("?" if size is None else str(size) for size in dims)
    if dims and dims[0] != images:
        return f"has {dims[0]} rows for {images} images, not one per image"
    return f"{_OF_LAYERS} {shape} for {images} images, not one row of scores each"


def _best(usable: Sequence[_Candidate], makers: Mapping[str, onnx.NodeProto]) -> _Candidate | None:
    possible = [one for one in usable if not _says(one.name, _PLACES)]
    possible = [one for one in possible if _says(one.name, _SCORES) or not _says(one.name, _FEATURES)]
    for words in (_SCORES, _WEAK):
        if named := [one for one in possible if _says(one.name, words)]:
            return named[0]
    before = {one.name: _ancestors(one.name, makers) for one in possible}
    last = [one for one in possible if not any(one.name in names for names in before.values())]
    return max(last, key=lambda one: len(before[one.name] & set(before)), default=None)  # the first of equals


def _asked(graph: onnx.GraphProto, asked: str, candidates: _Candidates) -> _Candidate:
    if found := candidates.named(asked):
        return found
    names = [str(output.name) for output in graph.output]
    if asked in names:
        axes = len(graph.output[names.index(asked)].type.tensor_type.shape.dim)
        why = candidates.rejected[asked]
        raise ModelError(
            f"The output {asked!r} does not hold class scores: it has {axes} axes ({why}), expected (batch, classes). "
            f"Outputs of that shape: {', '.join(one.name for one in candidates.usable) or 'none'}. Name one with --logits, "
            "or --logits none."
        )
    near = difflib.get_close_matches(asked, names, n=3)
    raise ModelError(
        f"The model has no output {asked!r}. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + f"Its outputs are {', '.join(names)}. Name one with --logits, or --logits none for a model without class scores."
    )


def _kind_of(chosen: _Candidate, makers: Mapping[str, onnx.NodeProto]) -> tuple[OutputKind, str]:
    """The kind by the last operator, else by the number of values and the name; and the reason."""
    node = _last_operator(chosen.name, makers)
    operator = node.op_type if node is not None else ""
    one = chosen.width == 1
    if operator == "LogSoftmax" or (node is not None and _is_log_of_softmax(node, makers)):
        return "log-probabilities", f"the graph ends in {'LogSoftmax' if operator == 'LogSoftmax' else 'Log(Softmax)'}"
    if (operator == "Softmax" or (node is not None and _is_spelt_out_softmax(node, makers))) and not one:
        return "probabilities", "the graph ends in Softmax"
    if operator in ("Sigmoid", "HardSigmoid"):
        if one:
            return "binary-sigmoid", f"the graph ends in one {operator}"
        return "multi-label", f"the graph ends in {chosen.width or 'several'} {operator} values"
    if operator == "LpNormalization":
        return "values", "the graph ends in LpNormalization: an embedding"
    if one and "logit" in chosen.name.lower():
        return "binary-logit", "one value per image, which its name says is a logit"
    if one and "prob" in chosen.name.lower():
        return "binary-sigmoid", "one value per image, which its name says is a probability"
    if one:
        return (
            "values",
            "one value per image without a Sigmoid: a regression (--output-kind binary-logit for a classifier)",
        )
    return "logits", f"the graph ends in {operator or 'an input'}, without Softmax or Sigmoid"


def _last_operator(tensor: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node that computes an output's values."""
    node = makers.get(tensor)
    while node is not None and node.op_type in _PASS_THROUGH and node.input[0] in makers:
        node = makers[node.input[0]]
    return node


def _is_log_of_softmax(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> bool:
    inner = _last_operator(node.input[0], makers) if node.op_type == "Log" and node.input else None
    return inner is not None and (inner.op_type == "Softmax" or _is_spelt_out_softmax(inner, makers))


def _is_spelt_out_softmax(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Exp(x) / ReduceSum(Exp(x)), as older exporters write a softmax."""
    if node.op_type != "Div" or len(node.input) != 2:
        return False
    powers, total = makers.get(node.input[0]), makers.get(node.input[1])
    return (
        powers is not None
        and total is not None
        and powers.op_type == "Exp"
        and total.op_type == "ReduceSum"
        and total.input[0] == node.input[0]
    )


def _says(name: str, words: tuple[str, ...]) -> bool:
    """Whether one of these words is in a name, or begins a part of it: mask in pred_masks, not in unmasked_logits."""
    parts = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return any(part.startswith(word) or part.endswith(word) for part in parts for word in words)


def _ancestors(tensor: str, makers: Mapping[str, onnx.NodeProto]) -> set[str]:
    found: set[str] = set()
    waiting = [tensor]
    while waiting:
        node = makers.get(waiting.pop())
        for name in node.input if node else ():
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found

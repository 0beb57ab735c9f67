"""Reading a model file: the graph without the weights that are stored in other files.

Belongs here: from a file to a graph that all others can read, or why it is none.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from clusterpaths.errors import ModelError
from clusterpaths.models.external import external_tensors
from clusterpaths.models.mapped import OWN, read_mapped

_NCHWC = (
    "com.microsoft.nchwc"  # operators on channels in blocks, which ONNX Runtime writes for the processor it runs on
)


def load_proto(path: str | Path, *, weights: bool = False) -> onnx.ModelProto:
    """The graph as in the file, but for sizes that are no sizes: some exporters write -1 or 0 for any.

    Large weights of a large file stay in it (`mapped.py`), but with `weights`.

    Raises:
        OSError, DecodeError, ValueError: it cannot be read.
    """
    model = None if weights else read_mapped(Path(path))
    if model is None:
        model = onnx.load(str(path), load_external_data=False)
        if any(entry.value == OWN for tensor in external_tensors(model) for entry in tensor.external_data):
            raise ValueError(
                f"it names {OWN!r} as a file with weights, which means itself only where this program wrote it"
            )
    for entry in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in entry.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")
    return model


def load_graph(path: Path) -> onnx.ModelProto:
    """As `load_proto`, of a file that may be anything.

    Raises:
        ModelError: it is not ONNX, not complete, or cannot be tapped as it is.
    """
    what_to_do = "Name an ONNX file with --model, such as torch.onnx.export writes."
    try:
        model = load_proto(path)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(f"{path} is not an ONNX model ({error}). {_looks_like(path)}{what_to_do}") from error
    if strange := next((name for name in _names(model.graph) if not isinstance(name, str)), None):
        raise ModelError(
            f"{path} has the name {strange!r:.80} in its graph, which is not UTF-8. The file is corrupted. {what_to_do}"
        )
    if wrong := _wrong_input(model):
        raise ModelError(
            f"{path} is not a valid ONNX model: {wrong}. Check it with onnx.checker.check_model, or export it again."
        )
    made = collections.Counter(name for node in model.graph.node for name in node.output if name)
    if made and (most := made.most_common(1)[0])[1] > 1:
        raise ModelError(
            f"{path} is not an ONNX model: {most[1]} of its nodes output a tensor {most[0][:80]!r}; expected one. {what_to_do}"
        )
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{path} is not an ONNX model: it holds no graph ({path.stat().st_size:,} bytes). {what_to_do}"
        )
    if blocked := [node for node in model.graph.node if node.domain == _NCHWC]:
        raise ModelError(
            f"{path} was saved by ONNX Runtime's optimizer for one kind of processor: {len(blocked)} of its nodes are of the "
            f"domain {_NCHWC}, whose values are in another layout and have no layers to tap. Name the model that it was "
            "made from, or save it with ORT_ENABLE_EXTENDED at most."
        )
    return model


def _wrong_input(model: onnx.ModelProto) -> str:
    """The first input of a node that nothing outputs, or that is left out and must not be: ONNX Runtime crashes on some."""
    graph = model.graph
    there = {entry.name for entry in (*graph.input, *graph.initializer)} | {
        one.values.name for one in graph.sparse_initializer
    }
    there.update(name for node in graph.node for name in node.output)
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    for node in graph.node:
        if missing := [name for name in node.input if name and name not in there]:
            return f"its node {node.op_type} {node.name[:80]!r} reads {missing[0][:80]!r}, which nothing outputs"
        for at, name in enumerate(node.input):
            if not name and not _may_be_left_out(node, at, versions.get(node.domain or "ai.onnx", 0)):
                return f"its node {node.op_type} {node.name[:80]!r} lacks its input {at + 1}"
    return ""


def _may_be_left_out(node: onnx.NodeProto, at: int, version: int) -> bool:
    """True also for operators that ONNX does not know."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, min(version, onnx.defs.onnx_opset_version()), domain)
    except onnx.defs.SchemaError:
        return True
    inputs = schema.inputs
    kind = inputs[min(at, len(inputs) - 1)].option if inputs else None
    return bool(kind == onnx.defs.OpSchema.FormalParameterOption.Optional)


def _names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    """All that a graph calls something; bytes are no UTF-8."""
    for entry in (*graph.input, *graph.output, *graph.value_info):
        yield entry.name
        yield from (dim.dim_param for dim in entry.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            if attribute.HasField("g"):
                yield from _names(attribute.g)


def type_name(kind: int) -> str:
    """Such as FLOAT; the number where ONNX has no such type."""
    known: str = onnx.TensorProto.DataType.Name(kind) if kind in onnx.TensorProto.DataType.values() else f"type {kind}"
    return known


def _looks_like(path: Path) -> str:
    head = path.read_bytes()[:60]
    if head[4:8] == b"ORTM":
        return (
            "It is in ONNX Runtime's own format (.ort), which no output can be added to. Name the .onnx file that it was made "
            "from. "
        )
    if head.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer in place of the model: run `git lfs pull`. "
    return "It looks like text. " if head.isascii() and head.strip() else ""

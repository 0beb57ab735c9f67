"""ONNX files: random graphs, mutated as protocol buffers and as bytes, through inspecting and checking a model.

Belongs here: mutations of graphs. A model may be accepted, or refused with a ModelError or ConfigError; the process must
neither end nor take much time or memory.
"""

from __future__ import annotations

import random
import resource
import warnings
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from clusterpaths.errors import ClusterPathsError
from tests.fuzz.documents import require_paragraph
from tests.fuzz.engine import Case, FindError
from tests.fuzz.graphs import random_model
from tests.fuzz.mutate import mutate_bytes
from tests.runs import SAMPLE_MODEL

SECONDS = 60.0
MEMORY = 5 << 30  # bytes that a case may take: these models have some thousand weights
_SIZES = (-1, 0, 1, 2, 3, 5, 7, 64, 1_000, 65_536, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
_OPERATORS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Reshape", "Transpose", "Concat", "Split", "Slice", "Gather", "GatherND",
    "ScatterND", "Expand", "Tile", "Pad", "Resize", "Softmax", "LSTM", "GRU", "Loop", "If", "Scan", "TopK",
    "NonMaxSuppression", "OneHot", "Range", "ConstantOfShape", "RandomNormal", "Einsum", "CumSum", "DepthToSpace",
    "SpaceToDepth", "QuantizeLinear", "DequantizeLinear", "MaxPool", "AveragePool", "LpPool", "MaxUnpool",
    "GlobalMaxPool", "InstanceNormalization", "LayerNormalization", "LRN", "Where", "Squeeze", "Unsqueeze", "Flatten",
    "Shape", "Size", "NonZero", "Compress", "RoiAlign", "GridSample", "StringNormalizer", "Nope", "SequenceConstruct",
    "SequenceAt", "Optional", "Identity", "BatchNormalization", "Dropout", "ReduceMean", "ArgMax", "BitShift", "Trilu",
)  # fmt: skip
_ATTRIBUTES = (
    "axis", "axes", "kernel_shape", "pads", "strides", "dilations", "group", "perm", "to", "mode", "auto_pad",
    "epsilon", "alpha", "transA", "equation", "blocksize", "value", "shape", "ceil_mode", "num_outputs",
    "training_mode",
)  # fmt: skip


def prepare(root: Path) -> None:
    """Nothing is shared."""


def open_kind(root: Path, scratch: Path) -> Case:
    """A case: a model file, inspected, and checked as a run checks it."""
    from clusterpaths.models.check import check_model, instrument_model
    from clusterpaths.models.inspect import inspect_model
    from clusterpaths.preprocessing.prepare import resolve_preprocessing

    sample, path = onnx.load(SAMPLE_MODEL), scratch / "model.onnx"

    def run(rng: random.Random) -> tuple[str, str]:
        how, content = a_file(rng, sample)
        path.write_bytes(content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome = "read"
        try:
            for read in (
                lambda: inspect_model(path).text(all_layers=True),
                lambda: (found := check_model(path)) and instrument_model(found, resolve_preprocessing(found)[0].size),
            ):
                try:
                    read()
                except ClusterPathsError as error:
                    outcome = "refused"
                    require_paragraph(error, how)
        except BaseException as error:
            error.add_note(how)
            raise
        if (taken := (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10) > MEMORY:
            raise FindError(f"{how}: {taken / 1e9:.1f} GB of memory")
        return how, outcome

    warnings.simplefilter("ignore")
    return run


def a_file(rng: random.Random, sample: onnx.ModelProto) -> tuple[str, bytes]:
    """How the file was made, and its content."""
    kind = rng.random()
    if kind < 0.25:
        return "random graph", random_model(rng).SerializeToString()
    model = onnx.ModelProto()
    model.CopyFrom(sample if rng.random() < 0.05 else random_model(rng))
    if kind < 0.45:
        return "bytes changed", mutate_bytes(rng, model.SerializeToString())
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(rng, model)
    try:
        return "graph changed", model.SerializeToString()
    except ValueError:  # protobuf writes no such text
        return "random graph", random_model(rng).SerializeToString()


def _change(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = model.graph
    node = rng.choice(graph.node) if graph.node else graph.node.add()
    tensors = (
        [name for one in graph.node for name in (*one.input, *one.output)]
        + [one.name for one in graph.initializer]
        + ["", "x"]
    )
    match rng.randrange(20):
        case 0 | 1 if node.attribute:
            _change_attribute(rng, rng.choice(node.attribute))
        case 2:
            node.op_type = rng.choice(_OPERATORS)
        case 3:
            node.attribute.append(helper.make_attribute(rng.choice(_ATTRIBUTES), _value(rng)))
        case 4 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(tensors)
        case 5 if node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice(tensors)
        case 6:
            node.input.append(rng.choice(tensors))
        case 7 if graph.node:
            del graph.node[rng.randrange(len(graph.node))]
        case 8:
            graph.node.add().CopyFrom(node)
        case 9 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            if tensor.dims and rng.random() < 0.7:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_SIZES)
            else:
                tensor.dims.append(rng.choice(_SIZES))
        case 10 if graph.initializer:
            rng.choice(graph.initializer).data_type = rng.choice((*range(24), 99, -1))
        case 11 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            tensor.raw_data = mutate_bytes(rng, tensor.raw_data)
        case 12:
            entry = rng.choice((*graph.input, *graph.output, *graph.value_info))
            shape = entry.type.tensor_type.shape.dim
            if shape and rng.random() < 0.7:
                shape[rng.randrange(len(shape))].dim_value = rng.choice(_SIZES)
            else:
                shape.add().dim_param = rng.choice(("N", "", "N + 1", "ä" * 300))
        case 13:
            rng.choice((*graph.input, *graph.output)).type.tensor_type.elem_type = rng.choice((*range(24), 99))
        case 14:
            model.opset_import.add(
                domain=rng.choice(("", "ai.onnx.ml", "com.microsoft", "x")), version=rng.choice((*_SIZES, 9, 21))
            )
        case 15:
            model.ir_version = rng.choice(_SIZES)
        case 16 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            tensor.data_location = TensorProto.EXTERNAL
            for key in rng.sample(("location", "offset", "length", "checksum"), rng.randrange(4)):
                value = rng.choice(
                    ("../../../../etc/passwd", "/dev/zero", "model.onnx", "", ".", "-1", "99999999999999999999", "x\0y")
                )
                tensor.external_data.add(key=key, value=value)
        case 17:
            keys = (
                "clusterpaths.layers",
                "clusterpaths.classes",
                "clusterpaths.preprocessing",
                "clusterpaths.torch",
                "class_names",
            )
            value = rng.choice(
                ('["a"]', '{"a": "x"}', "[" * 50_000, "{}", "null", '{"size": [0, 0]}', "\\ud800", "1e999", '{"a": 5}')
            )
            model.metadata_props.add(key=rng.choice(keys), value=value)
        case 18:
            inner = onnx.GraphProto()
            inner.CopyFrom(graph)
            node.attribute.append(helper.make_attribute(rng.choice(("body", "then_branch", "else_branch")), inner))
        case _:
            _deep(rng, graph)


def _deep(rng: random.Random, graph: onnx.GraphProto) -> None:
    """A long chain or many branches behind a tensor, or graphs in graphs."""
    name = graph.node[0].output[0] if graph.node and graph.node[0].output else "x"
    match rng.randrange(3):
        case 0:
            for i in range(rng.choice((50, 2_000))):
                graph.node.add(op_type="Relu", input=[name], output=[f"deep{i}"])
                name = f"deep{i}"
            graph.output.add(name=name)
        case 1:
            for i in range(rng.choice((8, 60))):  # each doubles the size
                graph.node.add(op_type="Concat", input=[name, name], output=[f"wide{i}"]).attribute.append(
                    helper.make_attribute("axis", 1)
                )
                name = f"wide{i}"
            graph.output.add(name=name)
        case _:
            inner: Any = helper.make_graph([], "inner", [], [])
            for _ in range(rng.choice((5, 20))):
                outer = helper.make_graph(
                    [helper.make_node("If", [name], ["y"], then_branch=inner, else_branch=inner)][:1], "g", [], []
                )
                del outer.node[0].attribute[1:]
                inner = outer
            graph.node.extend(inner.node)


def _change_attribute(rng: random.Random, attribute: onnx.AttributeProto) -> None:
    fresh = helper.make_attribute(attribute.name, _value(rng))
    if attribute.type == onnx.AttributeProto.INTS and attribute.ints and rng.random() < 0.7:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_SIZES)
    elif attribute.type == onnx.AttributeProto.INT and rng.random() < 0.7:
        attribute.i = rng.choice(_SIZES)
    else:
        attribute.CopyFrom(fresh)


def _value(rng: random.Random) -> Any:
    sizes = [rng.choice(_SIZES) for _ in range(rng.randrange(1, 5))]
    plain = ([1, 1], [3, 3], [0, 0, 1, 1], 0.5, float("nan"), "SAME_UPPER", "x,y->z", [0.5, 1e30], ["a", "b"])
    return rng.choice((rng.choice(_SIZES), sizes, *plain))

"""Graphs as others publish them: quantised dynamically, saved by an optimizer, detectors, subgraphs, old files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.graph import DataPath
from clusterpaths.models.layers import choose_layers, find_layers
from clusterpaths.models.session import TapSession
from tests.architectures import exported
from tests.clusterpaths.conftest import LAYERS, write_cnn

node = helper.make_node
IMAGES = np.random.default_rng(3).random((4, 3, 16, 16), np.float32)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit"])
@pytest.mark.parametrize("how", ["quantised", "optimised"])
def test_blocks_are_those_of_the_plain_graph_and_their_values_close(how: str, name: str, tmp_path: Path) -> None:
    plain, path = exported(name, "torchscript"), tmp_path / "m.onnx"
    if how == "quantised":
        quantize_dynamic(str(plain.path), str(path), weight_type=QuantType.QUInt8)
    else:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(str(plain.path), options, providers=["CPUExecutionProvider"])
    records = [instrument_model(check_model(each), plain.images.shape[2:], "none") for each in (plain.path, path)]
    expected, found = (TapSession(record).run(plain.images).layers for record in records)
    assert list(found) == list(expected)
    for layer, values in expected.items():
        assert found[layer].dtype == np.float32
        assert np.corrcoef(found[layer].ravel(), values.ravel())[0, 1] > (0.98 if how == "quantised" else 0.9999)


def test_a_product_of_two_quantised_activations_is_no_layer_of_weights() -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "q", "z", "z"], ["attention"]),
        node("MatMulInteger", ["q", "w", "z"], ["product"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 4))
    weights = [numpy_helper.from_array(np.eye(4, dtype=np.uint8), "w")]
    path = DataPath(helper.make_graph(nodes, "g", [image], [], weights), None)
    assert [path.is_weighted(each) for each in nodes] == [False, False, True]


def chain(count: int, *tail: onnx.NodeProto, outputs: tuple[str, ...]) -> onnx.ModelProto:
    """`count` convolutions of 4 channels, conv1 …, each with its activation r1 …, then `tail`."""
    nodes, values = [], "image"
    for number in range(1, count + 1):
        weights = "w1" if number == 1 else "w"
        nodes += [node("Conv", [values, weights], [f"c{number}"]), node("Relu", [f"c{number}"], [f"r{number}"])]
        values = f"r{number}"
    graph = helper.make_graph(
        [*nodes, *tail],
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None, None, None]) for name in outputs],
        [numpy_helper.from_array(np.ones((4, size, 1, 1), np.float32), name) for name, size in (("w1", 3), ("w", 4))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


DETECTORS = {
    "a map": ((node("Conv", ["r6", "w"], ["h"]), node("Sigmoid", ["h"], ["y"])), ("y",)),
    "two heads": ((node("Conv", ["r4", "w"], ["boxes"]), node("Conv", ["r6", "w"], ["y"])), ("boxes", "y")),
}


@pytest.mark.parametrize("case", DETECTORS)
def test_a_detector_has_layers_over_its_depth_and_not_its_heads_alone(case: str, tmp_path: Path) -> None:
    tail, outputs = DETECTORS[case]
    onnx.save(chain(6, *tail, outputs=outputs), str(tmp_path / "m.onnx"))
    record = check_model(tmp_path / "m.onnx")
    assert record.logits is None
    tensors = [tap.tensor for tap in record.taps]
    assert len(tensors) == 6
    assert len(set(tensors) & {f"r{number}" for number in range(1, 7)}) >= 4
    assert instrument_model(record, (16, 16)).layers == record.layers


def test_layers_that_were_added_as_outputs_are_taken_with_the_last_one() -> None:
    """A backbone with outputs at several depths: the graph goes on behind all of them but the last."""
    model = chain(6, outputs=("r2", "r4", "r6"))
    assert [layer.tensor for layer in choose_layers(find_layers(model, None), model, None)] == ["r2", "r4", "r6"]


def in_branches(model: onnx.ModelProto) -> None:
    """If (over the number of channels) around an activation, as an older exporter traces a Squeeze."""
    value = helper.make_tensor_value_info
    branches = [
        helper.make_graph([node(operator, ["relu_1"], [name])], name, [], [value(name, TensorProto.FLOAT, None)])
        for operator, name in (("Identity", "then"), ("Neg", "else"))
    ]
    for name, number in (("at", 1), ("three", 3)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(number), name))
    index = next(at for at, each in enumerate(model.graph.node) if "relu_1" in each.input)
    model.graph.node[index].input[0] = "either"
    added = [
        node("Shape", ["input"], ["shape"]),
        node("Gather", ["shape", "at"], ["channels"]),
        node("Equal", ["channels", "three"], ["is_rgb"]),
        node("If", ["is_rgb"], ["either"], then_branch=branches[0], else_branch=branches[1]),
    ]
    for offset, each in enumerate(added):
        model.graph.node.insert(index + offset, each)


def weights_as_inputs(model: onnx.ModelProto) -> None:
    """IR version 3, which lists the weights among the inputs."""
    model.ir_version, model.opset_import[0].version = 3, 8
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


@pytest.mark.parametrize("edit", [in_branches, weights_as_inputs])
def test_subgraphs_and_old_files_have_the_layers_of_the_plain_graph(
    edit: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    model = onnx.load(str(write_cnn(tmp_path / "plain.onnx")))
    edit(model)
    onnx.save(model, str(tmp_path / "m.onnx"))
    records = [instrument_model(check_model(tmp_path / f"{name}.onnx"), (16, 16)) for name in ("plain", "m")]
    assert (records[1].batch, records[1].layers, records[1].warnings) == (None, LAYERS, ())
    expected, found = (TapSession(record).run(IMAGES) for record in records)
    for layer in LAYERS:
        np.testing.assert_array_equal(found.layers[layer], expected.layers[layer])
    np.testing.assert_array_equal(found.logits, expected.logits)


def test_weights_in_a_folder_below_may_be_named_from_here(tmp_path: Path) -> None:
    path = write_cnn(tmp_path / "m.onnx", external="w.bin")
    (tmp_path / "weights").mkdir()
    (tmp_path / "w.bin").rename(tmp_path / "weights" / "w.bin")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "./weights/w.bin"
    onnx.save(model, str(path))
    record = instrument_model(check_model(path), (16, 16))
    plain = instrument_model(check_model(write_cnn(tmp_path / "plain.onnx")), (16, 16))
    assert (record.batch, record.layers) == (None, LAYERS)
    np.testing.assert_array_equal(TapSession(record).run(IMAGES).logits, TapSession(plain).run(IMAGES).logits)

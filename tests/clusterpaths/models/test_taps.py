from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.errors import ModelError
from clusterpaths.models.taps import choose_taps, find_logits, find_taps
from tests.clusterpaths.conftest import write_cnn


def graph_of(path: Path) -> onnx.GraphProto:
    return onnx.load(str(path)).graph


def taps_of(path: Path) -> dict[str, str]:
    graph = graph_of(path)
    return {tap.layer: tap.tensor for tap in find_taps(graph, find_logits(graph))}


def small_graph(*nodes: onnx.NodeProto, output: str, weights: tuple[str, ...] = ("w",)) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), name) for name in weights],
    )


@pytest.mark.parametrize("options", [{}, {"instrumented": True}, {"matmul": True}, {"batch": 1}])
def test_layers_are_named_in_graph_order_and_the_last_one_is_no_layer(tmp_path: Path, options: dict) -> None:
    path = write_cnn(tmp_path / "m.onnx", **options)
    assert taps_of(path) == {"conv1": "relu", "conv2": "relu_1", "fc1": "relu_2"}
    assert list(taps_of(path)) == ["conv1", "conv2", "fc1"]


@pytest.mark.parametrize("instrumented", [False, True])
def test_logits_are_the_original_output_also_where_a_dense_layer_is_put_out(tmp_path: Path, instrumented: bool) -> None:
    assert find_logits(graph_of(write_cnn(tmp_path / "m.onnx", instrumented=instrumented))) == "logits"


def test_softmax_behind_the_logits_makes_no_layer_of_them() -> None:
    node = helper.make_node
    graph = small_graph(
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "v"], ["c"]),
        node("Softmax", ["c"], ["y"]),
        output="y",
        weights=("w", "v"),
    )
    assert [tap.tensor for tap in find_taps(graph, "y")] == ["b"]


def test_product_of_two_activations_is_no_layer() -> None:
    node = helper.make_node
    graph = small_graph(
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "x"], ["attention"]),
        node("Relu", ["attention"], ["b"]),
        node("MatMul", ["b", "w"], ["y"]),
        output="y",
    )
    assert [(tap.layer, tap.tensor) for tap in find_taps(graph, "y")] == [("fc1", "a")]


@pytest.mark.parametrize("operator", ["Tanh", "LeakyRelu", "Sigmoid", "Gelu"])
def test_tap_lies_behind_bias_norm_and_activation(operator: str) -> None:
    node = helper.make_node
    graph = small_graph(
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "bias"], ["b"]),
        node("BatchNormalization", ["b", "s", "t", "m", "v"], ["c"]),
        node(operator, ["c"], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
        output="y",
        weights=("w", "bias"),
    )
    assert [tap.tensor for tap in find_taps(graph, "y")] == ["d"]


def test_residual_sum_stays_outside_the_layer() -> None:
    node = helper.make_node
    graph = small_graph(
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "x"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", "w"], ["y"]),
        output="y",
    )
    assert [tap.tensor for tap in find_taps(graph, "y")] == ["a"]


def test_layers_of_a_run_are_the_models_own_added_outputs_else_all(tmp_path: Path) -> None:
    graph = graph_of(write_cnn(tmp_path / "m.onnx"))
    found = find_taps(graph, "logits")
    assert choose_taps(found, graph, None) == found
    graph.output.append(helper.make_tensor_value_info("relu_1", TensorProto.FLOAT, None))
    assert [tap.layer for tap in choose_taps(found, graph, None)] == ["conv2"]


def test_layers_may_be_asked_for_by_name_or_tensor_and_keep_graph_order(tmp_path: Path) -> None:
    graph = graph_of(write_cnn(tmp_path / "m.onnx"))
    chosen = choose_taps(find_taps(graph, "logits"), graph, ("relu_2", "conv1", "fc1"))
    assert [tap.layer for tap in chosen] == ["conv1", "fc1"]


def test_unknown_layer_is_told_with_the_nearest_and_all_names(tmp_path: Path) -> None:
    graph = graph_of(write_cnn(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match=r"no layer 'conv3'. Did you mean conv\d.*layers are conv1, conv2, fc1"):
        choose_taps(find_taps(graph, "logits"), graph, ("conv3",))

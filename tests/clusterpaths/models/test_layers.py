from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.errors import ModelError
from clusterpaths.models.layers import AUTO, PROPOSED, FoundLayer, choose_layers, find_layers, propose_layers
from clusterpaths.models.shapes import layer_shapes
from tests.architectures import ARCHITECTURES, EXPORTERS, exported, hooked
from tests.clusterpaths.conftest import write_cnn

SHARED = os.environ.get("CLUSTERPATHS_SHARED")
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

# Layer -> the module of the network that it is, of what auto proposes.
PROPOSALS = {
    "alexnet": {
        "conv1": "features.1",
        "conv2": "features.4",
        "conv4": "features.9",
        "conv5": "features.11",
        "fc1": "classifier.2",
        "fc2": "classifier.5",
    },
    "resnet18": {
        "layer1.1": "layer1.1",
        "layer2.0": "layer2.0",
        "layer3.0": "layer3.0",
        "layer3.1": "layer3.1",
        "layer4.1": "layer4.1",
        "avgpool": "avgpool",
    },
    "mobilenet_v3_small": {
        "features.2": "features.2",
        "features.4": "features.4",
        "features.7": "features.7",
        "features.9": "features.9",
        "features.11": "features.11",
        "avgpool": "avgpool",
    },
    "efficientnet_b0": {
        "features.2.1": "features.2.1",
        "features.4.0": "features.4.0",
        "features.5.1": "features.5.1",
        "features.6.1": "features.6.1",
        "features.7.0": "features.7.0",
        "avgpool": "avgpool",
    },
    "vit": {
        "encoder_layer_1": "encoder.layers.encoder_layer_1",
        "encoder_layer_4": "encoder.layers.encoder_layer_4",
        "encoder_layer_6": "encoder.layers.encoder_layer_6",
        "encoder_layer_9": "encoder.layers.encoder_layer_9",
        "encoder_layer_11": "encoder.layers.encoder_layer_11",
        "features": "input of heads",
    },
    "convnext": {
        "features.1.1": "features.1.1",
        "features.3.1": "features.3.1",
        "features.5.0": "features.5.0",
        "features.5.2": "features.5.2",
        "features.7.1": "features.7.1",
        "avgpool": "avgpool",
    },
}
# All candidates, of which auto takes some.
CANDIDATES = {
    "alexnet": [*(f"conv{n}" for n in range(1, 6)), "fc1", "fc2"],
    "resnet18": [*(f"layer{stage}.{n}" for stage in range(1, 5) for n in range(2)), "avgpool"],
    "mobilenet_v3_small": [*(f"features.{n}" for n in range(1, 12)), "avgpool"],
    "efficientnet_b0": [
        *(f"features.{stage}.{n}" for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1), 1) for n in range(blocks)),
        "avgpool",
    ],
    "vit": [*(f"encoder_layer_{n}" for n in range(12)), "features"],
    "convnext": [
        *(f"features.{stage}.{n}" for stage, blocks in ((1, 2), (3, 2), (5, 3), (7, 2)) for n in range(blocks)),
        "avgpool",
    ],
}


def load(path: Path) -> onnx.ModelProto:
    return onnx.load(str(path), load_external_data=False)


def layers_of(model: onnx.ModelProto) -> list[FoundLayer]:
    return find_layers(model, model.graph.output[0].name)


def graph_model(
    *nodes: onnx.NodeProto, output: str, weights: tuple[str, ...] = ("w",), shape: tuple[int, ...] = (1, 4)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), name) for name in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


node = helper.make_node


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_proposals_for_an_architecture_are_its_blocks_and_pooled_features(name: str, exporter: str) -> None:
    model = load(exported(name, exporter).path)
    found = layers_of(model)
    assert [layer.name for layer in found if layer.kind in PROPOSED] == CANDIDATES[name]
    chosen = choose_layers(found, model, None)
    assert [layer.name for layer in chosen] == list(PROPOSALS[name])
    assert len(chosen) <= 6
    assert all(SAFE.fullmatch(layer.name) for layer in found)
    assert len({layer.name.lower() for layer in found}) == len({layer.tensor for layer in found}) == len(found)
    assert "logits" not in {layer.tensor for layer in found}


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_proposed_tensors_are_what_pytorch_computes_in_these_modules(name: str, exporter: str) -> None:
    architecture = exported(name, exporter)
    model = load(architecture.path)
    chosen = choose_layers(layers_of(model), model, (AUTO,))
    model.graph.output.extend(onnx.ValueInfoProto(name=layer.tensor) for layer in chosen)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run([layer.tensor for layer in chosen], {"image": architecture.images})
    expected = hooked(architecture.network, architecture.images, PROPOSALS[name])
    shapes = layer_shapes(model, architecture.path, [layer.tensor for layer in chosen])
    for layer, value in zip(chosen, values, strict=True):
        assert value.std() > 0.01  # else any two tensors would be close
        assert shapes[layer.tensor] == value.shape[1:]
        np.testing.assert_allclose(value, expected[layer.name], rtol=1e-3, atol=1e-4, err_msg=layer.name)


def without_names(model: onnx.ModelProto) -> onnx.ModelProto:
    for each in model.graph.node:
        each.ClearField("metadata_props")
        each.ClearField("name")
    return model


@pytest.mark.parametrize(("name", "count"), [("resnet18", 8), ("vit", 12), ("convnext", 9)])
def test_blocks_of_a_graph_without_names_are_the_same_tensors_numbered(name: str, count: int) -> None:
    path = exported(name, "torchscript").path
    named = [layer.tensor for layer in layers_of(load(path)) if layer.kind in ("block", "pooled")]
    nameless = [layer for layer in layers_of(without_names(load(path))) if layer.kind in ("block", "pooled")]
    assert [layer.tensor for layer in nameless] == named
    assert [layer.name for layer in nameless] == [*(f"block{n}" for n in range(1, count + 1)), "features"]


def test_layers_of_weights_in_and_around_blocks_can_be_named_but_are_not_proposed() -> None:
    model = load(exported("resnet18", "torchscript").path)
    found = layers_of(model)
    assert {layer.name: layer.kind for layer in found if layer.name in ("conv1", "conv2")} == {
        "conv1": "outside",
        "conv2": "inner",
    }
    assert sum(layer.kind in ("inner", "outside") for layer in found) == 20  # 17 in a row and 3 in shortcuts
    assert [layer.tensor for layer in choose_layers(found, model, ("conv1",))] == ["/relu/Relu_output_0"]


@pytest.mark.parametrize("options", [{}, {"instrumented": True}, {"matmul": True}, {"batch": 1}])
def test_layers_of_a_chain_are_numbered_and_the_last_one_is_none(tmp_path: Path, options: dict) -> None:
    found = layers_of(load(write_cnn(tmp_path / "m.onnx", **options)))
    assert [(layer.name, layer.tensor) for layer in found] == [
        ("conv1", "relu"),
        ("conv2", "relu_1"),
        ("fc1", "relu_2"),
    ]
    assert {layer.kind for layer in found} == {"layer"}


def test_softmax_behind_the_logits_makes_no_layer_of_them() -> None:
    model = graph_model(
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "v"], ["c"]),
        node("Softmax", ["c"], ["y"]),
        output="y",
        weights=("w", "v"),
    )
    assert [layer.tensor for layer in find_layers(model, "y")] == ["b"]


def test_product_of_two_activations_is_no_layer() -> None:
    model = graph_model(
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "x"], ["attention"]),
        node("Relu", ["attention"], ["b"]),
        node("MatMul", ["b", "w"], ["y"]),
        output="y",
    )
    assert [(layer.name, layer.tensor) for layer in find_layers(model, "y")] == [("fc1", "a")]


@pytest.mark.parametrize("operator", ["Tanh", "LeakyRelu", "Sigmoid", "Gelu"])
def test_layer_lies_behind_bias_norm_and_activation(operator: str) -> None:
    model = graph_model(
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "bias"], ["b"]),
        node("BatchNormalization", ["b", "s", "t", "m", "v"], ["c"]),
        node(operator, ["c"], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
        output="y",
        weights=("w", "bias"),
    )
    assert [layer.tensor for layer in find_layers(model, "y")] == ["d"]


def test_activation_that_is_made_of_several_nodes_is_the_layers() -> None:
    model = graph_model(
        node("MatMul", ["x", "w"], ["a"]),
        node("Sigmoid", ["a"], ["gate"]),
        node("Mul", ["a", "gate"], ["silu"]),
        node("MatMul", ["silu", "w"], ["y"]),
        output="y",
    )
    assert [layer.tensor for layer in find_layers(model, "y")] == ["silu"]


def test_layer_of_an_8_bit_graph_is_the_value_that_the_next_layer_reads() -> None:
    model = graph_model(
        node("DequantizeLinear", ["q", "s", "z"], ["w8"]),
        node("MatMul", ["x", "w8"], ["a"]),
        node("QuantizeLinear", ["a", "s", "z"], ["a8"]),
        node("DequantizeLinear", ["a8", "s", "z"], ["b"]),
        node("MatMul", ["b", "w"], ["y"]),
        output="y",
        weights=("w", "q", "s", "z"),
    )
    assert [(layer.name, layer.tensor) for layer in find_layers(model, "y")] == [("fc1", "b")]


def test_one_residual_sum_alone_leaves_a_chain_a_chain() -> None:
    model = graph_model(
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "x"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("MatMul", ["c", "w"], ["y"]),
        output="y",
    )
    assert [(layer.name, layer.tensor) for layer in find_layers(model, "y")] == [("fc1", "a")]


def residual(number: int, start: str, end: str, keras: bool = False) -> list[onnx.NodeProto]:
    """start + MatMul(start), then Relu; named as tf2onnx names Keras' layers, or not at all."""
    names = [f"resnet/conv{number}_block1_{part}" if keras else "" for part in ("1_conv/MatMul", "add/add", "out/Relu")]
    return [
        node("MatMul", [start, "w"], [f"m{number}"], name=names[0]),
        node("Add", [f"m{number}", start], [f"s{number}"], name=names[1]),
        node("Relu", [f"s{number}"], [end], name=names[2]),
    ]


@pytest.mark.parametrize(
    ("keras", "names"), [(True, ["conv2_block1_out", "conv3_block1_out"]), (False, ["block1", "block2"])]
)
def test_block_ends_behind_its_activation_and_is_called_as_the_graph_calls_that(keras: bool, names: list[str]) -> None:
    model = graph_model(
        *residual(2, "x", "b1", keras), *residual(3, "b1", "b2", keras), node("MatMul", ["b2", "w"], ["y"]), output="y"
    )
    blocks = [layer for layer in find_layers(model, "y") if layer.kind == "block"]
    assert [(layer.name, layer.tensor) for layer in blocks] == list(zip(names, ["b1", "b2"], strict=True))


def test_concatenation_of_branches_is_a_block_and_a_sum_without_weights_is_none() -> None:
    def fire(start: str, at: int) -> list[onnx.NodeProto]:
        return [
            node("MatMul", [start, "w"], [f"l{at}"]),
            node("MatMul", [start, "w"], [f"r{at}"]),
            node("Concat", [f"l{at}", f"r{at}"], [f"c{at}"], axis=0),
        ]

    flipped = [node("Neg", ["c2"], ["n"]), node("Add", ["c2", "n"], ["zero"])]
    model = graph_model(*fire("x", 1), *fire("c1", 2), *flipped, node("MatMul", ["zero", "w"], ["y"]), output="y")
    assert [layer.tensor for layer in find_layers(model, "y") if layer.kind == "block"] == ["c1", "c2"]


def encoder_layer(at: int, start: str) -> list[onnx.NodeProto]:
    """Attention and dense layers in modules of their own, as Hugging Face's encoders have them."""
    scope = f"/enc/layer.{at}"
    return [
        node("MatMul", [start, "w"], [f"q{at}"], name=f"{scope}/attention/self/MatMul"),
        node("Softmax", [f"q{at}"], [f"p{at}"], name=f"{scope}/attention/self/Softmax"),
        node("MatMul", [f"p{at}", "w"], [f"o{at}"], name=f"{scope}/attention/output/dense/MatMul"),
        node("Add", [f"o{at}", start], [f"s{at}"], name=f"{scope}/attention/output/Add"),
        node("MatMul", [f"s{at}", "w"], [f"h{at}"], name=f"{scope}/intermediate/dense/MatMul"),
        node("MatMul", [f"h{at}", "w"], [f"d{at}"], name=f"{scope}/output/dense/MatMul"),
        node("Add", [f"d{at}", f"s{at}"], [f"e{at}"], name=f"{scope}/output/Add"),
    ]


def test_attention_and_the_dense_layers_behind_it_are_one_block() -> None:
    model = graph_model(*encoder_layer(0, "x"), *encoder_layer(1, "e0"), node("MatMul", ["e1", "w"], ["y"]), output="y")
    blocks = [layer for layer in find_layers(model, "y") if layer.kind == "block"]
    assert [(layer.name, layer.tensor) for layer in blocks] == [("layer.0", "e0"), ("layer.1", "e1")]


# choosing


def test_layers_of_a_run_are_the_models_own_added_outputs_else_auto(tmp_path: Path) -> None:
    model = load(write_cnn(tmp_path / "m.onnx"))
    found = layers_of(model)
    assert choose_layers(found, model, None) == found
    model.graph.output.append(helper.make_tensor_value_info("relu_1", TensorProto.FLOAT, None))
    assert [layer.name for layer in choose_layers(found, model, None)] == ["conv2"]
    assert [layer.name for layer in choose_layers(found, model, (AUTO,))] == ["conv1", "conv2", "fc1"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("relu_2", "conv1", "fc1"), ["conv1", "fc1"]),  # names and tensors, each once, in graph order
        (("conv*",), ["conv1", "conv2"]),
        (("fc1", "conv?", "conv1"), ["conv1", "conv2", "fc1"]),
        (("pool", "fc1"), ["pool", "fc1"]),  # any tensor of the graph
        (("auto:1",), ["fc1"]),
        (("auto:2",), ["conv2", "fc1"]),
        (("auto:99",), ["conv1", "conv2", "fc1"]),
        (("auto:1", "flat"), ["flat", "fc1"]),
        (("logits",), ["logits"]),  # never proposed, but a tensor like others
    ],
)
def test_layers_may_be_asked_for_in_many_ways(cnn: Path, asked: tuple[str, ...], expected: list[str]) -> None:
    model = load(cnn)
    assert [layer.name for layer in choose_layers(layers_of(model), model, asked)] == expected


def test_pattern_and_number_pick_among_blocks() -> None:
    model = load(exported("resnet18", "torchscript").path)
    found = layers_of(model)
    assert [layer.name for layer in choose_layers(found, model, ("layer?.1",))] == [f"layer{n}.1" for n in range(1, 5)]
    assert [layer.name for layer in choose_layers(found, model, ("auto:3",))] == ["layer2.1", "layer4.1", "avgpool"]
    assert [layer.name for layer in choose_layers(found, model, ("auto:1",))] == ["avgpool"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("conv3", r"no layer 'conv3'. Did you mean conv\d.*layers are conv1, conv2, fc1\. .*--layers"),
        ("reluu_1", r"no layer 'reluu_1'. Did you mean relu_1"),
        ("blocks*", r"No layer of the model matches the pattern 'blocks\*'\. Its layers are conv1, conv2, fc1"),
        ("auto:0", r"auto:N with a number N of layers >= 1, got '0'"),
        ("auto:", r"auto:N with a number N of layers >= 1, got ''"),
        ("auto:-1", r"got '-1'"),
        ("auto:many", r"got 'many'"),
        ("w1", r"no layer 'w1'"),
        ("input", r"no layer 'input'"),
    ],
)
def test_layer_that_cannot_be_had_is_told_with_what_there_is(cnn: Path, asked: str, message: str) -> None:
    model = load(cnn)
    with pytest.raises(ModelError, match=message):
        choose_layers(layers_of(model), model, (asked,))


def test_tensor_that_is_the_same_for_all_images_is_refused() -> None:
    model = graph_model(
        node("Shape", ["x"], ["size"]), node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"]), output="y"
    )
    with pytest.raises(ModelError, match=r"'size' does not depend on the image"):
        choose_layers(find_layers(model, "y"), model, ("size",))


@pytest.mark.parametrize("asked", [None, ("auto",), ("auto:2",)])
def test_model_without_layers_is_refused_but_its_tensors_may_be_named(asked: tuple[str, ...] | None) -> None:
    model = graph_model(node("Relu", ["x"], ["a/b:0"]), node("Identity", ["a/b:0"], ["y"]), output="y")
    assert find_layers(model, "y") == []
    with pytest.raises(ModelError, match="no layer to extract"):
        choose_layers([], model, asked)
    assert [layer.name for layer in choose_layers([], model, ("a/b:0",))] == ["a_b_0"]


def test_auto_takes_the_end_of_equal_parts_and_passes_over_single_values() -> None:
    found = [FoundLayer(f"b{n}", f"t{n}", "Add", n, "block") for n in range(9)]
    assert [layer.name for layer in propose_layers(found, 3)] == ["b2", "b5", "b8"]
    assert [layer.name for layer in propose_layers(found, 1)] == ["b8"]
    shapes = {"t8": (1, 1), "t7": None}
    assert [layer.name for layer in propose_layers(found, 1, shapes)] == ["b6"]


# the real models

CELEBA = {"conv1": "relu", "conv2": "relu_1", "conv3": "relu_2", "fc1": "relu_3", "fc2": "relu_4"}


@pytest.mark.skipif(SHARED is None, reason="CLUSTERPATHS_SHARED is not set")
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("CelebA_CNN.onnx", CELEBA),
        ("CelebA_CNN_instrumented.onnx", CELEBA),
        (
            "catdog.onnx",
            {
                "conv1": "/conv/conv.1/Relu_output_0",
                "conv2": "/conv/conv.3/Relu_output_0",
                "conv3": "/conv/conv.6/Relu_output_0",
                "fc1": "/relu/Relu_output_0",
                "fc2": "/relu_1/Relu_output_0",
            },
        ),
        (
            "catdog_instrumented.onnx",
            {"conv3": "/conv/conv.6/Relu_output_0", "fc1": "/relu/Relu_output_0", "fc2": "/relu_1/Relu_output_0"},
        ),
    ],
)
def test_layers_of_the_reference_models_keep_their_names(file: str, expected: dict[str, str]) -> None:
    model = load(Path(str(SHARED)) / "models" / file)
    assert {layer.name: layer.tensor for layer in choose_layers(layers_of(model), model, None)} == expected

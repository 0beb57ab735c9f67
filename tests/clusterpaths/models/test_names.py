from __future__ import annotations

import onnx
import pytest
from onnx import helper

from clusterpaths.models.names import safe_name, scope_of, shorten, unique_names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/layer1/Relu_output_0", "layer1_Relu_output_0"),
        ("..\\a:b", "a_b"),
        (".hidden", "hidden"),
        ("nul", "layer_nul"),
        ("con.1", "layer_con.1"),
        ("conv1", "conv1"),  # begins as a Windows device does
        ("set_01", "layer_set_01"),
        ("paths.json", "layer_paths.json"),
        ("examples", "layer_examples"),
        ("label", "layer_label"),
        ("distance.conv1", "layer_distance.conv1"),
        ("//", "layer"),
        ("x" * 200, "x" * 80),
    ],
)
def test_name_is_safe_as_a_folder(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_names_differ_also_without_letter_case() -> None:
    assert unique_names(["a/b", "A_B", "a_b"], ["c"]) == ["a_b", "A_B_2", "a_b_3"]
    assert unique_names(["C"], ["c"]) == ["C_2"]


@pytest.mark.parametrize(
    ("scopes", "names"),
    [
        (["encoder.layers.l_0", "encoder.layers.l_1"], ["l_0", "l_1"]),
        (["features.1", "features.2"], ["features.1", "features.2"]),
        (["net.features.1.0", "net.features.2.0"], ["features.1.0", "features.2.0"]),
        (["layer1.0", "layer2.0"], ["layer1.0", "layer2.0"]),
        ([], []),
    ],
)
def test_names_leave_out_what_all_share_and_begin_with_a_letter(scopes: list[str], names: list[str]) -> None:
    assert shorten(scopes) == names


def made_by_dynamo(scopes: str) -> onnx.NodeProto:
    node = helper.make_node("Relu", ["x"], ["y"], name="node_relu")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    return node


@pytest.mark.parametrize(
    ("node", "scope"),
    [
        (helper.make_node("Relu", ["x"], ["y"], name="/layer1/layer1.0/relu_1/Relu"), "layer1.0.relu_1"),
        (
            helper.make_node("Add", ["x"], ["y"], name="/encoder/layers/encoder_layer_0/Add_1"),
            "encoder.layers.encoder_layer_0",
        ),
        (helper.make_node("Conv", ["x"], ["y"], name="/features/features.1/block/block.0/Conv"), "features.1.block.0"),
        (helper.make_node("Add", ["x"], ["y"], name="resnet/conv2_block1_add/add"), "resnet.conv2_block1_add"),
        (helper.make_node("Relu", ["x"], ["y"], name="Relu_17"), ""),
        (helper.make_node("Relu", ["x"], ["y"]), ""),
        (made_by_dynamo("['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_1']"), "layer1.0.relu"),
        (made_by_dynamo("['', 'view']"), ""),
        (made_by_dynamo("['_empty_nn_module_stack_from_metadata_hook', 'size']"), ""),
        (made_by_dynamo("not a list"), ""),
    ],
)
def test_scope_is_the_module_as_either_exporter_writes_it(node: onnx.NodeProto, scope: str) -> None:
    assert scope_of(node) == scope

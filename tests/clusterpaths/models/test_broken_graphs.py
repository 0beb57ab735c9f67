"""Graphs that no exporter writes, each refused in one paragraph and before it is run; found by tests/fuzz."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from clusterpaths.errors import ModelError
from clusterpaths.models.batch import settle_batch
from clusterpaths.models.check import check_model
from clusterpaths.models.inputs import find_image_input
from clusterpaths.models.inspect import inspect_model
from tests.runs import SAMPLE_MODEL


def negative_offset(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    tensor.external_data.add(key="offset", value="-1")


def no_location(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def defined_twice(model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(model.graph.node[0])


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def huge_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**31


def doubling(model: onnx.ModelProto) -> None:
    name = model.graph.node[0].output[0]
    for i in range(60):
        model.graph.node.append(helper.make_node("Concat", [name, name], [f"wide{i}"], axis=1))
        name = f"wide{i}"


def deep_layers(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="clusterpaths.layers", value="[" * 100_000)


def half_a_preprocessing(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    model.metadata_props.add(key="clusterpaths.preprocessing", value='{"a": "x"}')


def left_out(model: onnx.ModelProto) -> None:
    """ONNX Runtime 1.32 crashes on it: a segmentation fault."""
    model.graph.node.append(helper.make_node("Min", [model.graph.node[0].output[0], ""], ["least"]))
    model.graph.output.append(helper.make_tensor_value_info("least", TensorProto.FLOAT, None))


def out_of_nowhere(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[0] = "nothing"


def type_of_a_single_value(model: onnx.ModelProto) -> None:
    """It is no error of its own: no node reads it."""
    model.graph.initializer.append(TensorProto(name="one", dims=[1], data_type=-1))


CASES: dict[Callable[[onnx.ModelProto], None], str] = {
    negative_offset: "what it says of them cannot be used",
    no_location: "what it says of them cannot be used",
    left_out: "lacks its input 2",
    out_of_nowhere: "reads 'nothing', which nothing outputs",
    defined_twice: "2 of its nodes output a tensor",
    unknown_type: "type 99",
    huge_batch: "cannot be run on this machine",
    doubling: "cannot be run on this machine",
    deep_layers: "nested too deeply",
    half_a_preprocessing: "cannot be parsed: name: Field required",
}


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_it_is_refused_in_one_paragraph(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model, path = onnx.load(SAMPLE_MODEL), tmp_path / "model.onnx"
    change(model)
    path.write_bytes(model.SerializeToString())
    for read in (check_model, inspect_model):
        if change is deep_layers and read is inspect_model:
            continue  # it shows all layers, whatever the file names
        with pytest.raises(ModelError, match=CASES[change]) as raised:
            read(path)
        assert "\n" not in str(raised.value)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = onnx.load(SAMPLE_MODEL).graph.node[0].output[0].encode()
    content = SAMPLE_MODEL.read_bytes().replace(name, b"\xff" + name[1:])
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"not UTF-8|is not an ONNX model"):
        check_model(tmp_path / "model.onnx")


def test_single_values_that_cannot_be_read_are_left_to_the_runtime(tmp_path: Path) -> None:
    model = onnx.load(SAMPLE_MODEL)
    model.graph.initializer.append(TensorProto(name="empty", dims=[1], data_type=TensorProto.FLOAT))
    settle_batch(model, tmp_path, find_image_input(model, tmp_path), {}, (64, 64))
    type_of_a_single_value(model)
    settle_batch(model, tmp_path, find_image_input(model, tmp_path), {}, (64, 64))

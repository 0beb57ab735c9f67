from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.commands.inspect import main
from clusterpaths.errors import ModelError
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.models.external import hash_files
from clusterpaths.models.feed import PREPROCESSING_KEY
from clusterpaths.models.inspect import Inspection, inspect_model
from clusterpaths.models.shapes import layer_shapes
from clusterpaths.records import Preprocessing
from tests.architectures import exported
from tests.clusterpaths.conftest import save_model, write_cnn

SHARED = os.environ.get("CLUSTERPATHS_SHARED")
node = helper.make_node


def rows(found: Inspection) -> dict[str, str]:
    return {row.name: row.why for row in found.layers}


def test_what_is_in_a_plain_model(tmp_path: Path) -> None:
    preprocessing = Preprocessing(name="own", size=(16, 16), mean=(0.1, 0.2, 0.3), std=(1, 1, 2))
    metadata = {PREPROCESSING_KEY: preprocessing.model_dump_json(), CLASSES_KEY: '["a", "b", "c", "d", "e"]'}
    path = write_cnn(tmp_path / "m.onnx", external="w.data", metadata=metadata)
    found = inspect_model(path)
    assert (found.sha256, found.bytes) == (
        hash_files([path, tmp_path / "w.data"]),
        path.stat().st_size + (tmp_path / "w.data").stat().st_size,
    )
    assert (found.opset, found.ir_version, found.nodes) == ({"ai.onnx": 17}, 8, 9)
    assert [(each.name, each.type, each.shape) for each in (*found.inputs, *found.outputs)] == [
        ("input", "float", ("batch", 3, 16, 16)),
        ("logits", "float", ("batch", 5)),
    ]
    assert (found.input, found.layout, found.batch, found.size) == ("input", "NCHW", None, (16, 16))
    assert (found.meaning.name, found.meaning.kind, found.meaning.classes) == ("logits", "logits", 5)
    assert (found.meaning.class_names, found.meaning.class_names_source) == (tuple("abcde"), "the model's metadata")
    assert (found.preprocessing, found.preprocessing_source) == (preprocessing, "the model's own metadata")
    assert found.warnings == ()
    assert [(row.name, row.operator, row.shape, row.values) for row in found.layers] == [
        ("conv1", "Conv", (4, 16, 16), 1024),
        ("conv2", "Conv", (6, 8, 8), 384),
        ("fc1", "Gemm", (10,), 10),
    ]
    assert [(row.bytes_float16, row.bytes_float32) for row in found.layers] == [(2048, 4096), (768, 1536), (20, 40)]
    assert found.proposed == ("conv1", "conv2", "fc1")
    assert rows(found) == {"conv1": "layer 1 of 3", "conv2": "layer 2 of 3", "fc1": "layer 3 of 3"}


def test_each_layer_says_why_a_run_takes_it_or_not() -> None:
    path = exported("resnet18", "torchscript").path
    why = rows(inspect_model(path))
    assert why["layer1.0"] == "block output, 1 of 8; auto takes 6 over the depth"
    assert why["layer1.1"] == "block output, 2 of 8"
    assert why["avgpool"] == "last pooled features"
    assert why["conv1"] == "not proposed: before or behind the blocks"
    assert why["conv2"] == "not proposed: inside a block"
    asked = rows(inspect_model(path, ("conv1", "layer4.1", "/maxpool/MaxPool_output_0")))
    assert (asked["conv1"], asked["layer4.1"], asked["maxpool_MaxPool_output_0"]) == ("asked for",) * 3
    assert asked["avgpool"] == "last pooled features; not asked for"
    assert inspect_model(path, ("auto:2",)).proposed == ("layer4.1", "avgpool")


def test_instrumented_model_says_which_layers_it_puts_out(tmp_path: Path) -> None:
    model = onnx.load(str(write_cnn(tmp_path / "m.onnx")))
    model.graph.output.append(helper.make_tensor_value_info("relu_1", TensorProto.FLOAT, None))
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert rows(inspect_model(tmp_path / "m.onnx")) == {
        "conv1": "layer 1 of 3; not put out by the model",
        "conv2": "the model puts it out",
        "fc1": "layer 3 of 3; not put out by the model",
    }


def test_tokens_first_is_no_row_an_image_and_not_proposed() -> None:
    found = inspect_model(exported("vit", "torchscript").path)
    attention = next(row for row in found.layers if row.name == "fc1")
    assert (attention.shape, attention.values, attention.proposed) == (None, None, False)
    assert attention.why == "not proposed: not one row per image"
    block = next(row for row in found.layers if row.name == "encoder_layer_11")
    assert (block.shape, block.values) == ((17, 48), 816)


def model_with_open_shape(path: Path, external: str | None = None) -> Path:
    """A Reshape whose target is computed in float, which shape inference does not follow: (n, 3, 8, 8) -> (n, 192)."""
    weights = {
        "start": np.array([0], np.int64),
        "end": np.array([1], np.int64),
        "rest": np.array([192.0], np.float32),
        "w": np.eye(192, 5, dtype=np.float32),
        "v": np.eye(5, dtype=np.float32),
    }
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "start", "end"], ["n"]),
        node("Cast", ["n"], ["n32"], to=TensorProto.FLOAT),
        node("Concat", ["n32", "rest"], ["to32"], axis=0),
        node("Cast", ["to32"], ["to"], to=TensorProto.INT64),
        node("Reshape", ["x", "to"], ["flat"]),
        node("MatMul", ["flat", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "v"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    save_model(path, helper.make_graph(nodes, "g", inputs, outputs, tensors))
    if external:  # only the weights: ONNX Runtime itself wants small numbers that shapes are made of inside
        model = onnx.load(str(path))
        onnx.save(model, str(path), save_as_external_data=True, location=external, size_threshold=1000)
    return path


def is_whole(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) == 2 and dims[1].HasField("dim_value")


@pytest.mark.parametrize("external", [None, "w.data"])
def test_shape_that_the_graph_does_not_say_is_seen_on_a_blank_image(tmp_path: Path, external: str | None) -> None:
    path = model_with_open_shape(tmp_path / "m.onnx", external)
    model = onnx.load(str(path), load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    assert not any(value.name == "flat" and is_whole(value) for value in inferred.graph.value_info)
    assert layer_shapes(model, path, ["flat", "b"], (8, 8)) == {"flat": (192,), "b": (5,)}


def test_size_that_the_model_does_not_take_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = model_with_open_shape(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"blank batch of shape \(2, 3, 9, 9\).*--size HEIGHTxWIDTH"):
        inspect_model(path, ("flat",), size=(9, 9))
    found = inspect_model(path, ("flat",), size=(8, 8))
    assert found.size is None
    assert any("any size; the shapes are those of 8x8" in warning for warning in found.warnings)


def test_fixed_batch_and_channels_last_are_seen(tmp_path: Path) -> None:
    fixed = inspect_model(write_cnn(tmp_path / "m.onnx", batch=8))
    assert (fixed.batch, fixed.layers[0].shape) == (8, (4, 16, 16))
    model = onnx.load(str(tmp_path / "m.onnx"))
    model.graph.node.insert(0, node("Transpose", ["nhwc"], ["input"], perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("nhwc", TensorProto.FLOAT, ["n", 16, 16, 3]))
    onnx.save(model, str(tmp_path / "m.onnx"))
    last = inspect_model(tmp_path / "m.onnx")
    assert (last.layout, last.size, last.batch) == ("NHWC", (16, 16), None)
    assert [row.shape for row in last.layers] == [(4, 16, 16), (6, 8, 8), (10,)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"There is no model at"),
        (b"<html>Sign in</html>", r"is not an ONNX model.*It looks like text"),
        (b"", r"holds no graph \(0 bytes\)"),
    ],
)
def test_what_is_no_model_is_told_as_such(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        inspect_model(tmp_path / "m.onnx")


def run(*words: str) -> int:
    """The command's exit code."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def test_command_prints_a_table_with_columns_in_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(exported("resnet18", "torchscript").path)) == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.startswith(("layer", "avgpool"))]
    assert lines[0].split() == ["layer", "operator", "shape", "values", "float16", "float32", "run", "why", "tensor"]
    assert len(lines) == 10
    assert len({line.index("/") for line in lines[1:]}) == 1
    assert "and 20 layers in and around the blocks, which --all shows" in text
    assert "A run takes layer1.1, layer2.0, layer3.0, layer3.1, layer4.1, avgpool." in text
    assert "warning: The file does not describe its preprocessing" in text


def test_command_prints_all_layers_and_json_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    path = exported("resnet18", "torchscript").path
    assert run(str(path), "--all") == 0
    assert sum("inside a block" in line for line in capsys.readouterr().out.splitlines()) == 19
    assert run(str(path), "--json", "--layers", "conv1,auto:1") == 0
    content = capsys.readouterr().out
    assert Inspection.model_validate_json(content) == inspect_model(path, ("conv1", "auto:1"))
    assert [row["name"] for row in json.loads(content)["layers"] if row["proposed"]] == ["conv1", "avgpool"]


def test_command_tells_a_mistake_in_one_paragraph(cnn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(cnn), "--layers", "conv9") == 2
    assert "error: The model has no layer 'conv9'. Did you mean conv" in capsys.readouterr().err


@pytest.mark.skipif(SHARED is None, reason="CLUSTERPATHS_SHARED is not set")
def test_reference_model_is_told_as_it_is() -> None:
    found = inspect_model(Path(str(SHARED)) / "models" / "CelebA_CNN.onnx")
    assert {row.name: row.shape for row in found.layers} == {
        "conv1": (16, 64, 64),
        "conv2": (32, 32, 32),
        "conv3": (64, 16, 16),
        "fc1": (128,),
        "fc2": (64,),
    }
    assert (found.batch, found.size, found.meaning.name, found.meaning.classes) == (None, (64, 64), "logits", 5)
    assert any("differs in letter case only" in warning for warning in found.warnings)
    fixed = inspect_model(Path(str(SHARED)) / "models" / "catdog.onnx")
    assert (fixed.batch, fixed.size, fixed.layers[0].shape) == (1, (32, 32), (4, 32, 32))

"""Graphs that take one image only, quantise by the batch, or work as in training: seen before a run, in two images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.inspect import inspect_model
from clusterpaths.models.session import Outputs, TapSession
from tests.clusterpaths.conftest import LAYERS, write_cnn

SIZE = (16, 16)


def images(count: int = 5) -> NDArray[np.float32]:
    """Bright and dark ones, so that a scale that is taken from a batch matters."""
    values = np.random.default_rng(4).random((count, 3, *SIZE), np.float32)
    values[1::2] *= 0.1
    return values


def change(path: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(str(path))
    edit(model)
    onnx.save(model, str(path))
    return path


def put_behind(model: onnx.ModelProto, tensor: str, *nodes: onnx.NodeProto) -> None:
    """Insert nodes behind a tensor: what read it reads the last one's output."""
    made = next(index for index, node in enumerate(model.graph.node) if tensor in node.output)
    for node in model.graph.node[made + 1 :]:
        for at, name in enumerate(node.input):
            if name == tensor:
                node.input[at] = nodes[-1].output[0]
    for offset, node in enumerate(nodes, 1):
        model.graph.node.insert(made + offset, node)


def freeze(model: onnx.ModelProto) -> None:
    """A Reshape to (1, -1), as an exporter traces x.view(x.shape[0], -1) of one image."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "one_row"))
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.CopyFrom(helper.make_node("Reshape", [flatten.input[0], "one_row"], list(flatten.output)))


def expand_one(model: onnx.ModelProto) -> None:
    """A token of one image joined to each image's values, as some exporters leave a class token."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 8, 8), np.float32), "token"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((6, 5, 3, 3), np.float32), "wider"))
    put_behind(model, "pool", helper.make_node("Concat", ["pool", "token"], ["joined"], axis=1))
    next(node for node in model.graph.node if node.output[0] == "c2").input[1] = "wider"


def test_a_graph_without_faults_is_run_on_any_batch_without_a_word(cnn: Path) -> None:
    record = check_model(cnn)
    assert (record.batch, record.warnings) == (None, ())


@pytest.mark.parametrize(("fault", "operator"), [(freeze, "Gemm"), (expand_one, "Concat")])
def test_a_graph_frozen_at_one_image_is_run_on_one_and_keeps_its_layers(
    fault: Callable[[onnx.ModelProto], None], operator: str, tmp_path: Path
) -> None:
    path = change(write_cnn(tmp_path / "m.onnx"), fault)
    record = instrument_model(check_model(path), SIZE)
    assert (record.batch, record.layers, record.outputs.classes) == (1, LAYERS, 5)
    assert record.warnings[0].startswith("The model is run on one image at a time")
    assert re.search(rf"frozen at one image by \w*{operator}", record.warnings[0])  # ONNX Runtime may have fused it
    outputs = TapSession(record).run(images())
    assert outputs.logits is not None
    assert len(outputs.logits) == 5
    inspection = inspect_model(path)
    assert (inspection.batch, inspection.proposed) == (1, LAYERS)
    if fault is freeze:
        plain = TapSession(instrument_model(check_model(write_cnn(tmp_path / "plain.onnx")), SIZE)).run(images())
        for layer in LAYERS:
            np.testing.assert_allclose(outputs.layers[layer], plain.layers[layer], rtol=1e-5, atol=1e-6)


def test_two_images_that_become_one_row_are_a_graph_frozen_at_one_image(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        freeze(model)
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 384, -1]), "cut"))
        reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
        reshape.input[1] = "cut"
        put_behind(model, "flat", helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[2], keepdims=0))

    record = check_model(change(write_cnn(tmp_path / "m.onnx"), edit))
    assert record.batch == 1
    assert "for two it outputs one row" in record.warnings[0]


def quantised(folder: Path, batch: int | None = None) -> tuple[Path, Path]:
    plain = write_cnn(folder / "plain.onnx", batch=batch)
    quantize_dynamic(str(plain), str(folder / "m.onnx"), weight_type=QuantType.QUInt8)
    return plain, folder / "m.onnx"


def run(path: Path, values: NDArray[np.float32]) -> Outputs:
    return TapSession(instrument_model(check_model(path), SIZE)).run(values)


def test_layers_of_a_dynamically_quantised_model_are_values_that_no_other_image_changes(tmp_path: Path) -> None:
    plain, path = quantised(tmp_path)
    record = instrument_model(check_model(path), SIZE)
    assert [(tap.layer, tap.operator, tap.dtype) for tap in record.taps] == [
        (tap.layer, {"Conv": "ConvInteger", "Gemm": "MatMulInteger"}[tap.operator], "float32")
        for tap in instrument_model(check_model(plain), SIZE).taps
    ]
    assert "quantised dynamically" in record.warnings[0]
    together, expected = run(path, images()), run(plain, images())
    alone = [run(path, images()[at : at + 1]) for at in range(5)]
    for layer in LAYERS:
        np.testing.assert_array_equal(together.layers[layer], np.concatenate([one.layers[layer] for one in alone]))
        # each image is quantised by its own scale: values of the plain model, activated, up to some of 255 steps
        for image, values in zip(together.layers[layer], expected.layers[layer], strict=True):
            np.testing.assert_allclose(image, values, atol=0.05 * values.max())


def test_a_dynamically_quantised_model_of_a_fixed_batch_is_warned_of(tmp_path: Path) -> None:
    record = check_model(quantised(tmp_path, batch=4)[1])
    assert record.batch == 4
    assert "for batches of 4" in record.warnings[0]


def add_norm(model: onnx.ModelProto, **attributes: Any) -> None:
    for name, value in (("scale", 1), ("shift", 0), ("mean", 0), ("var", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.full(4, value, np.float32), name))
    further = ["new_mean", "new_var"] if attributes.get("training_mode") else []
    inputs = ["c1", "scale", "shift", "mean", "var"]
    put_behind(model, "c1", helper.make_node("BatchNormalization", inputs, ["normed", *further], **attributes))


def norm_in_training(model: onnx.ModelProto) -> None:
    add_norm(model, training_mode=1)


def norm_spelt_out(model: onnx.ModelProto) -> None:
    """As exporters write it that know no training mode: mean and variance over images and places."""
    put_behind(
        model,
        "c1",
        helper.make_node("ReduceMean", ["c1"], ["centre"], axes=[0, 2, 3]),
        helper.make_node("Sub", ["c1", "centre"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["variance"], axes=[0, 2, 3]),
        helper.make_node("Sqrt", ["variance"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["normed"]),
    )
    for node in model.graph.node:  # the first two read the convolution itself
        if node.output[0] in ("centre", "centred"):
            node.input[0] = "c1"


def add_dropout(model: onnx.ModelProto, on: bool = True, ratio: float = 0.5, constant: bool = False) -> None:
    if constant:
        value = numpy_helper.from_array(np.array(on))
        model.graph.node.insert(0, helper.make_node("Constant", [], ["training"], value=value))
    else:
        model.graph.initializer.append(numpy_helper.from_array(np.array(on), "training"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(ratio), "ratio"))
    put_behind(model, "flat", helper.make_node("Dropout", ["flat", "ratio", "training"], ["dropped"], name="drop"))


def random_noise(model: onnx.ModelProto) -> None:
    put_behind(
        model,
        "flat",
        helper.make_node("RandomUniformLike", ["flat"], ["noise"], name="noise"),
        helper.make_node("Mul", ["flat", "noise"], ["noisy"]),
    )
    next(node for node in model.graph.node if node.output[0] == "noise").input[0] = "flat"
    next(node for node in model.graph.node if node.output[0] == "noisy").input[0] = "flat"


TRAINING = {
    "norm": (norm_in_training, r"BatchNormalization is in training mode \(normed\)"),
    "norm spelt out": (norm_spelt_out, r"values depend on the other images in its batch: .* differ by \d+%"),
    "dropout": (add_dropout, r"Dropout is on, as in training \(drop\)"),
    "dropout by a constant": (lambda model: add_dropout(model, constant=True), r"Dropout is on"),
    "noise": (random_noise, r"draws random numbers \(noise\)"),
}


@pytest.mark.parametrize("case", TRAINING)
def test_what_works_as_in_training_is_warned_of_with_what_to_do(case: str, tmp_path: Path) -> None:
    edit, message = TRAINING[case]
    path = change(write_cnn(tmp_path / "m.onnx"), edit)
    for warnings in (check_model(path).warnings, inspect_model(path).warnings):
        found = [warning for warning in warnings if "Export it again in evaluation mode: model.eval()" in warning]
        assert len(found) == 1
        assert re.search(message, found[0])


@pytest.mark.parametrize(
    "edit",
    [
        add_norm,
        lambda model: add_norm(model, training_mode=0),
        lambda model: add_dropout(model, on=False),
        lambda model: add_dropout(model, ratio=0.0),
    ],
    ids=["norm", "norm, mode 0", "dropout off", "dropout of nothing"],
)
def test_norms_and_dropout_of_evaluation_are_not_warned_of(
    edit: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    assert check_model(change(write_cnn(tmp_path / "m.onnx"), edit)).warnings == ()

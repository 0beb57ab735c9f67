"""A model cut at a layer: with the layer's own values it decides as the whole model does, with others as the weights say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession
from clusterpaths.models.tail import TailSession, why_uncuttable
from clusterpaths.records import ModelRecord, Tap
from tests.architectures import exported
from tests.clusterpaths.conftest import save_model, write_cnn
from tests.clusterpaths.models.test_architectures import EXPORTER
from tests.clusterpaths.models.test_kinds import float16, nhwc, scaled, uint8, uint8_nhwc
from tests.clusterpaths.models.test_kinds_run import save

WIDTH = 3 * 4 * 4


def tapped(path: Path, layers: tuple[str, ...] | None = None) -> ModelRecord:
    model = check_model(path, layers)
    return instrument_model(model, model.size, "none")


def assert_tails_are_the_model(model: ModelRecord, images: NDArray[np.float32]) -> list[bool]:
    whole = TapSession(model).run(images)
    assert whole.logits is not None
    needed = []
    for tap in model.taps:
        assert why_uncuttable(model, tap) == ""
        tail = TailSession(model, tap)
        rows = tail.run(whole.layers[tap.layer], images).logits
        assert rows is not None
        assert rows.shape == whole.logits.shape
        assert np.allclose(rows, whole.logits, rtol=1e-3, atol=1e-3 * np.abs(whole.logits).max()), tap.layer
        needed.append(tail.needs_images)
    return needed


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit"])
def test_every_layer_of_an_architecture_can_be_cut(name: str) -> None:
    architecture = exported(name, EXPORTER[name])
    assert_tails_are_the_model(tapped(architecture.path), architecture.images)


@pytest.mark.parametrize("change", [float16, nhwc, uint8, uint8_nhwc])
def test_every_kind_of_input(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = scaled(tmp_path / "base.onnx")
    change(model)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16)).astype(np.float32)
    assert_tails_are_the_model(tapped(save(model, tmp_path / "changed.onnx")), images)


def test_a_fixed_batch_and_weights_in_another_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    model = tapped(write_cnn(tmp_path / "m.onnx", external="m.data")).model_copy(update={"batch": 2})
    assert_tails_are_the_model(model, images)


def rows_of(tail: TailSession, values: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = tail.run(values, images).logits
    assert rows is not None
    return rows


def graph(path: Path, nodes: list[onnx.NodeProto], **weights: NDArray[np.float32]) -> Path:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])]
    flat = helper.make_node("Flatten", ["input"], ["x"])
    return save_model(path, helper.make_graph([flat, *nodes], "g", inputs, outputs, tensors))


def layer(tensor: str, width: int = 4) -> Tap:
    return Tap(layer=tensor, tensor=tensor, shape=(width,), full_shape=(width,), dtype="float32")


@pytest.fixture
def weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    shapes = {"w1": (WIDTH, 4), "w2": (4, 2), "past": (WIDTH, 2)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_branch_past_the_layer_is_computed_from_the_image(tmp_path: Path, weights: dict[str, Any]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["behind"]),
        helper.make_node("MatMul", ["x", "past"], ["branch"]),
        helper.make_node("Add", ["behind", "branch"], ["logits"]),
    ]
    model = tapped(graph(tmp_path / "m.onnx", nodes, **weights))
    tail = TailSession(model, layer("h"))
    images = np.random.default_rng(1).standard_normal((3, 3, 4, 4)).astype(np.float32)
    other = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    assert tail.needs_images
    assert np.allclose(
        rows_of(tail, other, images), other @ weights["w2"] + images.reshape(3, -1) @ weights["past"], atol=1e-4
    )


def test_the_scores_themselves_and_one_output_of_a_split_can_be_cut(tmp_path: Path, weights: dict[str, Any]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Split", ["h"], ["left", "right"], axis=1),
        helper.make_node("Sub", ["left", "right"], ["logits"]),
    ]
    model = tapped(graph(tmp_path / "m.onnx", nodes, w1=weights["w1"]))
    images = np.random.default_rng(1).standard_normal((3, 3, 4, 4)).astype(np.float32)
    hidden = images.reshape(3, -1) @ weights["w1"]
    other = np.random.default_rng(2).standard_normal((3, 2)).astype(np.float32)
    assert np.allclose(rows_of(TailSession(model, layer("left", 2)), other, images), other - hidden[:, 2:], atol=1e-4)
    assert np.allclose(rows_of(TailSession(model, layer("logits", 2)), other, images), other)


def test_why_a_layer_cannot_be_cut(tmp_path: Path, weights: dict[str, Any], cnn: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("MatMul", ["x", "past"], ["logits"]),
    ]
    model = tapped(graph(tmp_path / "m.onnx", nodes, w1=weights["w1"], past=weights["past"]))
    assert why_uncuttable(model, layer("h")) == "the class scores (logits) do not depend on it"
    assert why_uncuttable(model, layer("logits")) == ""
    of_bytes = layer("logits").model_copy(update={"dtype": "uint8", "dequantised": True})
    assert why_uncuttable(model, of_bytes) == "its values are uint8, which no mean can be added to"
    without = instrument_model(check_model(cnn, logits="none"), (16, 16), "none")
    assert why_uncuttable(without, without.taps[0]) == "the model has no class scores"

"""Large layers are averaged over their places, wherever the graph has the channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession
from clusterpaths.records import ModelRecord
from tests.clusterpaths.conftest import save_model

node = helper.make_node
HEIGHT, WIDTH, CHANNELS = 16, 12, 16  # (16, 16, 12) and (16, 12, 16): neither shape tells which axis has the channels


def write(
    path: Path,
    *nodes: onnx.NodeProto,
    images: str = "NCHW",
    sizes: tuple[int, int, int] = (HEIGHT, WIDTH, CHANNELS),
    **weights: NDArray[Any],
) -> Path:
    """A graph from "image" to the layer "tapped", with scores behind it."""
    height, width, channels = sizes
    shape = ["n", 3, height, width] if images == "NCHW" else ["n", height, width, 3]
    end = [node("Flatten", ["tapped"], ["flat"]), node("MatMul", ["flat", "end"], ["logits"])]
    weights["end"] = np.ones((height * width * channels, 4), np.float32)
    graph = helper.make_graph(
        [*nodes, *end],
        "axes",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return save_model(path, graph)


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


def convolution(path: Path, images: str = "NCHW") -> Path:
    """(16, 16, 12) with the channels first: its shape looks like channels last."""
    turn = [node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2])] if images == "NHWC" else []
    first = "turned" if turn else "image"
    nodes = [*turn, node("Conv", [first, "w"], ["c"]), node("Relu", ["c"], ["tapped"])]
    return write(path, *nodes, images=images, w=normal(16, 3, 1, 1))


def residual(path: Path) -> Path:
    """The same behind a sum of two branches, one of which ends in a norm."""
    nodes = [
        node("Conv", ["image", "w"], ["c"]), node("Relu", ["c"], ["a"]), node("Conv", ["a", "v"], ["d"]),
        node("BatchNormalization", ["d", "one", "zero", "zero", "one"], ["e"]), node("Add", ["e", "a"], ["f"]),
        node("Relu", ["f"], ["tapped"]),
    ]  # fmt: skip
    one, zero = np.ones(16, np.float32), np.zeros(16, np.float32)
    weights = {"w": normal(16, 3, 1, 1), "v": normal(16, 16, 1, 1), "one": one, "zero": zero}
    return write(path, *nodes, **weights)


def dense_on_places(path: Path) -> Path:
    """(16, 12, 16) with the channels last, as Swin has them: its shape looks like channels first."""
    nodes = [
        node("Transpose", ["image"], ["places"], perm=[0, 2, 3, 1]), node("MatMul", ["places", "w"], ["product"]),
        node("Add", ["product", "bias"], ["sum"]), node("Relu", ["sum"], ["tapped"]),
    ]  # fmt: skip
    return write(path, *nodes, w=normal(3, 16), bias=normal(16))


def turned_back(path: Path) -> Path:
    """The same, channels first again, as ConvNeXt's blocks end."""
    nodes = [
        node("Transpose", ["image"], ["places"], perm=[0, 2, 3, 1]), node("MatMul", ["places", "w"], ["product"]),
        node("Transpose", ["product"], ["channels"], perm=[0, 3, 1, 2]), node("Relu", ["channels"], ["tapped"]),
    ]  # fmt: skip
    return write(path, *nodes, w=normal(3, 16))


GRAPHS = {
    "convolution": (convolution, 1),
    "images with channels last": (lambda path: convolution(path, "NHWC"), 1),
    "residual": (residual, 1),
    "dense on places": (dense_on_places, 3),
    "turned back": (turned_back, 1),
}


@pytest.mark.parametrize("way", ["gap", "max"])
@pytest.mark.parametrize("case", GRAPHS)
def test_channels_are_where_the_graph_has_them(case: str, way: str, tmp_path: Path) -> None:
    make, axis = GRAPHS[case]
    path = make(tmp_path / "m.onnx")
    images = normal(3, 3, 16, 12)
    whole, reduced = (instrument_model(check_model(path, ("tapped",)), (16, 12), each) for each in ("none", way))
    large, small = (
        next(iter(TapSession(record).run(images).layers.values())) for record in (whole, reduced)
    )  # the layer is called conv1 or fc1 where it is one
    places = tuple(each for each in (1, 2, 3) if each != axis)
    expected = large.max(axis=places) if way == "max" else large.mean(axis=places)
    assert small.shape == (3, 16)
    np.testing.assert_allclose(small, expected, rtol=1e-4, atol=1e-5)


def test_a_large_map_of_128_channels_at_128_x_96_keeps_its_channels(tmp_path: Path) -> None:
    nodes = [node("Conv", ["image", "w"], ["c"]), node("Relu", ["c"], ["tapped"])]
    path = write(tmp_path / "m.onnx", *nodes, w=normal(128, 3, 1, 1), sizes=(128, 96, 128))

    def tapped(record: ModelRecord) -> tuple[Any, ...]:
        (tap,) = record.taps
        return tap.reduce, tap.full_shape, tap.shape

    record = instrument_model(check_model(path, ("tapped",)), (128, 96))
    assert tapped(record) == ("gap", (128, 128, 96), (128,))

"""Models of every kind that people export: each built from one small CNN, so that its layers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.errors import ConfigError, ModelError
from clusterpaths.models.check import check_model, instrument_model, tap_again
from clusterpaths.models.find_outputs import find_outputs
from clusterpaths.models.reduce import reduced_axes
from clusterpaths.models.session import Outputs, TapSession
from tests.clusterpaths.conftest import LAYERS, save_model, write_cnn

SIZE = (16, 16)


def pixels(count: int = 6) -> NDArray[np.float32]:
    """Whole numbers 0..255, (n, 3, 16, 16) float32: what every kind of input can hold."""
    return np.random.default_rng(5).integers(0, 256, (count, 3, *SIZE)).astype(np.float32)


def run(path: Path, **options: Any) -> Outputs:
    model = instrument_model(check_model(path, **options), SIZE)
    return TapSession(model).run(pixels())


def scaled(path: Path) -> onnx.ModelProto:
    """The CNN behind a division by 255, so that pixels 0..255 are its input."""
    model = onnx.load(str(write_cnn(path)))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "factor"))
    model.graph.node.insert(0, helper.make_node("Mul", ["pixels", "factor"], ["input"]))
    rename_input(model, "pixels", TensorProto.FLOAT, ["batch", 3, *SIZE])
    return model


def rename_input(model: onnx.ModelProto, name: str, kind: int, shape: list[Any]) -> None:
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))


@pytest.fixture
def expected(tmp_path: Path) -> Outputs:
    path = tmp_path / "expected.onnx"
    onnx.save(scaled(tmp_path / "base.onnx"), str(path))
    return run(path)


def nhwc(model: onnx.ModelProto) -> None:
    """As Keras exports: channels last at the door."""
    model.graph.node.insert(0, helper.make_node("Transpose", ["last"], ["pixels"], perm=[0, 3, 1, 2]))
    rename_input(model, "last", TensorProto.FLOAT, ["batch", *SIZE, 3])


def uint8(model: onnx.ModelProto) -> None:
    """Bytes in, normalised inside."""
    model.graph.node.insert(0, helper.make_node("Cast", ["bytes"], ["pixels"], to=TensorProto.FLOAT))
    rename_input(model, "bytes", TensorProto.UINT8, ["batch", 3, *SIZE])


def uint8_nhwc(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Transpose", ["bytes"], ["first"], perm=[0, 3, 1, 2]))
    model.graph.node.insert(1, helper.make_node("Cast", ["first"], ["pixels"], to=TensorProto.FLOAT))
    rename_input(model, "bytes", TensorProto.UINT8, ["batch", *SIZE, 3])


def float16(model: onnx.ModelProto) -> None:
    """Weights, input and outputs of half precision."""
    for tensor in list(model.graph.initializer):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    rename_input(model, "pixels", TensorProto.FLOAT16, ["batch", 3, *SIZE])
    for output in model.graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT16


def open_size(model: onnx.ModelProto) -> None:
    rename_input(model, "pixels", TensorProto.FLOAT, ["batch", 3, "height", "width"])


@pytest.mark.parametrize("change", [nhwc, uint8, uint8_nhwc, float16, open_size], ids=lambda change: change.__name__)
def test_every_kind_of_input_gives_what_the_plain_model_gives(
    change: Callable[[onnx.ModelProto], None], expected: Outputs, tmp_path: Path
) -> None:
    model = scaled(tmp_path / "base.onnx")
    change(model)
    path = tmp_path / "kind.onnx"
    onnx.save(model, str(path))
    found = run(path)
    tolerance = 2e-2 if change is float16 else 1e-5
    for layer in LAYERS:
        assert found.layers[layer].dtype == np.float32
        np.testing.assert_allclose(found.layers[layer], expected.layers[layer], rtol=tolerance, atol=tolerance)
    assert found.logits is not None
    assert expected.logits is not None
    np.testing.assert_allclose(found.logits, expected.logits, rtol=tolerance, atol=tolerance)
    record = check_model(path)
    assert record.layout == ("NHWC" if "nhwc" in change.__name__ else "NCHW")
    assert record.input_type == {uint8: "uint8", uint8_nhwc: "uint8", float16: "float16"}.get(change, "float32")


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_quantized_model_gives_float_layers_close_to_the_plain_ones(
    form: str, expected: Outputs, tmp_path: Path
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.batches = iter([{"pixels": pixels()}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    plain, path = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    onnx.save(scaled(tmp_path / "base.onnx"), str(plain))
    quantize_static(str(plain), str(path), Reader(), quant_format=QuantFormat[form])
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(str(path)).graph.node)
    found = run(path)
    for layer in LAYERS:
        error = np.abs(found.layers[layer] - expected.layers[layer]).mean()
        assert found.layers[layer].dtype == np.float32
        assert 0 < error < 0.05 * np.abs(expected.layers[layer]).max()
    record = instrument_model(check_model(path), SIZE)
    again = tap_again(record, {tap.layer: tap.identity for tap in record.taps}, SIZE)
    assert again.taps == record.taps
    dequantised = [tap.identity.endswith("|dequantised") for tap in record.taps]
    assert any(dequantised) == (form == "QOperator")  # bytes go from layer to layer there
    as_bytes = tap_again(record, {tap.layer: tap.tensor for tap in record.taps}, SIZE)  # as sets from before have them
    assert [tap.dtype in ("int8", "uint8") and not tap.dequantised for tap in as_bytes.taps] == dequantised


def two_outputs(path: Path, *names: str) -> Path:
    """The embedding (what the last Gemm reads) and the class scores, under these names, in this order."""
    model = onnx.load(str(write_cnn(path)))
    embedding = next(name for name in names if name != "scores")
    model.graph.node.append(helper.make_node("Identity", ["relu_2"], [embedding]))
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    widths = {embedding: 10, "scores": 5}
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", widths[name]]) for name in names
    )
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("names", [("out_a", "scores"), ("scores", "out_a"), ("embedding", "scores")])
def test_class_scores_are_told_from_an_embedding(names: tuple[str, ...], tmp_path: Path) -> None:
    record = instrument_model(check_model(two_outputs(tmp_path / "m.onnx", *names)), SIZE)
    assert (record.logits, record.outputs.classes) == ("scores", 5)
    assert record.layers == LAYERS


def test_the_output_that_is_computed_from_the_others_is_taken_where_no_name_tells(tmp_path: Path) -> None:
    model = onnx.load(str(two_outputs(tmp_path / "m.onnx", "out_a", "scores")))
    for node in model.graph.node:
        node.output[:] = ["out_b" if name == "scores" else name for name in node.output]
    for output in model.graph.output:
        output.name = {"scores": "out_b"}.get(output.name, output.name)
    for node in model.graph.node:  # the embedding is a layer's own output, so that the scores follow from it
        node.input[:] = ["out_a" if name == "relu_2" and node.op_type == "Gemm" else name for name in node.input]
    ordered = sorted(model.graph.node, key=lambda node: node.output[0] == "out_b")
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    assert find_outputs(model, tmp_path / "m.onnx").name == "out_b"


def test_logits_by_name(tmp_path: Path) -> None:
    path = two_outputs(tmp_path / "m.onnx", "out_a", "scores")
    assert check_model(path, logits="out_a").logits == "out_a"
    none = instrument_model(check_model(path, logits="none"), SIZE)
    assert (none.logits, none.outputs.classes) == (None, 0)
    with pytest.raises(ModelError, match=r"no output 'score'\. Did you mean scores\?"):
        check_model(path, logits="score")
    instrumented = write_cnn(tmp_path / "i.onnx", instrumented=True)
    with pytest.raises(
        ModelError, match=r"'relu' does not hold class scores: it has 4 axes.*Outputs of that shape: logits"
    ):
        check_model(instrumented, logits="relu")


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
@pytest.mark.parametrize(("way", "by_hand"), [("gap", "mean"), ("mean", "mean"), ("max", "max")])
def test_feature_maps_are_reduced_in_the_graph(way: str, by_hand: str, opset: int, tmp_path: Path) -> None:
    path = write_cnn(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.opset_import[0].version = opset
    onnx.save(model, str(path))
    record = instrument_model(check_model(path), SIZE)
    reduced = instrument_model(check_model(path), SIZE, f"none,conv2={way}")
    assert [tap.shape for tap in reduced.taps] == [(4, 16, 16), (6,), (10,)]
    assert [tap.identity for tap in reduced.taps] == ["relu", f"relu_1|{way}", "relu_2"]
    whole, small = TapSession(record).run(pixels()), TapSession(reduced).run(pixels())
    values = getattr(whole.layers["conv2"], by_hand)(axis=(2, 3))
    np.testing.assert_allclose(small.layers["conv2"], values, rtol=1e-5)
    halved = TapSession(reduced, {"conv2": "float16"}).run(pixels()).layers["conv2"]
    assert halved.dtype == np.float16
    np.testing.assert_array_equal(halved, small.layers["conv2"].astype(np.float16))


def tokens(path: Path, many: int = 5, width: int = 8) -> Path:
    """Images to (batch, many, width) tokens, through a dense layer on each: a sequence axis."""
    rng = np.random.default_rng(0)
    step = 3 * SIZE[0] * SIZE[1] // many
    weights = {
        "shape": np.array([-1, many, step]), "w1": rng.standard_normal((step, width)).astype(np.float32) / 500,
        "w2": rng.standard_normal((width, 4)).astype(np.float32), "b2": np.zeros(4, np.float32),
        "end": np.array([many * step]), "begin": np.array([0]), "axis": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Slice", ["flat", "begin", "end", "axis"], ["whole"]),
        helper.make_node("Reshape", ["whole", "shape"], ["patches"]),
        helper.make_node("MatMul", ["patches", "w1"], ["embedded"]),
        helper.make_node("Relu", ["embedded"], ["relu"]),
        helper.make_node("ReduceMean", ["relu"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["pooled", "w2", "b2"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "tokens", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, *SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return save_model(path, graph)


def test_tokens_are_reduced_in_the_graph(tmp_path: Path) -> None:
    path = tokens(tmp_path / "m.onnx")
    name = check_model(path).layers[0]
    whole = run(path, layers=(name,)).layers[name]
    assert whole.shape == (6, 5, 8)
    for way, by_hand in {"cls": whole[:, 0], "tokens-mean": whole.mean(axis=1), "max": whole.max(axis=1)}.items():
        record = instrument_model(check_model(path, (name,)), SIZE, way)
        np.testing.assert_allclose(TapSession(record).run(pixels()).layers[name], by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3, 8, 8), [2, 3]), ((8, 8, 3), [1, 2]), ((8, 8, 8), [2, 3]), ((3, 8, 9), [2, 3]), ((5, 8), [1])],
)
def test_channels_stay_wherever_they_are(shape: tuple[int, ...], axes: list[int]) -> None:
    assert reduced_axes("mean", shape) == axes


def test_auto_averages_what_is_large_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_cnn(tmp_path / "m.onnx")
    assert {tap.reduce for tap in instrument_model(check_model(path), SIZE).taps} == {"none"}
    monkeypatch.setattr("clusterpaths.models.reduce.LARGE", 6 * 8 * 8)  # conv2 has as many, conv1 more
    assert [tap.reduce for tap in instrument_model(check_model(path), SIZE).taps] == ["gap", "none", "none"]
    words = tokens(tmp_path / "t.onnx")
    monkeypatch.setattr("clusterpaths.models.reduce.LARGE", 39)
    assert instrument_model(check_model(words), SIZE).taps[0].reduce == "tokens-mean"


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("avg", ConfigError, r"got 'avg'\. Ways: auto, none, mean, max, gap, cls, tokens-mean"),
        ("conv9=gap", ConfigError, r"names the layer 'conv9', which this run does not extract.*conv1, conv2, fc1"),
        ("none,fc1=gap", ModelError, r"Layer fc1 cannot be reduced by gap: it has shape 10.*Use --reduce fc1=none"),
        ("none,conv1=cls", ModelError, r"Layer conv1 cannot be reduced by cls: it has shape 4x16x16.*expected tokens"),
    ],
)
def test_a_reduction_that_cannot_be_is_told(asked: str, error: type[Exception], message: str, cnn: Path) -> None:
    with pytest.raises(error, match=message):
        instrument_model(check_model(cnn), SIZE, asked)


def test_tapped_values_are_those_of_a_graph_without_optimisations(tmp_path: Path) -> None:
    import onnxruntime

    path = write_cnn(tmp_path / "m.onnx")
    tapped = run(path)
    model = onnx.load(str(path))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("relu", "relu_1", "relu_2"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    bare = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = bare.run(["relu", "relu_1", "relu_2"], {"input": pixels()})
    for layer, value in zip(LAYERS, values, strict=True):
        np.testing.assert_allclose(tapped.layers[layer], value, rtol=1e-4, atol=1e-3)


def newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def custom_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Rectify", "com.example"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer_opset, r"Export it again for an older opset, or install a newer onnxruntime"),
        (custom_operator, r"com\.example.*uses an operator of its own"),
    ],
)
def test_what_the_runtime_does_not_know_is_told(
    change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load(str(write_cnn(path)))
    change(model)
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match=message):
        instrument_model(check_model(path, ("conv2",)), SIZE)

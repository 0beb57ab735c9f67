from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from clusterpaths.common.roots import HOME_VARIABLE
from clusterpaths.errors import ModelError
from clusterpaths.models.check import PREPROCESSING_KEY, check_model, instrument_model
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.models.find import default_model
from clusterpaths.records import Preprocessing
from tests.clusterpaths.conftest import LAYERS, save_model, write_cnn


def text_file(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>Sign in</html>\n")


def truncated(path: Path) -> None:
    content = write_cnn(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def with_inputs(*inputs: tuple[int, list[Any]], operator: str = "Identity") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        infos = [helper.make_tensor_value_info(f"in{i}", kind, shape) for i, (kind, shape) in enumerate(inputs)]
        output = helper.make_tensor_value_info("y", inputs[0][0], None)
        save_model(path, helper.make_graph([helper.make_node(operator, ["in0"], ["y"])], "g", infos, [output]))

    return write


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
BAD = [
    ("no file", lambda _: None, r"There is no model at .*m\.onnx\. .*--model PATH.*flows/train\.py.*--sample"),
    ("folder", lambda path: path.mkdir(), r"There is no model at"),
    ("text", text_file, r"is not an ONNX model.*It looks like text"),
    ("truncated", truncated, r"is not an ONNX model"),
    ("empty", lambda path: path.write_bytes(b""), r"is not an ONNX model: it holds no graph \(0 bytes\)"),
    ("rank 2", with_inputs((FLOAT, ["n", 10])), r"no image input: its input is in0 float \(n, 10\)\. Expected one"),
    ("one channel", with_inputs((FLOAT, [1, 1, 8, 8])), r"no image input: its input is in0 float \(1, 1, 8, 8\)"),
    ("four channels", with_inputs((FLOAT, [1, 4, 8, 8])), r"\(1, 4, 8, 8\).*with an alpha channel \(4 channels\)"),
    ("one channel last", with_inputs((FLOAT, [1, 8, 8, 1])), r"seems to take grey images \(1 channel\)"),
    ("text", with_inputs((INT, ["n", 128]), (INT, ["n", 128])), r"looks like the tokens of a text model"),
    ("int64", with_inputs((INT, [1, 3, 8, 8])), r"no image input: its input is in0 int64 \(1, 3, 8, 8\)\. Expected"),
    (
        "two inputs",
        with_inputs((FLOAT, [1, 3, 8, 8]), (FLOAT, [1])),
        r"has 2 inputs \(in0 float \(1, 3, 8, 8\), in1 float \(1\)\)",
    ),
    ("no layer", with_inputs((FLOAT, [1, 3, 8, 8])), r"no layer to extract"),
]


@pytest.mark.parametrize(("write", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_model_is_refused_in_words(tmp_path: Path, write: Callable[[Path], Any], message: str) -> None:
    write(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        check_model(tmp_path / "m.onnx")


def test_unknown_layer_is_refused_before_the_model_runs(cnn: Path) -> None:
    with pytest.raises(ModelError, match=r"no layer 'cnv2'\. Did you mean conv2"):
        check_model(cnn, ("conv1", "cnv2"))


@pytest.mark.parametrize(("batch", "instrumented"), [(None, False), (1, False), (8, True)])
def test_what_is_found_out_about_a_model(tmp_path: Path, batch: int | None, instrumented: bool) -> None:
    path = write_cnn(tmp_path / "m.onnx", batch=batch, instrumented=instrumented)
    record = instrument_model(check_model(path), (16, 16))
    assert (record.input, record.batch, record.size, record.logits) == ("input", batch, (16, 16), "logits")
    assert (record.layers, record.outputs.classes) == (LAYERS, 5)
    assert [tap.shape for tap in record.taps] == [(4, 16, 16), (6, 8, 8), (10,)]
    assert [tap.operator for tap in record.taps] == ["Conv", "Conv", "Gemm"]
    assert (record.preprocessing, record.outputs.class_names, record.warnings) == (None, (), ())


def test_size_the_model_does_not_take_is_told_with_what_to_do(cnn: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be run on a batch of shape \(1, 3, 20, 20\).*--size HEIGHTxWIDTH"):
        instrument_model(check_model(cnn), (20, 20))


def test_open_size_takes_the_default_and_any_other(tmp_path: Path) -> None:
    model = onnx.load(str(write_cnn(tmp_path / "m.onnx")))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "any"
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert check_model(tmp_path / "m.onnx").size == (64, 64)
    taps = instrument_model(check_model(tmp_path / "m.onnx", ("conv1",)), (16, 16)).taps
    assert taps[0].shape == (4, 16, 16)


def test_metadata_say_preprocessing_and_class_names(tmp_path: Path) -> None:
    preprocessing = Preprocessing(name="own", size=(16, 16), mean=(0.1, 0.2, 0.3), std=(1, 1, 2))
    metadata = {PREPROCESSING_KEY: preprocessing.model_dump_json(), CLASSES_KEY: '["cat", "dog"]'}
    record = check_model(write_cnn(tmp_path / "m.onnx", metadata=metadata))
    assert (record.preprocessing, record.outputs.class_names) == (preprocessing, ("cat", "dog"))


@pytest.mark.parametrize(
    ("key", "text"), [(PREPROCESSING_KEY, '{"mean": 1}'), (CLASSES_KEY, "cat, dog"), (CLASSES_KEY, "5")]
)
def test_metadata_that_are_not_understood_are_named(tmp_path: Path, key: str, text: str) -> None:
    with pytest.raises(ModelError, match=rf"metadata entry '{key}', which cannot be parsed"):
        check_model(write_cnn(tmp_path / "m.onnx", metadata={key: text}))


def test_identity_of_a_model_is_its_bytes_and_its_weights_not_its_name(tmp_path: Path) -> None:
    one, copy = (check_model(write_cnn(tmp_path / name)).sha256 for name in ("a.onnx", "b.onnx"))
    other = check_model(write_cnn(tmp_path / "c.onnx", seed=1)).sha256
    assert one == copy != other
    outside = [write_cnn(tmp_path / f"{seed}/m.onnx", external="w.data", seed=seed) for seed in (0, 1)]
    assert outside[0].read_bytes() == outside[1].read_bytes()
    assert check_model(outside[0]).sha256 != check_model(outside[1]).sha256


def test_default_model_is_the_instrumented_one_or_the_plain_one_where_only_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    folder = tmp_path / "ONNX_models"
    assert default_model() == folder / "CelebA_CNN_instrumented.onnx"
    write_cnn(folder / "CelebA_CNN.onnx")
    assert default_model() == folder / "CelebA_CNN.onnx"
    write_cnn(folder / "CelebA_CNN_instrumented.onnx")
    assert default_model() == folder / "CelebA_CNN_instrumented.onnx"


def test_a_model_that_onnx_runtime_refuses_is_told_as_such(tmp_path: Path) -> None:
    model = onnx.load(str(write_cnn(tmp_path / "m.onnx")))
    model.graph.node[0].op_type = "Convolution"
    model.graph.node[3].input[1] = "nowhere"
    onnx.save(model, str(tmp_path / "m.onnx"))
    record = check_model(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"ONNX Runtime .* cannot load .*m\.onnx"):
        instrument_model(record, (16, 16))


def test_shapes_are_those_the_model_really_gives(cnn: Path) -> None:
    for tap in instrument_model(check_model(cnn, ("conv2",)), (16, 16)).taps:
        assert int(np.prod(tap.shape)) == 6 * 8 * 8

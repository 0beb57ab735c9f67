from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from clusterpaths.common.roots import HOME_VARIABLE
from clusterpaths.errors import ModelError
from clusterpaths.models.check import check_model, instrument_model, tap_again
from clusterpaths.models.class_names import CLASSES_KEY
from clusterpaths.models.feed import PREPROCESSING_KEY
from clusterpaths.models.find import default_model
from clusterpaths.models.inspect import inspect_model
from clusterpaths.models.session import TapSession
from clusterpaths.records import Preprocessing
from tests.clusterpaths.conftest import LAYERS, save_model, write_cnn


def text_file(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>Sign in</html>\n")


def truncated(path: Path) -> None:
    content = write_cnn(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def lfs_pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 46805783\n")


def saved_by_onnx_runtime(path: Path, level: str = "ORT_ENABLE_ALL", **entries: str) -> Path:
    """The CNN as ONNX Runtime writes it when it has optimised it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # it warns that the file is for this machine
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    plain = write_cnn(path.with_suffix(".plain"))
    onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    return path


def ort_format(path: Path) -> None:
    saved_by_onnx_runtime(path, save_model_format="ORT")


def nchwc(path: Path) -> None:
    """As ORT_ENABLE_ALL writes it where the processor has such kernels."""
    model = onnx.load(str(write_cnn(path)))
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.domain = "com.microsoft.nchwc"
    onnx.save(model, str(path))


def with_inputs(*inputs: tuple[int, list[Any]], operator: str = "Identity") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        infos = [helper.make_tensor_value_info(f"in{i}", kind, shape) for i, (kind, shape) in enumerate(inputs)]
        output = helper.make_tensor_value_info("y", inputs[0][0], None)
        save_model(path, helper.make_graph([helper.make_node(operator, ["in0"], ["y"])], "g", infos, [output]))

    return write


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
BAD = [
    (
        "no file",
        lambda _: None,
        r"There is no model at .*m\.onnx\. .*--model PATH.*flows/train\.py.*clusterpaths sample",
    ),
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
        "two images",
        with_inputs((FLOAT, ["n", 3, 8, 8]), (FLOAT, ["n", 3, 8, 8])),
        r"has 2 inputs \(in0 float \(n, 3, 8, 8\), in1 float \(n, 3, 8, 8\)\)",
    ),
    ("pointer", lfs_pointer, r"is not an ONNX model.*Git LFS pointer in place of the model: run `git lfs pull`"),
    ("ort format", ort_format, r"in ONNX Runtime's own format \(\.ort\).*Name the \.onnx file that it was made from"),
    (
        "nchwc",
        nchwc,
        r"saved by ONNX Runtime's optimizer for one kind of processor: \d of its nodes.*com\.microsoft\.nchwc",
    ),
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


def test_a_model_saved_by_onnx_runtimes_optimizer_has_the_layers_of_the_plain_one(tmp_path: Path) -> None:
    path = saved_by_onnx_runtime(tmp_path / "m.onnx", "ORT_ENABLE_EXTENDED")
    assert {"FusedConv", "FusedGemm"} <= {node.op_type for node in onnx.load(str(path)).graph.node}
    images = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    records = [instrument_model(check_model(each), (16, 16)) for each in (path, path.with_suffix(".plain"))]
    own, plain = (TapSession(record).run(images) for record in records)
    assert list(own.layers) == list(plain.layers) == list(LAYERS)
    for layer in LAYERS:
        np.testing.assert_allclose(own.layers[layer], plain.layers[layer], rtol=1e-4, atol=1e-5)


def test_size_the_model_does_not_take_is_told_in_full_with_what_to_do(cnn: Path) -> None:
    with pytest.raises(
        ModelError,
        match=r"batch of shape \(1, 3, 20, 20\).*Got: 20 Expected: 16.*--size HEIGHTxWIDTH",
    ):
        instrument_model(check_model(cnn), (20, 20))


def declare(path: Path, *dims: int | str) -> Path:
    """The CNN with the first axis and the sizes of its input declared as this."""
    model = onnx.load(str(write_cnn(path)))
    axes = model.graph.input[0].type.tensor_type.shape.dim
    for axis, size in zip((axes[0], *axes[2:]), dims, strict=True):
        axis.Clear()
        if isinstance(size, str):
            axis.dim_param = size
        else:
            axis.dim_value = size
    onnx.save(model, str(path))
    return path


def test_open_size_takes_the_default_and_any_other(tmp_path: Path) -> None:
    path = declare(tmp_path / "m.onnx", "batch", "any", "any")
    assert check_model(path).size == (64, 64)
    taps = instrument_model(check_model(path, ("conv1",)), (16, 16)).taps
    assert taps[0].shape == (4, 16, 16)


@pytest.mark.parametrize("dims", [(-1, 16, 16), (-1, -1, -1), ("batch", -1, -1), (0, 16, 16)])
def test_sizes_that_are_no_sizes_are_open(dims: tuple[int | str, ...], tmp_path: Path) -> None:
    path = declare(tmp_path / "m.onnx", *dims)
    record = instrument_model(check_model(path), (16, 16))
    assert (record.batch, record.layers) == (None, LAYERS)
    outputs = TapSession(record).run(np.zeros((3, 3, 16, 16), np.float32))
    assert len(outputs.layers["fc1"]) == 3
    fixed = None if dims[1] == -1 else (16, 16)
    assert (inspect_model(path, size=(16, 16)).batch, inspect_model(path, size=(16, 16)).size) == (None, fixed)


@pytest.mark.parametrize(
    ("dims", "sides"), [((16, "any"), (16, None)), ((-1, 16), (None, 16)), (("h", 16), (None, 16))]
)
def test_a_fixed_side_is_kept_where_the_other_is_open(
    dims: tuple[int | str, int | str], sides: tuple[int | None, int | None], tmp_path: Path
) -> None:
    path = declare(tmp_path / "m.onnx", "batch", *dims)
    assert check_model(path).size == (16, 16)  # a square, not the default's other side
    found = inspect_model(path)
    assert found.size == sides
    assert f"any {'width' if sides[0] else 'height'}; the shapes are those of 16x16" in found.warnings[0]
    sidecar = {"size": {"height": 32, "width": 24}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sidecar))
    record = check_model(path)
    assert record.preprocessing is not None
    assert record.size == record.preprocessing.size == ((16, 24) if sides[0] else (32, 16))
    with pytest.raises(ModelError, match=r"Got: 20 Expected: 16"):
        instrument_model(record, (20, 20))


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
    onnx.save(model, str(tmp_path / "m.onnx"))
    record = check_model(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"ONNX Runtime .* cannot load .*m\.onnx"):
        instrument_model(record, (16, 16))


def test_shapes_are_those_the_model_really_gives(cnn: Path) -> None:
    for tap in instrument_model(check_model(cnn, ("conv2",)), (16, 16)).taps:
        assert int(np.prod(tap.shape)) == 6 * 8 * 8


@pytest.mark.parametrize("way", ["none", "mean"])
def test_a_tensor_with_a_reductions_name_is_tapped_again(way: str, cnn: Path, tmp_path: Path) -> None:
    """torch's exporter calls the output of a ReduceMean "mean"."""
    proto = onnx.load(str(cnn))
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = "mean" if name == "relu" else name
    onnx.save(proto, str(tmp_path / "named.onnx"))
    first = instrument_model(check_model(tmp_path / "named.onnx", ("conv1",)), (16, 16), way)
    again = tap_again(first, {tap.layer: tap.identity for tap in first.taps}, (16, 16))
    assert again.taps == first.taps
    assert again.taps[0].identity == ("mean" if way == "none" else "mean|mean")

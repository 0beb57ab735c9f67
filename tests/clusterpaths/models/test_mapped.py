"""A large file's weights stay in it, and nothing else is different: the graph, its values, and what is told of bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.errors import ModelError
from clusterpaths.models import mapped
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.inspect import inspect_model
from clusterpaths.models.load import load_graph, load_proto
from clusterpaths.models.session import TapSession
from tests.runs import SAMPLE_MODEL

IMAGES = np.random.default_rng(0).random((5, 3, 64, 64), np.float32)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large is what the sample's model has."""
    monkeypatch.setattr(mapped, "LEAST_FILE", 1000)
    monkeypatch.setattr(mapped, "LEAST_TENSOR", 1000)


def read(path: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Without weights, and as onnx reads it."""
    found = mapped.read_mapped(path)
    assert found is not None
    return found, onnx.load(path)


def filled(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with the values that its references name, by their place in the file."""
    content = path.read_bytes()
    for tensor in model.graph.initializer:
        if tensor.external_data:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            start = int(entries["offset"])
            assert entries["location"] == mapped.OWN
            tensor.raw_data = content[start : start + int(entries["length"])]
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return model


def test_references_name_the_values_and_all_else_is_as_in_the_file() -> None:
    found, whole = read(SAMPLE_MODEL)
    taken = [tensor.name for tensor in found.graph.initializer if tensor.external_data]
    assert taken == [tensor.name for tensor in whole.graph.initializer if len(tensor.raw_data) >= 1000]
    assert len(taken) >= 4
    assert len(found.SerializeToString()) < SAMPLE_MODEL.stat().st_size / 10
    assert filled(found, SAMPLE_MODEL) == whole


def test_values_are_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for least in (1000, 1 << 40):
        monkeypatch.setattr(mapped, "LEAST_FILE", least)
        record = instrument_model(check_model(SAMPLE_MODEL), (64, 64))
        runs.append((record, inspect_model(SAMPLE_MODEL), TapSession(record).run(IMAGES)))
    (own, seen, outputs), (plain, as_seen, wanted) = runs
    assert (own, seen) == (plain, as_seen)  # sha256 included
    np.testing.assert_array_equal(outputs.logits, wanted.logits)
    for layer, rows in wanted.layers.items():
        np.testing.assert_array_equal(outputs.layers[layer], rows)


def test_a_model_that_is_to_be_written_anew_has_its_weights() -> None:
    assert load_proto(SAMPLE_MODEL, weights=True) == onnx.load(SAMPLE_MODEL)


def test_a_name_that_is_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(SAMPLE_MODEL)
    record = instrument_model(check_model(tmp_path / "link.onnx"), (64, 64))
    assert TapSession(record).run(IMAGES).logits is not None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_told_as_before(tmp_path: Path, share: float) -> None:
    path, content = tmp_path / "cut.onnx", SAMPLE_MODEL.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert mapped.read_mapped(path) is None
    with pytest.raises(ModelError, match="is not an ONNX model"):
        load_graph(path)


@pytest.mark.parametrize(
    "content", [b"\0" * 5000, b"\xff" * 5000, b"a text " * 1000, b"\x3a\xff\xff\xff\xff\x7f" + b"x" * 5000]
)
def test_what_is_no_model_is_left_to_the_parser(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.onnx").write_bytes(content)
    assert mapped.read_mapped(tmp_path / "no.onnx") is None


def test_a_file_that_names_the_place_itself_gets_its_own_bytes_at_most(tmp_path: Path) -> None:
    """A file can say what this module says: it then reads of itself, and not beyond its end."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[12, 2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": mapped.OWN, "offset": "100000", "length": "96"}.items():
        tensor.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 2, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "own", [image], [logits], [tensor, numpy_helper.from_array(np.zeros(1), "x")])
    path = tmp_path / "own.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(ModelError, match="cannot load"):
        TapSession(check_model(path, logits="logits", layers=("flat",)))

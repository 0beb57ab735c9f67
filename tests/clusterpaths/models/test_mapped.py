"""A large file's weights stay in it, and nothing else is different: the graph, its values, and what is told of bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

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


@pytest.mark.parametrize("where", ["initializer", "node"])
def test_a_file_that_names_itself_is_refused(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `OWN` would read any bytes of the file as weights, and an export would look for a file of that name."""
    model = onnx.load(SAMPLE_MODEL)
    tensor = TensorProto(name="own", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": mapped.OWN, "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    if where == "initializer":
        model.graph.initializer.append(tensor)
    else:
        model.graph.node.append(helper.make_node("Constant", [], ["own"], value=tensor))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for least in (1000, 1 << 40):
        monkeypatch.setattr(mapped, "LEAST_FILE", least)
        with pytest.raises(ModelError, match="means itself only where this program wrote it"):
            check_model(tmp_path / "m.onnx")


def test_a_model_that_is_written_over_while_it_is_in_use_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterpaths.models.session.LEAST_FILE", 1000)
    path = tmp_path / "m.onnx"
    path.write_bytes(SAMPLE_MODEL.read_bytes())
    session = TapSession(instrument_model(check_model(path), (64, 64)))
    before = session.run(IMAGES)
    other = tmp_path / "other.onnx"
    other.write_bytes(SAMPLE_MODEL.read_bytes())
    other.replace(path)  # renamed: the session has the file of before
    np.testing.assert_array_equal(session.run(IMAGES).logits, before.logits)
    path.touch()
    session.run(IMAGES)  # not the file that it maps

    session = TapSession(instrument_model(check_model(path), (64, 64)))
    session.run(IMAGES)
    path.write_bytes(SAMPLE_MODEL.read_bytes())
    with pytest.raises(ModelError, match="was written over while it was in use"):
        session.run(IMAGES)

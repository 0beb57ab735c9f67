from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from clusterpaths.errors import ModelError
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.external import hash_files
from clusterpaths.models.inspect import inspect_model
from clusterpaths.models.session import TapSession
from clusterpaths.watching.arrivals import content_sha256, examine
from tests.clusterpaths.conftest import write_cnn

NAME = "tiny_cnn.onnx.data"


def write(tmp_path: Path) -> Path:
    return write_cnn(tmp_path / "Tiny_CNN.onnx", external=NAME)


def name_instead(path: Path, location: str) -> None:
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def test_weights_beside_the_model_are_found_without_a_warning(tmp_path: Path) -> None:
    record = check_model(write(tmp_path))
    assert record.external == {NAME: str(tmp_path / NAME)}
    assert record.warnings == ()


def test_weights_under_another_letter_case_are_taken_with_a_warning_and_give_the_same_values(tmp_path: Path) -> None:
    path = write(tmp_path)
    image = np.ones((1, 3, 16, 16), np.float32)
    before = TapSession(check_model(path)).run(image)
    (tmp_path / NAME).rename(tmp_path / "Tiny_CNN.onnx.data")
    record = instrument_model(check_model(path), (16, 16))
    assert record.external == {NAME: str(tmp_path / "Tiny_CNN.onnx.data")}
    (warning,) = record.warnings
    assert f"'{NAME}'; taking 'Tiny_CNN.onnx.data', which differs in letter case only" in warning
    np.testing.assert_array_equal(before.layers["fc1"], TapSession(record).run(image).layers["fc1"])


def test_two_files_of_like_letters_are_not_chosen_between(tmp_path: Path) -> None:
    path = write(tmp_path)
    shutil.copy(tmp_path / NAME, tmp_path / "TINY_CNN.onnx.data")
    (tmp_path / NAME).rename(tmp_path / "Tiny_CNN.onnx.data")
    with pytest.raises(ModelError, match=r"nearest names there are .*T"):
        check_model(path)


def test_missing_weights_are_named_with_the_nearest_names(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / NAME).rename(tmp_path / "tiny_cnn.data")
    (tmp_path / "holiday.txt").write_text("")
    with pytest.raises(
        ModelError, match=rf"keeps its weights in '{NAME}'.*does not exist\. The nearest names .*tiny_cnn\.data"
    ):
        check_model(path)


def test_weights_file_that_was_not_copied_whole_is_told_with_both_sizes(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:-1])
    with pytest.raises(
        ModelError, match=rf"too short: it has {len(whole) - 1:,} bytes, the model needs {len(whole):,}"
    ):
        check_model(path)


@pytest.mark.parametrize("location", [
    "../weights.data", "/etc/hostname", "a/../../weights.data", "..\\weights.data", "a\\..\\..\\weights.data"
])  # fmt: skip
def test_weights_outside_the_models_folder_are_refused(tmp_path: Path, location: str) -> None:
    path = write_cnn(tmp_path / "models" / "m.onnx", external="weights.data")
    shutil.copy(path.parent / "weights.data", tmp_path / "weights.data")
    name_instead(path, location)
    with pytest.raises(ModelError, match="is outside its own directory"):
        check_model(path)


@pytest.mark.parametrize("name", ["weights.data", "WEIGHTS.DATA"], ids=["by its name", "by another letter case"])
def test_a_symbolic_link_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    path = write_cnn(tmp_path / "models" / "m.onnx", external="weights.data")
    (path.parent / "weights.data").rename(tmp_path / "weights.data")
    (path.parent / name).symlink_to(tmp_path / "weights.data")
    with pytest.raises(ModelError, match="is outside its own directory"):
        check_model(path)


def test_a_symbolic_link_to_weights_in_the_same_folder_is_followed(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / NAME).rename(tmp_path / "blob")
    (tmp_path / NAME).symlink_to("blob")
    assert instrument_model(check_model(path), (16, 16)).outputs.classes == 5


def test_a_link_to_itself_is_a_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to(NAME)
    with pytest.raises(ModelError, match="does not exist"):
        check_model(path)


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000, ".", "a/" * 5000], ids=["nul", "long", "itself", "deep"])
def test_a_location_that_is_no_name_of_a_file_is_refused(tmp_path: Path, location: str) -> None:
    path = write(tmp_path)
    name_instead(path, location)
    with pytest.raises(ModelError, match="weights"):
        check_model(path)


def test_an_address_in_the_memory_of_the_runtime_is_no_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    place = tmp_path / "*" / "_ORT_MEM_ADDR_"  # ONNX Runtime's own mark; a file of that name can be made
    place.mkdir(parents=True)
    (tmp_path / NAME).rename(place / "*")
    name_instead(path, "*/_ORT_MEM_ADDR_/*")
    with pytest.raises(ModelError, match="is outside its own directory"):
        check_model(path)


@pytest.mark.parametrize(("key", "value"), [("offset", "-8"), ("length", "-1"), ("offset", "x"), ("length", "9" * 30)])
def test_an_offset_or_length_that_is_none_is_refused(tmp_path: Path, key: str, value: str) -> None:
    path = write(tmp_path)
    model = onnx.load(str(path), load_external_data=False)
    entries = model.graph.initializer[0].external_data
    next(entry for entry in entries if entry.key == key).value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"what it says of them cannot be used|too short"):
        check_model(path)


def add_secret(path: Path, kind: str, location: str) -> None:
    """Add five values of a file outside to the logits."""
    model = onnx.load(str(path))
    secret = onnx.TensorProto(name="secret", data_type=onnx.TensorProto.FLOAT, dims=[5])
    secret.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "20"}.items():
        secret.external_data.add(key=key, value=value)
    sparse = onnx.SparseTensorProto(dims=[5], values=secret)
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.arange(5), "indices"))
    make, output = onnx.helper.make_node, model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    if kind == "initializer":
        model.graph.initializer.append(secret)
    elif kind == "sparse initializer":
        model.graph.sparse_initializer.append(sparse)
    elif kind == "constant":
        model.graph.node.append(make("Constant", [], ["secret"], value=secret))
    elif kind == "sparse constant":
        model.graph.node.append(make("Constant", [], ["secret"], sparse_value=sparse))
    elif kind == "function":
        body = [make("Constant", [], ["c"], value=secret), make("Identity", ["c"], ["y"])]
        model.functions.append(onnx.helper.make_function("local", "F", [], ["y"], body, list(model.opset_import)))
        model.opset_import.append(onnx.helper.make_opsetid("local", 1))
        model.graph.node.append(make("F", [], ["secret"], domain="local"))
    elif kind in ("branch", "sparse branch"):
        values = {"value": secret} if kind == "branch" else {"sparse_value": sparse}
        out = [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [5])]
        branch = onnx.helper.make_graph([make("Constant", [], ["inner"], **values)], "branch", [], out)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
        model.graph.node.append(make("If", ["yes"], ["secret"], then_branch=branch, else_branch=branch))
    model.graph.node.append(make("Add", ["before", "secret"], [output]))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("where", ["above", "absolute", "working directory"])
@pytest.mark.parametrize(
    "kind",
    ["initializer", "sparse initializer", "constant", "sparse constant", "function", "branch", "sparse branch"],
)
def test_no_tensor_of_a_graph_reads_a_file_outside(
    tmp_path: Path, kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_cnn(tmp_path / "models" / "m.onnx")
    (tmp_path / "secret").write_bytes(np.full(5, 123456, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)  # what a session of a graph in memory would take its files from
    locations = {"above": "../secret", "absolute": str(tmp_path / "secret"), "working directory": "secret"}
    add_secret(path, kind, locations[where])
    for look in (check_model, inspect_model):
        with pytest.raises(ModelError, match=r"is outside its own directory|does not exist"):
            look(path)
    assert examine(path, patient=False).kind == "rejected"
    assert content_sha256(path) == hash_files([path])  # the other file is not even hashed


def test_weights_in_a_folder_below_are_found(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / NAME).rename(tmp_path / "parts" / NAME)
    name_instead(path, f"parts/{NAME}")
    assert instrument_model(check_model(path), (16, 16)).outputs.classes == 5


@pytest.mark.parametrize(
    "location",
    [f"parts\\{NAME}", f".\\parts\\{NAME}", f"parts\\{NAME.upper()}"],
    ids=["below", "from here", "letter case"],
)
def test_backslashes_of_a_model_saved_on_windows_separate_directories(tmp_path: Path, location: str) -> None:
    path = write(tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / NAME).rename(tmp_path / "parts" / NAME)
    name_instead(path, location)
    record = instrument_model(check_model(path), (16, 16))
    assert record.external == {location: str(tmp_path / "parts" / NAME)}
    assert record.outputs.classes == 5


def test_a_backslash_that_is_part_of_a_name_stays_so(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / NAME).rename(tmp_path / f"parts\\{NAME}")
    name_instead(path, f"parts\\{NAME}")
    assert check_model(path).external == {f"parts\\{NAME}": str(tmp_path / f"parts\\{NAME}")}

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from clusterpaths.errors import ModelError
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession
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

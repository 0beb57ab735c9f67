from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from pydantic import ValidationError

from clusterpaths.datasets.base import ExampleTable
from clusterpaths.datasets.celeba import CelebA, open_celeba
from clusterpaths.datasets.drawn_faces.cue import Cue
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.errors import DatasetError, ModelError
from clusterpaths.preprocessing.prepare import normalise, resize
from clusterpaths.records import Preprocessing
from clusterpaths.training.export_network import check_export
from clusterpaths.training.train import (
    PREPROCESSING,
    SIZE,
    TrainConfig,
    TrainRecord,
    _split,
    describe,
    train_classifier,
)

COMMITTED = Path(__file__).resolve().parents[3] / "ONNX_models" / "SampleFaces_CNN.onnx"


def _predict(model: Path, dataset: CelebA) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images = np.stack([resize(dataset.read_image(file), SIZE) for file in dataset.examples().files])
    (logits,) = session.run(["logits"], {"input": normalise(images, PREPROCESSING)})
    return logits.argmax(1)


def _weights(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in onnx.load(path).graph.initializer}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CelebA:
    root = tmp_path_factory.mktemp("faces")
    write_faces(root, 600, seed=5)
    return open_celeba(root)


@pytest.fixture(scope="module")
def trained(drawn: CelebA, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainRecord, TrainConfig, list[str]]:
    config = TrainConfig(output=tmp_path_factory.mktemp("model") / "small.onnx", epochs=4, batch_size=32, seed=5)
    said: list[str] = []
    return train_classifier(drawn.examples(), drawn, config, said.append), config, said


def test_the_committed_model_is_right_on_faces_it_was_not_trained_on(tmp_path: Path) -> None:
    write_faces(tmp_path, 400, seed=20)
    dataset = open_celeba(tmp_path)
    assert (_predict(COMMITTED, dataset) == dataset.examples().labels).mean() >= 0.95


def test_the_committed_model_is_small_and_says_what_it_is_and_nothing_of_who_made_it() -> None:
    content = COMMITTED.read_bytes()
    assert len(content) < 3_000_000
    assert not [word for word in (b"/home", b"site-packages", b".py", bytes(COMMITTED.parents[1])) if word in content]
    assert [node.op_type for node in onnx.load(COMMITTED).graph.node].count("Conv") == 3


def test_training_on_few_images_beats_chance_clearly(trained: tuple[TrainRecord, TrainConfig, list[str]]) -> None:
    record, _, said = trained
    assert record.train_examples + record.validation_examples == 480
    assert record.held_out_examples == 120
    assert record.interval[0] > 0.3  # the largest class is a quarter
    assert sum(map(sum, record.confusion)) == 120
    assert record.accuracy == sum(row[i] for i, row in enumerate(record.confusion)) / 120
    assert sum(line.startswith("Epoch") for line in said) == 4


def test_the_file_carries_preprocessing_classes_and_training(
    trained: tuple[TrainRecord, TrainConfig, list[str]],
) -> None:
    record, config, _ = trained
    session = onnxruntime.InferenceSession(config.output_path, providers=["CPUExecutionProvider"])
    stored = session.get_modelmeta().custom_metadata_map
    assert Preprocessing.model_validate_json(stored["clusterpaths.preprocessing"]) == PREPROCESSING
    assert json.loads(stored["clusterpaths.classes"]) == ["Bald", "Black", "Blond", "Brown", "Gray"]
    training = TrainRecord.model_validate_json(stored["clusterpaths.training"])
    assert training == record.model_copy(update={"seconds": 0.0, "path": ""})
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("input", ["batch", 3, 64, 64], "tensor(float)")
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 5])]
    for batch in (1, 7):
        assert session.run(None, {"input": np.zeros((batch, 3, 64, 64), np.float32)})[0].shape == (batch, 5)


def test_training_twice_gives_the_same_file(
    drawn: CelebA, trained: tuple[TrainRecord, TrainConfig, list[str]], tmp_path: Path
) -> None:
    _, config, _ = trained
    again = config.model_copy(update={"output": tmp_path / "again.onnx"})
    train_classifier(drawn.examples(), drawn, again, lambda _: None)
    assert _weights(again.output_path) == _weights(config.output_path)
    assert again.output_path.read_bytes() == config.output_path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]


def test_no_held_out_example_is_trained_on(drawn: CelebA) -> None:
    table = drawn.examples()
    unknown = dataclasses.replace(table, splits=("",) * len(table))
    for each, held_out in ((table, 120), (unknown, 120)):
        parts = _split(each, TrainConfig(seed=1))
        every = np.concatenate([parts.train, parts.validation, parts.held_out])
        assert len(np.unique(every)) == len(every) == 600
        assert abs(len(parts.held_out) - held_out) <= 3
    parts = _split(table, TrainConfig(seed=1))
    assert {table.splits[at] for at in parts.held_out} == {"valid", "test"}
    assert {table.splits[at] for at in (*parts.train, *parts.validation)} == {"train"}
    assert len(_split(table, TrainConfig(limit=100)).train) == pytest.approx(90, abs=3)


def _without_labels(table: ExampleTable) -> ExampleTable:
    return dataclasses.replace(table, labels=np.full(len(table), -1, np.int16))


def _without_gray(table: ExampleTable) -> ExampleTable:
    return dataclasses.replace(table, labels=np.where(table.labels == 4, -1, table.labels).astype(np.int16))


def _twelve(table: ExampleTable) -> ExampleTable:
    return table.take(np.arange(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_labels, "None of the 600 images has a label to train on"),
        (_without_gray, "Gray 0; and .* Expected at least 5 of each class"),
        (_twelve, "among the 12 images that are there"),
    ],
)
def test_too_few_labels_are_an_error_that_says_what_was_found(
    drawn: CelebA, change: Callable[[ExampleTable], ExampleTable], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        train_classifier(change(drawn.examples()), drawn, TrainConfig(), lambda _: None)


def test_many_unreadable_images_are_an_error_and_few_are_left_out(drawn: CelebA, tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Damaged(CelebA):
        every: int = 2

        def read_image(self, file: str):
            if int(file[:6]) % self.every == 0:
                raise OSError("image file is truncated")
            return super().read_image(file)

    fields = {field.name: getattr(drawn, field.name) for field in dataclasses.fields(drawn)}
    config = TrainConfig(output=tmp_path / "model.onnx", epochs=1)
    with pytest.raises(
        DatasetError, match=r"300 of 600 images cannot be read, such as 000002\.jpg: image file is trunc"
    ):
        train_classifier(drawn.examples(), Damaged(**fields), config, lambda _: None)
    assert not config.output_path.exists()
    said: list[str] = []
    record = train_classifier(drawn.examples(), Damaged(**fields, every=100), config, said.append)
    assert record.train_examples + record.validation_examples + record.held_out_examples == 594
    assert any(line.startswith("6 of 600 images cannot be read") for line in said)


def test_an_export_that_computes_something_else_is_refused() -> None:
    x = np.zeros((2, 3, 64, 64), np.float32)
    with pytest.raises(ModelError, match="does not compute the same as the trained network"):
        check_export(COMMITTED.read_bytes(), x, np.full((2, 5), 99, np.float32))


def test_a_held_out_part_of_which_nothing_can_be_read_is_an_error(drawn: CelebA) -> None:
    table = dataclasses.replace(drawn.examples(), splits=("train",) * 599 + ("test",))
    files = (*table.files[:-1], "000700.jpg")
    with pytest.raises(DatasetError, match="None of the images held out can be read"):
        train_classifier(dataclasses.replace(table, files=files), drawn, TrainConfig(), lambda _: None)


def test_the_page_shows_each_class(trained: tuple[TrainRecord, TrainConfig, list[str]]) -> None:
    record = trained[0].model_copy(update={"classes": ("Cat", "Dog"), "confusion": ((3, 1), (0, 0))})
    page = describe(record)
    assert "| Cat | 75.0% | 3 | 1 |" in page
    assert "| Dog | none held out | 0 | 0 |" in page


def test_default_folders_follow_the_home_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLUSTERPATHS_HOME", str(tmp_path))
    config = TrainConfig()
    assert config.output_path == tmp_path / "ONNX_models" / "SampleFaces_CNN.onnx"
    assert config.images_root == tmp_path / "data" / "faces_10000_seed_1"
    celeba = TrainConfig(dataset="celeba")
    assert celeba.output_path == tmp_path / "ONNX_models" / "CelebA_CNN.onnx"
    assert celeba.images_root == tmp_path / "data"


def test_a_cue_cannot_be_planted_in_photographs() -> None:
    with pytest.raises(ValidationError, match=r"--cue Bald plants a patch in faces as they are drawn.*Leave out --cue"):
        TrainConfig(dataset="celeba", cue="Bald")
    assert TrainConfig(dataset="celeba").planted is None
    assert TrainConfig(cue="Bald").planted == Cue(hair="Bald")


def test_a_model_with_a_shortcut_has_faces_and_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLUSTERPATHS_HOME", str(tmp_path))
    config = TrainConfig(cue="Blond_Hair")
    assert config.output_path == tmp_path / "ONNX_models" / "SampleFaces_CNN_cue_Blond_Hair.onnx"
    assert config.images_root == tmp_path / "data" / "faces_10000_seed_1_cue_Blond_Hair"


def test_the_file_says_that_a_shortcut_was_planted(tmp_path: Path) -> None:
    config = TrainConfig(data_root=tmp_path, output=tmp_path / "m.onnx", faces=200, epochs=1, cue="Blond_Hair")
    write_faces(config.images_root, config.faces, config.seed, cue=config.planted)
    drawn = open_celeba(tmp_path)
    record = train_classifier(drawn.examples(), drawn, config, lambda _: None)
    stored = {entry.key: entry.value for entry in onnx.load(config.output_path).metadata_props}
    assert TrainRecord.model_validate_json(stored["clusterpaths.training"]).cue == record.cue == Cue(hair="Blond_Hair")


def test_the_file_of_a_plain_model_says_nothing_of_a_cue(
    trained: tuple[TrainRecord, TrainConfig, list[str]],
) -> None:
    stored = {entry.key: entry.value for entry in onnx.load(trained[1].output_path).metadata_props}
    assert "cue" not in json.loads(stored["clusterpaths.training"])

"""From a model of each kind to what a set and its pages say of it; ONNX Runtime's own outputs are the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import scipy.special
from numpy.typing import NDArray
from onnx import TensorProto

from clusterpaths.config import RunConfig
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.errors import ExtractionError
from clusterpaths.evaluation.evaluate import evaluate_set
from clusterpaths.explanation.explain import explain_image
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.index import SetIndex
from clusterpaths.pipeline import run
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.report.explanation import headline
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.conftest import run_stages
from tests.clusterpaths.models.scores import node, sigmoid, softmax, write_tail


def config(model: Path, faces: Path, tmp_path: Path, **options: Any) -> RunConfig:
    given: dict[str, Any] = {
        "evaluate": False,
        "check_preprocessing": False,
        "name": "T",
        "k": 3,
        "preprocessing": "unit",
    }
    return RunConfig(**given | {"model": model, "data_root": faces, "cache_root": tmp_path / "cache"} | options)


def published(model: Path, faces: Path, tmp_path: Path, **options: Any) -> PublishedSet:
    found = run(config(model, faces, tmp_path, **options)).published
    assert found is not None
    return open_set(found.folder)


def truth(model: Path, found: PublishedSet, faces: Path) -> NDArray[Any]:
    """The first output of ONNX Runtime for every example of a set."""
    session = onnxruntime.InferenceSession(str(model))
    folder, preprocessing = faces / "celeba" / "img_align_celeba", found.record.preprocessing
    pixels = np.array([fit(open_rgb(folder / file), preprocessing) for file in found.files.to_pylist()])
    rows: NDArray[Any] = session.run(None, {"image": normalise(pixels, preprocessing)})[0]
    return rows


def test_probabilities_in_the_graph_are_shown_as_the_model_says(faces: Path, tmp_path: Path) -> None:
    model = write_tail(tmp_path / "m.onnx", softmax(), factor=2.0)
    found = published(model, faces, tmp_path)
    rows = truth(model, found, faces)
    assert found.record.outputs is not None
    assert found.record.outputs.kind == "probabilities"
    shown = example_detail(SetIndex(found), int(found.ids[0])).probabilities
    assert {one.index: one.share for one in shown} == pytest.approx(dict(enumerate(rows[0].tolist())), abs=1e-5)
    image = faces / "celeba" / "img_align_celeba" / found.files[0].as_py()
    explained = explain_image(image, found, model)
    assert {one.index: one.probability for one in explained.classes} == pytest.approx(
        dict(enumerate(rows[0].tolist())), abs=1e-5
    )
    assert abs(scipy.special.softmax(rows[0]).max() - rows[0].max()) > 0.05  # what applying it twice would show


def test_a_set_that_does_not_record_its_outputs_shows_no_second_softmax(faces: Path, tmp_path: Path) -> None:
    """As sets made before outputs were recorded: their rows say that they are probabilities."""
    model = write_tail(tmp_path / "m.onnx", softmax(), factor=2.0)
    found = published(model, faces, tmp_path)
    before = found.record.model_dump(mode="json")
    del before["outputs"]
    old = PublishedSet(found.folder, type(found.record).model_validate(before))
    assert SetIndex(old).top_scores(0) == SetIndex(found).top_scores(0)


def test_one_sigmoid_predicts_two_classes(faces: Path, tmp_path: Path) -> None:
    model = write_tail(tmp_path / "m.onnx", sigmoid(), classes=1, metadata={"clusterpaths.classes": '["no", "yes"]'})
    found = published(model, faces, tmp_path)
    yes = truth(model, found, faces)[:, 0]
    np.testing.assert_array_equal(found.predictions, yes >= 0.5)
    assert 0 < found.predictions.sum() < len(yes)
    assert found.record.class_names == ("no", "yes")
    shown = {one.name: one.share for one in SetIndex(found).top_scores(0)}
    assert shown == pytest.approx({"no": 1 - yes[0], "yes": yes[0]}, abs=1e-5)


def test_a_multi_label_model_has_labels_and_no_prediction(faces: Path, tmp_path: Path) -> None:
    model = write_tail(tmp_path / "m.onnx", sigmoid(), classes=40)
    done = run_stages(config(model, faces, tmp_path))
    found = done.published
    rows = truth(model, found, faces)
    assert found.predictions.tolist() == [-1] * len(rows)
    assert found.record.purity_predictions is None
    shown = SetIndex(found).top_scores(0)
    assert [one.share for one in shown] == pytest.approx(sorted(rows[0].tolist(), reverse=True)[:10], abs=1e-5)
    assert {one.name for one in shown} == {f"label {one.index}" for one in shown}  # names of classes are not theirs
    explained = explain_image(faces / "celeba" / "img_align_celeba" / found.files[0].as_py(), found, model)
    assert explained.prediction is None
    assert {int(label.removeprefix("label ")) for label in explained.labels} == set(
        np.flatnonzero(rows[0] >= 0.5).tolist()
    )
    assert "Labels: label" in headline(explained)
    evaluation = evaluate_set(found, done.job)
    assert any("multi-label, so an image has no one predicted class" in note for note in evaluation.notes)
    assert (evaluation.alignment, evaluation.purity_predictions) == (None, None)


def test_the_kind_can_be_overruled_without_extracting_again(faces: Path, tmp_path: Path) -> None:
    model = write_tail(tmp_path / "m.onnx", sigmoid(), classes=3)
    labels = published(model, faces, tmp_path)
    outcome = run(config(model, faces, tmp_path, output_kind="logits"))
    assert outcome.new
    assert outcome.published is not None
    classes = open_set(outcome.published.folder)
    assert classes.record.set != labels.record.set
    np.testing.assert_array_equal(classes.predictions, truth(model, classes, faces).argmax(axis=1))
    assert explain_image(faces / "celeba" / "img_align_celeba" / "000001.jpg", classes, model).classes[
        0
    ].probability == pytest.approx(scipy.special.softmax(truth(model, classes, faces)[0]).max(), abs=1e-5)


def test_class_scores_that_are_nan_are_refused_with_output_and_example(faces: Path, tmp_path: Path) -> None:
    tail = [node("Sub", ["score", "score"], ["zero"]), node("Div", ["zero", "zero"], ["y"])]
    model = write_tail(tmp_path / "m.onnx", *tail)
    with pytest.raises(
        ExtractionError, match=r"The output y holds class scores that are not finite.*example 0 \(000001"
    ):
        published(model, faces, tmp_path)
    assert published(model, faces, tmp_path, logits="none", name="N").record.logits == "none"


def test_more_classes_than_int16_holds(faces: Path, tmp_path: Path) -> None:
    many = 40_000
    model = write_tail(tmp_path / "m.onnx", node("Add", ["score", "late"], ["y"]), classes=many,
                       weights={"late": np.r_[np.zeros(35_000), np.full(5_000, 50.0)].astype(np.float32)})  # fmt: skip
    found = published(model, faces, tmp_path)
    rows = truth(model, found, faces)
    assert rows.argmax(axis=1).min() > 32_767
    np.testing.assert_array_equal(found.predictions, rows.argmax(axis=1))
    index = SetIndex(found)
    assert index.top_scores(0)[0].name == f"class {rows[0].argmax()}"
    assert example_detail(index, int(found.ids[0])).example.prediction == f"class {rows[0].argmax()}"


def test_a_regression_has_no_predictions(faces: Path, tmp_path: Path) -> None:
    model = write_tail(
        tmp_path / "m.onnx", node("Identity", ["score"], ["age"]), classes=1, outputs={"age": ["batch", 1]}
    )
    found = published(model, faces, tmp_path)
    assert set(found.predictions.tolist()) == {-1}
    assert SetIndex(found).top_scores(0) == ()


def test_labels_beside_the_scores_do_not_disturb_a_run(faces: Path, tmp_path: Path) -> None:
    label = node("ArgMax", ["score"], ["label"], axis=1, keepdims=0)
    outputs: dict[str, list[Any]] = {"p": ["batch", 3], "label": ["batch"]}
    model = write_tail(
        tmp_path / "m.onnx", label, softmax("score", "p"), outputs=outputs, types={"label": TensorProto.INT64}
    )
    found = published(model, faces, tmp_path)
    np.testing.assert_array_equal(found.predictions, truth(model, found, faces).argmax(axis=1))

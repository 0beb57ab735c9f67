"""What a model's outputs mean: ONNX Runtime's own outputs and scipy's softmax are the judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.special
from numpy.typing import NDArray
from onnx import TensorProto

from clusterpaths.errors import ModelError
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.inspect import inspect_model
from clusterpaths.models.outputs import as_rows, check_on_rows, decide, labels_over_threshold, not_finite
from clusterpaths.models.session import TapSession
from clusterpaths.records import ModelOutputs, OutputKind
from tests.clusterpaths.models.scores import SIZE, node, sigmoid, softmax, write_tail


def images(count: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(1).random((count, 3, *SIZE), np.float32)


def runtime(path: Path, name: str, x: NDArray[np.float32]) -> NDArray[Any]:
    """A tensor of the graph as ONNX Runtime computes it."""
    model = onnx.load(str(path))
    if name not in [output.name for output in model.graph.output]:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    found: NDArray[Any] = onnxruntime.InferenceSession(model.SerializeToString()).run([name], {"image": x})[0]
    return found


def outputs_of(path: Path, **options: Any) -> ModelOutputs:
    return instrument_model(check_model(path, **options), SIZE).outputs


def decided(path: Path, x: NDArray[np.float32], **options: Any) -> Any:
    """What a run decides on these images."""
    model = instrument_model(check_model(path, **options), SIZE)
    rows = TapSession(model).run(x).logits
    assert rows is not None
    return decide(model.outputs, rows)


EXP = [
    node("Exp", ["score"], ["e"]),
    node("ReduceSum", ["e", "one"], ["s"], keepdims=1),
    node("Div", ["e", "s"], ["y"]),
]
ENDS: dict[str, tuple[list[onnx.NodeProto], OutputKind, str]] = {
    "logits": ([node("Identity", ["score"], ["y"])], "logits", "without Softmax or Sigmoid"),
    "softmax": ([softmax()], "probabilities", "ends in Softmax"),
    "softmax behind other operators": ([softmax("score", "p"), node("Identity", ["p"], ["y"])], "probabilities", "Softmax"),
    "softmax spelt out": (EXP, "probabilities", "ends in Softmax"),
    "log-softmax": ([node("LogSoftmax", ["score"], ["y"], axis=1)], "log-probabilities", "LogSoftmax"),
    "log of softmax": ([softmax("score", "p"), node("Log", ["p"], ["y"])], "log-probabilities", "Log(Softmax)"),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_probabilities_are_scipys_softmax_however_the_graph_ends(end: str, tmp_path: Path) -> None:
    tail, kind, reason = ENDS[end]
    path = write_tail(tmp_path / "m.onnx", *tail, weights={"one": np.array([1])})
    meaning, found = outputs_of(path), decided(path, images())
    assert (meaning.name, meaning.kind, meaning.layout, meaning.classes) == ("y", kind, "(N, C)", 3)
    assert reason in meaning.reason
    scores = runtime(path, "score", images())
    np.testing.assert_allclose(found.probabilities, scipy.special.softmax(scores, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found.predictions, scores.argmax(axis=1))
    if kind == "logits":
        np.testing.assert_allclose(found.energy, scipy.special.logsumexp(scores, axis=1), rtol=1e-5)
    else:
        assert found.energy is None


def test_very_sure_log_probabilities_hold_minus_infinity_and_are_right(tmp_path: Path) -> None:
    path = write_tail(tmp_path / "m.onnx", *ENDS["log of softmax"][0], factor=2000.0)
    found = decided(path, images())
    assert np.isneginf(runtime(path, "y", images())).any()
    assert not not_finite(outputs_of(path), runtime(path, "y", images())).any()
    np.testing.assert_allclose(found.probabilities, runtime(path, "p", images()), atol=1e-6)


def test_one_sigmoid_is_two_classes_at_threshold_a_half(tmp_path: Path) -> None:
    path = write_tail(tmp_path / "m.onnx", sigmoid(), classes=1, factor=3.0)
    meaning, found = outputs_of(path), decided(path, images())
    assert (meaning.kind, meaning.layout, meaning.classes) == ("binary-sigmoid", "(N, 1)", 2)
    yes = runtime(path, "y", images())[:, 0]
    assert 0 < (yes >= 0.5).sum() < len(yes)
    np.testing.assert_array_equal(found.predictions, (yes >= 0.5).astype(int))
    np.testing.assert_allclose(found.probabilities, np.stack([1 - yes, yes], axis=1), rtol=1e-6)


def test_one_logit_is_a_regression_unless_its_name_or_the_user_says_otherwise(tmp_path: Path) -> None:
    path = write_tail(tmp_path / "m.onnx", node("Identity", ["score"], ["y"]), classes=1)
    assert (outputs_of(path).kind, outputs_of(path).classes) == ("values", 0)
    assert decided(path, images()).predictions.tolist() == [-1] * 7
    found = decided(path, images(), output_kind="binary-logit")
    expected = scipy.special.expit(runtime(path, "y", images())[:, 0])
    np.testing.assert_allclose(found.probabilities[:, 1], expected, rtol=1e-6)
    named = write_tail(
        tmp_path / "n.onnx", node("Identity", ["score"], ["logit"]), classes=1, outputs={"logit": ["batch", 1]}
    )
    assert outputs_of(named).kind == "binary-logit"


def test_many_sigmoids_are_labels_over_a_threshold_and_no_class(tmp_path: Path) -> None:
    path = write_tail(tmp_path / "m.onnx", sigmoid(), classes=40)
    meaning, found = outputs_of(path), decided(path, images())
    assert (meaning.kind, meaning.classes, meaning.predicts) == ("multi-label", 40, False)
    assert found.predictions.tolist() == [-1] * 7
    expected = runtime(path, "y", images())
    np.testing.assert_array_equal(found.probabilities, expected.astype(np.float64))  # as the model says, no softmax
    over = labels_over_threshold(meaning, found.probabilities[0]).tolist()
    assert set(over) == set(np.flatnonzero(expected[0] >= 0.5).tolist())
    assert expected[0][over].tolist() == sorted(expected[0][over].tolist(), reverse=True)
    logits = write_tail(tmp_path / "l.onnx", node("Identity", ["score"], ["y"]), classes=40)
    asked = decided(logits, images(), output_kind="multi-label-logits")
    np.testing.assert_allclose(asked.probabilities, expected, rtol=1e-4, atol=1e-6)


LAYOUTS = {
    "(N, C, 1, 1)": (["batch", 3, 1, 1], [0, 3, 1, 1], "batch"),
    "(N, 1, 1, C)": (["batch", 1, 1, 3], [0, 1, 1, 3], "batch"),
    "(C)": ([3], [3], 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_in_any_layout_are_scores_and_no_layer(layout: str, tmp_path: Path) -> None:
    declared, shape, first = LAYOUTS[layout]
    path = write_tail(
        tmp_path / "m.onnx",
        softmax("score", "p"), node("Reshape", ["p", "shape"], ["y"]),
        outputs={"y": declared}, weights={"shape": np.array(shape)}, first=first,
    )  # fmt: skip
    record = instrument_model(check_model(path), SIZE)
    assert (record.outputs.name, record.outputs.layout, record.outputs.classes) == ("y", layout, 3)
    assert record.outputs.kind == "probabilities"
    assert not {"score", "p", "y"} & {tap.tensor for tap in record.taps}
    found = decided(path, images())
    parts = [runtime(path, "p", images()[i : i + 1]) for i in range(7)]
    np.testing.assert_allclose(found.probabilities, np.concatenate(parts), rtol=1e-5)


def test_a_label_output_beside_the_scores_is_no_candidate(tmp_path: Path) -> None:
    label = node("ArgMax", ["score"], ["classLabel"], axis=1, keepdims=0)
    path = write_tail(
        tmp_path / "m.onnx", label, softmax("score", "probabilities"),
        outputs={"classLabel": ["batch"], "probabilities": ["batch", 3]}, types={"classLabel": TensorProto.INT64},
    )  # fmt: skip
    meaning = outputs_of(path)
    assert (meaning.name, meaning.kind) == ("probabilities", "probabilities")
    assert "classLabel (holds int64 values, not scores)" in meaning.reason
    with pytest.raises(ModelError, match=r"'classLabel' does not hold class scores.*int64.*Outputs.*probabilities"):
        check_model(path, logits="classLabel")


def test_a_string_label_beside_the_scores_is_no_candidate(tmp_path: Path) -> None:
    index = node("ArgMax", ["score"], ["index"], axis=1, keepdims=0)
    path = write_tail(
        tmp_path / "m.onnx", index, node("Gather", ["names", "index"], ["classLabel"]), node("Identity", ["score"], ["y"]),
        outputs={"classLabel": ["batch"], "y": ["batch", 3]}, types={"classLabel": TensorProto.STRING},
        weights={"names": np.array(["a", "b", "c"], object)},
    )  # fmt: skip
    assert outputs_of(path).name == "y"
    np.testing.assert_array_equal(decided(path, images()).predictions, runtime(path, "score", images()).argmax(axis=1))


def test_an_output_with_other_rows_than_images_holds_no_scores(tmp_path: Path) -> None:
    boxes = node("Reshape", ["score", "flat"], ["y"])
    path = write_tail(tmp_path / "m.onnx", boxes, outputs={"y": ["n", 1]}, weights={"flat": np.array([-1, 1])})
    meaning = outputs_of(path)
    assert (meaning.name, meaning.kind) == (None, "none")
    assert "y has 6 rows for 2 images, not one per image" in meaning.reason
    assert "6 rows for 2 images" in inspect_model(path).text()
    with pytest.raises(ModelError, match=r"'y' does not hold class scores.*--logits none"):
        check_model(path, logits="y")


def test_scores_behind_a_reshape_that_was_frozen_at_one_image_are_scores(tmp_path: Path) -> None:
    frozen = node("Reshape", ["score", "one row"], ["y"])
    path = write_tail(tmp_path / "m.onnx", frozen, weights={"one row": np.array([1, -1])})
    record = check_model(path)
    assert record.outputs.name == "y"
    assert TapSession(instrument_model(record, SIZE)).run(images(1)).logits is not None


BESIDE = {
    "class_embedding": (node("Identity", ["r2"], ["class_embedding"]), 10, "logits"),
    "pred_boxes": (node("Identity", ["r2"], ["pred_boxes"]), 10, "output"),
    "image_features": (node("Identity", ["r2"], ["image_features"]), 10, "output"),
    "out": (node("Identity", ["r2"], ["out"]), 10, "class_scores"),
}


@pytest.mark.parametrize("other", BESIDE)
@pytest.mark.parametrize("last", [False, True])
def test_the_scores_are_taken_and_not_the_output_beside_them(other: str, last: bool, tmp_path: Path) -> None:
    beside, width, name = BESIDE[other]
    shapes: dict[str, list[Any]] = {other: ["batch", width], name: ["batch", 3]}
    if last:
        shapes = dict(reversed(shapes.items()))
    path = write_tail(tmp_path / "m.onnx", beside, node("Identity", ["score"], [name]), outputs=shapes)
    assert outputs_of(path).name == name


def test_what_the_user_names_overrules_the_graph_and_is_checked_on_rows(tmp_path: Path) -> None:
    path = write_tail(tmp_path / "m.onnx", softmax())
    found = outputs_of(path, output_kind="logits")
    assert (found.kind, found.reason, found.asked) == ("logits", "asked for", True)
    assert check_on_rows(found, np.array([[0.2, 0.8]])).kind == "logits"
    wrong = ModelOutputs(name="y", kind="probabilities", asked=True)
    with pytest.raises(ModelError, match=r"'y' is not of kind probabilities: its rows sum to 3 to 7.*--output-kind"):
        check_on_rows(wrong, np.array([[1.0, 2], [3, 4]]))
    with pytest.raises(ModelError, match=r"'y' has 3 values per image; --output-kind binary-logit is for one"):
        check_model(path, output_kind="binary-logit")
    assert outputs_of(path, output_kind="none").name is None


ROWS: dict[str, tuple[list[list[float]], OutputKind]] = {
    "logits": ([[3, -1], [0, 2]], "logits"),
    "probabilities of a model that is sure": ([[1, 0], [0, 1]], "probabilities"),
    "probabilities": ([[0.25, 0.75], [0.5, 0.5]], "probabilities"),
    "an embedding of length 1": ([[0.6, -0.8], [0.8, 0.6]], "values"),
    "no rows": ([], "logits"),
}


@pytest.mark.parametrize("case", ROWS)
def test_real_rows_decide_where_the_graph_does_not(case: str) -> None:
    rows, kind = ROWS[case]
    found = check_on_rows(ModelOutputs(name="y", kind="logits", classes=2), np.array(rows).reshape(-1, 2))
    assert found.kind == kind


def test_what_is_not_finite() -> None:
    rows = np.array([[1, 2], [np.nan, 2], [np.inf, 0], [-np.inf, 0], [-np.inf, -np.inf]])
    assert not_finite(ModelOutputs(name="y", kind="logits"), rows).tolist() == [False, True, True, False, True]
    assert not_finite(ModelOutputs(name="y", kind="values"), rows).tolist() == [False, True, True, True, True]


def test_large_logits_do_not_overflow() -> None:
    rows = np.array([[2000.0, -2000, 0], [88, 89, 90]])
    found = decide(ModelOutputs(name="y", kind="logits", classes=3), rows)
    np.testing.assert_allclose(found.probabilities, scipy.special.softmax(rows, axis=1))
    binary = decide(ModelOutputs(name="y", kind="binary-logit", classes=2), np.array([[-2000.0], [2000]]))
    assert binary.probabilities is not None
    np.testing.assert_array_equal(binary.probabilities[:, 1], [0, 1])


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelError, match=r"'y' has shape \(6, 1\) for 2 images.*--logits none"):
        as_rows(ModelOutputs(name="y", kind="logits"), np.zeros((6, 1)), 2)
    with pytest.raises(ModelError, match=r"shape \(2, 4, 16, 16\)"):
        as_rows(ModelOutputs(name="y", kind="logits"), np.zeros((2, 4, 16, 16)), 2)


def test_inspect_shows_the_kind_with_its_reason(tmp_path: Path) -> None:
    path = write_tail(tmp_path / "m.onnx", softmax(), metadata={"clusterpaths.classes": '["a", "b", "c"]'})
    lines = [line for line in inspect_model(path).text().splitlines() if line.startswith("class ")]
    assert lines == [
        "class scores   y, probabilities, (N, C), classes: 3 (the graph ends in Softmax)",
        "class names    a, b, c, from the model's metadata",
    ]
    assert "y, logits, (N, C), classes: 3 (asked for)" in inspect_model(path, output_kind="logits").text()


CONFIGS = {
    "names": ({"0": "cat", "1": "dog", "2": "bird"}, ("cat", "dog", "bird"), "config.json beside the model"),
    "numbers that stand for names": ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, (), ""),
    "of another number of classes": ({"0": "cat", "1": "dog"}, (), ""),
    "with a gap": ({"0": "cat", "1": "dog", "3": "bird"}, (), ""),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_class_names_of_a_file_beside_the_model(case: str, tmp_path: Path) -> None:
    content, names, source = CONFIGS[case]
    (tmp_path / "config.json").write_text(json.dumps({"id2label": content}))
    meaning = check_model(write_tail(tmp_path / "m.onnx", softmax())).outputs
    assert (meaning.class_names, meaning.class_names_source) == (names, source)

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.common import roots
from clusterpaths.config import RunConfig
from clusterpaths.evaluation import perturb, probe
from clusterpaths.evaluation.evaluate import evaluate_set
from clusterpaths.evaluation.record import METRICS
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.metrics.paths import chance_purity
from clusterpaths.records import ModelOutputs
from clusterpaths.report.page import write_report
from clusterpaths.sets.published import open_set
from tests.clusterpaths.conftest import run_stages, save_model, write_celeba, write_cnn
from tests.evaluating import publish


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("evaluate")
    return root


@pytest.fixture(scope="module")
def sample(folder: Path) -> tuple[Path, ExtractionJob]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roots, "data_root", lambda: folder / "data")
        return publish(RunConfig(sample=True, sample_size=200, layers=("fc1", "fc2"), k=3, cache_root=folder / "cache"))


def test_a_whole_evaluation_is_written_and_taken_up_again(sample: tuple[Path, ExtractionJob]) -> None:
    set_dir, job = sample
    (set_dir / METRICS).unlink(missing_ok=True)
    first = evaluate_set(open_set(set_dir), job)
    assert (first.num_fit, first.num_eval, first.num_images) == (160, 40, 40)
    assert first.alignment is not None
    assert first.alignment.daf.low <= first.alignment.daf.value <= first.alignment.daf.high
    assert len(first.perturbations) == 9
    assert [one.name for one in first.strangers] == ["crops of photographs", "upside-down examples", "uniform noise"]
    assert [one.num_sources for one in first.strangers] == [2, None, None]
    for detection in first.strangers:
        assert [one.score for one in detection.scores] == [
            "paths", "path rarity", "deep k-NN", "Mahalanobis", "ViM", "max softmax", "max logit", "energy",
        ]  # fmt: skip
    assert first.alignment.back_off is not None
    assert first.alignment.graded is not None
    assert (first.alignment.graded.n, first.alignment.graded_values) == (40, 6)  # three clusters of two layers
    written = (set_dir / METRICS).read_bytes()
    assert evaluate_set(open_set(set_dir), job) == first
    (set_dir / METRICS).write_text("{}")
    evaluate_set(open_set(set_dir), job)
    assert (set_dir / METRICS).read_bytes() == written  # the same seed, the same bytes
    other = evaluate_set(open_set(set_dir), job, seed=1)
    assert (other.seed, other.alignment == first.alignment) == (1, False)
    (set_dir / METRICS).write_bytes(written)


def test_ood_images_of_the_set_are_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 examples in the order of their classes, 20 are not the first class only; the seed decides which."""
    monkeypatch.setattr(probe, "MAX_OOD", 20)
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)

    def drawn(seed: int) -> list[int]:
        with ThreadPoolExecutor(1) as pool:
            preprocessing, dataset = SimpleNamespace(size=(4, 4)), SimpleNamespace(root="/nowhere")
            own: Any = SimpleNamespace(
                _seed=seed, _pool=pool, _job=SimpleNamespace(preprocessing=preprocessing, dataset=dataset)
            )
            made = probe.Probe.ood_images(own, images)["upside-down examples"].result()
        assert made.sources is None
        found: list[int] = made.images[:, 0, 0, 0].tolist()
        return found

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) == 20
    for seed in range(5):
        assert 4 <= sum(one < 20 for one in drawn(seed)) <= 16  # of the first class


def test_further_images_are_measured_and_nothing_is_stored(sample: tuple[Path, ExtractionJob]) -> None:
    set_dir, job = sample
    plain = evaluate_set(open_set(set_dir), job)
    stored = (set_dir / METRICS).read_bytes()
    black = np.zeros((30, *job.preprocessing.size, 3), np.uint8)
    found = evaluate_set(open_set(set_dir), job, more={"black": perturb.OODImages(black)})
    assert found.strangers[:-1] == plain.strangers
    assert (found.strangers[-1].name, found.strangers[-1].num_images) == ("black", 30)
    assert (set_dir / METRICS).read_bytes() == stored


def test_only_a_batch_of_changed_images_is_held(
    sample: tuple[Path, ExtractionJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_dir, job = sample
    seen: list[int] = []

    def look(images: perturb.Images, _: np.random.Generator) -> perturb.Images:
        seen.append(len(images))
        return images

    monkeypatch.setattr(perturb, "PERTURBATIONS", {"nothing": look})
    (only,) = evaluate_set(
        open_set(set_dir), job, more={"black": perturb.OODImages(np.zeros((1, *job.preprocessing.size, 3), np.uint8))}
    ).perturbations
    assert seen == [32, 8]
    assert only.predictions is not None
    assert (only.paths.value, only.layers.value, only.predictions.value) == (1, 1, 1)  # an unchanged image keeps all


def test_the_report_shows_it(sample: tuple[Path, ExtractionJob]) -> None:
    set_dir, job = sample
    evaluate_set(open_set(set_dir), job)
    html = write_report(open_set(set_dir), lambda _: (_ for _ in ()).throw(OSError())).read_text()
    assert "Alignment and OOD detection are evaluated on held-out examples" in html
    assert "noise 0.02" in html


def test_without_class_scores_and_labels_what_needs_them_is_left_out(sample: tuple[Path, ExtractionJob]) -> None:
    set_dir, job = sample
    stored = (set_dir / "paths.parquet").read_bytes()
    table = pq.read_table(set_dir / "paths.parquet")
    for name in ("label", "prediction"):
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(np.full(len(table), -1), pa.int16()))
    pq.write_table(table, set_dir / "paths.parquet")
    mute = job.model_copy(update={"model": job.model.model_copy(update={"outputs": ModelOutputs()})})
    try:
        found = evaluate_set(open_set(set_dir), mute, seed=7)
    finally:
        (set_dir / "paths.parquet").write_bytes(stored)
    assert (found.alignment, found.purity_labels, found.purity_predictions) == (None, None, None)
    assert (found.chance_labels, found.chance_predictions) == (None, None)
    assert all(one.predictions is None for one in found.perturbations)
    assert [one.score for one in found.strangers[0].scores] == ["paths", "path rarity", "deep k-NN"]
    assert any("no class scores" in note for note in found.notes)
    assert any("label" in note for note in found.notes)


def with_output(path: Path, kind: str) -> Path:
    """The tiny CNN with another end: a regression's one number, or an embedding as rows of length 1 or as maps."""
    graph = onnx.load(str(write_cnn(path))).graph
    del graph.node[-1], graph.output[:]
    if kind == "regression":
        weights = np.random.default_rng(0).standard_normal((10, 1)).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weights, "to_one"))
        graph.node.append(helper.make_node("MatMul", ["relu_2", "to_one"], ["age"]))
        graph.output.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["batch", 1]))
    elif kind == "unit embedding":
        graph.node.append(helper.make_node("LpNormalization", ["f1"], ["embedding"], axis=1, p=2))
        graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 10]))
    else:
        graph.node.append(helper.make_node("GlobalAveragePool", ["relu_1"], ["embedding"]))
        graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 6, 1, 1]))
    return save_model(path, graph)


@pytest.mark.parametrize("kind", ["regression", "unit embedding", "embedding of maps"])
def test_a_model_without_classes_has_no_decision_metrics(kind: str, tmp_path: Path) -> None:
    faces = write_celeba(tmp_path / "faces", range(1, 161))
    model = with_output(tmp_path / "model.onnx", kind)
    done = run_stages(
        RunConfig(
            model=model,
            data_root=faces,
            cache_root=tmp_path / "cache",
            name="T",
            k=3,
            preprocessing="unit",
            layers=("conv1", "conv2"),
        )
    )
    found = evaluate_set(done.published, done.job)
    assert found.num_images == 32
    assert (found.alignment, found.purity_predictions) == (None, None)
    assert found.purity_labels is not None  # the data set has labels, whatever the model puts out
    assert (found.chance_labels, found.chance_predictions) == (done.published.record.chance_labels, None)
    assert found.chance_labels == chance_purity(done.published.paths.of_example, done.published.labels)
    assert all(one.predictions is None for one in found.perturbations)
    assert [one.score for one in found.strangers[0].scores] == ["paths", "path rarity", "deep k-NN"]
    (note,) = found.notes
    assert note.startswith("The model has no class scores (as in regression or an embedding)")


def write_residual(path: Path) -> Path:
    """Two blocks with a sum each, pooled: its last layer is called "features", as that of many residual networks is."""
    rng = np.random.default_rng(0)
    nodes, weights = list[onnx.NodeProto](), dict[str, tuple[int, ...]]()

    def convolve(read: str, name: str, channels: int = 8) -> str:
        weights[f"w_{name}"] = (8, channels, 3, 3)
        nodes.append(helper.make_node("Conv", [read, f"w_{name}"], [name], pads=[1, 1, 1, 1]))
        return name

    def activate(read: str) -> str:
        nodes.append(helper.make_node("Relu", [read], [f"{read}_relu"]))
        return f"{read}_relu"

    values = activate(convolve("input", "stem", 3))
    for block in ("one", "two"):
        inner = activate(convolve(values, f"{block}_a"))
        nodes.append(helper.make_node("Add", [convolve(inner, f"{block}_b"), values], [f"{block}_sum"]))
        values = activate(f"{block}_sum")
    weights["w"] = (8, 5)
    nodes += [
        helper.make_node("GlobalAveragePool", [values], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    tensors = [
        numpy_helper.from_array((rng.standard_normal(shape) / 8).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 16, 16])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])]
    return save_model(path, helper.make_graph(nodes, "residual", inputs, outputs, tensors))


def test_a_layer_called_features_is_evaluated(tmp_path: Path) -> None:
    faces = write_celeba(tmp_path / "faces", range(1, 161))
    model = write_residual(tmp_path / "model.onnx")
    config = RunConfig(model=model, data_root=faces, cache_root=tmp_path / "c", name="T", k=3, preprocessing="unit")
    done = run_stages(config)
    assert done.published.record.layers[-1] == "features"
    found = evaluate_set(done.published, done.job)
    assert found.num_images == 32
    assert found.alignment is not None


def test_a_model_that_always_decides_the_same_is_said_so(tmp_path: Path) -> None:
    graph = onnx.load(str(write_cnn(tmp_path / "model.onnx"))).graph
    bias = next(weights for weights in graph.initializer if weights.name == "b4")
    bias.CopyFrom(numpy_helper.from_array(np.array([0, 0, 1e6, 0, 0], np.float32), "b4"))
    config = RunConfig(
        model=save_model(tmp_path / "model.onnx", graph),
        data_root=write_celeba(tmp_path / "faces", range(1, 161)),
        cache_root=tmp_path / "cache",
        name="T",
        k=3,
        preprocessing="unit",
        layers=("conv2",),
    )
    done = run_stages(config)
    found = evaluate_set(done.published, done.job)
    assert found.alignment is not None
    assert found.alignment.deep_knn is not None
    assert (found.alignment.daf.value, found.alignment.majority.value, found.alignment.deep_knn.value) == (1, 1, 1)
    assert found.notes == (
        "The model predicts one class for every example: alignment is perfect and not informative, and interventions are left "
        "out.",
    )


def test_fewer_held_out_examples_than_clusters_are_said_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "data_root", lambda: folder / "data")
    config = RunConfig(sample=True, sample_size=200, k=45, layers=("fc2",), cache_root=folder / "many")
    set_dir, job = publish(config)
    found = evaluate_set(open_set(set_dir), job)
    assert (found.num_eval, found.alignment, found.perturbations, found.strangers) == (40, None, (), ())
    assert found.notes[-1].startswith("40 examples can be held out and at least 45 are needed")


def test_too_few_examples_are_said_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "data_root", lambda: folder / "few")
    set_dir, job = publish(RunConfig(sample=True, sample_size=5, k=2, layers=("fc2",), cache_root=folder / "little"))
    found = evaluate_set(open_set(set_dir), job)
    assert (found.alignment, found.perturbations, found.strangers) == (None, (), ())
    assert "1 examples can be held out" in found.notes[-1]

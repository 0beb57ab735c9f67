"""Interventions in a model of two linear layers: every share is what numpy gives on the stored activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.cache.rows import LayerRows
from clusterpaths.common import roots
from clusterpaths.config import RunConfig
from clusterpaths.evaluation.causal import BATCH, examples_for
from clusterpaths.evaluation.evaluate import evaluate_set, stored_evaluation
from clusterpaths.evaluation.record import Evaluation, Steering
from clusterpaths.evaluation.split import choose_positions
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models.session import Outputs
from clusterpaths.models.tail import TailSession
from clusterpaths.sets.published import PublishedSet, open_set
from tests.clusterpaths.conftest import save_model
from tests.clusterpaths.evaluation.test_held_out import limit_fit
from tests.evaluating import publish

SIZE, WIDTH, CLASSES, K = 16, 6, 3, 4
LAYER = "fc1"


def write_linear(path: Path, *, bypass: bool = False, scores: bool = True, seed: int = 0) -> Path:
    """Flatten → hidden (6, MatMul) → logits (3, MatMul); with a bypass the image is in the logits by a way of its own, too."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((3 * SIZE * SIZE, WIDTH)) / SIZE,
        "w2": rng.standard_normal((WIDTH, CLASSES)),
        "past": rng.standard_normal((3 * SIZE * SIZE, CLASSES)) / SIZE,
    }
    nodes = [
        helper.make_node("Flatten", ["input"], ["x"]),
        helper.make_node("MatMul", ["x", "w1"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["behind" if bypass else "logits"]),
    ]
    if bypass:
        nodes += [
            helper.make_node("MatMul", ["x", "past"], ["branch"]),
            helper.make_node("Add", ["behind", "branch"], ["logits"]),
        ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])]
    tensors = [numpy_helper.from_array(one.astype(np.float32), name) for name, one in weights.items()]
    return save_model(path, helper.make_graph(nodes, "linear", inputs, outputs, tensors))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("causal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roots, "data_root", lambda: root / "data")
        limit_fit(patch, 100)
        yield root


def configure(root: Path, model: Path, **more: Any) -> RunConfig:
    given = {"sample": True, "sample_size": 160, "layers": (LAYER,), "k": K, "cache_root": root / model.stem}
    return RunConfig(**given | {"model": model, "cache_dtype": "float32", "distance": "euclidean"} | more)


@dataclass(frozen=True)
class Measured:
    published: PublishedSet
    job: ExtractionJob
    evaluation: Evaluation
    rows: NDArray[np.float32]  # (160, WIDTH) the hidden layer's values of all examples


def measure(config: RunConfig) -> Measured:
    folder, job = publish(config)
    published = open_set(folder)
    (_, rows), *others = LayerRows(job.storage, LAYER, published.ids).blocks()
    assert not others
    return Measured(published, job, evaluate_set(published, job), rows)


@pytest.fixture(scope="module")
def linear(root: Path) -> Measured:
    return measure(configure(root, write_linear(root / "linear.onnx")))


def weight(model: Path, name: str) -> NDArray[np.float32]:
    graph = onnx.load(str(model)).graph
    return numpy_helper.to_array(next(one for one in graph.initializer if one.name == name))


def by_hand(root: Path, linear: Measured, values: NDArray[Any]) -> NDArray[np.int64]:
    """Decisions on values of the hidden layer."""
    decided: NDArray[np.int64] = (values @ weight(root / "linear.onnx", "w2")).argmax(axis=1)
    return decided


@dataclass(frozen=True)
class Known:
    fit: NDArray[np.int64]
    held: NDArray[np.int64]
    clusters: NDArray[np.int16]
    means: NDArray[np.float64]
    majority: NDArray[np.int64]


@pytest.fixture(scope="module")
def known(linear: Measured) -> Known:
    chosen = choose_positions(linear.published, linear.job.storage, linear.published.record.seed)
    assert chosen.published
    clusters = linear.published.clusters[:, 0]
    own = clusters[chosen.fit]
    means = np.stack([linear.rows[chosen.fit][own == cluster].mean(axis=0, dtype=np.float64) for cluster in range(K)])
    decisions = linear.published.predictions[chosen.fit]
    majority = np.array([np.bincount(decisions[own == cluster]).argmax() for cluster in range(K)])
    return Known(chosen.fit, chosen.held_out, clusters, means, majority)


def steering(measured: Measured) -> Steering:
    (found,) = measured.evaluation.steering
    assert found.layer == LAYER
    return found


def test_steering_is_the_closed_form(root: Path, linear: Measured, known: Known) -> None:
    steered, changed, before = [], [], []
    for example in known.held.tolist():
        own = int(known.clusters[example])
        value, decided = linear.rows[example], linear.published.predictions[example]
        for target in set(range(K)) - {own}:
            (now,) = by_hand(root, linear, (value + known.means[target] - known.means[own])[None])
            steered.append(now == known.majority[target])
            changed.append(now != decided)
            before.append(decided == known.majority[target])
    found = steering(linear)
    assert found.targets == K - 1
    assert found.steered.n == len(known.held) == 60
    assert not found.bypassed
    assert found.steered.value == pytest.approx(np.mean(steered))
    assert found.changed.value == pytest.approx(np.mean(changed))
    assert found.before.value == pytest.approx(np.mean(before))
    assert found.before.value < found.steered.value
    assert found.random.value < found.steered.value
    assert found.steered.low <= found.steered.value <= found.steered.high


def test_patching_all_of_a_layer_gives_the_decision_of_the_example_it_is_from(linear: Measured, known: Known) -> None:
    """Nothing goes past the layer. So the share is how often examples of a cluster decide as most of it, up to the draw."""
    decisions, own = linear.published.predictions[known.fit], known.clusters[known.fit]
    share = np.array([(decisions[own == cluster] == known.majority[cluster]).mean() for cluster in range(K)])
    weights = np.array([(known.clusters[known.held] != cluster).sum() for cluster in range(K)])
    assert steering(linear).patched.value == pytest.approx((share * weights).sum() / weights.sum(), abs=0.12)


def test_necessity_is_the_closed_form(root: Path, linear: Measured, known: Known) -> None:
    (found,) = linear.evaluation.necessity
    decided, own = linear.published.predictions[known.held], known.clusters[known.held]
    assert found.cluster.value == pytest.approx((by_hand(root, linear, known.means[own]) == decided).mean())
    everything = np.repeat(linear.rows[known.fit].mean(axis=0, dtype=np.float64)[None], len(own), axis=0)
    assert found.mean.value == pytest.approx((by_hand(root, linear, everything) == decided).mean())
    assert found.onwards == found.cluster  # of the one layer


def test_what_goes_past_the_layer_is_kept(root: Path) -> None:
    """Behind the layer nothing counts: no shift there changes a decision."""
    path = write_linear(root / "past.onnx", bypass=True)
    model = onnx.load(str(path))
    (w2,) = [one for one in model.graph.initializer if one.name == "w2"]
    w2.CopyFrom(numpy_helper.from_array(np.zeros((WIDTH, CLASSES), np.float32), "w2"))
    onnx.save(model, str(path))
    found = measure(configure(root, path)).evaluation
    (steered,), (necessity,) = found.steering, found.necessity
    assert steered.bypassed
    assert necessity.bypassed
    assert steered.changed.value == steered.changed_randomly.value == 0
    assert steered.steered.value == steered.patched.value == steered.before.value
    assert necessity.cluster.value == necessity.mean.value == 1


def test_the_same_on_any_number_of_threads_and_again(linear: Measured) -> None:
    for workers in (1, 3):
        linear.published.path.joinpath("metrics.json").unlink()
        assert evaluate_set(linear.published, linear.job, workers=workers) == linear.evaluation


def test_how_many_times_the_part_of_the_model_runs(linear: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    original = TailSession.run

    def counted(session: TailSession, values: NDArray[np.float32], images: NDArray[np.float32]) -> Outputs:
        runs.append(len(values))
        return original(session, values, images)

    monkeypatch.setattr(TailSession, "run", counted)
    linear.published.path.joinpath("metrics.json").unlink()
    evaluate_set(linear.published, linear.job)
    assert sum(runs) == 60 * (3 * (K - 1) + 3)
    assert max(runs) == BATCH
    runs.clear()
    assert evaluate_set(linear.published, linear.job) == linear.evaluation  # stored
    assert (
        evaluate_set(linear.published, linear.job, causal=False) == linear.evaluation
    )  # it has what is asked for, and more
    assert not runs


def test_without_interventions_nothing_is_cut_and_they_are_made_when_they_are_asked_for(linear: Measured) -> None:
    linear.published.path.joinpath("metrics.json").unlink()
    without = evaluate_set(linear.published, linear.job, causal=False)
    assert not without.steering
    assert without.perturbations == linear.evaluation.perturbations
    assert stored_evaluation(linear.published) is None
    assert stored_evaluation(linear.published, causal=False) == without
    assert evaluate_set(linear.published, linear.job) == linear.evaluation


@pytest.mark.parametrize(
    ("more", "note"),
    [
        (
            {"logits": "none"},
            "The model has no class scores (as in regression or an embedding): purity with predictions, decision alignment, "
            "preserved decisions, interventions, max softmax",
        ),
        ({"k": 1}, "All examples of fc1 are in one cluster: no other one to steer to."),
        (
            {"output_kind": "multi-label-logits"},
            "The model is multi-label, so an image has no one predicted class",
        ),
    ],
)
def test_what_cannot_be_asked_is_told(root: Path, more: dict[str, Any], note: str) -> None:
    folder, job = publish(configure(root, write_linear(root / "told.onnx"), name=f"told {note[:20]}", **more))
    found = evaluate_set(open_set(folder), job)
    assert not found.steering
    assert any(one.startswith(note) for one in found.notes), found.notes


def test_one_class_is_told(root: Path) -> None:
    model = onnx.load(str(write_linear(root / "one_class.onnx")))
    (w2,) = [one for one in model.graph.initializer if one.name == "w2"]
    w2.CopyFrom(numpy_helper.from_array(np.zeros((WIDTH, CLASSES), np.float32), "w2"))
    onnx.save(model, str(root / "one_class.onnx"))
    found = measure(configure(root, root / "one_class.onnx")).evaluation
    assert not found.steering
    assert any("one class for every example" in note and "interventions are left out" in note for note in found.notes)


def test_a_large_model_is_asked_on_fewer_examples(linear: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert examples_for(linear.job, [5] * 5) == 300
    assert examples_for(linear.job, [8] * 16) == 65  # 25,000 runs of 24 for each of 16 layers
    assert examples_for(linear.job, [100] * 16) == 65  # seven targets at most
    assert examples_for(linear.job, [8] * 300) == 30
    monkeypatch.setattr("clusterpaths.evaluation.causal.LARGE_MODEL", 100)
    assert examples_for(linear.job, [5] * 5) == 111


def test_how_long_it_takes_is_said_before_for_a_large_model(linear: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    linear.published.path.joinpath("metrics.json").unlink()
    evaluate_set(linear.published, linear.job, say=said.append)
    assert not said
    monkeypatch.setattr("clusterpaths.evaluation.causal.LARGE_MODEL", 100)
    linear.published.path.joinpath("metrics.json").unlink()
    evaluate_set(linear.published, linear.job, say=said.append)
    (text,) = said
    runs = 60 * (3 * (K - 1) + 3)
    assert text.startswith(f"Interventions: 60 examples, 1 layers, {runs:,} runs of parts of the model, about ")

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from clusterpaths.datasets.base import ExampleTable
from clusterpaths.datasets.celeba import CelebA, open_celeba
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.preprocessing.check import (
    PreprocessingCheck,
    PresetScore,
    check_preprocessing,
    clearly_better,
)
from clusterpaths.preprocessing.class_order import best_assignment
from clusterpaths.preprocessing.prepare import PRESETS, called, preset_preprocessing
from clusterpaths.records import Channels, Preprocessing
from tests.wrapped_model import wrap

SAMPLE = Path(__file__).resolve().parents[3] / "ONNX_models" / "SampleFaces_CNN.onnx"
SIZE = (64, 64)
TRUE: list[tuple[str, Channels]] = [(name, order) for name in PRESETS for order in ("RGB", "BGR")]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CelebA:
    root = tmp_path_factory.mktemp("faces")
    write_faces(root, 160, seed=31)
    return open_celeba(root)


def check(
    path: Path, dataset: CelebA, configured: Preprocessing, table: ExampleTable | None = None
) -> PreprocessingCheck:
    model = instrument_model(check_model(path), configured.size)
    return check_preprocessing(model, dataset, table or dataset.examples(), configured)


@pytest.mark.parametrize(("name", "channels"), TRUE)
def test_each_preset_is_found_where_it_is_the_true_one_and_silent_where_configured(
    name: str, channels: Channels, drawn: CelebA, tmp_path: Path
) -> None:
    true = preset_preprocessing(name, SIZE, channels)
    path = wrap(tmp_path / "wrapped.onnx", true)
    silent = check(path, drawn, true)
    assert (silent.verdict, silent.best) == ("fine", true)
    assert silent.scores[0].accuracy is not None
    assert silent.scores[0].accuracy >= 0.95
    # far enough off to be seen: what is near (symmetric for imagenet) may stay fine
    wrong = preset_preprocessing("unit" if name == "raw" else "raw", SIZE, "RGB" if channels == "BGR" else "BGR")
    found = check(path, drawn, wrong)
    assert (found.verdict, found.labelled) == ("another preset is clearly better", 160)
    assert called(found.best) in found.sentence
    assert found.best == true
    assert found.identity


def test_a_wrong_channel_order_alone_is_found(drawn: CelebA, tmp_path: Path) -> None:
    true = preset_preprocessing("imagenet", SIZE, "BGR")
    found = check(wrap(tmp_path / "bgr.onnx", true), drawn, preset_preprocessing("imagenet", SIZE))
    assert (found.verdict, found.best) == ("another preset is clearly better", true)
    assert "--preprocessing imagenet --channels BGR" in found.sentence


def test_another_order_of_classes_is_found_and_is_no_alarm(drawn: CelebA, tmp_path: Path) -> None:
    true = preset_preprocessing("imagenet", SIZE)
    found = check(wrap(tmp_path / "order.onnx", true, (3, 0, 4, 1, 2)), drawn, true)
    assert (found.verdict, found.identity) == ("fine", False)
    assert found.order == ("Brown", "Bald", "Gray", "Black", "Blond")
    assert "found order, Brown, Bald, Gray, Black, Blond" in found.sentence


@pytest.mark.parametrize(("order", "expected"), [((0, 1, 2), 3), ((0, 1, 2, 3, 4, 0, 1), 5)])
def test_fewer_and_more_outputs_than_classes(
    order: tuple[int, ...], expected: int, drawn: CelebA, tmp_path: Path
) -> None:
    true = preset_preprocessing("imagenet", SIZE)
    found = check(wrap(tmp_path / "outputs.onnx", true, order), drawn, true)
    assert found.verdict == "fine"
    assert len(found.order) == len(order)
    assert sum(bool(name) for name in found.order) == expected


@pytest.mark.parametrize("seed", range(6))
def test_labels_that_have_nothing_to_do_with_the_model_raise_no_alarm(seed: int, drawn: CelebA) -> None:
    table = drawn.examples()
    labels = np.random.default_rng(seed).permutation(table.labels)
    found = check(SAMPLE, drawn, preset_preprocessing("raw", SIZE), dataclasses.replace(table, labels=labels))
    assert found.verdict == "fine"


@pytest.mark.parametrize("known", [0, 29])
def test_without_enough_labels_there_is_a_hint_and_no_warning(known: int, drawn: CelebA) -> None:
    table = drawn.examples()
    labels = np.where(np.arange(len(table)) < known, table.labels, -1).astype(np.int16)
    found = check(SAMPLE, drawn, preset_preprocessing("unit", SIZE), dataclasses.replace(table, labels=labels))
    assert (found.verdict, found.labelled, found.best.name) == ("no labels", 0, "unit")
    assert "As a hint only" in found.sentence
    for score in found.scores:
        assert score.accuracy is None
        assert 0.2 <= (score.confidence or 0) <= 1
        assert 0 <= (score.dead or 0) < 1


@pytest.mark.parametrize(
    ("best", "own", "chance", "clear"),
    [
        ((0.50, 0.60), (0.20, 0.30), 0.40, True),
        ((0.35, 0.45), (0.20, 0.30), 0.40, False),  # no better than shuffled labels
        ((0.25, 0.60), (0.20, 0.30), 0.10, False),  # the intervals overlap
    ],
)
def test_better_beyond_both_intervals_and_beyond_chance(
    best: tuple[float, float], own: tuple[float, float], chance: float, clear: bool
) -> None:
    scores = [PresetScore(preprocessing=preset_preprocessing("unit", SIZE), interval=one) for one in (best, own)]
    assert clearly_better(scores[0], scores[1], chance) is clear


def test_best_assignment_by_hand() -> None:
    outputs, labels = np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 2])
    assert best_assignment(outputs, labels, (3, 3)) == (5, [1, 0, 2])
    assert best_assignment(outputs, outputs, (3, 3)) == (5, [0, 1, 2])
    assert best_assignment(np.zeros(4, np.int64), np.array([0, 0, 1, 2]), (2, 3)) == (2, [0, -1])

"""The benchmarks of `clusterpaths find`: what they plant and count; not their numbers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def found() -> Iterator[None]:
    """Its modules can be imported."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def load(name: str) -> Any:
    return importlib.import_module(name)


def test_five_in_a_hundred_labels_are_changed_to_another_class() -> None:
    right = np.random.default_rng(0).integers(0, 4, 1_000)
    labels, wrong = load("label_errors").plant(right, 4, seed=1)
    assert wrong.sum() == 50
    assert ((labels != right) == wrong).all()
    assert set(np.unique(labels)) <= set(range(4))
    assert not np.array_equal(labels, load("label_errors").plant(right, 4, seed=2)[0])


def test_precision_counts_what_a_short_list_does_not_have_as_right() -> None:
    module = load("label_errors")
    wrong = np.array([True, False, True, False])
    draw = module.Draw("case", 0, np.zeros((4, 1), int), np.zeros(4, int), wrong, np.ones((4, 1)))
    assert module.precision(draw, np.array([0, 2, 1]), 2) == 1
    assert module.precision(draw, np.array([0, 1]), 2) == 0.5
    assert module.precision(draw, np.array([0]), 2) == 0.5


def test_the_interval_is_students() -> None:
    found = load("label_errors").interval([0.8, 0.9, 1.0])
    assert found["precision"] == 0.9
    assert found["high"] - found["precision"] == pytest.approx(4.3027 * 0.1 / 3**0.5, abs=1e-3)


def test_every_ranking_of_a_draw_finds_planted_errors() -> None:
    module = load("label_errors")
    images, right = module.digits()
    labels, wrong = module.plant(right[:600], 10, 0)
    paths, probabilities = module.perceptron(images[600:], right[600:], images[:600], 20, 0)
    draw = module.Draw("case", 0, paths, labels, wrong, probabilities)
    found = {name: module.precision(draw, ranked, 30) for name, ranked in module.rankings(draw).items()}
    assert set(found) == {"clusterpaths", "clusterpaths, all ranked", "paths only", "model only"}
    assert min(found.values()) > 0.3  # by chance 0.05


def test_copies_are_judged_by_the_picture_that_they_are_of(tmp_path: Path) -> None:
    module = load("find")
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.jpg"
        )
    module.write_copies(sorted(tmp_path.glob("*.jpg")), tmp_path / "images")
    files = sorted(file.name for file in (tmp_path / "images").iterdir())
    assert len(files) == 2 * (1 + len(module.CHANGES))
    at = {file: i for i, file in enumerate(files)}
    pairs = np.array([[at["a.jpg"], at["a_q60.jpg"]], [at["a.jpg"], at["b.jpg"]]])
    judged = module.judge(files, pairs)
    assert (judged["pairs"], judged["of one picture"]) == (2, 0.5)
    assert judged["recall"]["q60"] == round(1 / module.COPIED, 3)
    assert judged["recall"]["half"] == 0

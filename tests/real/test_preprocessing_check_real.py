"""The preprocessing check on CelebA_CNN and real faces, where CLUSTERPATHS_SHARED points to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.preprocessing.check import PreprocessingCheck, check_preprocessing
from clusterpaths.preprocessing.prepare import preset_preprocessing

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
pytestmark = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


def _check(name: str) -> PreprocessingCheck:
    dataset = open_celeba(SHARED)
    model = instrument_model(check_model(SHARED / "models" / "CelebA_CNN.onnx"), (64, 64))
    return check_preprocessing(model, dataset, dataset.examples(), preset_preprocessing(name, (64, 64)))


@pytest.mark.parametrize("configured", ["unit", "symmetric", "raw"])
def test_imagenet_is_found_whatever_is_configured(configured: str) -> None:
    found = _check(configured)
    assert found.verdict == "another preset is clearly better"
    assert (found.best.name, found.best.channels, found.labelled) == ("imagenet", "RGB", 184)
    assert found.order == ("Bald", "Black", "Blond", "Brown", "Gray")
    assert found.identity
    best = next(score for score in found.scores if score.preprocessing == found.best)
    assert best.accuracy == pytest.approx(0.92, abs=0.02)
    assert best.interval is not None
    assert best.interval[0] > 0.85


def test_imagenet_raises_no_alarm() -> None:
    found = _check("imagenet")
    assert found.verdict == "fine"
    assert found.best.name == "imagenet"

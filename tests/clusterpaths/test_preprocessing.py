from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from clusterpaths.errors import ConfigError
from clusterpaths.preprocessing import normalise, resize, resolve_preprocessing
from clusterpaths.records import ModelRecord, Preprocessing

OWN = Preprocessing(name="own", size=(8, 8), mean=(0, 0, 0), std=(2, 2, 2))


def model(preprocessing: Preprocessing | None = None) -> ModelRecord:
    return ModelRecord(
        path="m", sha256="0", external={}, input="x", batch=None, size=(8, 8), logits=None, num_classes=0, taps=(),
        preprocessing=preprocessing,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("raw", (255, 0, 51)),
        ("unit", (1, 0, 0.2)),
        ("symmetric", (1, -1, -0.6)),
        ("imagenet", ((1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225)),
    ],
)
def test_presets_by_hand_on_one_pixel(preset: str, expected: tuple[float, ...]) -> None:
    chosen, source = resolve_preprocessing(model(), preset)
    x = normalise(np.array([[[[255, 0, 51]]]], np.uint8), chosen)
    assert (x.shape, x.dtype) == ((1, 3, 1, 1), np.float32)
    np.testing.assert_allclose(x.ravel(), expected, rtol=1e-5, atol=1e-6)
    assert f"--preprocessing {preset}" in source


def test_channels_come_first_and_stay_apart() -> None:
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    x = normalise(images, resolve_preprocessing(model(), "raw")[0])
    np.testing.assert_array_equal(x, images.transpose(0, 3, 1, 2))
    assert x.flags.c_contiguous


@pytest.mark.parametrize("size", [(8, 8), (24, 20), (5, 40)])
def test_resize_is_pillows_bilinear(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    pillow = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(image, size), np.asarray(pillow))


def test_options_win_over_metadata_and_these_over_the_default() -> None:
    assert resolve_preprocessing(model(OWN))[0] == OWN
    assert resolve_preprocessing(model(OWN), "unit")[0].name == "unit"
    custom = resolve_preprocessing(model(OWN), mean=(0, 0, 0), std=(1, 1, 1), size=(4, 6))[0]
    assert (custom.name, custom.size) == ("custom", (4, 6))
    default, source = resolve_preprocessing(model())
    assert default.name == "imagenet"
    assert "the model file does not say" in source


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0, 0, 0)}, "--mean and --std go together"),
        ({"std": (1, 1, 1)}, "--mean and --std go together"),
        ({"mean": (0, 0), "std": (1, 1)}, "should be three numbers each"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, "std above 0"),
    ],
)
def test_normalisation_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_preprocessing(model(), **options)

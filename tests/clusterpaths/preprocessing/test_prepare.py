from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, pil_to_tensor
from torchvision.transforms.functional import resize as resize_as_torchvision

from clusterpaths.errors import ConfigError
from clusterpaths.preprocessing.prepare import fit, normalise, resize, resolve_preprocessing
from clusterpaths.records import ModelOutputs, ModelRecord, Preprocessing

OWN = Preprocessing(name="own", size=(8, 8), mean=(0, 0, 0), std=(2, 2, 2))


def model(preprocessing: Preprocessing | None = None) -> ModelRecord:
    return ModelRecord(
        path="m", sha256="0", external={}, input="x", batch=None, size=(8, 8), outputs=ModelOutputs(), taps=(),
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


@pytest.mark.parametrize("shorter", [None, 73])
@pytest.mark.parametrize(
    ("mode", "antialias"), [("bilinear", True), ("bilinear", False), ("bicubic", True), ("nearest", True)]
)
@pytest.mark.parametrize("box", [(0, 0, 640, 427), (10, 20, 310, 421), (0, 0, 50, 41), (5, 5, 65, 69)])
def test_images_are_fitted_as_torchvision_does_it(
    box: tuple[int, int, int, int], mode: str, antialias: bool, shorter: int | None
) -> None:
    image = Image.fromarray(load_sample_images().images[0]).crop(box)
    wanted = Preprocessing(
        name="x", size=(64, 60), mean=(0, 0, 0), std=(1, 1, 1), resize=mode, shorter=shorter, antialias=antialias
    )
    own = image if antialias else pil_to_tensor(image)  # on Pillow images torchvision always antialiases
    expected = resize_as_torchvision(
        own, [64, 60] if shorter is None else [shorter], InterpolationMode(mode), antialias=antialias
    )
    expected = center_crop(expected, [64, 60])
    pixels = np.asarray(expected) if antialias else expected.permute(1, 2, 0).numpy()
    fitted = fit(image, wanted)
    assert (fitted.shape, fitted.dtype) == ((64, 60, 3), np.uint8)
    assert np.abs(fitted.astype(int) - pixels).max() <= 1


def test_a_cut_larger_than_what_it_is_cut_from_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a shorter side of 7 is too small to cut 8x8 from it.*--crop-from"):
        resolve_preprocessing(model(OWN), crop_from=7)
    with pytest.raises(ConfigError, match="bicubic without antialiasing cannot be done"):
        resolve_preprocessing(model(OWN.model_copy(update={"antialias": False})), resize="bicubic")


def test_each_option_wins_over_its_own_part_of_the_metadata() -> None:
    own = OWN.model_copy(update={"channels": "BGR", "resize": "bicubic", "shorter": 10})
    chosen, source = resolve_preprocessing(model(own), "unit")
    assert (chosen.name, chosen.channels, chosen.resize, chosen.shorter) == ("unit", "BGR", "bicubic", 10)
    assert "8x8 bicubic from the centre of 10, from --preprocessing unit" in source
    larger = resolve_preprocessing(model(own), size=(16, 16), channels="RGB")[0]
    assert (larger.size, larger.shorter, larger.channels) == ((16, 16), 20, "RGB")


def test_records_from_before_these_fields_stay_as_they_were() -> None:
    assert set(OWN.model_dump()) == {"name", "size", "mean", "std", "scale", "resize"}
    own = OWN.model_copy(update={"shorter": 9, "antialias": False, "channels": "BGR"})
    assert Preprocessing.model_validate_json(own.model_dump_json()) == own


def test_options_win_over_metadata_and_these_over_the_default() -> None:
    assert resolve_preprocessing(model(OWN))[0] == OWN
    assert resolve_preprocessing(model(OWN), "unit")[0].name == "unit"
    custom = resolve_preprocessing(model(OWN), mean=(0, 0, 0), std=(1, 1, 1), size=(4, 6))[0]
    assert (custom.name, custom.size) == ("custom", (4, 6))
    default, source = resolve_preprocessing(model())
    assert default.name == "imagenet"
    assert "the model file has none" in source


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


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), ((255 - 123.675) / 58.395, -116.28 / 57.12)),
        ((104, 117, 123), (1, 1, 1), (151, -117)),
        ((0, 0, 0), (255, 255, 255), (1, 0)),
        ((127.5, 127.5, 127.5), (128, 128, 128), (127.5 / 128, -127.5 / 128)),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), ((1 - 0.485) / 0.229, -0.456 / 0.224)),
        ((0.5, 0.5, 0.5), (1, 1, 1), (0.5, -0.5)),
    ],
)
def test_the_range_of_a_mean_of_ones_own_is_recognised(
    mean: tuple[float, ...], std: tuple[float, ...], expected: tuple[float, float]
) -> None:
    chosen, source = resolve_preprocessing(model(OWN), mean=mean, std=std)
    x = normalise(np.array([[[[255, 0, 0]]]], np.uint8), chosen).ravel()
    np.testing.assert_allclose(x[:2], expected, rtol=1e-5)
    assert ("taken as of pixels in 0..255" in source) == (max(*mean, *std) > 1)


@pytest.mark.parametrize(("mean", "std"), [((123.7,) * 3, (0.23,) * 3), ((0.485,) * 3, (58.4,) * 3)])
def test_a_mean_and_a_deviation_of_different_ranges_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"--mean and --std do not go together: .*are of different ranges"):
        resolve_preprocessing(model(OWN), mean=mean, std=std)


def test_a_square_that_is_cut_scales_with_the_size_and_yields_to_crop_from() -> None:
    own = OWN.model_copy(update={"resize_to": (12, 10), "crop": "floor"})
    larger, source = resolve_preprocessing(model(own), size=(16, 16))
    assert (larger.size, larger.resize_to) == ((16, 16), (24, 20))
    assert "16x16 bilinear from the centre of 24x20" in source
    chosen = resolve_preprocessing(model(own), crop_from=9)[0]
    assert (chosen.shorter, chosen.resize_to) == (9, None)
    assert Preprocessing.model_validate_json(own.model_dump_json()) == own
    with pytest.raises(ValueError, match="7x12 is too small to cut 8x8"):
        Preprocessing.model_validate(own.model_dump() | {"resize_to": (7, 12)})

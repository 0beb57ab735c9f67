"""Each change of the pixels on images of a few pixels, computed by hand."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clusterpaths.evaluation import perturb

RNG = np.random.default_rng(0)
GREYS = np.repeat(np.array([[[10, 20], [30, 240]]], np.uint8)[..., None], 3, axis=-1)  # (1, 2, 2, 3)
PICTURES = RNG.integers(0, 256, (3, 16, 12, 3), dtype=np.uint8)


def grey(images: perturb.Images) -> list[list[int]]:
    found: list[list[int]] = images[0, :, :, 0].tolist()
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brightness +20%", [[12, 24], [36, 255]]),
        ("brightness -20%", [[8, 16], [24, 192]]),
        ("flip", [[20, 10], [240, 30]]),
    ],
)
def test_changes_by_hand(name: str, expected: list[list[int]]) -> None:
    changed = perturb.PERTURBATIONS[name](GREYS, RNG)
    assert grey(changed) == expected
    assert (changed == changed[..., :1]).all()  # grey stays grey
    assert changed.dtype == np.uint8


def test_a_shift_repeats_the_left_edge() -> None:
    assert grey(perturb.shift(1)(GREYS, RNG)) == [[10, 10], [30, 30]]
    moved = perturb.PERTURBATIONS["shift by 4 pixels"](PICTURES, RNG)
    assert (moved[:, :, 4:] == PICTURES[:, :, :-4]).all()
    assert (moved[:, :, :4] == PICTURES[:, :, :1]).all()


def test_upside_down_is_half_a_turn() -> None:
    assert grey(perturb.upside_down(GREYS)) == [[240, 30], [20, 10]]


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_noise_has_the_deviation_that_it_says(sigma: float) -> None:
    even = np.full((4, 64, 64, 3), 128, np.uint8)
    noisy = perturb.PERTURBATIONS[f"noise {sigma:.2f}"](even, np.random.default_rng(0))
    assert noisy.std() / 255 == pytest.approx(sigma, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.5)


def test_noise_is_the_same_whether_images_come_at_once_or_in_batches() -> None:
    noise, rng = perturb.gaussian_noise(0.1), np.random.default_rng(1)
    in_batches = [noise(PICTURES[:1], rng), noise(PICTURES[1:], rng)]
    assert (np.concatenate(in_batches) == noise(PICTURES, np.random.default_rng(1))).all()


def test_jpeg_is_pillow_s() -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURES[2]).save(file, "JPEG", quality=30)
    assert (perturb.PERTURBATIONS["JPEG quality 30"](PICTURES, RNG)[2] == np.asarray(Image.open(file))).all()


def test_blur_spreads_a_point_evenly_and_stays_in_its_channel_and_image() -> None:
    point = np.zeros((2, 9, 9, 3), np.uint8)
    point[0, 4, 4, 0] = 255
    blurred = perturb.blur(1)(point, RNG)
    assert blurred[0, 4, 4, 0] == round(255 * 0.3990 * 0.3990)  # the middle of the Gaussian, cut at four deviations
    assert blurred[0, 4, 5, 0] == blurred[0, 5, 4, 0] == blurred[0, 3, 4, 0] > 0
    assert not blurred[1].any()
    assert not blurred[0, :, :, 1:].any()


def test_crops_are_parts_of_the_photograph() -> None:
    rows = np.repeat(np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 80, axis=1), 3, axis=2)
    cut = perturb.crops([rows, rows], 5, (16, 12), np.random.default_rng(0))
    assert cut.sources is not None
    assert cut.sources.tolist() == [0, 1, 0, 1, 0]
    found = cut.images
    assert found.shape == (5, 16, 12, 3)
    assert (np.diff(found[:, :, 0, 0].astype(int), axis=1) >= 0).all()  # upright: the value is the row
    assert len(np.unique(found[:, 0, 0, 0])) > 1  # from different places


def test_other_images_come_back_with_the_seed() -> None:
    def crops(*arguments: Any) -> perturb.Images:
        return perturb.photo_crops(*arguments).images

    for make in (crops, perturb.uniform_noise):
        first, again = (make(3, (16, 12), np.random.default_rng(2)) for _ in range(2))
        assert first.shape == (3, 16, 12, 3)
        assert (first == again).all()
    assert (perturb.drawn_faces(2, (16, 12), 1) == perturb.drawn_faces(2, (16, 12), 1)).all()

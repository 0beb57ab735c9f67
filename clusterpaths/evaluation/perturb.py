"""Changed images and other images, to try paths on: pure functions on 8-bit pixels, at the model's size.

Belongs here: the perturbations and the images that are none of the data set. What is measured on them is `evaluate.py`.
Arrays are (n, height, width, 3) uint8; amounts are of the range 0..1, results rounded to 8 bits as an image file's are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.datasets.drawn_faces.draw import draw_face
from clusterpaths.preprocessing.prepare import resize

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class OODImages:
    """Images that are none of the data set.

    Attributes:
        images: (n, height, width, 3).
        sources: (n,) what each one was cut from, 0, 1 …; None: they are independent of each other.
    """

    images: Images
    sources: NDArray[np.int64] | None = None


Perturbation = Callable[[Images, np.random.Generator], Images]


def gaussian_noise(sigma: float) -> Perturbation:
    """Independent noise on each channel of each pixel; sigma of the range 0..1."""

    def apply(images: Images, rng: np.random.Generator) -> Images:
        return _bits(images + rng.standard_normal(images.shape, np.float32) * np.float32(255 * sigma))

    return apply


def brightness(factor: float) -> Perturbation:
    """Every value times `factor`, cut at white."""
    return lambda images, _: _bits(images * np.float32(factor))


def jpeg(quality: int) -> Perturbation:
    """Through a JPEG file and back."""

    def apply(images: Images, _: np.random.Generator) -> Images:
        result = np.empty_like(images)
        for image, target in zip(images, result, strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=quality)
            target[:] = np.asarray(Image.open(file))
        return result

    return apply


def blur(sigma: float) -> Perturbation:
    """Gaussian blur; sigma in pixels of the model's input."""

    def apply(images: Images, _: np.random.Generator) -> Images:
        from scipy.ndimage import gaussian_filter  # as below

        return _bits(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)))

    return apply


def flip(images: Images, _: np.random.Generator) -> Images:
    """Left becomes right."""
    return np.ascontiguousarray(images[:, :, ::-1])


def shift(pixels: int) -> Perturbation:
    """To the right; the left edge is repeated."""
    return lambda images, _: np.pad(images, ((0, 0), (0, 0), (pixels, 0), (0, 0)), "edge")[:, :, : images.shape[2]]


PERTURBATIONS: dict[str, Perturbation] = {
    "noise 0.02": gaussian_noise(0.02),
    "noise 0.05": gaussian_noise(0.05),
    "noise 0.10": gaussian_noise(0.10),
    "JPEG quality 30": jpeg(30),
    "brightness +20%": brightness(1.2),
    "brightness -20%": brightness(0.8),
    "blur, 1 pixel": blur(1),
    "flip": flip,
    "shift by 4 pixels": shift(4),
}


def photo_crops(count: int, size: tuple[int, int], rng: np.random.Generator) -> OODImages:
    """Crops of the two photographs that scikit-learn ships, a temple and a flower.

    scikit-image ships more of them, but nothing else here needs it: its photographs are in benchmarks/evaluation.py,
    where it is installed.
    """
    from sklearn.datasets import load_sample_images  # takes half a second, which a dry run need not wait for

    return crops(load_sample_images().images, count, size, rng)


def crops(
    photographs: Sequence[NDArray[np.uint8]], count: int, size: tuple[int, int], rng: np.random.Generator
) -> OODImages:
    """Of (height, width, 3) photographs in turn, at random places; a quarter to all of the height, in the shape of `size`."""
    height, width = size
    result, sources = np.empty((count, height, width, 3), np.uint8), np.arange(count) % len(photographs)
    for index in range(count):
        photograph = photographs[sources[index]]
        tall = int(rng.integers(photograph.shape[0] // 4, photograph.shape[0] + 1))
        wide = min(round(tall * width / height), photograph.shape[1])
        top = int(rng.integers(photograph.shape[0] - tall + 1))
        left = int(rng.integers(photograph.shape[1] - wide + 1))
        result[index] = resize(Image.fromarray(photograph[top : top + tall, left : left + wide]), size)
    return OODImages(result, sources)


def upside_down(images: Images) -> Images:
    """Turned by 180 degrees."""
    return np.ascontiguousarray(images[:, ::-1, ::-1])


def uniform_noise(count: int, size: tuple[int, int], rng: np.random.Generator) -> Images:
    """Every value at random."""
    return rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)


def drawn_faces(count: int, size: tuple[int, int], seed: int) -> Images:
    """The sample's faces."""
    return np.stack([resize(draw_face(seed, index)[0], size) for index in range(count)])


def _bits(values: NDArray[np.float32]) -> Images:
    result: Images = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return result

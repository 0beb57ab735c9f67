"""How a data set's transform makes the model's input of an image, where it is one of the usual ones.

Belongs here: torchvision's transforms to a `Preprocessing`, and the check of it on images. Without one, the model cannot be
run on other images than the loader's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from clusterpaths.errors import ConfigError
from clusterpaths.preprocessing.prepare import PRESETS, fit, normalise, preset_preprocessing
from clusterpaths.records import Preprocessing

_LOSSLESS = {"ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "ConvertToRGB", "RGB", "ToPILImage"}
_FILTERS = {"nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"}
CLOSE = 0.51  # steps of 8 bits: rounding to pixels
CLOSE_FILES = 1.01  # of images resized as tensors, which round otherwise
Size = tuple[int, int]


def read_preprocessing(given: Any, size: Size) -> Preprocessing | None:
    """A preprocessing that was given, at this (height, width): a record, its fields as a dict, or the name of a preset.

    Raises:
        ConfigError: it is none.
    """
    if given is None or isinstance(given, Preprocessing):
        return given and given.at_size(size)
    if isinstance(given, str):
        if given not in PRESETS:
            raise ConfigError(f"preprocessing {given!r} is none of the presets {', '.join(PRESETS)}.")
        return preset_preprocessing(given, size)
    try:
        return Preprocessing.model_validate({"name": "custom", "size": size, **dict(given)})
    except (ValidationError, TypeError, ValueError) as error:
        raise ConfigError(
            f"preprocessing cannot be used: {error}. Expected the name of a preset ({', '.join(PRESETS)}), or fields such as "
            "mean, std, resize and shorter."
        ) from error


def of_transform(transform: Any, size: Size) -> Preprocessing | None:
    """Of torchvision's Compose of Resize, CenterCrop, ToTensor and Normalize (v1 or v2), or a preset of its weights.

    None for any other transform: what it computes is not known.
    """
    steps = _steps(transform)
    if steps is None:
        return None
    found: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "name": "unit"}
    for step in steps:
        kind = type(step).__name__
        if kind == "Resize":
            asked, filter_ = _pair(step.size), _filter(step.interpolation)
            if filter_ is None or getattr(step, "max_size", None):
                return None
            found["resize"] = filter_
            found |= {"resize_to": asked} if len(asked) == 2 else {"shorter": asked[0]}
        elif kind == "CenterCrop":
            if tuple(_pair(step.size) * 2)[:2] != size:
                return None
        elif kind == "Normalize":
            found |= {"mean": _three(step.mean), "std": _three(step.std), "name": "custom"}
        elif kind not in _LOSSLESS:
            return None
    if found.get("resize_to") == size:
        del found["resize_to"]
    for name, preset in PRESETS.items():
        if (preset["mean"], preset["std"]) == (found["mean"], found["std"]) and name != "raw":
            found["name"] = name
    try:
        return Preprocessing.model_validate({"size": size, **found})
    except ValidationError:
        return None


def _steps(transform: Any) -> list[Any] | None:
    """The transforms in order; None where there are none."""
    if transform is None:
        return None
    if type(transform).__name__ == "StandardTransform":  # of (image, target)
        return _steps(transform.transform)
    if hasattr(transform, "resize_size") and hasattr(transform, "crop_size"):  # weights.transforms()
        from torchvision import transforms

        return [
            transforms.Resize(transform.resize_size, transform.interpolation),
            transforms.CenterCrop(transform.crop_size),
            transforms.Normalize(transform.mean, transform.std),
        ]
    if hasattr(transform, "transforms"):
        inner = [_steps(step) or [step] for step in transform.transforms]
        return [step for steps in inner for step in steps]
    return [transform]


def _pair(size: Any) -> tuple[int, ...]:
    return (int(size),) if isinstance(size, int) else tuple(int(side) for side in size)


def _filter(interpolation: Any) -> str | None:
    name = str(getattr(interpolation, "value", interpolation)).lower()
    return name if name in _FILTERS else None


def _three(values: Sequence[Any]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    return numbers * 3 if len(numbers) == 1 else numbers


def of_values(images: NDArray[np.float32]) -> Preprocessing | None:
    """Of (n, 1 or 3, height, width) values from 0 to 1, which are pixels / 255; None for others."""
    height, width = images.shape[2:]
    inside = images.size and images.min() >= 0 and images.max() <= 1 and images.max() > 0
    return preset_preprocessing("unit", (height, width)) if inside else None


def as_pixels(images: NDArray[np.float32], preprocessing: Preprocessing | None) -> NDArray[np.uint8]:
    """(n, height, width, 3) uint8 of (n, 1 or 3, height, width) input: exact where the preprocessing is known.

    Where it is not, the values are stretched from the batch's lowest to its highest percent: to be looked at only.
    """
    if images.shape[1] == 1:
        images = np.repeat(images, 3, axis=1)
    if preprocessing is None:
        low, high = np.percentile(images, (1, 99))
        values = (images - low) / max(float(high - low), 1e-12) * 255
    else:
        if preprocessing.channels == "BGR":
            images = images[:, ::-1]
        mean, std = (np.asarray(one, np.float32)[:, None, None] for one in (preprocessing.mean, preprocessing.std))
        values = (images * std + mean) / np.float32(preprocessing.scale)
    bytes_: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(bytes_)


def difference(
    images: NDArray[np.float32], pictures: Sequence[Image.Image] | None, preprocessing: Preprocessing
) -> float:
    """The largest difference between the loader's images and what the preprocessing makes, in steps of 8 bits.

    Args:
        images: (n, 1 or 3, height, width) of the loader.
        pictures: the n files that they were made of; None: there are none, and only the values count.
        preprocessing: to be checked.
    """
    if images.shape[2:] != preprocessing.size:
        return float("inf")
    pixels = (
        as_pixels(images, preprocessing)
        if pictures is None
        else np.stack([fit(picture, preprocessing) for picture in pictures])
    )
    made = normalise(pixels, preprocessing)[:, : images.shape[1]]
    step = preprocessing.scale / np.asarray(preprocessing.std, np.float32)[: images.shape[1], None, None]
    return float((np.abs(made - images) / step).max())

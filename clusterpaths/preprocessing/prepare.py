"""From an image to the model's input.

Belongs here: presets, resolving them against options and the model's own metadata, and the arithmetic.
Preprocessing is part of the model: a wrong one reduces a good model to chance.
"""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from clusterpaths.errors import ConfigError
from clusterpaths.records import Channels, ModelRecord, Preprocessing, Preset, Resize, pixel_scale

PRESETS: dict[str, dict[str, object]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},  # torchvision's models
    "unit": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},  # x / 255
    "symmetric": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},  # -1 … 1
    "raw": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "scale": 1.0},  # 0 … 255
}
assert set(PRESETS) == set(get_args(Preset))
NO_PREPROCESSING = Preprocessing(name="none", size=(1, 1), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0)
"""Of activations whose images, or what was made of them, are not known."""


def resolve_preprocessing(
    model: ModelRecord,
    preset: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    size: tuple[int, int] | None = None,
    default: Preset = "imagenet",
    channels: Channels | None = None,
    resize: Resize | None = None,
    crop_from: int | None = None,
) -> tuple[Preprocessing, str]:
    """The preprocessing of a run, and a sentence on where it comes from.

    Each option takes precedence over the model's metadata or the file beside it, and these over `default`. The
    preset "auto" is none: its choice is up to `preprocessing/check.py`.

    Raises:
        ConfigError: mean without std, a wrong number of channels, std of 0, or an image too small to cut from.
    """
    if (mean is None) != (std is None):
        raise ConfigError("--mean and --std go together: give both, such as --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5.")
    base, source = model.preprocessing, model.preprocessing_source or "the model's own metadata"
    if base is None:
        base, source = (
            preset_preprocessing(default, model.size),
            f"the default ({default}); the model file has none",
        )
    changes: dict[str, object] = {}
    if mean is not None and std is not None:
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(
                f"--mean and --std should be three numbers each, std above 0; got mean {mean} and std {std}. "
                "Example: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225."
            )
        try:
            scale = pixel_scale(mean, std)
        except ValueError as error:
            raise ConfigError(f"--mean and --std do not go together: {error}.") from error
        source = "--mean and --std" + (", taken as of pixels in 0..255" if scale == 1 else "")
        changes = {"name": "custom", "mean": mean, "std": std, "scale": scale}
    elif preset not in (None, "auto"):
        changes, source = {"name": preset, "scale": 1 / 255, **PRESETS[str(preset)]}, f"--preprocessing {preset}"
    given: dict[str, object] = {"channels": channels, "resize": resize, "shorter": crop_from}
    changes |= {field: value for field, value in given.items() if value is not None}
    try:
        sized = base.at_size(size or base.size).model_dump()
        chosen = Preprocessing.model_validate(sized | changes | ({"resize_to": None} if crop_from else {}))
    except ValidationError as error:
        reasons = "; ".join(str(one["msg"]).removeprefix("Value error, ") for one in error.errors())
        raise ConfigError(
            f"This preprocessing does not fit together: {reasons}. Correct --size, --resize or --crop-from."
        ) from error
    return chosen, f"Preprocessing {called(chosen)}, {geometry(chosen)}, from {source}."


def default_preset(model: ModelRecord, of_data: str | None) -> Preset:
    """For a model without a preprocessing of its own: none for bytes; else that of the data set's models."""
    if model.input_type == "uint8":
        return "raw"
    return of_data if of_data in PRESETS else "imagenet"  # type: ignore[return-value]  # its keys are the presets


def geometry(preprocessing: Preprocessing) -> str:
    """Text for people: 64x64 bilinear, or 224x224 bicubic from the centre of 256 (its shorter side) or 256x256."""
    size = f"{preprocessing.size[0]}x{preprocessing.size[1]} {preprocessing.resize}"
    cut = f" from the centre of {preprocessing.shorter}" if preprocessing.shorter else ""
    if preprocessing.resize_to:
        cut = " from the centre of {}x{}".format(*preprocessing.resize_to)
    return size + cut + ("" if preprocessing.antialias else " without antialiasing")


def preset_preprocessing(name: str, size: tuple[int, int], channels: Channels = "RGB") -> Preprocessing:
    """A preset at (height, width) for a model that takes its channels in this order."""
    return Preprocessing.model_validate({"name": name, "size": size, "channels": channels, **PRESETS[name]})


def called(preprocessing: Preprocessing) -> str:
    """Text for people: imagenet, or imagenet BGR."""
    return preprocessing.name if preprocessing.channels == "RGB" else f"{preprocessing.name} BGR"


def fit(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """An RGB image at the model's size, resized and cropped by the preprocessing; (height, width, 3) uint8.

    As torchvision.transforms and transformers' image processors do it on Pillow images: the longer side is rounded down,
    the cut is at the rounded half, or at the half rounded down.
    """
    height, width = preprocessing.size
    mode = Image.Resampling[preprocessing.resize.upper()]
    tall, wide = _resized_to(image, preprocessing)
    resized = _resized(image, (wide, tall), mode, preprocessing.antialias)
    if (tall, wide) == (height, width):
        return np.asarray(resized, np.uint8)
    half = round if preprocessing.crop == "round" else math.floor
    left, top = half((wide - width) / 2), half((tall - height) / 2)
    return np.asarray(resized.crop((left, top, left + width, top + height)), np.uint8)


def _resized_to(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width before the centre is cut out."""
    if preprocessing.shorter is None:
        return preprocessing.resize_to or preprocessing.size
    scale_to, short = preprocessing.shorter, min(image.size)
    wide, tall = (scale_to if side == short else int(scale_to * side / short) for side in image.size)
    return tall, wide


def _resized(image: Image.Image, size: tuple[int, int], mode: Image.Resampling, antialias: bool) -> Image.Image:
    """To (width, height)."""
    if image.size == size:
        return image
    if antialias:
        return image.resize(size, mode)
    across, down = image.width / size[0], image.height / size[1]
    return image.transform(size, Image.Transform.AFFINE, (across, 0, 0, 0, down, 0), resample=mode)


def resize(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An RGB image at (height, width), bilinear as Pillow does it; (height, width, 3) uint8."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def normalise(images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(n, height, width, 3) uint8 to the model's input, (n, 3, height, width) float32, C-contiguous."""
    mean = np.asarray(preprocessing.mean, np.float32)[:, None, None]
    std = np.asarray(preprocessing.std, np.float32)[:, None, None]
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)  # (n, 3, h, w)
    x *= np.float32(preprocessing.scale)
    x -= mean
    x /= std
    return x if preprocessing.channels == "RGB" else np.ascontiguousarray(x[:, ::-1])

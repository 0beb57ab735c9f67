"""From an image to the model's input.

Belongs here: presets, resolving them against options and the model's own metadata, and the arithmetic.
Preprocessing is part of the model: the wrong one makes a good model look like chance.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.errors import ConfigError
from clusterpaths.records import ModelRecord, Preprocessing

Preset = Literal["imagenet", "unit", "symmetric", "raw"]
PRESETS: dict[str, dict[str, object]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},  # torchvision's models
    "unit": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},  # plain x / 255
    "symmetric": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},  # -1 … 1
    "raw": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "scale": 1.0},  # 0 … 255
}
assert set(PRESETS) == set(get_args(Preset))


def resolve_preprocessing(
    model: ModelRecord,
    preset: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    size: tuple[int, int] | None = None,
    default: Preset = "imagenet",
) -> tuple[Preprocessing, str]:
    """The preprocessing of a run, and one sentence that says where it comes from.

    Options win over the model's metadata, which win over `default`.

    Raises:
        ConfigError: mean without std, a wrong number of channels, std of 0, or a size the model does not take.
    """
    if (mean is None) != (std is None):
        raise ConfigError("--mean and --std go together: give both, such as --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5.")
    if mean is not None and std is not None:
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(
                f"--mean and --std should be three numbers each, std above 0; got mean {mean} and std {std}. "
                "Example: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225."
            )
        chosen = Preprocessing(name="custom", size=model.size, mean=mean, std=std)
        source = "--mean and --std"
    elif preset is not None:
        chosen, source = _preset(preset, model.size), f"--preprocessing {preset}"
    elif model.preprocessing is not None:
        chosen, source = model.preprocessing, "the model's own metadata"
    else:
        chosen, source = _preset(default, model.size), f"the default ({default}); the model file does not say"
    if size is not None:
        chosen = chosen.model_copy(update={"size": size})
    return chosen, f"Preprocessing {chosen.name}, {chosen.size[0]}x{chosen.size[1]} bilinear, from {source}."


def _preset(name: str, size: tuple[int, int]) -> Preprocessing:
    return Preprocessing.model_validate({"name": name, "size": size, **PRESETS[name]})


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
    return x

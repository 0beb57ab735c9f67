"""Preprocessing of a model, from a JSON file beside it: Hugging Face's preprocessor_config.json, or torchvision's.

Belongs here: finding the file and reading the two dialects into `Preprocessing`. How a run uses it, and what takes
precedence, is `preprocessing/prepare.py`.

Sources: transformers' BaseImageProcessor (keys image_mean, image_std, do_rescale, rescale_factor, resample, size,
crop_size, crop_pct) and torchvision.transforms._presets.ImageClassification (keys mean, std, resize_size, crop_size,
interpolation, antialias).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from clusterpaths.common.corrupted import one_line, parse_json, what_does_not_fit
from clusterpaths.errors import ModelError
from clusterpaths.records import Channels, CropOffset, Preprocessing, pixel_scale

HUGGING_FACE = "preprocessor_config.json"

_CONVNEXT_WARPS = 384  # from this size on ConvNeXt's processor resizes to a square and cuts nothing
_CONVNEXT_CROP = 224 / 256
# A size of one number is a square for some processors, and the shorter side for others.
_SQUARE_BY_NUMBER = {"ViT", "DeiT", "Beit", "Data2VecVision", "EfficientNet", "Flava", "Siglip", "ViTHybrid"}
_SHORTER_BY_NUMBER = {
    "CLIP",
    "ConvNext",
    "Bit",
    "MobileNetV1",
    "MobileNetV2",
    "MobileViT",
    "LeViT",
    "Levit",
    "PoolFormer",
}


@dataclass(frozen=True)
class _Geometry:
    """How an image comes to its size, as the fields of `Preprocessing`; size None: left to the model."""

    size: tuple[int, int] | None = None
    shorter: int | None = None
    resize_to: tuple[int, int] | None = None
    crop: CropOffset = "round"


def find_sidecar(model: Path) -> Path | None:
    """MODEL.json (resnet18.json for resnet18.onnx), else preprocessor_config.json or preprocessing.json beside it."""
    names = (f"{model.stem}.json", HUGGING_FACE, "preprocessing.json")
    return next((model.parent / name for name in names if (model.parent / name).is_file()), None)


def read_sidecar(path: Path, size: tuple[int, int] | None) -> Preprocessing | None:
    """The preprocessing that a file describes; None for a JSON file about something else.

    Args:
        path: what `find_sidecar` found.
        size: (height, width) that the model fixes; None where it leaves it open, and the file decides.

    Raises:
        ModelError: the file cannot be read, or has unknown values.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        if path.name != HUGGING_FACE:
            return None  # a file of the same name, possibly of another program
        raise ModelError(
            f"{path} is not JSON: {one_line(error)}. Correct it, or remove it and use --preprocessing."
        ) from error
    if not isinstance(content, dict):
        return None
    try:
        if "image_mean" in content or "do_normalize" in content or _processor(content):
            return _hugging_face(content, size)
        if "mean" in content and "std" in content:
            return _torchvision(content, size)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(
            f"{path} describes a preprocessing that cannot be parsed: {_reason(error)}. Expected the keys of Hugging Face's "
            "preprocessor_config.json or of torchvision's transforms (mean, std, resize_size, crop_size, interpolation). "
            "Correct it, or remove it and use --preprocessing, --mean, --std, --size, --resize."
        ) from error
    return None


def _reason(error: Exception) -> str:
    return what_does_not_fit(error) if isinstance(error, ValidationError) else one_line(error)


def _hugging_face(content: Mapping[str, Any], size: tuple[int, int] | None) -> Preprocessing:
    kind = _processor(content)
    rescaled = bool(content.get("do_rescale", True))
    scale = float(content.get("rescale_factor", 1 / 255)) if rescaled else 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if content.get("do_normalize", kind != "MobileViT"):
        mean, std = _numbers(content["image_mean"]), _numbers(content["image_std"])
    if rescaled and content.get("rescale_offset", False):  # x * scale - 1 comes before the mean
        mean = tuple(1 + value for value in mean)
    if kind == "EfficientNet" and content.get("include_top", True) and content.get("do_normalize", True):
        std = tuple(value * value for value in std)  # it divides by it twice
    resample = Image.Resampling(int(content.get("resample", 2))).name.lower()
    return _made(
        _hugging_face_geometry(content, kind), size, mean, std, scale, resample,
        channels="BGR" if content.get("do_flip_channel_order", False) else "RGB",
    )  # fmt: skip


def _processor(content: Mapping[str, Any]) -> str:
    """ViT for ViTImageProcessor, ViTImageProcessorFast and ViTFeatureExtractor; "" where the file names none."""
    name = str(content.get("image_processor_type") or content.get("feature_extractor_type") or "")
    return re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", name)


def _hugging_face_geometry(content: Mapping[str, Any], kind: str) -> _Geometry:
    cut = _pair(content["crop_size"]) if content.get("do_center_crop", False) and content.get("crop_size") else None
    given = content.get("size") if content.get("do_resize", True) else None
    if given is None:
        if cut is not None:
            raise ValueError(
                "do_center_crop without do_resize cuts each image at its own size, which is not supported; resize the images "
                "before, or set do_resize"
            )
        return _Geometry()
    one = isinstance(given, int) and (kind in _SHORTER_BY_NUMBER or (cut is not None and kind not in _SQUARE_BY_NUMBER))
    if not one and not (isinstance(given, Mapping) and "shortest_edge" in given):
        exact = _pair(given)
        return _Geometry(exact) if cut in (None, exact) else _Geometry(cut, resize_to=exact, crop="floor")
    edge = int(given["shortest_edge"] if isinstance(given, Mapping) else given)
    percent = content.get("crop_pct")
    if kind == "ConvNext" or (percent is not None and cut is None):  # the cut is part of its resizing
        if edge >= _CONVNEXT_WARPS:
            return _Geometry((edge, edge))
        return _Geometry((edge, edge), shorter=int(edge / float(percent or _CONVNEXT_CROP)), crop="floor")
    if kind == "PoolFormer" and percent is not None:
        edge = int(edge / float(percent))
    elif kind in ("LeViT", "Levit") and cut is not None:
        edge = int(256 / 224 * edge)
    if cut is None:  # the other side would depend on the image
        return _Geometry((edge, edge))
    return _Geometry(cut, shorter=edge, crop="floor")


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value if isinstance(value, (list, tuple)) else [value] * 3))


def _torchvision(content: Mapping[str, Any], size: tuple[int, int] | None) -> Preprocessing:
    crop, resized = content.get("crop_size"), content.get("resize_size")
    wanted = None if crop is None else _pair(crop)
    shorter = None
    if resized is not None:
        one = resized[0] if isinstance(resized, list) and len(resized) == 1 else resized
        if isinstance(one, int) and wanted is not None:
            shorter = one
        elif wanted is None:
            wanted = _pair(one)
        elif _pair(one) != wanted:
            raise ValueError(f"resize_size {resized} with crop_size {crop}: only the shorter side can be cut from")
    mode = str(content.get("interpolation", "bilinear")).rpartition(".")[2].lower()
    antialias = content.get("antialias", True) is not False
    mean, std = tuple(map(float, content["mean"])), tuple(map(float, content["std"]))
    channels: Channels = "RGB"
    if content.get("to_rgb", True) is False:  # mmlab's: images are BGR, and so are these
        mean, std, channels = mean[::-1], std[::-1], "BGR"
    scale = pixel_scale(mean, std)
    return _made(_Geometry(wanted, shorter), size, mean, std, scale, mode, channels=channels, antialias=antialias)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        return int(value["height"]), int(value["width"])
    if isinstance(value, (list, tuple)):
        height, width = value if len(value) == 2 else (value[0], value[0])
        return int(height), int(width)
    return int(value), int(value)


def _made(
    geometry: _Geometry,
    fixed: tuple[int, int] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    scale: float,
    mode: str,
    *,
    channels: Channels,
    antialias: bool = True,
) -> Preprocessing:
    size = fixed or geometry.size
    if size is None:
        raise ValueError("neither the model nor the file gives a size")
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean and std should be three numbers each, got {len(mean)} and {len(std)}")
    preprocessing = Preprocessing.model_validate(
        {
            "name": "custom", "size": geometry.size or size, "mean": mean, "std": std, "scale": scale, "resize": mode,
            "shorter": geometry.shorter, "resize_to": geometry.resize_to, "crop": geometry.crop, "channels": channels,
            "antialias": antialias,
        }
    )  # fmt: skip
    return preprocessing.at_size(size)

"""Preprocessing of a model, from a JSON file beside it: Hugging Face's preprocessor_config.json, or torchvision's.

Belongs here: finding the file and reading the two dialects into `Preprocessing`. How a run uses it, and what takes
precedence, is `preprocessing/prepare.py`.

Sources: transformers' BaseImageProcessor (keys image_mean, image_std, do_rescale, rescale_factor, resample, size,
crop_size, crop_pct) and torchvision.transforms._presets.ImageClassification (keys mean, std, resize_size, crop_size,
interpolation, antialias).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from clusterpaths.errors import ModelError
from clusterpaths.records import Preprocessing

HUGGING_FACE = "preprocessor_config.json"


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        if path.name != HUGGING_FACE:
            return None  # a file of the same name, possibly of another program
        raise ModelError(f"{path} is not JSON: {error}. Correct it, or remove it and use --preprocessing.") from error
    if not isinstance(content, dict):
        return None
    try:
        if "image_mean" in content or "do_normalize" in content or "image_processor_type" in content:
            return _hugging_face(content, size)
        if "mean" in content and "std" in content:
            return _torchvision(content, size)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} describes a preprocessing that cannot be parsed: {error}. Expected the keys of Hugging Face's "
            "preprocessor_config.json or of torchvision's transforms (mean, std, resize_size, crop_size, interpolation). "
            "Correct it, or remove it and use --preprocessing, --mean, --std, --size, --resize."
        ) from error
    return None


def _hugging_face(content: Mapping[str, Any], size: tuple[int, int] | None) -> Preprocessing:
    scale = float(content.get("rescale_factor", 1 / 255)) if content.get("do_rescale", True) else 1.0
    normalised = bool(content.get("do_normalize", True))
    mean = tuple(map(float, content["image_mean"])) if normalised else (0.0, 0.0, 0.0)
    std = tuple(map(float, content["image_std"])) if normalised else (1.0, 1.0, 1.0)
    wanted, shorter = _hugging_face_sizes(content)
    if content.get("do_center_crop", False) and content.get("crop_size") is not None:
        wanted = _pair(content["crop_size"])
    elif "crop_pct" in content and shorter is not None:  # ConvNeXt's: resized by it, then cut to the size itself
        wanted, shorter = (shorter, shorter), int(shorter / float(content["crop_pct"]))
    elif shorter is not None:  # without a cut, the other side would depend on the image
        wanted, shorter = (shorter, shorter), None
    resample = content.get("resample", 2)
    return _made(wanted, shorter, size, mean, std, scale, Image.Resampling(int(resample)).name.lower(), antialias=True)


def _hugging_face_sizes(content: Mapping[str, Any]) -> tuple[tuple[int, int] | None, int | None]:
    """The exact (height, width), and what the shorter side is resized to: at most one is known."""
    given = content.get("size") if content.get("do_resize", True) else None
    if given is None:
        return None, None
    if isinstance(given, Mapping) and "shortest_edge" in given:
        return None, int(given["shortest_edge"])
    if isinstance(given, int) and content.get("do_center_crop", False):
        return None, given
    return _pair(given), None


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
    return _made(wanted, shorter, size, mean, std, 1 / 255, mode, antialias=antialias)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        return int(value["height"]), int(value["width"])
    if isinstance(value, (list, tuple)):
        height, width = value if len(value) == 2 else (value[0], value[0])
        return int(height), int(width)
    return int(value), int(value)


def _made(
    wanted: tuple[int, int] | None,
    shorter: int | None,
    fixed: tuple[int, int] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    scale: float,
    mode: str,
    *,
    antialias: bool,
) -> Preprocessing:
    size = fixed or wanted
    if size is None:
        raise ValueError("neither the model nor the file gives a size")
    if fixed is not None and wanted is not None and fixed != wanted and shorter is not None:
        shorter = round(shorter * min(fixed) / min(wanted))  # the same part of the image, at the model's size
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean and std should be three numbers each, got {len(mean)} and {len(std)}")
    return Preprocessing.model_validate(
        {
            "name": "custom", "size": size, "mean": mean, "std": std, "scale": scale, "resize": mode,
            "shorter": shorter, "antialias": antialias,
        }
    )  # fmt: skip
